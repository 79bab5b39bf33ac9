"""A device that leaves: FedAvg renormalises, SplitFed drops its copy, and no phase of a round makes a run hang."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from fedsim.schedulers.fedavg import FedAvg
from fedsim.schedulers.splitfed import SplitFed
from fedsim.script import SERVER
from fedsim.simulation import Ending, Fault
from fedsim.testing import DEVICES, Outcome, simulate, toy
from fedsim.trace import Transfer
from tests.schedulers.closed_forms import measured
from tests.schedulers.test_learning import locally_trained

BOTH = pytest.mark.parametrize("scheduler", [FedAvg(), SplitFed()], ids=lambda s: type(s).__name__)


def moments(outcome: Outcome, device: int) -> dict[str, float]:
    """A moment (s) in the middle of each phase of the device's first round."""
    trace = outcome.simulation.trace
    rows = [Transfer(*row) for row in trace.transfers]
    down = next(t for t in rows if t.target == device)
    up = next(t for t in rows if t.source == device and t.role == "contribution")
    span = next(s for s in trace.spans if s[0] == device)
    later = next((t for t in rows if t.source == SERVER and t.queued > up.arrived and t.target == device), None)
    found = {
        "download": (down.started + down.arrived) / 2,
        "training": (span[3] + span[4]) / 2,
        "upload": (up.started + up.arrived) / 2,
    }
    if later is not None:
        found["after its contribution"] = (up.arrived + later.queued) / 2
    gradient = next((t for t in rows if t.target == device and t.role == "gradient"), None)
    if gradient is not None:
        found["gradient"] = (gradient.started + gradient.arrived) / 2
    return {name: moment / 1e9 for name, moment in found.items()}


@BOTH
@pytest.mark.parametrize("back", [None, 0.01], ids=["for good", "and comes back"])
def test_a_device_leaves_in_every_phase(scheduler: Any, back: float | None) -> None:
    """The run ends by itself; later rounds are without it until it is back; what it had begun is counted as wasted."""
    whole = simulate(toy(scheduler, rounds=3), learning=False)
    for device in range(DEVICES):
        for phase, moment in moments(whole, device).items():
            fault = Fault(device=device, leave=moment, back=None if back is None else moment + back)
            outcome = simulate(toy(scheduler, rounds=3, faults=[fault]), learning=False)
            trace = outcome.simulation.trace
            assert outcome.ending is Ending.SERVER, phase
            assert sum(mark[2] == "round.close" for mark in trace.marks) == 3, phase
            wasted = [span for span in trace.spans if span[8]]
            assert all(span[0] == device for span in wasted), phase
            assert bool(wasted) == (phase == "training"), phase
            lost = Counter(t[13] for t in trace.transfers if t[13] not in ("delivered", "in flight"))
            expected = {"upload": "sender left", "download": "receiver left", "gradient": "receiver left"}
            if phase in expected:
                assert lost[expected[phase]] == 1, phase


def test_fedavg_renormalises_over_those_who_delivered() -> None:
    """Without device 2 the mean is that of a fleet whose weights are those of the other three."""
    whole = simulate(toy(FedAvg(), rounds=1), learning=False)
    leave = moments(whole, 2)["training"]
    outcome = simulate(toy(FedAvg(), rounds=1, faults=[Fault(device=2, leave=leave)]))
    assert outcome.weights is not None
    samples = toy(FedAvg()).samples
    there = [k for k in range(DEVICES) if k != 2]
    total = sum(int(samples[k]) for k in there)
    alone = {k: locally_trained(k, 1) for k in there}
    for name, tensor in outcome.weights.items():
        mean = sum(int(samples[k]) / total * alone[k][name].double() for k in there)
        assert (tensor.double() - mean).abs().max() < 1e-6


def test_splitfed_drops_the_copy_of_who_left() -> None:
    """The mean of the server's copies, like that of device blocks, is over those who delivered."""
    whole = simulate(toy(SplitFed(), rounds=1), learning=False)
    leave = moments(whole, 2)["gradient"]
    faults = [Fault(device=2, leave=leave)]
    split = simulate(toy(SplitFed(), rounds=1, faults=faults))
    avg_leave = moments(simulate(toy(FedAvg(), rounds=1), learning=False), 2)["training"]
    full = simulate(toy(FedAvg(), rounds=1, faults=[Fault(device=2, leave=avg_leave)]))
    assert split.weights is not None
    assert full.weights is not None
    for name, tensor in full.weights.items():
        assert (tensor - split.weights[name]).abs().max() < 1e-6
    model = toy(SplitFed()).model
    three = (DEVICES - 1) * model.parameters
    assert measured(split).aggregate_macs == three


@BOTH
def test_an_empty_round_leaves_the_weights_as_they_were(scheduler: Any) -> None:
    """All leave in the first round and come back: it is recorded, nothing is averaged, the second one trains."""
    whole = simulate(toy(scheduler, rounds=1), learning=False)
    first = min(moments(whole, k)["training"] for k in range(DEVICES))
    faults = [Fault(device=k, leave=first, back=first + 1) for k in range(DEVICES)]
    outcome = simulate(toy(scheduler, rounds=2, faults=faults))
    trace = outcome.simulation.trace
    assert outcome.ending is Ending.SERVER
    marks = [mark for mark in trace.marks if mark[2] in ("round.open", "round.close", "publish", "evaluate")]
    names = [mark[2] for mark in marks]
    assert names.count("round.open") == names.count("round.close") == 2
    evaluations = [(mark[3], mark[4]) for mark in marks if mark[2] == "evaluate"]
    assert evaluations[0][0] == evaluations[1][0], "the empty round's model is the initial one"
    aggregated = [span for span in trace.spans if span[2] == "aggregate"]
    assert len(aggregated) == (2 if scheduler.splits else 1)
