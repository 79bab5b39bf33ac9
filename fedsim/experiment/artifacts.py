"""The trained model of a run: `model.safetensors`, and `model.json`, which says how to build it again."""

from __future__ import annotations

import json
from dataclasses import is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fedsim.errors import FedsimError, UserError
from fedsim.experiment.building import Study
from fedsim.experiment.networks import build_network
from fedsim.experiment.registry import registry
from fedsim.experiment.starting import WEIGHTS
from fedsim.learning.bundles import of_member
from fedsim.scenario import Arguments, Model, import_object, resolved

if TYPE_CHECKING:
    from torch import Tensor

    from fedsim.models.units import UnitList

RECIPE: Final = "model.json"
SCHEMA: Final = 1
OF_VARIANT: Final = "variant-{}"
"""Where a variant that is a model of its own lies in a run folder, by its number."""


def save_model(folder: Path, study: Study, tensors: dict[str, Tensor]) -> None:
    """Write a whole model into a run folder; where variants are models of their own, each into a folder in it.

    Raises:
        OSError: the file system does not take it.
    """
    family = study.family
    if family is None or not family.apart:
        _save(folder, study, tensors)
        return
    for number in range(1, 1 + len(family.networks)):
        own = folder / OF_VARIANT.format(number)
        own.mkdir(exist_ok=True)
        _save(own, study, of_member(number, tensors))


def _save(folder: Path, study: Study, tensors: dict[str, Tensor]) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, folder / WEIGHTS)
    except SafetensorError as error:  # how it reports a full disk
        raise OSError(str(error)) from error
    scenario = resolved(study.scenario)
    recipe = {
        "schema": SCHEMA,
        "model": scenario["model"],
        "input": list(study.info.shape),
        "classes": study.info.classes,
        "kind": study.info.kind,
        "norm": scenario["norm"],
        "dtype": scenario["training"]["dtype"],
        "inputs": _inputs(study),
    }
    if study.family is not None:  # pruned: smaller than the model that the recipe names
        recipe["shapes"] = {name: list(tensor.shape) for name, tensor in tensors.items()}
    (folder / WEIGHTS).chmod(0o644)  # as the files beside it
    (folder / RECIPE).write_text(json.dumps(recipe, indent=1) + "\n", encoding="utf-8")


def _inputs(study: Study) -> dict[str, Any]:
    """What the model was fed: samples of this data set, as `fedsim.data.load` gives them, less mean, over std."""
    data = study.data
    assert data is not None
    moments = {} if data.mean is None or data.std is None else {"mean": data.mean.tolist(), "std": data.std.tolist()}
    return {"data": data.info.name, **moments}


def load_model(folder: str | Path) -> UnitList:
    """The trained model of a run folder, ready for inference.

    Needs the two files of the model only. A model of the user's own is imported by its `module:Class`. It takes
    inputs as `fedsim.data.load` gives them (digits: standardised pixels); where `model.json` holds a `mean` and a
    `std` under `inputs`, those of `(x - mean) / std`.

    Raises:
        UserError: the folder holds no model, or one that cannot be built here.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    if not (folder / WEIGHTS).is_file() or not (folder / RECIPE).is_file():
        variants = sorted(path.name for path in folder.glob(OF_VARIANT.format("*")) if (path / RECIPE).is_file())
        if variants:
            raise UserError(f"{folder} holds a model for each variant; give one of {', '.join(variants)} in it")
        raise UserError(f"{folder} holds no {WEIGHTS} with its {RECIPE}; give the folder of a run with learning: on")
    try:
        network = _built(json.loads((folder / RECIPE).read_text(encoding="utf-8")))
        network.load_state_dict(load_file(folder / WEIGHTS))
    except (SafetensorError, FedsimError, RuntimeError, ValueError, TypeError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"the model in {folder} cannot be loaded ({reason}); mend it or run the scenario again"
        ) from error
    return network.eval()


def _built(recipe: dict[str, Any]) -> UnitList:
    if recipe["schema"] != SCHEMA:
        raise UserError(f"{RECIPE} has schema {recipe['schema']}, but this fedsim reads schema {SCHEMA}")
    name = recipe["model"]["name"]
    target = import_object(name) if ":" in name else registry().models[name]
    given = {key: value for key, value in recipe["model"].items() if key not in Model.model_fields}
    options: Any = Arguments(tuple(given.items()))
    if isinstance(target, type) and is_dataclass(target):
        options = target(**given)
    network = build_network(
        name,
        options,
        input=tuple(recipe["input"]),
        classes=recipe["classes"],
        kind=recipe["kind"],
        norm=recipe["norm"],
        dtype=recipe["dtype"],
    )
    if "shapes" in recipe:
        from fedsim.pruning.resizing import resize

        resize(network, {tensor: tuple(shape) for tensor, shape in recipe["shapes"].items()})
    return network
