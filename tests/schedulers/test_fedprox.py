"""FedProx: FedAvg where mu is 0, its formula where it is not, and partial work at the deadline."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from torch import Tensor

from fedsim.learning.learners import Proximal
from fedsim.learning.optimizers import Schedule, Sgd
from fedsim.report import summarise
from fedsim.schedulers.fedavg import FedAvg, Train, Trained
from fedsim.schedulers.fedprox import FedProx
from fedsim.script import SERVER, Compute, Payload, Recv, Send
from fedsim.testing import DEVICES, by_hand, check_scheduler, simulate, toy
from tests.learning.toys import Federation, furthest
from tests.schedulers.closed_forms import all_batches, batches, loss, macs, measured, state
from tests.schedulers.plain import Bend, Plain, State, finished, mean
from tests.schedulers.test_closed_forms import LOCAL, given

ROUNDS = 3


def near(anchor: State, mu: float) -> Bend:
    """The gradient of a loss with the proximal term."""

    def bend(name: str, gradient: Tensor, weight: Tensor) -> Tensor:
        return gradient + mu * (weight - anchor[name])

    return bend


@pytest.mark.parametrize("options", [{}, {"local_steps": 3, "weighting": "uniform"}], ids=str)
@pytest.mark.parametrize("participants", [None, 2])
def test_without_the_term_it_is_fedavg(options: dict[str, Any], participants: int | None) -> None:
    """mu = 0: the same weights to the bit, and the same trace."""
    prox, avg = (
        simulate(toy(scheduler, rounds=ROUNDS, participants=participants))
        for scheduler in (FedProx(mu=0, **options), FedAvg(**options))
    )
    assert prox.weights is not None
    assert avg.weights is not None
    assert all(tensor.equal(avg.weights[name]) for name, tensor in prox.weights.items())
    assert prox.simulation.trace.transfers == avg.simulation.trace.transfers
    assert prox.simulation.trace.spans == avg.simulation.trace.spans


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", [Sgd(lr=0.05), Sgd(lr=0.02, momentum=0.9, weight_decay=0.01)], ids=str)
@pytest.mark.parametrize("mu", [0.01, 2.0])
def test_it_equals_a_plain_loop(mu: float, optimizer: Sgd) -> None:
    """The gradient of F_k(w) + mu/2·‖w − w_t‖² at every step, with batch norm and unequal shards."""
    what = Federation(optimizer=optimizer)
    ours = what.run(FedProx(mu=mu), rounds=ROUNDS)
    plain = Plain(what)
    w = plain.start
    for _ in range(ROUNDS):
        w = mean([(plain.train(k, w, near(w, mu)), plain.samples(k)) for k in range(len(what.sizes))])
    assert furthest(ours, w) < 1e-9
    assert furthest(ours, what.run(FedAvg(), rounds=ROUNDS)) > 1e-4


@pytest.mark.slow
def test_the_learning_rate_goes_by_rounds() -> None:
    """Round t is trained at the rate of round t."""
    what = Federation(sizes=(9, 6), optimizer=Sgd(lr=0.1, schedule=Schedule(kind="exponential", factor=0.5)), cut=1)
    ours = what.run(FedProx(mu=0.1), rounds=2)
    plain = Plain(what)
    w = plain.start
    for t in range(2):
        w = mean([(plain.train(k, w, near(w, 0.1), t), plain.samples(k)) for k in range(2)])
    assert furthest(ours, w) < 1e-9


@pytest.mark.parametrize("mu", [0.0, 0.5])
@pytest.mark.parametrize("local", LOCAL, ids=str)
def test_it_costs_its_closed_form(local: dict[str, Any], mu: float) -> None:
    """P|w| each way; (m + m_bwd)·S on devices and, with a term, θ in each of the P·H steps."""
    assembly = toy(FedProx(mu=mu, **local), rounds=ROUNDS)
    found = measured(simulate(assembly, learning=False))
    units, model = assembly.model.units, assembly.model
    sizes = all_batches(assembly, **given(local))
    size = ROUNDS * DEVICES * state(units)
    assert found.up == found.down == {"weights": size, "activations": 0, "gradients": 0, "labels": 0}
    term = len(sizes) * model.parameters if mu else 0
    assert found.device_macs == macs(units, sizes, to_input=False) + loss(model, sizes) + term
    assert found.server_macs == 0
    assert found.aggregate_macs == ROUNDS * DEVICES * model.parameters


# ------------------------------------------------------------------------------------------- partial work

PARTIAL = FedProx(stragglers="partial", deadline=1.0, local_steps=4, mu=0.1)


def test_a_device_at_its_deadline_finishes_its_batch_and_sends() -> None:
    """By hand: batch after batch while there is time; what is left comes first in the next round."""
    me = by_hand(PARTIAL, 0)
    w = Payload(SERVER, 1, toy(PARTIAL).blocks()["model"].weights)
    assert isinstance(me.effect, Recv)
    me.port.now = 5.0
    trained: list[Any] = []
    for t, moments in enumerate(((5.4, 5.9, 6.2), (7.0, 7.0, 7.1, 7.2), (8.2,))):
        me.answer(Train(w, t, sender=SERVER))
        for moment in moments:
            assert isinstance(me.effect, Compute)
            (work,) = me.effect.works
            (batch,), pull = work.command.args
            assert isinstance(pull, Proximal)
            assert (pull.anchor, pull.mu) == (w, 0.1)
            trained.append(batch)
            me.port.now = moment
            me.answer(None)
        assert isinstance(me.effect, Send)
        message = me.effect.message
        assert isinstance(message, Trained)
        assert message.samples == int(toy(PARTIAL).samples[0]), "all of them, however many were trained"
        me.answer(None)
    order = by_hand(FedProx(local_steps=20), 0)
    order.answer(Train(w, 0, sender=SERVER))
    assert isinstance(order.effect, Compute)
    in_order: Any = order.effect.works[0].command.args[0]
    assert tuple(trained) == in_order[: len(trained)], "none twice, and none left out"


def test_the_deadline_counts_from_the_order() -> None:
    """A device that got it later has as much time."""
    me = by_hand(PARTIAL, 1)
    w = Payload(SERVER, 1, toy(PARTIAL).blocks()["model"].weights)
    me.port.now = 100.0
    me.answer(Train(w, 0, sender=SERVER))
    for moment in (100.5, 100.99, 101.0):
        assert isinstance(me.effect, Compute)
        me.port.now = moment
        me.answer(None)
    assert isinstance(me.effect, Send), "1 s is over at 101 s"


def test_one_batch_is_always_trained() -> None:
    """However short the deadline."""
    scheduler = FedProx(stragglers="partial", deadline=1e-9)
    outcome = simulate(toy(scheduler, rounds=ROUNDS))
    assert outcome.weights is not None
    trace = outcome.simulation.trace
    assert sum(span[0] >= 0 for span in trace.spans) == ROUNDS * DEVICES


def test_with_time_enough_nothing_is_cut_short() -> None:
    """The same weights to the bit, and the same bytes, at the same end."""
    partial, wait = (
        simulate(toy(scheduler, rounds=ROUNDS))
        for scheduler in (FedProx(mu=0.1, stragglers="partial", deadline=1e6), FedProx(mu=0.1))
    )
    assert partial.weights is not None
    assert wait.weights is not None
    assert all(tensor.equal(wait.weights[name]) for name, tensor in partial.weights.items())
    assert partial.simulation.trace.transfers == wait.simulation.trace.transfers
    assert partial.simulation.trace.end == wait.simulation.trace.end


def test_slow_devices_send_what_they_have() -> None:
    """With a deadline before half of the slowest device's time: of those that do not get through, each ends with the
    batch in which its time was up."""
    whole = simulate(toy(FedProx(local_epochs=4), rounds=ROUNDS), learning=False)
    times = [
        sum(span[4] - span[3] for span in whole.simulation.trace.spans if span[0] == k) / ROUNDS / 1e9
        for k in range(DEVICES)
    ]
    deadline = max(times) * 0.45
    scheduler = FedProx(local_epochs=4, stragglers="partial", deadline=deadline)
    assembly = toy(scheduler, rounds=ROUNDS)
    trace = simulate(assembly, learning=False).simulation.trace
    broken = set()
    for k in range(DEVICES):
        orders = [t[12] for t in trace.transfers if t[2] == k]
        for began, until in zip(orders, [*orders[1:], trace.end], strict=True):
            ends = [span[4] for span in trace.spans if span[0] == k and began <= span[3] < until]
            assert all(end - began < deadline * 1e9 for end in ends[:-1])
            if len(ends) < len(batches(int(assembly.samples[k]), assembly.training.batch, epochs=4)):
                assert ends[-1] - began >= deadline * 1e9
                broken.add(k)
    assert 0 < len(broken) < DEVICES
    assert times.index(max(times)) in broken


@pytest.mark.slow
def test_a_deadline_shortens_rounds_and_waits_for_stragglers() -> None:
    """Where computing takes the time: devices with a tenth of the samples wait less for the one with the most."""
    found = []
    for scheduler in (FedProx(), FedProx(stragglers="partial", deadline=0.02)):  # a batch takes 6 ms
        _, simulation = Federation(sizes=(8, 9, 160)).simulation(scheduler, rounds=2)
        trace = finished(simulation).trace
        idle = summarise(trace, status="done", wall_seconds=1.0)["devices"]["idle_by_cause"]["straggler"]
        found.append((trace.end, idle * trace.end))
    (wait, idle), (partial, less) = found
    assert partial < wait
    assert less < idle


def test_nobody_waits_for_a_gradient() -> None:
    """Oracle 8; there is a barrier, and so there are stragglers."""
    outcome = simulate(toy(FedProx(), rounds=ROUNDS), learning=False)
    idle = summarise(outcome.simulation.trace, status="done", wall_seconds=1.0)["devices"]["idle_by_cause"]
    assert idle["dependency"] == idle["flow"] == idle["unselected"] == 0
    assert idle["straggler"] > 0


def test_partial_work_weighs_as_much_as_whole_work() -> None:
    """The mean is by samples held, not by samples trained."""
    assembly = toy(FedProx(mu=0, stragglers="partial", deadline=1e-9, local_epochs=1), rounds=1)
    outcome = simulate(assembly)
    one = simulate(toy(FedAvg(local_steps=1), rounds=1))
    assert outcome.weights is not None
    assert one.weights is not None
    assert all(tensor.equal(one.weights[name]) for name, tensor in outcome.weights.items())


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", [FedProx(mu=0.5), PARTIAL, replace(PARTIAL, deadline=0.003, mu=0)], ids=str)
def test_it_conforms(scheduler: FedProx) -> None:
    """With and without a deadline that matters."""
    check_scheduler(scheduler)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mu": -0.1}, r"mu -0.1 must be 0 or more"),
        ({"mu": float("nan")}, r"mu nan must be 0 or more"),
        ({"deadline": 3.0}, r"deadline 3.0 is for stragglers: partial; leave it out"),
        ({"stragglers": "partial"}, r"stragglers: partial needs a deadline, such as 30 s"),
        ({"stragglers": "partial", "deadline": 0.0}, r"deadline 0.0 must be above 0 s"),
        ({"local_steps": 0}, r"local_steps 0 must be 1 or more"),
    ],
    ids=str,
)
def test_options_that_cannot_be(options: dict[str, Any], message: str) -> None:
    """Each with its rule."""
    with pytest.raises(ValueError, match=message):
        FedProx(**options)
