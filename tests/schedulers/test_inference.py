"""Inference: who answers what, when, and at what cost."""

from __future__ import annotations

from typing import Any

import pytest

from fedsim.learning.learners import Batch
from fedsim.learning.plan import MODEL
from fedsim.schedulers.inference import Answered, Deploy, Inference
from fedsim.script import SERVER, Compute, Connected, Disconnected, Payload, Recv, Send, Sleep
from fedsim.simulation import Fault
from fedsim.testing import DEVICES, ROUNDS, Steps, by_hand, check_scheduler, simulate, toy


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 3])
def test_it_keeps_the_rules(size: int) -> None:
    """Of every scheduler. Requests come by the clock: without an end, so small a model would answer millions."""
    check_scheduler(Inference(size=size, every=0.01))


@pytest.mark.parametrize(("options", "count"), [({}, ROUNDS), ({"requests": 3}, 3), ({"size": 3}, ROUNDS)])
def test_every_device_answers_all_requests(options: dict[str, Any], count: int) -> None:
    """As many as rounds, unless there is a number of their own; for real and timing only."""
    learnt, timed = (simulate(toy(Inference(**options)), learning=on).simulation.trace for on in (True, False))
    assert [mark for mark in learnt.marks if mark[2] != "evaluate"] == [m for m in timed.marks if m[2] != "evaluate"]
    assert len([mark for mark in timed.marks if mark[2] == "answered"]) == DEVICES * count
    assert learnt.spans == timed.spans


def device(**options: Any) -> tuple[Steps, Payload]:
    """A device that has been given a model."""
    scheduler = Inference(**options)
    me = by_hand(scheduler, 1)
    assert isinstance(me.effect, Recv)
    assert me.effect.kinds == (Deploy,)
    w = Payload(SERVER, 1, toy(scheduler).blocks()[MODEL].weights)
    me.answer(Deploy(w, sender=SERVER))
    return me, w


def work(me: Steps) -> Any:
    """The work that a script does."""
    assert isinstance(me.effect, Compute)
    (found,) = me.effect.works
    return found


def test_a_device_answers_from_its_own_data() -> None:
    """Request after request, in the order of its batches; then it says so and holds nothing."""
    me, w = device(requests=2, size=3)
    assert [c.method for c in me.port.commands] == ["open", "load"]
    for start in (0, 3):
        assert work(me).command.args == (Batch(0, start, 3), 0)
        assert [part.kind for part in work(me).parts] == ["infer"]
        me.answer(None)
    assert isinstance(me.effect, Send)
    assert me.effect.message == Answered(2)
    assert [c.method for c in me.port.commands] == ["open", "load", "close"]
    assert sum(c.holds for c in me.port.commands) == 0
    assert [mark[:2] for mark in me.port.marks] == [("asked", 0.0), ("answered", 0.0)] * 2
    assert me.answer(None) is None
    assert w.nbytes == me.port.commands[1].holds


def test_requests_that_come_by_the_clock() -> None:
    """The device sleeps until the next; one that it is late for has been waiting."""
    me, _ = device(requests=4, every=2.0)
    me.port.now = 0.5
    me.answer(None)
    assert isinstance(me.effect, Sleep)
    assert me.effect.seconds == 1.5
    me.port.now = 2.0
    me.answer(None)
    work(me)
    me.port.now = 7.0
    me.answer(None)
    work(me)
    me.port.now = 7.5
    me.answer(None)
    work(me)
    assert [(name, value) for name, value, _ in me.port.marks if name == "asked"] == [
        ("asked", moment) for moment in (0.0, 2.0, 4.0, 6.0)
    ]


def test_the_server_waits_for_those_who_are_there() -> None:
    """Who leaves is not waited for; who is back begins again."""
    me = by_hand(Inference(), "server", devices=3)
    (published,) = me.port.published
    assert isinstance(me.effect, Send)
    assert (me.effect.to, me.effect.message) == ((0, 1, 2), Deploy(*published))
    me.answer(None)
    me.answer(Disconnected(1))
    me.answer(Answered(2, sender=0))
    me.answer(Connected(1))
    assert isinstance(me.effect, Send)
    assert me.effect.to == (1,)
    me.answer(None)
    me.answer(Answered(2, sender=2))
    assert isinstance(me.effect, Recv)
    assert me.answer(Answered(2, sender=1)) is None


def test_bytes_and_macs() -> None:
    """The model to every device, once; a forward a sample."""
    outcome = simulate(toy(Inference(requests=5, size=2)), learning=False)
    trace, plan = outcome.simulation.trace, toy(Inference()).blocks()[MODEL]
    down = [t for t in trace.transfers if t[1] == SERVER]
    assert [t[5] for t in down] == [plan.weights.nbytes] * DEVICES
    assert sum(t[5] for t in trace.transfers if t[1] != SERVER) == 0
    macs = sum(unit.macs for unit in plan.units)
    assert {span[5] for span in trace.spans} == {2 * macs}
    assert len(trace.spans) == 5 * DEVICES
    assert not any(span[7] for span in trace.spans), "no samples are trained"


def test_a_device_that_is_back_answers_all() -> None:
    """It has lost the model, and begins again."""

    def answers(*faults: Fault) -> list[int]:
        trace = simulate(toy(Inference(requests=4), faults=faults), learning=False).simulation.trace
        return [mark[1] for mark in trace.marks if mark[2] == "answered" and mark[0] == 0]

    second = answers()[1] / 1e9
    assert len(answers(Fault(device=0, leave=second + 1e-9, back=second + 1e-3))) == 2 + 4
    assert len(answers(Fault(device=0, leave=second + 1e-9))) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"requests": 0}, "requests 0 must be 1 or more, or left out"),
        ({"size": 0}, "size 0 must be 1 or more$"),
        ({"generate": -1}, "generate -1 must be 0 or more, or left out"),
        ({"every": 0.0}, "every 0.0 must be above 0 s, or left out"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    """When they are made."""
    with pytest.raises(ValueError, match=message):
        Inference(**options)


def test_how_many_tokens() -> None:
    """Half of a sample, or as many as are asked for, if a prompt is left."""
    assert (Inference().new_tokens(65), Inference(generate=10).new_tokens(64)) == (32, 10)
    assert Inference(generate=0).new_tokens(64) == Inference().new_tokens(None) == 0
    with pytest.raises(ValueError, match="generate 64 leaves no prompt of samples of 64 tokens; choose 63 or less"):
        Inference(generate=64).new_tokens(64)
    with pytest.raises(ValueError, match="generate 8 is for language models; leave it out"):
        Inference(generate=8).new_tokens(None)
