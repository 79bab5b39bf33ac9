"""What schedulers.md 2.0 says a round costs, with the cost model's own backward MACs in the place of 2m."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedsim.costs import Cost
from fedsim.experiment.assembly import Assembly
from fedsim.models.measure import ModelMeasure, UnitMeasure, backward_cost, forward_cost
from fedsim.testing import Outcome

LABEL = 8


def batches(held: int, batch: int, *, steps: int | None = None, epochs: int = 1, rounds: int = 1) -> list[int]:
    """Sizes of the batches that a device with so many samples trains: whole passes, or steps that go on."""
    one_pass = [min(batch, held - start) for start in range(0, held, batch)]
    if steps is None:
        return one_pass * epochs * rounds
    return [one_pass[i % len(one_pass)] for i in range(steps * rounds)]


def macs(units: Sequence[UnitMeasure], sizes: Sequence[int], *, to_input: bool) -> int:
    """m + m_bwd of every batch: forward and backward through `units`."""
    return sum((forward_cost(units, b) + backward_cost(units, b, to_input=to_input)).macs for b in sizes)


def state(units: Sequence[UnitMeasure]) -> int:
    """Bytes of parameters and buffers: |d|, |s| or |w|."""
    return sum(unit.state_bytes for unit in units)


def loss(model: ModelMeasure, sizes: Sequence[int]) -> int:
    """MACs of the loss, which has no multiplication with weights: 0 for cross entropy."""
    return sum(Cost(tuple(op.at(b) for op in (*model.loss_forward, *model.loss_backward))).macs for b in sizes)


@dataclass(frozen=True)
class Measured:
    """Totals of a run, from its trace: bytes by purpose and direction, MACs of devices and of server steps."""

    up: dict[str, int]
    down: dict[str, int]
    device_macs: int
    server_macs: int
    aggregate_macs: int


def measured(outcome: Outcome) -> Measured:
    """Sum up the trace of a run."""
    trace = outcome.simulation.trace
    totals: dict[bool, dict[str, int]] = {}
    for up in (True, False):
        rows = np.array([t[5:9] for t in trace.transfers if (t[2] == -1) is up], dtype=np.int64).reshape(-1, 4)
        names = ("weights", "activations", "gradients", "labels")
        totals[up] = dict(zip(names, rows.sum(axis=0).tolist(), strict=True))
    return Measured(
        totals[True],
        totals[False],
        sum(span[5] for span in trace.spans if span[0] >= 0),
        sum(span[5] for span in trace.spans if span[0] < 0 and span[2] != "aggregate"),
        sum(span[5] for span in trace.spans if span[2] == "aggregate"),
    )


def all_batches(assembly: Assembly, **local: Any) -> list[int]:
    """Sizes of all batches of all devices over the rounds of a run in which every device takes part."""
    assert assembly.rounds is not None
    return [
        size
        for held in assembly.samples.tolist()
        for size in batches(held, assembly.training.batch, rounds=assembly.rounds, **local)
    ]
