"""SCAFFOLD: FedAvg in its first round, its formulas after that, and control variates that add up."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from fedsim import seeds
from fedsim.learning.host import Host
from fedsim.learning.learners import Controlled, meta_of
from fedsim.learning.operations.controlling import own_control
from fedsim.learning.optimizers import AdamW, Schedule, Sgd, Training
from fedsim.report import summarise
from fedsim.schedulers.fedavg import FedAvg
from fedsim.schedulers.scaffold import Scaffold, Train, Trained
from fedsim.script import SERVER, Command, Compute, Disconnected, Payload, Send
from fedsim.simulation import Ending, Fault
from fedsim.testing import DEVICES, by_hand, check_scheduler, simulate, toy
from tests.learning.test_oracles import ALONE
from tests.learning.toys import SEED, Federation, bits, furthest
from tests.schedulers.closed_forms import all_batches, loss, macs, measured, state
from tests.schedulers.plain import Bend, Plain, State, finished, mean
from tests.schedulers.test_closed_forms import LOCAL, given
from tests.schedulers.test_leaving import moments

ROUNDS = 3


def corrected(c: State, c_k: State) -> Bend:
    """g − c_k + c."""

    def bend(name: str, gradient: Tensor, _: Tensor) -> Tensor:
        return gradient - c_k[name] + c[name]

    return bend


def drawn(rounds: int, participants: int, devices: int) -> list[list[int]]:
    """The devices of each round, as the server draws them."""
    rng = seeds.generator(SEED, SERVER, "selection")
    if participants == devices:
        return [list(range(devices))] * rounds
    return [sorted(rng.choice(devices, size=participants, replace=False).tolist()) for _ in range(rounds)]


def plain_scaffold(
    what: Federation, rounds: list[list[int]], *, server_lr: float = 1.0, uniform: bool = False
) -> tuple[State, list[State]]:
    """The weights and every c_k after rounds of these devices, with one model and dictionaries."""
    plain, devices = Plain(what), len(what.sizes)
    weight = [1 if uniform else plain.samples(k) for k in range(devices)]
    w = plain.start
    c = {name: torch.zeros_like(w[name]) for name in plain.parameters}
    own = [c] * devices
    for t, chosen in enumerate(rounds):
        members, moved = [], []
        for k in chosen:
            local = plain.train(k, w, corrected(c, own[k]), t)
            scale = plain.steps(k) * what.optimizer.rate(t)
            renewed = {name: own[k][name] - c[name] + (w[name] - local[name]) / scale for name in c}
            members.append((local, weight[k]))
            moved.append(({name: renewed[name] - own[k][name] for name in c}, weight[k]))
            own[k] = renewed
        average, change = mean(members), mean(moved)
        w = {n: w[n] + server_lr * (x - w[n]) if n in c else x for n, x in average.items()}
        share = sum(weight[k] for k in chosen) / sum(weight)
        c = {name: c[name] + share * change[name] for name in c}
    return w, own


@pytest.mark.slow
@pytest.mark.parametrize("participants", [4, 2])
@pytest.mark.parametrize("weighting", ["samples", "uniform"])
@pytest.mark.parametrize(
    ("server_lr", "optimizer"),
    [
        (1.0, Sgd(lr=0.05)),
        (0.7, Sgd(lr=0.05, weight_decay=0.01)),
        (1.3, Sgd(lr=0.08, schedule=Schedule(kind="exponential", factor=0.7))),
    ],
    ids=["1", "0.7-decay", "1.3-schedule"],
)
def test_it_equals_a_plain_loop(participants: int, weighting: Any, server_lr: float, optimizer: Sgd) -> None:
    """Steps, control variates, the server's rate and a schedule; with batch norm, whose buffers are averaged."""
    what = Federation(optimizer=optimizer)
    scheduler = Scaffold(server_lr=server_lr, weighting=weighting)
    host, simulation = what.simulation(scheduler, rounds=ROUNDS, participants=participants)
    finished(simulation)
    assert simulation.published is not None
    ours = host.model_tensors(simulation.published.model)
    rounds = drawn(ROUNDS, participants, 4)
    w, own = plain_scaffold(what, rounds, server_lr=server_lr, uniform=weighting == "uniform")
    assert furthest(ours, w) < 1e-9
    for k, expected in enumerate(own):
        kept = own_control(host.core, k)
        if kept is not None:  # absolute: before batch norm a bias has no gradient but rounding
            assert all((kept[name] - tensor).abs().max() < 1e-9 for name, tensor in expected.items())
    assert sum(own_control(host.core, k) is not None for k in range(4)) >= participants
    assert furthest(ours, what.run(FedAvg(weighting=weighting), rounds=ROUNDS, participants=participants)) > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("weighting", ["samples", "uniform"])
