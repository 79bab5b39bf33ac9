"""FedBuff: changes, not weights; a step of the server for every full buffer; staleness by server steps."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import pytest
import torch

from fedsim.learning.optimizers import Schedule, Sgd
from fedsim.schedulers.fedavg import FedAvg
from fedsim.schedulers.fedbuff import Change, FedBuff, Model
from fedsim.script import SERVER, Compute, Connected, Disconnected, Payload, Send
from fedsim.simulation import Fault
from fedsim.testing import DEVICES, by_hand, check_scheduler, simulate, toy
from tests.learning.toys import Federation, bits, furthest
from tests.schedulers.asynchronous import Hands, Sent, at_once, idle_of_devices
from tests.schedulers.closed_forms import batches, loss, macs, state
from tests.schedulers.plain import Plain, State, contributions, finished, stalenesses

ROUNDS = 3
WEIGHTS = toy(FedBuff()).blocks()["model"].weights


def came(hands: Hands, device: int) -> Change:
    """How far a device has come from the version that it had."""
    return Change(hands.made(device), hands.born[device], hands.life[device], sender=device)


def changed(hands: Hands, device: int) -> None:
    """How far a device has come from the version that it had is there."""
    hands.tell(came(hands, device))


def added(hands: Hands) -> list[float]:
    """s(τ) of each change that was taken in."""
    return [float(c.args[1]) for c in hands.steps.port.commands if c.method == "changes.add"]  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------ by hand


def test_the_model_moves_when_the_buffer_is_full() -> None:
    """Every K_b arrivals and never else; whoever sent goes on at once, from the model as it is."""
    hands = Hands(FedBuff(buffer=3), devices=4)
    for device in (0, 1, 0, 0, 2, 3, 1):
        changed(hands, device)
    assert [work.command.method for work in hands.works] == ["changes.apply"] * 2
    assert hands.sent == [
        Sent((0, 1, 2, 3), 0, 0),
        Sent((0,), 0, 0),
        Sent((1,), 0, 0),
        Sent((0,), 1, 0),
        Sent((0,), 1, 1),
        Sent((2,), 1, 1),
        Sent((3,), 2, 1),
        Sent((1,), 2, 1),
    ]
    assert len(hands.steps.port.published) == 3, "the first and what came of the two steps"


def test_staleness_is_in_steps_of_the_server_since_the_download() -> None:
    """Two slow devices beside a fast one and a buffer of two, by a table: 1/√(1 + τ)."""
    hands = Hands(FedBuff(buffer=2), devices=3)
    table = [(0, 0), (0, 0), (0, 0), (1, 1), (0, 1), (0, 0), (2, 3), (2, 0), (1, 2), (0, 1)]
    for device, _ in table:
        changed(hands, device)
    assert added(hands) == pytest.approx([(1 + tau) ** -0.5 for _, tau in table])
    assert stalenesses((device for device, _ in table), every=2) == [tau for _, tau in table]


@pytest.mark.parametrize("denominator", ["buffer", "weights"])
def test_what_the_sum_is_divided_by(denominator: Any) -> None:
    """K_b, or the sum of s(τ)."""
    hands = Hands(
        FedBuff(buffer=2, denominator=denominator, server_lr=0.7, server_momentum=0.9), devices=2, rounds=None
    )
    for device in (0, 0, 0, 1):
        changed(hands, device)
    by = 2.0 if denominator == "buffer" else 1 + 2**-0.5
    assert [work.command.args[1:] for work in hands.works] == [
        (0.7, 2.0, 0.9),
        (0.7, pytest.approx(by), 0.9),
    ]


def test_it_ends_after_so_many_changes_a_device_and_leaves_the_rest() -> None:
    """until.rounds times K arrivals: eight of them fill a buffer of three twice, and two are left."""
    hands = Hands(FedBuff(buffer=3), devices=4, rounds=2)
    for number in range(8):
        assert not hands.over, number
        changed(hands, number % 4)
    assert hands.over
    assert len(hands.works) == 2
    assert len(added(hands)) == 8


def test_changes_in_the_buffer_stay_when_their_device_leaves() -> None:
    """They count like any other; a device that is back has the version that there is."""
    hands = Hands(FedBuff(buffer=2), devices=2)
    changed(hands, 1)
    hands.tell(Disconnected(1, sender=1))
    changed(hands, 0)
    assert [work.parts[0].cost.macs for work in hands.works] == [3 * toy(FedBuff()).blocks()["model"].trainable]
    hands.tell(Connected(1, sender=1))
    assert hands.sent[-1] == Sent((1,), 1, 1)


def test_a_short_absence_is_one_order_more_and_not_two() -> None:
    """A device that has left and is back while its change waits: that is added, and it is greeted once."""
    hands = Hands(FedBuff(buffer=2), devices=2)
    hands.put(came(hands, 0), Disconnected(0, sender=0), Connected(0, sender=0))
    assert hands.sent[1:] == [Sent((0,), 0, 0)]
    assert hands.life[0] == 1
    assert added(hands) == [1.0]


def test_a_device_by_hand() -> None:
    """Load, train, say how far that went from what came."""
    scheduler = FedBuff(local_steps=2)
    me = by_hand(scheduler, 1)
    w = Payload(SERVER, 1, WEIGHTS)
    me.port.commands.clear()
    me.answer(Model(w, 7, 2, 4, sender=SERVER))
    assert isinstance(me.effect, Compute)
    me.answer(None)
    assert [(c.method, *c.args) for c in me.port.commands] == [("load", w), ("change", w), ("close",)]
    assert isinstance(me.effect, Send)
    message = me.effect.message
    assert isinstance(message, Change)
    assert message.version == 7
    me.close()


# --------------------------------------------------------------------------------------------- whole runs


def replayed(what: Federation, scheduler: FedBuff, arrivals: list[int]) -> State:
    """Changes in this order, one model and dictionaries."""
    plain, devices = Plain(what), len(what.sizes)
    w, version = plain.start, 0
    velocity = {name: torch.zeros_like(w[name]) for name in plain.parameters}
    downloaded = dict.fromkeys(range(devices), (w, 0, 0))
    buffer: list[tuple[State, State, float]] = []
    for came, k in enumerate(arrivals, 1):
        start, born, round = downloaded[k]
        buffer.append((start, plain.train(k, start, round=round), (1 + version - born) ** -0.5))
        if len(buffer) == scheduler.buffer:
            total = sum(s for _, _, s in buffer)
            by = scheduler.buffer if scheduler.denominator == "buffer" else total
            made = {}
            for name, tensor in w.items():
                if name in plain.parameters:
                    step = torch.stack([s * (local[name] - start[name]) for start, local, s in buffer]).sum(0) / by
                    velocity[name] = scheduler.server_momentum * velocity[name] + step
                    made[name] = tensor + scheduler.server_lr * velocity[name]
                elif tensor.is_floating_point():
                    made[name] = torch.stack([s / total * local[name] for _, local, s in buffer]).sum(0)
                else:
                    made[name] = torch.stack([tensor, *(local[name] for _, local, _ in buffer)]).amax(0)
            w, version, buffer = made, version + 1, []
        downloaded[k] = (w, version, came // devices)
    return w


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scheduler", "optimizer"),
    [
        (FedBuff(buffer=2), Sgd(lr=0.05)),
        (FedBuff(buffer=3, denominator="weights", server_lr=0.7, server_momentum=0.9), Sgd(lr=0.03, momentum=0.5)),
        (FedBuff(buffer=1), Sgd(lr=0.05, schedule=Schedule(kind="exponential", factor=0.5))),
    ],
    ids=["plain", "weights-momentum", "one-schedule"],
)
def test_a_run_equals_its_arrivals_replayed(scheduler: FedBuff, optimizer: Sgd) -> None:
    """Whatever the order: changes, running statistics, the server's rate and momentum, learning rates by rounds."""
    what = Federation(optimizer=optimizer)
    host, simulation = what.simulation(scheduler, rounds=ROUNDS)
    finished(simulation)
    arrivals = [t.source for t in contributions(simulation)][: ROUNDS * 4]
    assert len(set(stalenesses(arrivals, every=scheduler.buffer))) > 1, "some are older than others"
    assert simulation.published is not None
    assert furthest(host.model_tensors(simulation.published.model), replayed(what, scheduler, arrivals)) < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["gn", "bn"])
