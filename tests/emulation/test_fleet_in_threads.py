"""Whole systems on the wall clock, in threads: the same weights as in a simulation, and a trace that adds up."""

from __future__ import annotations

from typing import Any

import pytest

from fedsim.report import summarise
from fedsim.schedulers.fedavg import FedAvg
from fedsim.schedulers.fedprox import FedProx
from fedsim.schedulers.locsplitfed import LocSplitFed
from fedsim.schedulers.pipar import PiPar
from fedsim.schedulers.scaffold import Scaffold
from fedsim.schedulers.splitfed import SplitFed
from fedsim.testing import host, simulate, toy
from tests.emulation.inprocess import Emulated, emulate


def emulated(scheduler: Any, **more: Any) -> Emulated:
    """The toy run of a scheduler on the wall clock."""
    assembly = toy(scheduler, **more)
    return emulate(assembly, lambda node: host(assembly))


SYNCHRONOUS: list[Any] = [FedAvg(), FedProx(), Scaffold(), SplitFed(), PiPar(micro_batches=4), LocSplitFed()]


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", SYNCHRONOUS, ids=lambda s: type(s).__name__)
def test_synchronous_systems_learn_the_same_bits(scheduler: Any) -> None:
    """Whatever the order in which messages come, since sums are in the order of nodes."""
    ours, theirs = emulated(scheduler), simulate(toy(scheduler))
    assert theirs.weights is not None
    assert ours.weights.keys() == theirs.weights.keys()
    for name, tensor in theirs.weights.items():
        assert tensor.equal(ours.weights[name]), name
    wanted = summarise(theirs.simulation.trace, status="done", wall_seconds=1.0)["bytes"]
    found = summarise(ours.trace, status="done", wall_seconds=1.0)["bytes"]
    assert (found["up"], found["down"]) == (wanted["up"], wanted["down"])
