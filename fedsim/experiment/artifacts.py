"""The trained model of a run: `model.safetensors`, and `model.json`, which says how to build it again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedsim.errors import UserError
from fedsim.experiment.building import Study, build_network
from fedsim.experiment.loading import load_scenario
from fedsim.data import DataInfo
from fedsim.scenario import resolved

if TYPE_CHECKING:
    from torch import Tensor

    from fedsim.models.units import UnitList

WEIGHTS = "model.safetensors"
RECIPE = "model.json"


def save_model(folder: Path, study: Study, tensors: dict[str, Tensor]) -> None:
    """Write a whole model into a run folder."""
    from safetensors.torch import save_file

    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, folder / WEIGHTS)
    info = study.info
    recipe = {
        "schema": 1,
        "input": list(info.shape),
        "classes": info.classes,
        "kind": info.kind,
        "scenario": resolved(study.scenario),
    }
    (folder / RECIPE).write_text(json.dumps(recipe, indent=1) + "\n", encoding="utf-8")


def load_model(folder: str | Path) -> UnitList:
    """The trained model of a run folder, ready for inference.

    Raises:
        UserError: the folder holds no model.
    """
    from safetensors.torch import load_file

    folder = Path(folder)
    if not (folder / WEIGHTS).is_file() or not (folder / RECIPE).is_file():
        raise UserError(f"{folder} holds no {WEIGHTS} with its {RECIPE}; give the folder of a run with learning: on")
    recipe: dict[str, Any] = json.loads((folder / RECIPE).read_text(encoding="utf-8"))
    scenario = load_scenario(recipe["scenario"])
    info = DataInfo(
        name=scenario.data.name,
        kind=recipe["kind"],
        train=0,
        test=0,
        shape=tuple(recipe["input"]),
        classes=recipe["classes"],
    )
    network = build_network(scenario, info)
    network.load_state_dict(load_file(folder / WEIGHTS))
    return network.eval()