def test_the_first_round_is_fedavg(weighting: Any) -> None:
    """To the bit, batch norm's buffers included: c and all c_k are 0, and nothing else differs."""
    what = Federation(dtype="float32", cut=1)
    ours = what.run(Scaffold(weighting=weighting), rounds=1)
    assert bits(ours) == bits(what.run(FedAvg(weighting=weighting), rounds=1))


@pytest.mark.slow
def test_buffers_are_fedavgs_whatever_the_servers_rate() -> None:
    """Rate and control variates never touch them: a round's statistics are the mean of what devices saw."""
    what = Federation(dtype="float32", cut=1)
    slow, avg = (what.run(scheduler, rounds=1) for scheduler in (Scaffold(server_lr=0.5), FedAvg()))
    buffers = [name for name in slow if "running" in name or "num_batches" in name]
    assert buffers
    assert all(slow[name].equal(avg[name]) for name in buffers)
    assert not all(slow[name].equal(avg[name]) for name in slow)


@pytest.mark.slow
def test_one_device_is_sgd() -> None:
    """K = 1: c and c_k are the same, and so correct nothing, over several rounds; to the bit."""
    assert bits(ALONE.run(Scaffold(), rounds=3)) == bits(ALONE.run(FedAvg(), rounds=3))


@pytest.mark.slow
@pytest.mark.parametrize("weighting", ["samples", "uniform"])
@pytest.mark.parametrize("participants", [4, 2])
def test_the_servers_control_is_the_mean_of_the_devices(
    weighting: Any, participants: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """c = Σ p_k·c_k after every round, with p_k = 1/K or n_k/N, where those that never took part have 0."""
    what = Federation(cut=1)
    _, simulation = what.simulation(Scaffold(weighting=weighting), rounds=ROUNDS, participants=participants)
    found = []
    run = Host.run

    def noted(host: Host, command: Command) -> None:
        run(host, command)
        if command.method == "shift" and command.output is not None:
            c: Any = host.value(command.output)
            found.append({name: tensor.clone() for name, tensor in c.named().items()})
            expected = {name: torch.zeros_like(tensor) for name, tensor in found[-1].items()}
            for k, size in enumerate(what.sizes):
                share = 1 / 4 if weighting == "uniform" else size / sum(what.sizes)
                for name, tensor in (own_control(host.core, k) or {}).items():
                    expected[name] += share * tensor
            assert all((found[-1][name] - tensor).abs().max() < 1e-12 for name, tensor in expected.items())

    monkeypatch.setattr(Host, "run", noted)
    finished(simulation)
    assert len(found) == ROUNDS
    assert all(any(tensor.any() for tensor in c.values()) for c in found)


# -------------------------------------------------------------------------------------------------- costs


@pytest.mark.parametrize("local", LOCAL, ids=str)
def test_it_costs_its_closed_form(local: dict[str, Any]) -> None:
    """P(|w| + 4θ) each way; (m + m_bwd)·S + P·H·θ on devices."""
    assembly = toy(Scaffold(**local), rounds=ROUNDS)
    found = measured(simulate(assembly, learning=False))
    units, model = assembly.model.units, assembly.model
    sizes = all_batches(assembly, **given(local))
    size = ROUNDS * DEVICES * (state(units) + 4 * model.parameters)
    assert found.up == found.down == {"weights": size, "activations": 0, "gradients": 0, "labels": 0}
    assert found.device_macs == macs(units, sizes, to_input=False) + loss(model, sizes) + len(sizes) * model.parameters
    assert found.server_macs == 0
    assert found.aggregate_macs == ROUNDS * (2 * DEVICES + 2) * model.parameters, "two means, and c moves"


def test_buffers_are_sent_once_and_have_no_control() -> None:
    """|w| counts batch norm's buffers, 4θ does not."""
    what = Federation(dtype="float32", cut=1)
    _, simulation = what.simulation(Scaffold(), rounds=1)
    trace = finished(simulation).trace
    plan = what.bench().plans["model"]
    assert plan.weights.nbytes > 4 * plan.trainable
    assert {t[5] for t in trace.transfers} == {plan.weights.nbytes + 4 * plan.trainable}


def test_nobody_waits_for_a_gradient() -> None:
    """Oracle 8."""
    outcome = simulate(toy(Scaffold(), rounds=ROUNDS), learning=False)
    idle = summarise(outcome.simulation.trace, status="done", wall_seconds=1.0)["devices"]["idle_by_cause"]
    assert idle["dependency"] == idle["flow"] == idle["unselected"] == 0
    assert idle["straggler"] > 0


# ------------------------------------------------------------------------------------------------ by hand


def test_a_device_by_hand() -> None:
    """Load w_t, corrected steps, renew c_k, send both."""
    scheduler = Scaffold(local_steps=3)
    me = by_hand(scheduler, 1)
    plan = toy(scheduler).blocks()["model"]
    w, c = Payload(SERVER, 1, plan.weights), Payload(SERVER, 2, plan.parameters)
    me.answer(Train(w, c, 4, sender=SERVER))
    assert isinstance(me.effect, Compute)
    (work,) = me.effect.works
    assert (work.command.method, work.command.args[1]) == ("train", Controlled(c))
    me.port.commands.clear()
    me.answer(None)
    assert [(command.method, *command.args) for command in me.port.commands] == [
        ("control.renew", c, w, pytest.approx(1 / (3 * 0.1))),
        ("weights", "weights"),
        ("close",),
    ]
    assert isinstance(me.effect, Send)
    trained = me.effect.message
    assert isinstance(trained, Trained)
    assert (meta_of(trained.control), trained.round) == (plan.parameters, 4)
    me.close()


def test_the_share_is_of_those_who_delivered() -> None:
    """c moves by P/K of the mean, where P is how many came; by their samples, if they weigh by samples."""
    for weighting in ("uniform", "samples"):
        scheduler = Scaffold(weighting=weighting)
        me = by_hand(scheduler, "server", devices=4, rounds=1)
        assembly = toy(scheduler)
        plan, n = assembly.blocks()["model"], assembly.samples.tolist()
        me.answer(None)
        for k in (2, 0):
            control = Payload(k, 2, plan.parameters)
            me.answer(Trained(Payload(k, 1, plan.weights), control, n[k], 0, sender=k))
        me.answer(Disconnected(1, sender=1))
        me.answer(Disconnected(3, sender=3))
        assert isinstance(me.effect, Compute)
        me.answer(tuple(work.result for work in me.effect.works))
        assert isinstance(me.effect, Compute)
        (shift,) = me.effect.works
        expected = 2 / 4 if weighting == "uniform" else (n[2] + n[0]) / sum(n)
        assert (shift.command.method, shift.command.args[2]) == ("shift", pytest.approx(expected))


@pytest.mark.parametrize(("server_lr", "methods"), [(1.0, ["shift"]), (0.5, ["toward", "shift"])])
def test_a_rate_of_one_takes_the_mean_as_it_is(server_lr: float, methods: list[str]) -> None:
    """So nothing is rounded; another rate goes so much of the way."""
    scheduler = Scaffold(server_lr=server_lr)
    me = by_hand(scheduler, "server", devices=1, rounds=1)
    plan = toy(scheduler).blocks()["model"]
    me.answer(None)
    me.answer(Trained(Payload(0, 1, plan.weights), Payload(0, 2, plan.parameters), 8, 0, sender=0))
    assert isinstance(me.effect, Compute)
    me.answer(tuple(work.result for work in me.effect.works))
    found = []
    while isinstance(me.effect, Compute):
        (work,) = me.effect.works
        found.append(work.command.method)
        if work.command.method == "toward":
            assert work.command.args[2] == server_lr
        me.answer(work.result)
    assert found == methods


# ----------------------------------------------------------------------------------------- leaving, limits


def test_an_empty_round_changes_nothing() -> None:
    """All leave in the first round and come back: c moves in the second one alone."""
    whole = simulate(toy(Scaffold(), rounds=1), learning=False)
    first = min(moments(whole, k)["training"] for k in range(DEVICES))
    faults = [Fault(device=k, leave=first, back=first + 1) for k in range(DEVICES)]
    outcome = simulate(toy(Scaffold(), rounds=2, faults=faults), learning=False)
    assert outcome.ending is Ending.SERVER
    spans = [span for span in outcome.simulation.trace.spans if span[2] == "aggregate"]
    assert len(spans) == 3, "two means, and c"


@pytest.mark.slow
def test_a_control_variate_is_there_when_its_device_comes_back() -> None:
    """It lives on the device: away in the second round, back in the third, device 2 goes on from its c_k."""
    what = Federation(cut=1)
    trace = finished(what.simulation(Scaffold(), rounds=3)[1]).trace
    opened = [mark[1] / 1e9 for mark in trace.marks if mark[2] == "round.open"]
    away = Fault(device=2, leave=opened[1] + 1e-6, back=opened[1] + 2e-6)
    host, simulation = what.simulation(Scaffold(), rounds=3, faults=[away])
    finished(simulation)
    assert simulation.published is not None
    w, own = plain_scaffold(what, [[0, 1, 2, 3], [0, 1, 3], [0, 1, 2, 3]])
    assert furthest(host.model_tensors(simulation.published.model), w) < 1e-9
    kept = own_control(host.core, 2)
    assert kept is not None
    assert all((kept[name] - tensor).abs().max() < 1e-9 for name, tensor in own[2].items())


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", [Scaffold(), Scaffold(server_lr=0.5, weighting="uniform")], ids=str)
def test_it_conforms(scheduler: Scaffold) -> None:
    """With both rates."""
    check_scheduler(scheduler)


def test_a_device_holds_what_it_corrects_by() -> None:
    """Beside FedAvg's: w_t and c during a round, c_k from the first round on."""
    peaks = []
    for scheduler in (FedAvg(), Scaffold()):
        trace = simulate(toy(scheduler, rounds=2), learning=False).simulation.trace
        peaks.append({mark[0]: mark[3] for mark in trace.marks if mark[2] == "memory.peak"})
    model = toy(FedAvg()).model
    more = state(model.units) + 2 * 4 * model.parameters
    assert [peaks[1][k] - peaks[0][k] for k in range(DEVICES)] == [more] * DEVICES


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (
            Sgd(momentum=0.9),
            "scaffold cannot train with momentum 0.9: control variates assume plain steps along gradients; use "
            "momentum: 0, or leave it out",
        ),
        (
            AdamW(),
            "scaffold cannot train with adamw: control variates assume plain steps along gradients; use sgd",
        ),
        (
            Sgd(clip=1.0),
            "scaffold cannot train with clip 1.0: control variates assume plain steps along gradients; leave it out",
        ),
    ],
    ids=str,
)
def test_other_steps_are_refused(optimizer: Any, message: str) -> None:
    """The formula of c_k takes a round apart into learning rate and gradients."""
    with pytest.raises(ValueError, match=f"^{message}$"):
        Scaffold().check(Training(batch=8, optimizer=optimizer))
    Scaffold().check(Training(batch=8, optimizer=Sgd(weight_decay=0.1)))


@pytest.mark.parametrize("server_lr", [0.0, -1.0, float("nan")])
def test_a_server_moves(server_lr: float) -> None:
    """By a rate above 0."""
    with pytest.raises(ValueError, match=f"server_lr {server_lr} must be above 0"):
        Scaffold(server_lr=server_lr)
    assert dataclasses.replace(Scaffold(), local_steps=1).local_steps == 1
