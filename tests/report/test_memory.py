"""Peaks of memory, against their definition."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fedsim.learning.optimizers import AdamW, Optimizer, Sgd
from fedsim.report.measures import measure
from fedsim.schedulers.splitfed import SplitFed
from fedsim.testing import simulate, toy

DEVICES = 3
PARAMETERS = {"device": 6 * 5 + 5, "server": 5 * 4 + 4 + 4 * 3 + 3}  # of an MLP 6-5-4-3, cut after its first layer


def peaks(optimizer: Optimizer) -> list[int]:
    """Bytes of the server and of each device, in a round of SplitFed that is long enough for all copies to train."""
    made = toy(SplitFed(local_steps=40), devices=DEVICES, rounds=1)
    made = replace(made, training=replace(made.training, optimizer=optimizer))
    found: list[int] = measure(simulate(made, learning=False).simulation.trace).peak_memory.astype(np.int64).tolist()
    return found


@pytest.mark.slow
def test_each_optimizer_slot_is_held_once_a_parameter_and_copy() -> None:
    """(|d|+|a|)(2+o) on devices, copies·|s|(2+o) on the server: SGD has no slot, momentum one, AdamW two."""
    plain, momentum, adam = (peaks(one) for one in (Sgd(lr=0.1), Sgd(lr=0.1, momentum=0.9), AdamW(lr=0.1)))
    slot = [DEVICES * 4 * PARAMETERS["server"], *[4 * PARAMETERS["device"]] * DEVICES]
    assert (np.array(momentum) - plain).tolist() == slot
    assert (np.array(adam) - momentum).tolist() == slot
