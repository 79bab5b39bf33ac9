"""EcoFed: a device block that never changes, bytes only in refreshes, and training on what was kept."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedsim import seeds
from fedsim.learning.learners import Batch
from fedsim.learning.plan import DEVICE
from fedsim.models.units import UnitList
from fedsim.payload.codecs import Codecs, Half, Int8
from fedsim.report import summarise
from fedsim.schedulers.ecofed import Activations, EcoFed, Refreshed
from fedsim.script import SERVER, Compute, Disconnected, Payload, Recv
from fedsim.simulation import Fault
from fedsim.testing import DEVICES, Outcome, by_hand, check_scheduler, simulate, toy
from fedsim.trace import Transfer
from tests.learning.test_oracles import ALONE, batches, optimizer_of, weighted_mean
from tests.learning.toys import MLP, SEED, Federation, bits, furthest
from tests.schedulers.closed_forms import LABEL, loss, macs, measured
from tests.schedulers.closed_forms import batches as sizes_of
from tests.schedulers.federations import run

ROUNDS = 4


# ---------------------------------------------------------------------------------- what is computed


def eight_bits(z: Tensor) -> Tensor:
    """Whole steps of 1/255 of the range, from the least value on."""
    low, scale = z.min(), (z.max() - z.min()) / 255
    return ((z - low) / scale).round() * scale + low


def plain_loop(what: Federation, *, rounds: int, participants: int, quantise: bool) -> dict[str, Tensor]:
    """Refresh in even rounds, replay in odd ones, with whole modules and dictionaries of activations."""
    model, data, shards = what.network(), what.data(), what.shards()
    d, s = model.block(0, what.cut), model.block(what.cut, len(model))
    x, y = torch.tensor(data.train.inputs, dtype=getattr(torch, what.dtype)), torch.tensor(data.train.labels)
    selection, replay = seeds.generator(SEED, SERVER, "selection"), seeds.generator(SEED, SERVER, "replay")
    buffers: dict[int, list[tuple[Tensor, Tensor]]] = {}
    passes = dict.fromkeys(range(len(shards)), 0)
    d.eval()
    for t in range(rounds):
        if t % 2 == 0:
            chosen = sorted(selection.choice(len(shards), participants, replace=False).tolist())
            for k in chosen:
                buffers[k] = []
                for batch in batches(len(shards[k]), what.batch, k, passes[k]):
                    rows = torch.from_numpy(shards[k][batch])
                    with torch.no_grad():
                        z = d(x[rows])
                    buffers[k].append((eight_bits(z) if quantise else z, y[rows]))
                passes[k] += 1
        else:
            chosen = sorted(replay.choice(sorted(buffers), participants, replace=False).tolist())
        members, start = [], {name: tensor.clone() for name, tensor in s.state_dict().items()}
        for k in chosen:
            s.load_state_dict(start)
            optimizer = optimizer_of(what.optimizer, s)
            for z, labels in buffers[k]:
                optimizer.zero_grad()
                nn.functional.cross_entropy(s(z), labels).backward()
                optimizer.step()
            members.append(({n: v.clone() for n, v in s.state_dict().items()}, len(shards[k])))
        s.load_state_dict(weighted_mean(members))
    return dict(model.state_dict())


@pytest.mark.slow
@pytest.mark.parametrize("quantise", [True, False])
def test_it_equals_a_plain_loop(quantise: bool) -> None:
    """With batch norm on both sides, three of four devices a round, and replays of random ones: to 1e-9 in float64."""
    what = Federation()
    ours = what.run(EcoFed(quantise=quantise), rounds=5, participants=3)
    assert furthest(ours, plain_loop(what, rounds=5, participants=3, quantise=quantise)) < 1e-9


@pytest.mark.slow
def test_the_aggregate_of_one_device_has_its_buffers() -> None:
    """Running variances are not added to their initial 1: with one device all of s is its copy's, to the bit."""
    ours = ALONE.run(EcoFed(quantise=False), rounds=1)
    assert bits(ours) == bits(plain_loop(ALONE, rounds=1, participants=1, quantise=False))


@pytest.mark.slow
def test_the_device_block_stays_what_it_was() -> None:
    """Its hash is that of the initial block after every round, running statistics included; the server's is not."""
    what = replace(ALONE, sizes=(24, 8), dtype="float64")
    initial = bits(what.network().state_dict())
    units = [f"{name}." for name, _ in what.network().block(0, what.cut).named_children()]
    frozen = {name for name in initial if name.startswith(tuple(units))}
    for rounds in (1, 2, 3):
        after = bits(what.run(EcoFed(), rounds=rounds))
        assert {name: after[name] for name in frozen} == {name: initial[name] for name in frozen}
        assert any(after[name] != initial[name] for name in initial.keys() - frozen)


def signed(*, input: tuple[int, ...], classes: int, **_rest: Any) -> UnitList:
    """Two linear layers with nothing between them: activations of both signs."""
    layers = [("first", nn.Linear(input[0], 6)), ("last", nn.Linear(6, classes))]
    return UnitList("signed", layers, input=input, classes=classes)


