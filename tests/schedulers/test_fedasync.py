"""FedAsync: mixtures by staleness, counted from the download; nobody waits for anybody."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch

from fedsim.hardware.machines import machine
from fedsim.hardware.profiles import load_profile
from fedsim.learning.host import Host
from fedsim.learning.learners import Proximal
from fedsim.learning.optimizers import Schedule, Sgd
from fedsim.schedulers.fedasync import FedAsync, Model, Trained
from fedsim.schedulers.staleness import mixing
from fedsim.script import SERVER, Command, Compute, Connected, Disconnected, Payload, Send
from fedsim.simulation import Fault
from fedsim.testing import DEVICES, by_hand, check_scheduler, simulate, toy
from tests.learning.toys import Federation, bits, furthest
from tests.schedulers.asynchronous import Hands, Sent, at_once, idle_of_devices, open_orders
from tests.schedulers.closed_forms import batches, loss, macs, state
from tests.schedulers.plain import Plain, State, contributions, finished, mean, stalenesses
from tests.schedulers.test_fedprox import near

ROUNDS = 3
WEIGHTS = toy(FedAsync()).blocks()["model"].weights


def came(hands: Hands, device: int) -> Trained:
    """What came of the version that a device had."""
    return Trained(hands.made(device), hands.born[device], hands.life[device], sender=device)


def trained(hands: Hands, device: int) -> None:
    """What came of the version that a device had is there."""
    hands.tell(came(hands, device))


def weights_of(hands: Hands) -> list[float]:
    """α_t of each mixture."""
    return [work.command.args[2] for work in hands.works]


# ------------------------------------------------------------------------------------------------ by hand


def test_a_thousand_updates_do_not_wear_alpha_down() -> None:
    """Two devices in turns: τ = 1 from the second update on, and α_t is the same each time."""
    hands = Hands(FedAsync(), devices=2)
    for number in range(1000):
        trained(hands, number % 2)
    first, *rest = weights_of(hands)
    assert first == 0.6
    assert set(rest) == {0.6 * 2**-0.5}
    assert len(rest) == 999


def test_staleness_counts_from_the_download() -> None:
    """Two slow devices beside a fast one, by a table: versions that came while they trained, or were on their way."""
    hands = Hands(FedAsync(staleness="polynomial", a=1.0, alpha=1.0), devices=3)
    table = [(0, 0), (0, 0), (0, 0), (1, 3), (0, 1), (2, 5), (2, 0), (0, 2), (1, 4), (1, 0)]
    for device, _ in table:
        trained(hands, device)
    assert weights_of(hands) == pytest.approx([1 / (1 + tau) for _, tau in table])
    assert stalenesses(device for device, _ in table) == [tau for _, tau in table]


def test_a_version_an_update() -> None:
    """It goes to the one whose update made it, at once; the first goes to all. Rounds are K updates."""
    hands = Hands(FedAsync(), devices=3)
    for device in (2, 0, 2, 1):
        trained(hands, device)
    assert hands.sent == [
        Sent((0, 1, 2), 0, 0),
        Sent((2,), 1, 0),
        Sent((0,), 2, 0),
        Sent((2,), 3, 1),
        Sent((1,), 4, 1),
    ]
    assert len(hands.steps.port.published) == 5
    assert [work.command.method for work in hands.works] == ["mix"] * 4
    assert all(one.result is two.command.args[0] for one, two in pairwise(hands.works)), "each goes on from the last"


def test_it_ends_after_so_many_updates_a_device() -> None:
    """until.rounds times K, whoever they come from."""
    hands = Hands(FedAsync(), devices=3, rounds=2)
    for number in range(6):
        assert not hands.over, number
        trained(hands, 0)
    assert hands.over


def test_a_device_by_hand() -> None:
    """Load, train with the proximal term if there is one, send with the version that came."""
    for rho in (0.0, 0.3):
        scheduler = FedAsync(rho=rho, local_steps=2)
        me = by_hand(scheduler, 1)
        w = Payload(SERVER, 1, WEIGHTS)
        me.answer(Model(w, 7, 2, 4, sender=SERVER))
        assert isinstance(me.effect, Compute)
        (work,) = me.effect.works
        assert work.command.args[1:] == ((Proximal(w, 0.3),) if rho else ())
        me.answer(None)
        assert isinstance(me.effect, Send)
        message = me.effect.message
        assert isinstance(message, Trained)
        assert (message.version, message.life) == (7, 4)
        me.close()


def test_a_device_that_leaves_is_not_missed() -> None:
    """Nothing is sent or undone; when it is back it gets the current version, as old as it then is: not at all."""
    hands = Hands(FedAsync(), devices=3)
    trained(hands, 0)
    before = list(hands.sent)
    hands.tell(Disconnected(1, sender=1))
    assert hands.sent == before
    trained(hands, 0)
    trained(hands, 2)
    hands.tell(Connected(1, sender=1))
    assert hands.sent[-1] == Sent((1,), 3, 1)
    trained(hands, 1)
    assert weights_of(hands)[-1] == 0.6


def test_a_short_absence_is_one_order_more_and_not_two() -> None:
    """A device that has left and is back while what it had sent waits: that is mixed in, and it is greeted once."""
    hands = Hands(FedAsync(), devices=2)
    hands.put(came(hands, 0), Disconnected(0, sender=0), Connected(0, sender=0))
    assert hands.sent[1:] == [Sent((0,), 1, 0)]
    assert hands.life[0] == 1
    assert weights_of(hands) == [0.6]
    trained(hands, 0)
    assert hands.sent[2:] == [Sent((0,), 2, 1)], "and goes on as before"


def test_with_few_places_the_next_one_is_called() -> None:
    """Whoever is done sits out; the current version goes to another. A place that is left is taken."""
    hands = Hands(FedAsync(concurrency=1), devices=2)
    ((first,), _) = hands.sent[0].to, hands.sent
    trained(hands, first)
    assert hands.sent[1] == Sent((1 - first,), 1, 0)
    hands.tell(Disconnected(1 - first, sender=1 - first))
    assert hands.sent[2] == Sent((first,), 1, 0)
    hands.tell(Connected(1 - first, sender=1 - first))
    assert len(hands.sent) == 3, "no place for it yet"
    trained(hands, first)
    assert hands.sent[3] == Sent((1 - first,), 2, 1)


# --------------------------------------------------------------------------------------------- whole runs


def replayed(what: Federation, scheduler: FedAsync, arrivals: list[int]) -> State:
    """Updates in this order, one model and dictionaries."""
    plain, devices = Plain(what), len(what.sizes)
    w = plain.start
    downloaded = dict.fromkeys(range(devices), (w, 0))
    for t, k in enumerate(arrivals):
        start, born = downloaded[k]
        local = plain.train(k, start, near(start, scheduler.rho), born // devices)
        alpha = mixing(scheduler.alpha, scheduler.staleness, t - born, scheduler.a, scheduler.b)
        w = mean([(w, 1 - alpha), (local, alpha)])
        downloaded[k] = (w, t + 1)
    return w


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scheduler", "optimizer"),
    [
        (FedAsync(), Sgd(lr=0.05)),
        (FedAsync(staleness="hinge", a=0.5, b=1, rho=0.1), Sgd(lr=0.03, momentum=0.5)),
        (
            FedAsync(alpha=0.9, staleness="constant"),
            Sgd(lr=0.1, schedule=Schedule(kind="exponential", factor=0.5)),
        ),
    ],
    ids=["polynomial", "hinge-rho", "constant-schedule"],
)
def test_a_run_equals_its_arrivals_replayed(scheduler: FedAsync, optimizer: Sgd) -> None:
    """Whatever the order: models, running statistics, proximal term, momentum, and learning rates by rounds."""
    what = Federation(optimizer=optimizer)
    host, simulation = what.simulation(scheduler, rounds=ROUNDS)
    finished(simulation)
    arrivals = [t.source for t in contributions(simulation)][: ROUNDS * 4]
    assert len(set(stalenesses(arrivals))) > 2, "some are older than others"
    assert simulation.published is not None
    assert furthest(host.model_tensors(simulation.published.model), replayed(what, scheduler, arrivals)) < 1e-9


@pytest.mark.slow
def test_a_weight_of_one_leaves_the_last_writer(monkeypatch: pytest.MonkeyPatch) -> None:
    """alpha 1, constant: after every update w is what that device sent, to the bit, running statistics too."""
    _, simulation = Federation(cut=1).simulation(FedAsync(alpha=1.0, staleness="constant"), rounds=ROUNDS)
    run, mixtures = Host.run, 0

    def compared(host: Host, command: Command) -> None:
        nonlocal mixtures
        run(host, command)
        if command.method == "mix":
            assert command.output is not None
            sent: Any = command.args[1]
            one, other = host.core.flat(command.output), host.core.flat(sent)
            real = [{n: x for n, x in value.named().items() if x.is_floating_point()} for value in (one, other)]
            assert bits(real[0]) == bits(real[1])
            mixtures += 1

    monkeypatch.setattr(Host, "run", compared)
    finished(simulation)
    assert mixtures == ROUNDS * 4


@pytest.mark.slow
def test_one_device_alone_is_never_late() -> None:
    """K = 1: τ = 0, every time, so that w moves by alpha."""
    what = Federation(sizes=(24,))
    scheduler = FedAsync(staleness="polynomial", a=9.0)
    assert furthest(what.run(scheduler, rounds=4), what.run(FedAsync(staleness="constant"), rounds=4)) == 0
    assert furthest(what.run(scheduler, rounds=4), replayed(what, scheduler, [0] * 4)) < 1e-9


LOCAL: tuple[dict[str, int], ...] = ({}, {"local_steps": 1}, {"local_steps": 7}, {"local_epochs": 2})


@pytest.mark.parametrize("rho", [0.0, 0.1])
@pytest.mark.parametrize("local", LOCAL, ids=str)
def test_an_update_costs_its_closed_form(local: dict[str, int], rho: float) -> None:
    """|w| up and |w| down, (m + m_bwd)·HB on the device, two models mixed on the server; K models at the start."""
    options: Any = local
    assembly = toy(FedAsync(rho=rho, **options), rounds=ROUNDS)
    trace = simulate(assembly, learning=False).simulation.trace
    units, model = assembly.model.units, assembly.model
    updates = ROUNDS * DEVICES
    mixed = [span[5] for span in trace.spans if span[0] == SERVER]
    assert mixed == [2 * model.parameters] * updates
    assert {t[5:9] for t in trace.transfers} == {(state(units), 0, 0, 0)}
    up = [t for t in trace.transfers if t[2] == SERVER and t[13] == "delivered"]
    down = [t for t in trace.transfers if t[1] == SERVER]
    assert (len(up) - updates) in range(DEVICES), "those that came too late to count"
    assert len(down) == DEVICES + updates
    for k in range(DEVICES):
        sent = sum(t[1] == k for t in trace.transfers)
        steps, epochs = local.get("local_steps"), local.get("local_epochs", 1)
        sizes = batches(int(assembly.samples[k]), 8, steps=steps, epochs=epochs, rounds=sent)
        last = max((t[10] for t in trace.transfers if t[1] == k), default=0)
        spent = sum(span[5] for span in trace.spans if span[0] == k and span[4] <= last)
        term = len(sizes) * model.parameters if rho else 0
        assert spent == macs(units, sizes, to_input=False) + loss(model, sizes) + term


def test_nobody_waits_for_a_straggler_or_a_gradient() -> None:
    """Oracles 7 and 8: a device waits for its next model, and the server is never short of some but not all."""
    outcome = simulate(toy(FedAsync(), rounds=ROUNDS), learning=False)
    idle = idle_of_devices(outcome)
    assert {cause for cause, share in idle.items() if share} == {"model"}
    assert not any(mark[2].startswith("round") for mark in outcome.simulation.trace.marks)


@pytest.mark.parametrize("concurrency", [1, 2, 3])
def test_never_more_than_so_many_train_at_once(concurrency: int) -> None:
    """Those who sit out are unselected, not waiting for anything; everybody has turns."""
    outcome = simulate(toy(FedAsync(concurrency=concurrency), rounds=6), learning=False)
    assert at_once(outcome) == concurrency
    idle = idle_of_devices(outcome)
    assert idle["unselected"] > 0
    assert idle["straggler"] == idle["dependency"] == 0
    turns = Counter(t[1] for t in outcome.simulation.trace.transfers if t[1] != SERVER)
    assert len(turns) == DEVICES
    everyone = simulate(toy(FedAsync(), rounds=6), learning=False)
    assert at_once(everyone) == DEVICES


@pytest.mark.slow
def test_fast_devices_are_not_held_up() -> None:
    """A twentieth of the samples, more than twice the updates: each goes at its own pace."""
    _, simulation = Federation(sizes=(8, 160)).simulation(FedAsync(), rounds=10)
    counts = Counter(t.source for t in contributions(finished(simulation)))
    assert counts[0] > 2 * counts[1]


@pytest.mark.parametrize("concurrency", [None, 2])
def test_a_device_has_one_order_at_a_time_whenever_it_was_away(concurrency: int | None) -> None:
    """Also where it leaves and is back while the server mixes what it had sent, or something else."""
    base = toy(FedAsync(concurrency=concurrency), rounds=ROUNDS)
    slow = replace(base, fleet=replace(base.fleet, server=machine(load_profile("pi-tier-1"))))
    spans = [s for s in simulate(slow, learning=False).simulation.trace.spans if s[2] == "aggregate"]
    for span in spans[:6]:
        moment, long = span[3] / 1e9, (span[4] - span[3]) / 1e9
        for device in range(DEVICES):
            fault = Fault(device=device, leave=moment + 0.3 * long, back=moment + 0.6 * long)
            outcome = simulate(replace(slow, faults=[fault]), learning=False)
            assert open_orders(outcome, device, moment + 0.5 * long) <= 1


def test_a_device_that_leaves_costs_only_its_update() -> None:
    """While it trains: the others make up the number."""
    whole = simulate(toy(FedAsync(), rounds=ROUNDS), learning=False)
    span = next(span for span in whole.simulation.trace.spans if span[0] == 2)
    fault = Fault(device=2, leave=(span[3] + span[4]) / 2e9, back=None)
    outcome = simulate(toy(FedAsync(), rounds=ROUNDS, faults=[fault]), learning=False)
    trace = outcome.simulation.trace
    assert sum(span[2] == "aggregate" for span in trace.spans) == ROUNDS * DEVICES
    assert not any(t[1] == 2 for t in trace.transfers)


@pytest.mark.slow
@pytest.mark.parametrize(
    "scheduler",
    [FedAsync(staleness="hinge", concurrency=2), FedAsync(alpha=1.0, staleness="constant", rho=0.1, concurrency=1)],
    ids=str,
)
def test_it_conforms(scheduler: FedAsync) -> None:
    """With every staleness function, and in turns."""
    check_scheduler(scheduler)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 0.0}, "alpha 0.0 must be above 0 and at most 1"),
        ({"staleness": "constant", "a": 1.0}, "a 1.0 is for staleness: polynomial or hinge"),
        ({"rho": -1.0}, "rho -1.0 must be 0 or more"),
        ({"concurrency": 0}, "concurrency 0 must be 1 or more, or left out for all devices"),
        ({"local_epochs": 0}, "local_epochs 0 must be 1 or more"),
    ],
    ids=str,
)
def test_options_that_cannot_be(options: dict[str, Any], message: str) -> None:
    """Each with its rule."""
    with pytest.raises(ValueError, match=message):
        FedAsync(**options)


@pytest.mark.slow
def test_running_statistics_are_mixed_like_weights() -> None:
    """Oracle 13: after one update they are (1 − α)·first + α·the device's."""
    what = Federation(sizes=(16,), cut=1)
    start = what.network().state_dict()
    alone = what.run(FedAsync(alpha=1.0), rounds=1)
    mixed = what.run(FedAsync(alpha=0.25), rounds=1)
    name = next(name for name in start if "running_var" in name)
    assert not alone[name].equal(start[name])
    torch.testing.assert_close(mixed[name], 0.75 * start[name] + 0.25 * alone[name], rtol=1e-12, atol=0)