def test_a_full_buffer_of_everyone_is_a_round_of_fedavg(norm: str) -> None:
    """K_b = K, equal n_k, nobody late: the same mean, but for rounding; of running statistics too."""
    what = Federation(sizes=(16, 16, 16), norm=norm, cut=1)
    ours = what.run(FedBuff(buffer=3), rounds=1)
    assert furthest(ours, what.run(FedAvg(), rounds=1)) < 1e-12
    for options in ({"denominator": "weights"}, {"server_momentum": 0.9}):
        assert furthest(ours, what.run(dataclasses.replace(FedBuff(buffer=3), **options), rounds=1)) < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("denominator", ["buffer", "weights"])
def test_training_that_goes_nowhere_moves_nothing(denominator: Any) -> None:
    """Under any staleness: parameters keep their bits, where averages of weights would not; statistics go on."""
    what = Federation(dtype="float32", optimizer=Sgd(lr=1e-60))  # 0 in float32
    host, simulation = what.simulation(FedBuff(buffer=2, denominator=denominator), rounds=4)
    finished(simulation)
    arrivals = [t.source for t in contributions(simulation)]
    assert max(stalenesses(arrivals, every=2)) >= 2
    assert simulation.published is not None
    ours, plain = host.model_tensors(simulation.published.model), Plain(what)
    parameters = [{name: state[name] for name in plain.parameters} for state in (ours, plain.start)]
    assert bits(parameters[0]) == bits(parameters[1])
    assert not all(ours[name].equal(tensor) for name, tensor in plain.start.items())


