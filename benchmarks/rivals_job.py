"""A job of `rivals.py` as files, for environments without fedsim: reads it, builds its network, writes what came of it.

A job is a folder: `job.json` (sizes), `weights.npz` (the initial weights, in the order of the network's parameters),
`data.npz` (images and labels), `rounds.npz` (for each round the chosen clients, and for each of them the samples of
each batch, as indices). Knows neither fedsim nor its rivals.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class Job:
    """Federated averaging with everything drawn beforehand."""

    name: str
    """`mlp` or `cnn`."""
    samples: list[int]
    """Of each client; its weight in the mean."""
    lr: float
    x: Tensor
    """All images; clients have theirs by index."""
    y: Tensor
    weights: dict[str, Tensor]
    """The initial ones, in the order of the network's parameters."""
    chosen: NDArray[np.int64]
    """By round, the clients that take part."""
    batches: NDArray[np.int64]
    """By round, by place in `chosen`, by step: the samples."""

    @property
    def rounds(self) -> int:
        """How many there are, the first one included, which warms up."""
        return len(self.chosen)

    @property
    def batch(self) -> int:
        """Samples of a step."""
        return int(self.batches.shape[-1])


def read(folder: Path) -> Job:
    """The job of a folder."""
    about = json.loads((folder / "job.json").read_text())
    data, rounds, weights = (np.load(folder / f"{name}.npz") for name in ("data", "rounds", "weights"))
    x = torch.from_numpy(data["x"])
    return Job(
        name=about["name"],
        samples=about["samples"],
        lr=about["lr"],
        x=x.contiguous(memory_format=torch.channels_last) if about["name"] == "cnn" else x,
        y=torch.from_numpy(data["y"]),
        weights={name: torch.from_numpy(weights[name]) for name in weights.files},
        chosen=rounds["chosen"],
        batches=rounds["batches"],
    )


def network(job: Job) -> nn.Sequential:
    """The job's network with its initial weights; images with the channels innermost, which is faster on CPUs."""
    if job.name == "mlp":
        made = nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))
    else:
        made = nn.Sequential(
            *(nn.Conv2d(1, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(3136, 512), nn.ReLU(), nn.Linear(512, 10)),
        )
        made.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch has no type for this one
    made.load_state_dict(dict(zip(made.state_dict(), job.weights.values(), strict=True)))
    return made


def named(job: Job, values: Sequence[Any]) -> Arrays:
    """Weights in the order of the network's parameters, under the names that the job has for them."""
    return {name: np.array(value) for name, value in zip(job.weights, values, strict=True)}


def finish(
    out: Path, *, seconds: Sequence[float], first: Arrays, last: Arrays, versions: Mapping[str, str], extra: str = ""
) -> None:
    """Write down what came of a run.

    Args:
        out: a folder.
        seconds: what each round took, without the first.
        first: the global weights after the first round.
        last: those at the end.
        versions: of the packages that did it.
        extra: what else is to be known of the run.
    """
    out.mkdir(parents=True, exist_ok=True)
    for name, arrays in (("first", first), ("last", last)):
        np.savez(out / f"{name}.npz", **arrays)  # type: ignore[arg-type]  # taken for its option
    found = {"seconds": list(seconds), "versions": dict(versions), "extra": extra}
    (out / "result.json").write_text(json.dumps(found))
