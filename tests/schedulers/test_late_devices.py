"""Over-selection and windows: who is too late is left out, and goes on with the newest order."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from fedsim.experiment.assembly import Assembly
from fedsim.report.columns import tabulate
from fedsim.report.contributions import contributions
from fedsim.report.rounds import rounds as counted_rounds
from fedsim.schedulers import fedavg, locsplitfed, mergesfl, splitfed
from fedsim.schedulers.ampere import Ampere
from fedsim.schedulers.fedavg import FedAvg
from fedsim.schedulers.locsplitfed import LocSplitFed
from fedsim.schedulers.mergesfl import MergeSFL
from fedsim.schedulers.pipar import PiPar
from fedsim.schedulers.splitfed import SplitFed
from fedsim.script import SERVER, Compute, Message, Payload, Recv, Send
from fedsim.simulation import Ending
from fedsim.testing import DEVICES, Outcome, by_hand, simulate, toy
from tests.learning.test_oracles import weighted_mean
from tests.learning.toys import furthest
from tests.schedulers.federations import Ran
from tests.schedulers.local_losses import SMALL, Parts, device_side, marks, published, spans, trained, transfers
from tests.schedulers.test_learning import locally_trained

ROUNDS = 4
ALL: list[Any] = [FedAvg(), SplitFed(), LocSplitFed(), Ampere(server_epochs=1)]
EACH = pytest.mark.parametrize("scheduler", ALL, ids=lambda s: type(s).__name__)


def averaged(assembly: Assembly) -> int:
    """Parameters that a member brings into a round's means: of w, of d and s, of d, a and s, or of d and a."""
    plans = assembly.blocks()
    return (
        plans["device"].trainable
        if isinstance(assembly.scheduler, Ampere)
        else sum(p.trainable for p in plans.values())
    )


def rounds(outcome: Outcome | Ran) -> list[tuple[int, int]]:
    """Beginning and end of each round."""
    opened, closed = marks(outcome, "round.open"), marks(outcome, "round.close")
    return [(one.time, other.time) for one, other in zip(opened, closed, strict=True)]


def members(outcome: Outcome, assembly: Assembly) -> list[int]:
    """How many contributions each round's mean is made of."""
    theta = averaged(assembly)
    found = []
    for begin, end in rounds(outcome):
        count, left = divmod(
            sum(s.macs for s in spans(outcome) if s.kind == "aggregate" and begin <= s.start and s.end <= end), theta
        )
        assert not left
        found.append(count)
    return found


def came(outcome: Outcome | Ran, number: int) -> list[int]:
    """The devices whose contributions arrived in a round, in order."""
    begin, end = rounds(outcome)[number]
    ups = [row for row in transfers(outcome) if row.role == "contribution" and begin < row.arrived <= end]
    return [row.source for row in sorted(ups, key=lambda row: row.arrived)]


@EACH
def test_the_first_ones_complete_a_round(scheduler: Any) -> None:
    """Four are asked, two are needed: every mean is of two, whoever comes late to it or to the next one."""
    assembly = replace(toy(scheduler, rounds=ROUNDS), need=2)
    outcome = simulate(assembly, learning=False)
    assert outcome.ending is Ending.SERVER
    assert len(rounds(outcome)) == ROUNDS
    assert members(outcome, assembly) == [2] * ROUNDS
    assert [row.target for row in transfers(outcome) if row.message == "Train"] == [*range(DEVICES)] * ROUNDS
    assert (
        came(outcome, 0)
        == [k for _, k in sorted((r.arrived, r.source) for r in transfers(outcome) if r.role == "contribution")][:2]
    )
    late = [row for row in transfers(outcome) if row.role == "contribution"][2 * ROUNDS :]
    assert bool(late) == (scheduler != SplitFed()), (
        "a device that waits for its gradient gives up its late round instead"
    )