def test_activations_of_both_signs_survive_eight_bits() -> None:
    """The range goes from the least value to the greatest, not from 0 to the greatest."""
    bench = replace(MLP, model=signed, options=None).bench(split=True)
    device = bench.learner(0, DEVICE)
    exact, coded = (bench.do(device.infer(Batch(0, 0, 8), codec=codec)) for codec in (None, Int8()))
    z = bench.tensor(exact)
    assert z.min() < -0.1 < 0.1 < z.max()
    core = bench.host.core
    core.reader = SERVER
    step = float(z.max() - z.min()) / 255
    assert (core.tensor(coded) - z).abs().max() <= 0.501 * step
    assert coded.nbytes == z.numel() + 8
    assert core.tensor(exact).equal(z)


# ------------------------------------------------------------------------------------- what it costs


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"period": 1},
        {"period": 3, "local_steps": 2},
        {"quantise": False},
        {"weighting": "uniform", "store": "disk"},
    ],
    ids=str,
)
def test_it_costs_its_closed_form(options: dict[str, Any]) -> None:
    """A refresh: up S(z/4 + y) and two floats a batch, m_d·S on devices; every round (m + m_bwd)·S on the server."""
    assembly = toy(EcoFed(**options), rounds=ROUNDS)
    found = measured(simulate(assembly, learning=False))
    model, cut = assembly.model, assembly.cut
    assert cut is not None
    d, s = model.units[:cut], model.units[cut:]
    refreshes = len(range(0, ROUNDS, options.get("period", 2)))
    steps = options.get("local_steps")
    held = assembly.samples.tolist()
    by_device = [sizes_of(n, assembly.training.batch, steps=steps, rounds=refreshes) for n in held]
    sizes = [size for each in by_device for size in each]
    z = model.activation_bytes(cut)
    coded = sum(size * z // 4 + 8 for size in sizes) if options.get("quantise", True) else sum(sizes) * z
    assert found.up == {"weights": 0, "activations": coded, "gradients": 0, "labels": sum(sizes) * LABEL}
    assert found.down == {"weights": 0, "activations": 0, "gradients": 0, "labels": 0}
    assert found.device_macs == sum(unit.macs for unit in d) * sum(sizes)
    if steps is None:  # then every refresh has the same sizes
        assert found.server_macs == (macs(s, sizes, to_input=False) + loss(model, sizes)) * ROUNDS // refreshes
    assert found.aggregate_macs == ROUNDS * DEVICES * sum(unit.trainable for unit in s)


def test_nothing_travels_in_a_replay() -> None:
    """Zero messages in odd rounds, and no gradient, no weights ever; devices compute nothing then."""
    outcome = simulate(toy(EcoFed(), rounds=ROUNDS), learning=False)
    trace = outcome.simulation.trace
    replays = [stretch for number, stretch in enumerate(rounds_of(outcome)) if number % 2]
    assert len(replays) == ROUNDS // 2
    rows = [Transfer(*row) for row in trace.transfers]
    for begin, end in replays:
        assert not [row for row in rows if begin <= row.queued < end]
        assert not [span for span in trace.spans if span[0] >= 0 and begin <= span[3] < end]
        assert [span for span in trace.spans if span[0] == SERVER and begin <= span[3] < end]
    assert {row.message for row in rows} == {"Refresh", "Activations", "Refreshed"}


def rounds_of(outcome: Outcome) -> list[tuple[int, int]]:
    """Beginning and end of each round."""
    marks = outcome.simulation.trace.marks
    opened, closed = ([mark[1] for mark in marks if mark[2] == name] for name in ("round.open", "round.close"))
    return list(zip(opened, closed, strict=True))


def test_devices_never_wait_for_the_server() -> None:
    """Oracle 8: no dependency; what devices do in replays is sit out; all idle time has a cause."""
    outcome = simulate(toy(EcoFed(), rounds=ROUNDS), learning=False)
    summary = summarise(outcome.simulation.trace, status="done", wall_seconds=1.0)
    idle = summary["devices"]["idle_by_cause"]
    assert sum(idle.values()) == pytest.approx(summary["devices"]["idle"], abs=1e-12)
    assert idle["dependency"] == idle["flow"] == 0
    assert idle["unselected"] > 0
    assert idle["straggler"] > 0, "in a refresh the fast ones wait for the slow ones"


def test_eight_bits_are_the_systems_own() -> None:
    """They take the place of the scenario's codec for activations, unless `quantise` is off."""
    for quantise, per_value in ((True, 1), (False, 2)):
        base = toy(EcoFed(quantise=quantise), rounds=1)
        coded = replace(base, training=replace(base.training, codecs=Codecs(activations=Half())))
        found = measured(simulate(coded, learning=False))
        assert base.cut is not None
        values = int(base.samples.sum()) * base.model.activation_bytes(base.cut) // 4
        assert 0 <= found.up["activations"] - per_value * values <= 8 * sum(-(-n // 8) for n in base.samples.tolist())


# ------------------------------------------------------------------------------- buffers and leaving


def consumed(outcome: Outcome) -> list[list[int]]:
    """The devices whose batches were trained, in order, by round."""
    marks = [mark for mark in outcome.simulation.trace.marks if mark[2] == "consumed"]
    return [[int(m[3]) for m in marks if begin < m[1] <= end] for begin, end in rounds_of(outcome)]


def test_replays_are_of_random_devices_that_have_a_buffer() -> None:
    """As many as a round asks for; only such as were ever chosen; and not always the same."""
    outcome = simulate(toy(EcoFed(), devices=8, rounds=20, participants=2), learning=False)
    filled: set[int] = set()
    drawn = set()
    for number, devices in enumerate(map(set, consumed(outcome))):
        assert len(devices) == 2
        if number % 2 == 0:
            filled |= devices
        else:
            assert devices <= filled
            drawn.add(frozenset(devices))
    assert len(drawn) > 3


def test_what_a_device_had_sent_before_it_left_is_replayed() -> None:
    """Its copy of s is dropped, the whole batches that came are kept; its next refresh replaces them."""
    held = replace(toy(EcoFed(), rounds=2), samples=np.full(DEVICES, 60))
    whole = simulate(held, learning=False)
    rows = [Transfer(*row) for row in whole.simulation.trace.transfers]
    came = [row.arrived for row in rows if row.source == 0 and row.message == "Activations"]
    assert len(came) == 8
    fault = Fault(device=0, leave=(came[2] + came[3]) / 2e9)
    outcome = simulate(replace(held, faults=[fault]), learning=False)
    refresh, replay = consumed(outcome)
    assert (refresh.count(0), replay.count(0)) == (3, 3)
    aggregated = [span[5] for span in outcome.simulation.trace.spans if span[2] == "aggregate"]
    theta = sum(unit.trainable for unit in held.model.units[1:])
    assert aggregated == [(DEVICES - 1) * theta, DEVICES * theta]


def test_a_refresh_of_nobody_is_made_up_for() -> None:
    """Where no device has delivered anything, the next round refreshes, whatever the period; the first was empty."""
    first = simulate(toy(EcoFed(), rounds=1), learning=False).simulation.trace.spans[0][3] / 1e9
    faults = [Fault(device=k, leave=first, back=first + 1) for k in range(DEVICES)]
    outcome = simulate(toy(EcoFed(period=10), rounds=3, faults=faults))
    empty, refresh, replay = consumed(outcome)
    assert not empty
    assert refresh
    assert set(replay) <= set(refresh), "whoever was back by then"


def test_a_device_that_leaves_is_not_waited_for() -> None:
    """By hand: its leaving completes the refresh of the others, whose copies alone are averaged."""
    steps = by_hand(EcoFed(), "server", devices=2, rounds=1)
    plan = toy(EcoFed(), devices=2).blocks()[DEVICE]
    steps.answer(None)
    z, y = Payload(0, 1, replace(plan.activations(8), codec=Int8())), Payload(0, 2, plan.labels(8))
    steps.answer(Activations(z, y, 0, sender=0))
    assert isinstance(steps.effect, Compute)
    assert steps.effect.works[0].command.method == "step", "no gradient is made, so none can be sent"
    steps.answer(None)
    steps.answer(Refreshed(0, sender=0))
    assert isinstance(steps.effect, Recv)
    steps.answer(Disconnected(1))
    assert isinstance(steps.effect, Compute)
    assert steps.effect.works[0].command.method == "mean.result"


def test_buffers_are_counted_where_they_are_in_memory() -> None:
    """What the server will hold is every sample's activations; as many as are sent, or none with a file."""
    job = toy(EcoFed()).job()
    assert EcoFed().buffered(job) == sum(job.samples)
    assert EcoFed(local_steps=1).buffered(job) == DEVICES * 8
    assert EcoFed(store="disk").buffered(job) == 0
    outcome = simulate(toy(EcoFed(), rounds=1), learning=False)
    disk = simulate(toy(EcoFed(store="disk"), rounds=1), learning=False)
    peaks = [summarise(o.simulation.trace, status="done", wall_seconds=1.0) for o in (outcome, disk)]
    assert peaks[0]["server"]["peak_memory_bytes"] > peaks[1]["server"]["peak_memory_bytes"]


# ------------------------------------------------------------------------------------------- the rest


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{}, {"period": 3, "quantise": False}, {"local_steps": 2, "store": "mmap"}], ids=str
)
def test_it_conforms(options: dict[str, Any]) -> None:
    """Whatever its options."""
    check_scheduler(EcoFed(**options))


@pytest.mark.slow
def test_where_activations_are_kept_changes_no_bit() -> None:
    """In memory, in a file, or mapped."""
    what = replace(MLP, sizes=(20, 9))
    in_memory = bits(run(what, EcoFed(), rounds=3).weights)
    for store in ("disk", "mmap"):
        assert bits(run(what, EcoFed(store=store), rounds=3).weights) == in_memory


@pytest.mark.parametrize(
    ("options", "message"),
    [({"period": 0}, "period 0 must be 1 or more"), ({"local_steps": 0}, "local_steps 0 must be 1 or more")],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    """By value and rule."""
    with pytest.raises(ValueError, match=message):
        EcoFed(**options)