@pytest.mark.slow
def test_a_buffer_that_never_fills_moves_nothing() -> None:
    """The run ends with the model that it began with."""
    what = Federation(sizes=(8, 8), cut=1)
    assert bits(what.run(FedBuff(buffer=5), rounds=2)) == bits(Plain(what).start)
    assert bits(what.run(FedBuff(buffer=4), rounds=2)) != bits(Plain(what).start)


LOCAL: tuple[dict[str, int], ...] = ({}, {"local_steps": 1}, {"local_steps": 7}, {"local_epochs": 2})


@pytest.mark.parametrize("buffer", [1, 3, 12])
@pytest.mark.parametrize("local", LOCAL, ids=str)
def test_an_update_costs_its_closed_form(local: dict[str, int], buffer: int) -> None:
    """|w| up and |w| down, (m + m_bwd)·HB on the device; on the server K_b changes and a model a step."""
    options: Any = local
    assembly = toy(FedBuff(buffer=buffer, **options), rounds=ROUNDS)
    trace = simulate(assembly, learning=False).simulation.trace
    units, model, updates = assembly.model.units, assembly.model, ROUNDS * DEVICES
    aggregated = [span[5] for span in trace.spans if span[0] == SERVER]
    assert aggregated == [(buffer + 1) * model.parameters] * (updates // buffer)
    assert {t[5:9] for t in trace.transfers} == {(state(units), 0, 0, 0)}
    assert sum(t[1] == SERVER for t in trace.transfers) == DEVICES + updates
    for k in range(DEVICES):
        sent = [t[10] for t in trace.transfers if t[1] == k]
        steps, epochs = local.get("local_steps"), local.get("local_epochs", 1)
        sizes = batches(int(assembly.samples[k]), 8, steps=steps, epochs=epochs, rounds=len(sent))
        spent = sum(span[5] for span in trace.spans if span[0] == k and span[4] <= max(sent, default=0))
        assert spent == macs(units, sizes, to_input=False) + loss(model, sizes)


def test_nobody_waits_for_a_straggler_or_a_gradient() -> None:
    """Oracles 7 and 8."""
    outcome = simulate(toy(FedBuff(buffer=3), rounds=ROUNDS), learning=False)
    assert {cause for cause, share in idle_of_devices(outcome).items() if share} == {"model"}
    assert not any(mark[2].startswith("round") for mark in outcome.simulation.trace.marks)


@pytest.mark.parametrize("concurrency", [1, 3])
def test_concurrency_and_buffer_are_two_things(concurrency: int) -> None:
    """As many train at once as may, however many changes make a step."""
    outcome = simulate(toy(FedBuff(buffer=2, concurrency=concurrency), rounds=6), learning=False)
    trace = outcome.simulation.trace
    assert at_once(outcome) == concurrency
    assert sum(span[2] == "aggregate" for span in trace.spans) == 6 * DEVICES // 2
    assert idle_of_devices(outcome)["unselected"] > 0
    assert len(Counter(t[1] for t in trace.transfers if t[1] != SERVER)) == DEVICES


def test_a_device_that_leaves_costs_only_its_change() -> None:
    """While it trains: the others make up the number."""
    whole = simulate(toy(FedBuff(buffer=2), rounds=ROUNDS), learning=False)
    span = next(span for span in whole.simulation.trace.spans if span[0] == 2)
    fault = Fault(device=2, leave=(span[3] + span[4]) / 2e9, back=None)
    trace = simulate(toy(FedBuff(buffer=2), rounds=ROUNDS, faults=[fault]), learning=False).simulation.trace
    assert sum(span[2] == "aggregate" for span in trace.spans) == ROUNDS * DEVICES // 2
    assert not any(t[1] == 2 for t in trace.transfers)


def test_the_server_holds_a_sum_and_not_the_changes() -> None:
    """Its memory does not grow with the buffer: one sum beside the model, and with momentum a velocity."""
    peaks = []
    for scheduler in (FedBuff(buffer=2), FedBuff(buffer=6), FedBuff(buffer=2, server_momentum=0.9)):
        trace = simulate(toy(scheduler, rounds=ROUNDS), learning=False).simulation.trace
        peaks.append(next(mark[3] for mark in trace.marks if mark[2] == "memory.peak" and mark[0] == SERVER))
    size = state(toy(FedBuff()).model.units)
    assert peaks[1] == peaks[0]
    assert peaks[2] == peaks[0] + size


@pytest.mark.slow
@pytest.mark.parametrize(
    "scheduler",
    [FedBuff(buffer=2), FedBuff(buffer=3, concurrency=1, server_momentum=0.9, denominator="weights")],
    ids=str,
)
def test_it_conforms(scheduler: FedBuff) -> None:
    """With buffers that fill, and in turns."""
    check_scheduler(scheduler)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"buffer": 0}, "buffer 0 must be 1 or more"),
        ({"server_lr": 0.0}, "server_lr 0.0 must be above 0"),
        ({"server_momentum": 1.0}, "server_momentum 1.0 must be at least 0 and below 1"),
        ({"server_momentum": -0.1}, "server_momentum -0.1 must be at least 0 and below 1"),
        ({"concurrency": 0}, "concurrency 0 must be 1 or more, or left out for all devices"),
        ({"local_steps": 0}, "local_steps 0 must be 1 or more"),
    ],
    ids=str,
)
def test_options_that_cannot_be(options: dict[str, Any], message: str) -> None:
    """Each with its rule."""
    with pytest.raises(ValueError, match=message):
        FedBuff(**options)