@EACH
def test_who_is_late_has_not_contributed(scheduler: Any) -> None:
    """Reports count as many updates as the means had members, and a round is full when the last of them has come."""
    assembly = replace(toy(scheduler, rounds=ROUNDS), need=2)
    outcome = simulate(assembly, learning=False)
    columns = tabulate(outcome.simulation.trace)
    assert contributions(columns).delivered.sum() == sum(members(outcome, assembly)) == 2 * ROUNDS
    aggregated = sorted(span.start for span in spans(outcome) if span.node == SERVER and span.kind == "aggregate")
    full = counted_rounds(columns).full.tolist()
    assert full == aggregated[:: len(aggregated) // ROUNDS]


@EACH
def test_only_the_first_ones_count(scheduler: Any) -> None:
    """The model after a round of three, of whom two are needed, is the mean of those two."""
    if scheduler.splits and getattr(scheduler, "local_loss", False):
        what = replace(SMALL, sizes=(8, 64, 9))
        ran = trained(
            what,
            replace(scheduler, **({"device_rounds": 1} if isinstance(scheduler, Ampere) else {})),
            rounds=1,
            changes={"need": 2},
        )
        parts = Parts(what)
        start, brought = parts.device | parts.server, []
        for k in sorted(came(ran, 0)[:2]):
            parts.load(start)
            list(parts.local(parts.rows(k)))
            brought.append((parts.device, what.sizes[k]))
        expected = weighted_mean(brought)
        ours = device_side(ran)
        assert furthest(ours, {name: expected[name] for name in ours}) < 1e-9
        return
    assembly = replace(toy(scheduler, rounds=1), need=2)
    outcome = simulate(assembly)
    two = sorted(came(outcome, 0)[:2])
    assert outcome.weights is not None
    alone = [(locally_trained(k, 1), int(assembly.samples[k])) for k in two]
    for name, tensor in weighted_mean(alone).items():
        torch.testing.assert_close(outcome.weights[name], tensor, rtol=1e-5, atol=1e-6)


@EACH
def test_a_window_ends_a_round(scheduler: Any) -> None:
    """After so many seconds with those who came; if nobody did, the weights stay, and the next round begins."""
    base = toy(scheduler, rounds=ROUNDS)
    whole = simulate(base, learning=False)
    begin = rounds(whole)[0][0]
    first = sorted(row.arrived - begin for row in transfers(whole) if row.role == "contribution")[:DEVICES]
    assembly = replace(base, window=(first[1] + first[2]) / 2e9)
    outcome = simulate(assembly, learning=False)
    assert outcome.ending is Ending.SERVER
    counts = members(outcome, assembly)
    assert counts[0] == 2
    assert len(counts) == ROUNDS
    nobody = replace(base, window=first[0] / 4e9, rounds=1)
    outcome = simulate(nobody, learning=False)
    assert outcome.ending is Ending.SERVER
    assert members(outcome, nobody) == [0]
    assert [end - start for start, end in rounds(outcome)] == [pytest.approx(first[0] / 4, abs=1)]


def test_a_window_in_which_nobody_comes_leaves_the_weights() -> None:
    """d and a are what they were; s has not been averaged either."""
    ran = trained(SMALL, LocSplitFed(), rounds=2, changes={"window": 1e-6})
    parts = Parts(SMALL)
    assert furthest(published(ran), parts.device | parts.server) == 0


@pytest.mark.parametrize(
    ("scheduler", "train"),
    [
        (FedAvg(local_steps=2), fedavg.Train),
        (LocSplitFed(local_steps=2), locsplitfed.Train),
        (Ampere(local_steps=2), locsplitfed.Train),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_late_device_goes_on_with_the_newest_order(scheduler: Any, train: Any) -> None:
    """Rounds 1 and 2 began while it trained round 0: its contribution says round 0, then it loads that of round 2."""
    me = by_hand(scheduler, 1)
    plan = toy(scheduler).blocks()["device" if scheduler.splits else "model"]
    orders = [Payload(SERVER, number, plan.weights) for number in range(3)]
    me.answer(train(orders[0], 0, sender=SERVER))
    for number in (1, 2):
        me.port.mailbox.put(train(orders[number], number, sender=SERVER))
    rounds_sent = []
    for _ in range(2):
        while not isinstance(me.effect, Recv):
            assert me.effect is not None
            if isinstance(me.effect, Compute):
                me.answer(me.effect.works[0].result)
            else:
                assert isinstance(me.effect, Send)
                rounds_sent.append(me.effect.message.round)  # type: ignore[attr-defined]
                me.answer(None)
        me.port.commands.clear()
        waiting = me.port.mailbox.take(me.effect.kinds)
        if waiting is not None:  # as a runtime does
            me.answer(waiting)
            assert [c.args[0] for c in me.port.commands if c.method == "load"] == [orders[2]]
    assert set(rounds_sent) == {0, 2}
    assert me.port.mailbox.waiting() == {}
    me.close()


@pytest.mark.parametrize("scheduler", [SplitFed(local_steps=2), PiPar(local_steps=2), MergeSFL()], ids=str)
@pytest.mark.parametrize("more", [False, True], ids=["one", "two"])
def test_a_device_that_waits_for_a_gradient_gives_its_round_up(scheduler: Any, more: bool) -> None:
    """The next order takes the place of the gradient that will not come, and what it held is forgotten; of two orders
    that wait the newer one counts."""
    me = by_hand(scheduler, 1)
    plan = toy(scheduler).blocks()["device"]
    orders = [Payload(SERVER, number, plan.weights) for number in range(3)]

    def order(number: int) -> Message:
        if isinstance(scheduler, MergeSFL):
            return mergesfl.Train(orders[number], number, 2, 8, sender=SERVER)
        return splitfed.Train(orders[number], number, sender=SERVER)

    me.answer(order(0))
    while not isinstance(me.effect, Recv):
        assert isinstance(me.effect, Compute | Send)
        me.answer(me.effect.works[0].result if isinstance(me.effect, Compute) else None)
    me.port.commands.clear()
    if more:
        me.port.mailbox.put(order(2))
    me.answer(order(1))
    assert [(command.method, command.args[:1]) for command in me.port.commands] == [
        ("abandon", ()),
        ("load", (orders[2 if more else 1],)),
    ]
    me.close()
