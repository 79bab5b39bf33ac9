"""Options of optimizers: what they are when nothing is said, and what is refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from fedsim.costs import OpClass
from fedsim.learning.optimizers import AdamW, Sgd, Training
from fedsim.learning.plan import MODEL, plans
from fedsim.models.counting import measure
from tests.learning.toys import MLP


def test_defaults() -> None:
    """Those of the interface."""
    assert Sgd() == Sgd(lr=0.05, momentum=0.0, weight_decay=0.0, clip=None, schedule=None)
    assert AdamW() == AdamW(lr=0.001, weight_decay=0.01, clip=None, schedule=None)


@pytest.mark.parametrize("optimizer", [Sgd(), Sgd(momentum=0.9), Sgd(momentum=0.9, weight_decay=0.1), AdamW()])
def test_clipping_costs_two_kernels(optimizer: Any) -> None:
    """Gradients are read for their norm, then read and written to be scaled; no more memory is kept."""
    clipped = dataclasses.replace(optimizer, clip=1.0)
    assert clipped.kernels == (1, 2, *optimizer.kernels)
    assert clipped.slots == optimizer.slots
    blocks = [plans(measure(MLP.network()), None, Training(batch=8, optimizer=o))[MODEL] for o in (optimizer, clipped)]
    each = blocks[0].trainable * 4
    plain, more = (block.train_part(8).cost for block in blocks)
    steps = [[op.bytes for op in cost.operators if op.kind is OpClass.OPTIMIZER] for cost in (plain, more)]
    assert steps[1] == [each, 2 * each, *steps[0]]
    assert (more.bytes, more.macs) == (plain.bytes + 3 * each, plain.macs)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (Sgd, {"lr": 0.0}, "lr 0.0 must be greater than 0, such as 0.05"),
        (AdamW, {"lr": float("nan")}, "lr nan must be greater than 0"),
        (Sgd, {"weight_decay": -0.1}, "weight_decay -0.1 must be 0 or more"),
        (Sgd, {"momentum": 1.0}, "momentum 1.0 must be at least 0 and below 1"),
        (Sgd, {"momentum": -0.1}, "momentum -0.1 must be at least 0 and below 1"),
        (Sgd, {"clip": 0.0}, "clip 0.0 must be greater than 0, such as 1.0; leave it out for none"),
        (AdamW, {"clip": float("nan")}, "clip nan must be greater than 0"),
    ],
)
def test_what_could_not_train_is_refused(kind: Any, options: dict[str, float], message: str) -> None:
    """With momentum 1 a step would never end."""
    with pytest.raises(ValueError, match=message):
        kind(**options)
