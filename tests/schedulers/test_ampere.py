"""Ampere: device blocks first, one transfer of activations from one version, then the server block on all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedsim import seeds
from fedsim.experiment.assembly import Assembly
from fedsim.experiment.fleet import Fleet, Group
from fedsim.hardware.links import load_link
from fedsim.hardware.machines import machine
from fedsim.hardware.profiles import load_profile
from fedsim.learning.augmenting import augmented
from fedsim.learning.host import Host
from fedsim.learning.optimizers import Schedule, Sgd
from fedsim.report import summarise
from fedsim.schedulers.ampere import Ampere
from fedsim.schedulers.exporting import Activations, Export, Exported
from fedsim.schedulers.fedavg import FedAvg
from fedsim.schedulers.locsplitfed import Train, Trained
from fedsim.schedulers.options import Patience
from fedsim.script import SERVER, Command, Payload
from fedsim.simulation import Ending, Fault
from fedsim.testing import DEVICES, Outcome, by_hand, check_scheduler, simulate, toy
from tests.learning.test_oracles import optimizer_of, weighted_mean
from tests.learning.toys import SEED, Federation, bits, furthest
from tests.schedulers.closed_forms import LABEL, batches, loss, macs, measured, state
from tests.schedulers.federations import Ran, run
from tests.schedulers.local_losses import (
    SMALL,
    Parts,
    State,
    device_side,
    idle_of,
    joined,
    marks,
    published,
    server_side,
    spans,
    trained,
    transfers,
    units_of,
)
from tests.schedulers.stepping import Stepped

R_D, E_S = 3, 2
BOTH: dict[str, Any] = {"device_rounds": R_D, "server_epochs": E_S}
STORES: tuple[Any, ...] = ("ram", "disk", "mmap")
TRANSFERS: tuple[Any, ...] = ("background", "sequential", "stream")


def sizes(total: int, batch: int = 8) -> list[int]:
    """The batches of a pass."""
    return batches(total, batch)


# -------------------------------------------------------------------------------------- what it costs


@pytest.mark.parametrize("copies", [0, 1, 3])
@pytest.mark.parametrize("transfer", TRANSFERS)
@pytest.mark.parametrize("local", [{}, {"local_steps": 5}, {"local_epochs": 2, "weighting": "uniform"}], ids=str)
def test_it_costs_its_closed_form(local: dict[str, Any], transfer: Any, copies: int) -> None:
    """The whole run: up R_d·P(|d|+|a|) + N(z+y), down R_d·P(|d|+|a|) + K|d|; devices (m + m_bwd) of d and a for R_d·S,
    and m_d for N; the server (m + m_bwd) of s without input gradient for E_s·N. m copies multiply N by m."""
    assembly = toy(Ampere(**BOTH, **local, transfer=transfer, augment_copies=copies), rounds=9)
    found = measured(simulate(assembly, learning=False))
    d, a, s = units_of(assembly)
    assert assembly.head is not None
    held = assembly.samples.tolist()
    steps, epochs = local.get("local_steps"), local.get("local_epochs", 1)
    local_sizes = [size for n in held for size in batches(n, 8, steps=steps, epochs=epochs, rounds=R_D)]
    many = max(1, copies)
    n, z = sum(held) * many, assembly.model.activation_bytes(1)
    rounds = R_D * DEVICES * (state(d) + state(a))
    assert found.up == {"weights": rounds, "activations": n * z, "gradients": 0, "labels": n * LABEL}
    assert found.down == {"weights": rounds + DEVICES * state(d), "activations": 0, "gradients": 0, "labels": 0}
    assert found.device_macs == (
        macs((*d, *a), local_sizes, to_input=False)
        + loss(assembly.head, local_sizes)
        + n * sum(unit.macs for unit in d)
    )
    server_sizes = sizes(n) * E_S
    if transfer != "stream":
        assert found.server_macs == macs(s, server_sizes, to_input=False) + loss(assembly.model, server_sizes)
    else:  # as many steps, but draws of what is there may be smaller or larger than a pass's last batch
        outcome = simulate(assembly, learning=False)
        steps_ = [span for span in spans(outcome) if span.node == SERVER and span.kind == "step"]
        assert len(steps_) == len(server_sizes)
    assert found.aggregate_macs == R_D * DEVICES * sum(unit.trainable for unit in (*d, *a))


def test_rounds_and_epochs_are_the_scenarios_unless_given() -> None:
    """`until.rounds` each."""
    for scheduler, rounds, epochs in (
        (Ampere(), 4, 4),
        (Ampere(device_rounds=2), 2, 4),
        (Ampere(server_epochs=1), 4, 1),
    ):
        assembly = toy(scheduler, rounds=4)
        outcome = simulate(assembly, learning=False)
        assert len(marks(outcome, "round.open")) == rounds
        trained_ = sum(span.samples for span in spans(outcome) if span.node == SERVER and span.kind == "step")
        assert trained_ == epochs * assembly.samples.sum()


def test_fewer_participants_train_but_all_export() -> None:
    """R_d·P models; N samples, each once; d to all."""
    assembly = toy(Ampere(**BOTH), participants=2)
    found = measured(simulate(assembly, learning=False))
    d, a, _ = units_of(assembly)
    rounds = R_D * 2 * (state(d) + state(a))
    assert (found.up["weights"], found.down["weights"]) == (rounds, rounds + DEVICES * state(d))
    assert found.up["labels"] == LABEL * assembly.samples.sum()


def test_heads_that_stay_do_not_travel() -> None:
    """Without `aggregate_aux` |d| goes each way, and is what is averaged."""
    assembly = toy(Ampere(**BOTH, aggregate_aux=False))
    found = measured(simulate(assembly, learning=False))
    d, _, _ = units_of(assembly)
    assert found.up["weights"] == R_D * DEVICES * state(d)
    assert found.down["weights"] == (R_D + 1) * DEVICES * state(d)
    assert found.aggregate_macs == R_D * DEVICES * sum(unit.trainable for unit in d)


# ------------------------------------------------------------------------------------------- by hand


PLANS = toy(Ampere()).blocks()


def payload(node: int, meta: Any) -> Payload:
    """A handle."""
    return Payload(node, 1, meta)


def test_the_server_goes_through_three_phases_by_hand() -> None:
    """Rounds of averages; then one `Export` each, and no step before the last `Exported`; then passes over the pool."""
    server = Stepped(by_hand(Ampere(device_rounds=2, server_epochs=2), "server", devices=2))
    d, plan = PLANS["device"].weights, PLANS["device"]
    for number in range(2):
        sent, works = server.news()
        assert works == ["mean.result"] * (number > 0)
        assert [(to, type(message), message.round) for to, message in sent if isinstance(message, Train)] == [
            (k, Train, number) for k in range(2)
        ]
        for k in range(2):
            server.tell(Trained(payload(k, d), 24, number, sender=k))
    sent, works = server.news()
    assert works == ["mean.result"]
    assert [(to, type(message)) for to, message in sent] == [(0, Export), (1, Export)]
    assert isinstance(sent[0][1], Export)
    assert sent[0][1].weights.meta == plan.block, "d without a"
    for k, size in ((1, 8), (0, 8), (0, 5)):
        server.tell(Activations(payload(k, plan.activations(size)), payload(k, plan.labels(size)), sender=k))
    server.tell(Exported(sender=0))
    assert server.news() == ([], []), "nothing is trained or asked for while one still exports"
    server.tell(Exported(sender=1))
    assert server.news() == ([], ["pool.step"] * 6), "two passes over 21 samples in batches of 8"
    assert server.over
    d_last, s_last = server.steps.port.published[-1]
    assert d_last is sent[0][1].weights
    assert s_last.meta == PLANS["server"].weights


def test_a_device_goes_through_two_phases_by_hand() -> None:
    """It answers `Train` by what it has trained, and `Export` by all of its activations; then it is done."""
    device = Stepped(by_hand(Ampere(), 1))
    samples = int(toy(Ampere()).samples[1])
    for number in range(2):
        device.tell(Train(payload(SERVER, PLANS["device"].weights), number, sender=SERVER))
        sent, works = device.news()
        assert works == ["train"]
        assert [(to, type(message)) for to, message in sent] == [(SERVER, Trained)]
    device.tell(Export(payload(SERVER, PLANS["device"].block), sender=SERVER))
    sent, works = device.news()
    assert works == ["infer"] * len(sizes(samples))
    assert [type(message) for _, message in sent] == [Activations] * len(works) + [Exported]
    assert device.over


# ----------------------------------------------------------------------------------------- the phases


@pytest.mark.parametrize("transfer", TRANSFERS)
@pytest.mark.parametrize("consolidation", ["pooled", "per_device", "copies"])
def test_three_phases(transfer: Any, consolidation: Any) -> None:
    """No gradient ever; no activations before an `Export`; each device ends with its `Exported`, and computes nothing
    after that; the server trains once everything is there, unless activations are streamed."""
    if transfer == "stream" and consolidation != "pooled":
        pytest.skip("refused")
    outcome = simulate(toy(Ampere(**BOTH, transfer=transfer, consolidation=consolidation)), learning=False)
    assert outcome.ending is Ending.SERVER
    rows = transfers(outcome)
    assert {row.message for row in rows} == {"Train", "Trained", "Export", "Activations", "Exported"}
    assert all(row.gradients == 0 for row in rows)
    steps = [span for span in spans(outcome) if span.node == SERVER and span.kind == "step"]
    last_round = marks(outcome, "round.close")[-1].time
    arrivals = []
    for k in range(DEVICES):
        (export,) = (row for row in rows if row.target == k and row.message == "Export")
        (exported,) = (row for row in rows if row.source == k and row.message == "Exported")
        sent = [row for row in rows if row.source == k and row.message == "Activations"]
        assert last_round <= export.queued
        assert all(export.arrived < row.queued <= exported.queued for row in sent)
        mine = [span for span in spans(outcome) if span.node == k]
        assert max(span.end for span in mine) <= exported.queued
        assert {span.kind for span in mine if span.start >= export.arrived} == {"infer"}
        assert {span.kind for span in mine if span.end <= export.arrived} == {"step"}
        (end,) = (mark for mark in marks(outcome, "end") if mark.node == k)
        assert end.time == exported.queued
        arrivals.append(exported.arrived)
    if transfer == "stream":
        assert steps[0].start < max(arrivals)
    else:
        assert steps[0].start == max(arrivals)
    assert [mark.value for mark in marks(outcome, "coverage")] == [1.0]


def test_devices_never_wait_for_the_server() -> None:
    """Oracle 8: no dependency; one that has exported is at its end, so what follows is no idle time of its."""
    outcome = simulate(toy(Ampere(**BOTH)), learning=False)
    assert {cause for cause, share in idle_of(outcome).items() if share} == {"straggler", "model"}


def slow_links(scheduler: Ampere, *, equal: bool = True) -> Assembly:
    """Devices that take about as long to compute a batch's activations as to send them."""
    base = toy(scheduler, rounds=1)
    kind = machine(load_profile("pi-tier-1").model_copy(update={"speed": 1.5e5}))
    link = load_link("wifi5").model_copy(update={"latency": 0.0, "up": 1e5})
    fleet = Fleet((Group(kind, link, DEVICES),), base.fleet.server, base.fleet.server_link)
    return replace(base, fleet=fleet, samples=np.full(DEVICES, 80))


def slow_server(fleet: Fleet) -> Fleet:
    """One that takes about as long for a step as a batch takes to come."""
    return replace(fleet, server=machine(load_profile("pi-tier-1").model_copy(update={"speed": 2e5})))


def phase_2(outcome: Outcome) -> float:
    """From the first `Export` to the last `Exported`, in seconds."""
    rows = transfers(outcome)
    begin = min(row.queued for row in rows if row.message == "Export")
    return (max(row.arrived for row in rows if row.message == "Exported") - begin) / 1e9


def test_transfer_modes_differ_by_what_overlaps() -> None:
    """In the background the longer of computing and sending counts, and one batch of the other; one after the other,
    both. So the modes differ by one transfer's duration at most: that of all a device's activations."""
    found, computing, sending = {}, 0.0, 0.0
    for transfer in TRANSFERS:
        outcome = simulate(slow_links(Ampere(transfer=transfer)), learning=False)
        found[transfer] = phase_2(outcome)
        ups = [row for row in transfers(outcome) if row.source == 0 and row.message == "Activations"]
        mine = [span for span in spans(outcome) if span.node == 0 and span.kind == "infer"]
        computing = sum(span.end - span.start for span in mine) / 1e9
        sending = sum(row.arrived - row.started for row in ups) / 1e9
        if transfer == "sequential":
            assert min(row.queued for row in ups) == max(span.end for span in mine)
        else:
            assert [row.queued for row in ups] == [span.end for span in mine]
    assert 0.2 < computing / sending < 5, "neither is negligible"
    assert 0 < found["sequential"] - found["background"] <= sending
    assert found["sequential"] - found["background"] == pytest.approx(min(computing, sending), rel=0.15)
    assert found["stream"] == pytest.approx(found["background"], rel=1e-6)


def test_what_waits_to_be_sent_is_held() -> None:
    """One after the other, a device keeps all of its activations; in the background few."""
    peaks = []
    for transfer in ("background", "sequential"):
        trace = simulate(slow_links(Ampere(transfer=transfer)), learning=False).simulation.trace
        peaks.append(next(mark[3] for mark in trace.marks if mark[2] == "memory.peak" and mark[0] == 0))
    z = toy(Ampere()).model.activation_bytes(1)
    assert peaks[1] - peaks[0] > 20 * z


def test_a_stream_trains_meanwhile() -> None:
    """Its steps count towards E_s·⌈N/B⌉, so that the run ends earlier, or at least no later."""
    ends = {}
    for transfer in TRANSFERS:
        assembly = slow_links(Ampere(transfer=transfer, server_epochs=4))
        outcome = simulate(replace(assembly, fleet=slow_server(assembly.fleet)), learning=False)
        steps = [span for span in spans(outcome) if span.node == SERVER and span.kind == "step"]
        assert len(steps) == 4 * DEVICES * 10
        ends[transfer] = outcome.simulation.trace.end
    assert ends["stream"] < ends["background"] < ends["sequential"]


# --------------------------------------------------------------------------------------- what it learns


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "participants", "optimizer"),
    [
        ({}, None, Sgd(lr=0.05)),
        ({"local_steps": 5, "weighting": "uniform"}, 2, Sgd(lr=0.02, momentum=0.9)),
        ({"local_epochs": 2}, 3, Sgd(lr=0.1, schedule=Schedule(kind="exponential", factor=0.5))),
    ],
    ids=["plain", "steps", "schedule"],
)
def test_phase_1_is_fedavg_on_the_joined_model(
    options: dict[str, Any], participants: int | None, optimizer: Sgd
) -> None:
    """Oracle 3, to the bit."""
    what = Federation(optimizer=optimizer)
    ran = trained(what, Ampere(server_epochs=1, **options), rounds=R_D, participants=participants)
    theirs = run(joined(what), FedAvg(**options), rounds=R_D, participants=participants)
    ours, expected = device_side(ran), published(theirs)
    assert bits(ours) == {name: value for name, value in bits(expected).items() if name in ours}
    assert ours.keys() == Parts(what).d.state_dict().keys(), "d without a"


def plain_export(parts: Parts, k: int, copies: int, rounds: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Activations and labels of every batch of device k, or of so many augmented copies of it."""
    passes = parts.peek(k)
    for copy in range(max(1, copies)):
        for number, rows in enumerate(passes):
            x = parts.x[rows]
            if copies:
                first = parts.what.batch * number
                x = augmented(x, seeds.generator(SEED, k, f"augment {copy} {rounds} {first}", 0))
            with torch.no_grad():
                yield parts.d(x), parts.y[rows]


def plain_run(
    what: Federation,
    *,
    rounds: int,
    epochs: int,
    mode: str = "eval",
    local: bool = False,
    own_heads: bool = False,
    consolidation: str = "pooled",
    copies: int = 0,
    arrival: Sequence[int] = (0,),
) -> State:
    """The two stages with modules and dictionaries; rows lie by device, in order of `arrival`."""
    parts, devices = Parts(what), range(len(what.sizes))
    da = parts.device
    names = parts.a.state_dict().keys()
    heads = {k: {n: v for n, v in da.items() if n in names} for k in devices}
    own = dict.fromkeys(devices, da)
    for t in range(rounds):
        members = []
        for k in devices:
            parts.load(da | (heads[k] if own_heads else {}))
            list(parts.local(parts.rows(k), t))
            own[k] = parts.device
            heads[k] = {n: v for n, v in own[k].items() if n in names}
            members.append((own[k], what.sizes[k]))
        da = weighted_mean(members)
    pooled = []
    for k in arrival:
        parts.load(own[k] if local else da)
        parts.d.train(mode == "train")
        pooled += [(z, y, k) for z, y in plain_export(parts, k, copies, rounds)]
    parts.load(da)
    all_z, all_y = torch.cat([z for z, _, _ in pooled]), torch.cat([y for _, y, _ in pooled])
    of = np.array([k for _, y, k in pooled for _ in y])
    rng, s = seeds.generator(SEED, SERVER, "pool"), parts.s
    optimizer = optimizer_of(what.optimizer, s)

    def step(rows: np.ndarray[Any, Any], stepper: torch.optim.Optimizer, epoch: int) -> None:
        for group in stepper.param_groups:
            group["lr"] = what.optimizer.rate(epoch)
        stepper.zero_grad()
        nn.functional.cross_entropy(s(all_z[rows]), all_y[rows]).backward()
        stepper.step()

    for epoch in range(epochs):
        if consolidation == "copies":
            start, members = parts.server, []
            for k in devices:
                s.load_state_dict(start)
                fresh = optimizer_of(what.optimizer, s)
                order = rng.permutation(np.flatnonzero(of == k))
                for first in range(0, len(order), what.batch):
                    step(order[first : first + what.batch], fresh, epoch)
                members.append((parts.server, int((of == k).sum())))
            s.load_state_dict(weighted_mean(members))
            continue
        groups = [np.arange(len(of))]
        if consolidation == "per_device":
            groups = [np.flatnonzero(of == k) for k in rng.permutation(len(what.sizes))]
        for group in groups:
            order = rng.permutation(group)
            for first in range(0, len(order), what.batch):
                step(order[first : first + what.batch], optimizer, epoch)
    return {n: v for n, v in da.items() if n not in names} | parts.server


ALONE = Federation(sizes=(28,))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "plain"),
    [
        ({}, {}),
        ({"export_mode": "train"}, {"mode": "train"}),
        ({"augment_copies": 2}, {"copies": 2}),
        ({"activations_from": "local"}, {"local": True}),
        ({"aggregate_aux": False}, {"own_heads": True}),
        ({"transfer": "sequential", "store": "mmap"}, {}),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "optimizer",
    [Sgd(lr=0.05), Sgd(lr=0.05, momentum=0.5, schedule=Schedule(kind="exponential", factor=0.7))],
    ids=["plain", "momentum-schedule"],
)
def test_one_device_is_training_in_two_stages(options: dict[str, Any], plain: dict[str, Any], optimizer: Sgd) -> None:
    """K = 1: a local loss for d and a, then the activations of the trained d, then s on batches of them."""
    what = replace(ALONE, optimizer=optimizer)
    ours = trained(what, Ampere(**BOTH, **options), rounds=1)
    assert furthest(published(ours), plain_run(what, rounds=R_D, epochs=E_S, **plain)) < 1e-9
    if plain:
        other = plain_run(what, rounds=R_D, epochs=E_S)
        differs = any((tensor - other[name]).abs().max() > 1e-5 for name, tensor in published(ours).items())
        assert differs == bool(plain.keys() & {"mode", "copies"})


def pooled_order(ran: Ran) -> list[int]:
    """The devices of the rows of the pool, in order of arrival."""
    rows = [row for row in transfers(ran) if row.message == "Activations" and row.outcome == "delivered"]
    return [
        row.source
        for row in sorted(rows, key=lambda row: (row.arrived, row.number))
        for _ in range(row.labels // LABEL)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("consolidation", ["pooled", "per_device", "copies"])
@pytest.mark.parametrize("options", [{}, {"activations_from": "local"}, {"aggregate_aux": False}], ids=str)
def test_several_devices_equal_a_plain_loop(options: dict[str, Any], consolidation: Any, store: Any) -> None:
    """One batch a device, so that each device's rows are together in the pool: weights and running statistics to
    1e-9."""
    what = replace(Federation(), sizes=(3, 5, 7), batch=8)
    ran = trained(what, Ampere(**BOTH, consolidation=consolidation, store=store, **options), rounds=1)
    arrival = list(dict.fromkeys(pooled_order(ran)))
    plain: dict[str, Any] = {"local": "activations_from" in options, "own_heads": "aggregate_aux" in options}
    expected = plain_run(what, rounds=R_D, epochs=E_S, consolidation=consolidation, arrival=arrival, **plain)
    assert furthest(published(ran), expected) < 1e-9


@pytest.mark.slow
def test_where_activations_lie_changes_no_bit() -> None:
    """In memory, in a file, or mapped; in whatever memory layout."""
    for layout in (False, True):
        what = Federation(channels_last=layout, dtype="float32")
        ran = [trained(what, Ampere(**BOTH, store=store), rounds=1) for store in STORES]
        assert len({str(sorted(bits(published(one)).items())) for one in ran}) == 1


def drawn(ran_with: Callable[[], Ran], monkeypatch: pytest.MonkeyPatch) -> tuple[Ran, list[list[int]]]:
    """A run, and the rows of each of its steps on the pool."""
    rows: list[list[int]] = []
    run_command = Host.run

    def noting(host: Host, command: Command) -> None:
        if command.method == "pool.step":
            picked: Any = command.args[1]
            rows.append(picked.tolist())
        run_command(host, command)

    monkeypatch.setattr(Host, "run", noting)
    return ran_with(), rows


@pytest.mark.parametrize("consolidation", ["pooled", "per_device"])
def test_batches_mix_devices_or_do_not(consolidation: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """`pooled` ones do, `per_device` ones are each of one device; in either way each sample has one turn an
    epoch."""
    what = replace(SMALL, sizes=(40, 33, 27))
    ran, steps = drawn(lambda: trained(what, Ampere(**BOTH, consolidation=consolidation), rounds=1), monkeypatch)
    source = np.array(pooled_order(ran))
    assert len(source) == 100
    mixed = [len(set(source[rows])) > 1 for rows in steps if len(rows) == 8]
    if consolidation == "pooled":
        assert np.mean(mixed) > 0.9
        assert [len(rows) for rows in steps] == [*sizes(100), *sizes(100)]
    else:
        assert not any(mixed)
        assert all(len(set(source[rows])) == 1 for rows in steps)
    each = len(steps) // E_S
    for epoch in (steps[:each], steps[each:]):
        assert sorted(row for rows in epoch for row in rows) == [*range(100)]


def test_a_stream_draws_from_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that have arrived, none twice in a batch; whole passes follow, but for as many steps as were taken."""
    what = replace(SMALL, sizes=(80, 64, 72))
    base = slow_links(Ampere())
    group = replace(base.fleet.groups[0], count=3)
    fleet = slow_server(replace(base.fleet, groups=(group,)))
    scheduler = Ampere(**BOTH, transfer="stream")
    ran, steps = drawn(lambda: trained(what, scheduler, rounds=1, changes={"fleet": fleet}), monkeypatch)
    taken = [span for span in spans(ran) if span.node == SERVER and span.kind == "step"]
    arrived = sorted(row.arrived for row in transfers(ran) if row.message == "Activations")
    early = sum(span.start < arrived[-1] for span in taken)
    assert 0 < early < len(taken)
    for rows, span in zip(steps, taken, strict=True):
        there = 8 * sum(moment <= span.start for moment in arrived)
        assert max(rows) < there
        assert len(set(rows)) == len(rows) == min(8, there)
    assert len(steps) == E_S * 27
    last = [row for rows in steps[-27:] for row in rows]
    assert sorted(last) == [*range(216)], "the last epoch is a whole one here"


def test_a_last_batch_that_is_not_full_is_left_out_of_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the server's over the pool, too, if the scenario says so; the transfer leaves nothing out."""
    what = replace(SMALL, sizes=(20, 9, 14))
    training = replace(what.training(), drop_last=True)
    ran, steps = drawn(lambda: trained(what, Ampere(**BOTH), rounds=1, changes={"training": training}), monkeypatch)
    assert [len(rows) for rows in steps] == [8] * 5 * E_S
    assert len(pooled_order(ran)) == 43


# ------------------------------------------------------------------------------------------- one version


class Eyes:
    """What every `infer` sees: of which device, which samples, and a digest of the weights."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.looks: list[tuple[int, tuple[int, ...], int]] = []
        run_command = Host.run

        def noting(host: Host, command: Command) -> None:
            if command.method == "infer":
                batch: Any = command.args[0]
                samples = tuple(host.core.indices(command.node, batch).tolist())
                flat = host.core.weights(command.node, command.learner).named()
                head = tuple(name for name in flat if name.startswith("aux"))
                digest = hash(tuple(sorted((n, b) for n, b in bits(flat).items() if n not in head)))
                self.looks.append((command.node, samples, digest))
            run_command(host, command)

        monkeypatch.setattr(Host, "run", noting)


@pytest.mark.parametrize("copies", [0, 2])
def test_each_sample_is_sent_once_and_all_are_from_one_version(copies: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """|pool| = N, or m·N; the version is the aggregated d of the last round."""
    what = replace(SMALL, shape=(1, 8, 8), model="vgg5", options=Federation().options, cut=2) if copies else SMALL
    eyes = Eyes(monkeypatch)
    ran = trained(what, Ampere(**BOTH, augment_copies=copies, local_steps=1), rounds=1, participants=2)
    many = max(1, copies)
    for k in range(3):
        seen = [sample for node, samples, _ in eyes.looks if node == k for sample in samples]
        assert sorted(seen) == sorted([*what.shards()[k].tolist()] * many)
    assert len({digest for _, _, digest in eyes.looks}) == 1
    assert eyes.looks[0][2] == hash(tuple(sorted(bits(device_side(ran)).items())))
    assert len(pooled_order(ran)) == many * sum(what.sizes)


def test_local_activations_are_of_each_devices_own_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it last trained it; one that was never asked to train has none, and takes the aggregated one."""
    eyes = Eyes(monkeypatch)
    ran = trained(SMALL, Ampere(device_rounds=1, server_epochs=1, activations_from="local"), rounds=1, participants=2)
    chosen = {row.target for row in transfers(ran) if row.message == "Train"}
    assert len(chosen) == 2
    parts = Parts(SMALL)
    start = parts.device
    digests = {}
    for k in chosen:
        parts.load(start)
        list(parts.local(parts.rows(k)))
        digests[k] = hash(
            tuple(sorted(bits({n: v for n, v in parts.device.items() if n in parts.d.state_dict()}).items()))
        )
    aggregated = hash(tuple(sorted(bits(device_side(ran)).items())))
    for node, _, digest in eyes.looks:
        assert digest == digests.get(node, aggregated)


# --------------------------------------------------------------------------------------------- early stop


def test_patience() -> None:
    """So many in a row without a lower one; what is no number is no lower one."""
    stop = Patience(2)
    losses = [3.0, 2.0, 2.0, 1.9, 2.5, float("nan")]
    assert [stop.now(loss) for loss in losses] == [False, False, False, False, False, True]
    never = Patience(None)
    assert not any(never.now(1.0) for _ in range(50))


def validated(
    scheduler: Ampere, monkeypatch: pytest.MonkeyPatch, **options: Any
) -> tuple[Ran, list[tuple[int, float]]]:
    """A run, and the losses that it went by: of how many blocks, and what."""
    seen: list[tuple[int, float]] = []
    evaluate = Host.evaluate

    def noting(host: Host, model: Any, split: str) -> Any:
        found = evaluate(host, model, split)
        if split == "validation":
            seen.append((len(model), found.loss))
        return found

    monkeypatch.setattr(Host, "evaluate", noting)
    return trained(replace(SMALL, optimizer=Sgd(lr=0.8)), scheduler, rounds=1, **options), seen


def rounds_until_patience_ends(losses: list[float], patience: int) -> int:
    """After how many losses a phase ends."""
    lowest, since = float("inf"), 0
    for number, value in enumerate(losses, 1):
        lowest, since = (value, 0) if value < lowest else (lowest, since + 1)
        if since == patience:
            return number
    return len(losses)


@pytest.mark.slow
@pytest.mark.parametrize("patience", [1, 3])
def test_a_phase_ends_when_its_loss_falls_no_more(patience: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Phase 1 by the held-out loss of a∘d, phase 3 by that of s∘d, each after so many rounds or epochs without a lower
    one; the other phases are what they are."""
    most = 40
    scheduler = Ampere(device_rounds=most, server_epochs=most, stop_device=patience, stop_server=patience)
    assert scheduler.validates
    ran, seen = validated(scheduler, monkeypatch)
    assert seen == sorted(seen, key=lambda pair: pair[0]), "a∘d first, then s∘d"
    rounds, epochs = ([loss for blocks, loss in seen if blocks == count] for count in (1, 2))
    assert len(rounds) == len(marks(ran, "round.close")) == rounds_until_patience_ends(rounds, patience) < most
    steps = sum(span.kind == "step" and span.node == SERVER for span in spans(ran))
    assert len(epochs) == steps / 6 == rounds_until_patience_ends(epochs, patience) < most


@pytest.mark.slow
@pytest.mark.parametrize("fast", [False, True])
def test_a_stream_is_trained_until_its_loss_falls_no_more(fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """An epoch's worth of steps is an epoch, also while activations still come: each is published and looked at once,
    and the losses decide, however many of them fall into the transfer."""
    most, base = 40, slow_links(Ampere())
    group = replace(base.fleet.groups[0], count=3)
    fleet = replace(base.fleet, groups=(group,))
    scheduler = Ampere(device_rounds=1, server_epochs=most, stop_server=2, transfer="stream")
    changes = {"fleet": fleet if fast else slow_server(fleet)}
    ran, seen = validated(scheduler, monkeypatch, changes=changes)
    losses = [loss for blocks, loss in seen if blocks == 2]
    steps = [span for span in spans(ran) if span.kind == "step" and span.node == SERVER]
    assert len(losses) == len(steps) / 6 == rounds_until_patience_ends(losses, 2)
    assert 2 < len(losses) < most
    arrived = max(row.arrived for row in transfers(ran) if row.message == "Activations")
    early = sum(span.start < arrived for span in steps)
    assert 0 < early <= len(steps)
    assert (early == len(steps)) == fast
    assert len(marks(ran, "publish")) == 2 + len(losses)
    assert len(set(losses)) == len(losses), "no epoch is looked at twice"


def test_held_out_losses_are_those_of_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """a∘d after a round, s∘d after an epoch, in evaluation mode."""
    ran, seen = validated(Ampere(device_rounds=1, server_epochs=1, stop_device=5, stop_server=5), monkeypatch)
    what = replace(SMALL, optimizer=Sgd(lr=0.8))
    parts = Parts(what)
    start, members = parts.device, []
    for k, n in enumerate(what.sizes):
        parts.load(start)
        list(parts.local(parts.rows(k)))
        members.append((parts.device, n))
    parts.load(weighted_mean(members))
    x, y = parts.x[:16], parts.y[:16]
    with torch.no_grad():
        expected = [float(nn.functional.cross_entropy(parts.a(parts.d(x)), y))]
        parts.load(server_side(ran))
        expected.append(float(nn.functional.cross_entropy(parts.s(parts.d(x)), y)))
    assert [blocks for blocks, _ in seen] == [1, 2]
    assert [loss for _, loss in seen] == pytest.approx(expected, rel=1e-9)


# ------------------------------------------------------------------------------ devices leave and come back


def middle_of_export(whole: Outcome | Ran, device: int) -> float:
    """A moment at which two of the device's batches have arrived, and the third has not."""
    mine = [row.arrived for row in transfers(whole) if row.source == device and row.message == "Activations"]
    return (mine[1] + mine[2]) / 2e9


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("back", [None, 1e-4, 1e9])
def test_who_leaves_while_it_exports_leaves_whole_batches(store: Any, back: float | None) -> None:
    """Those that were delivered are trained; `coverage` says how much of the data that is; who is back is not asked
    again, since each sample is to be there once."""
    base = replace(toy(Ampere(**BOTH, store=store)), samples=np.full(DEVICES, 60))
    leave = middle_of_export(simulate(base, learning=False), 1)
    fault = Fault(device=1, leave=leave, back=None if back is None else leave + back)
    outcome = simulate(replace(base, faults=[fault]), learning=False)
    assert outcome.ending is Ending.SERVER
    (coverage,) = marks(outcome, "coverage")
    assert coverage.value == pytest.approx((180 + 16) / 240)
    steps = [span for span in spans(outcome) if span.node == SERVER and span.kind == "step"]
    assert sum(span.samples for span in steps) == E_S * 196
    assert [row.target for row in transfers(outcome) if row.message == "Export"].count(1) == 1


@pytest.mark.parametrize("when", ["before its order came", "before its first batch came"])
def test_who_has_given_nothing_yet_is_asked_again_when_it_is_back(when: str) -> None:
    """As long as others still export: then its samples are there, too, each once."""
    samples = np.array([400, 60, 60, 60])
    base = replace(toy(Ampere(**BOTH)), samples=samples)
    whole = transfers(simulate(base, learning=False))
    (export,) = (row for row in whole if row.message == "Export" and row.target == 1)
    first = next(row for row in whole if row.message == "Activations" and row.source == 1)
    leave = {
        "before its order came": export.queued + export.arrived,
        "before its first batch came": first.queued + first.arrived,
    }
    moment = leave[when] / 2e9
    outcome = simulate(replace(base, faults=[Fault(device=1, leave=moment, back=moment + 1e-4)]), learning=False)
    assert marks(outcome, "coverage")[0].value == 1
    assert [row.target for row in transfers(outcome) if row.message == "Export"].count(1) == 2


def test_who_comes_only_now_is_asked_as_well() -> None:
    """One that was away all through phase 1 exports; if everybody is away, the server waits for somebody."""
    base = replace(toy(Ampere(**BOTH)), samples=np.array([400, 60, 60, 60]))
    whole = simulate(base, learning=False)
    export = max(row.queued for row in transfers(whole) if row.message == "Export") / 1e9
    outcome = simulate(replace(base, faults=[Fault(device=2, leave=1e-6, back=export + 2e-3)]), learning=False)
    assert marks(outcome, "coverage")[0].value == 1
    last_round = marks(whole, "round.close")[-1].time / 1e9
    everyone = [Fault(device=k, leave=last_round * 0.999, back=last_round + 1 + k) for k in range(DEVICES)]
    outcome = simulate(replace(base, faults=everyone), learning=False)
    assert outcome.ending is Ending.SERVER
    (coverage,) = marks(outcome, "coverage")
    assert 0 < coverage.value < 1, "those who were back before the first one had exported"


def test_an_empty_pool_ends_the_run() -> None:
    """Everybody left before a batch came: nothing to train on; the model is what phase 1 has published."""
    base = toy(Ampere(**BOTH))
    whole = transfers(simulate(base, learning=False))
    export = min(row.queued for row in whole if row.message == "Export")
    outcome = simulate(replace(base, faults=[Fault(device=k, leave=(export + 1) / 1e9) for k in range(DEVICES)]))
    assert outcome.ending is Ending.SERVER
    assert marks(outcome, "coverage")[0].value == 0
    assert not [span for span in spans(outcome) if span.node == SERVER and span.kind == "step"]


def test_late_contributions_of_phase_1_are_let_go_of() -> None:
    """A device that is still training when phase 1 ends exports afterwards; what it sends too late weighs on nobody."""
    base = replace(toy(Ampere(device_rounds=1, server_epochs=1, local_epochs=20)), need=1)
    outcome = simulate(base, learning=False)
    rows = transfers(outcome)
    late = [row for row in rows if row.message == "Trained" and row.arrived > marks(outcome, "round.close")[0].time]
    assert len(late) == DEVICES - 1
    assert marks(outcome, "coverage")[0].value == 1
    nothing_late = replace(toy(Ampere(device_rounds=1, server_epochs=1, local_epochs=20)), need=4)
    peaks = [
        summarise(o.simulation.trace, status="done", wall_seconds=1.0)["server"]["peak_memory_bytes"]
        for o in (outcome, simulate(nothing_late, learning=False))
    ]
    assert peaks[0] <= peaks[1]


# --------------------------------------------------------------------------------------------- the rest


def test_activations_in_memory_are_counted() -> None:
    """The server has to have room for all of them, or for none where they lie in a file."""
    job = toy(Ampere()).job()
    assert Ampere().buffered(job) == sum(job.samples)
    assert Ampere(augment_copies=3).buffered(job) == 3 * sum(job.samples)
    assert Ampere(store="disk").buffered(job) == Ampere(store="mmap").buffered(job) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"transfer": "stream", "activations_from": "local", "store": "disk"},
        {"transfer": "sequential", "consolidation": "copies", "aggregate_aux": False},
        {"consolidation": "per_device", "export_mode": "train", "store": "mmap"},
        {"stop_device": 1, "stop_server": 1},
    ],
    ids=str,
)
def test_it_conforms(options: dict[str, Any]) -> None:
    """Whatever its options."""
    check_scheduler(Ampere(**options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"local_steps": 0}, "local_steps 0 must be 1 or more"),
        ({"device_rounds": 0}, "device_rounds 0 must be 1 or more, or left out"),
        ({"server_epochs": -1}, "server_epochs -1 must be 1 or more, or left out"),
        ({"stop_device": 0}, "stop_device 0 must be 1 or more, or left out"),
        ({"stop_server": 0}, "stop_server 0 must be 1 or more, or left out"),
        ({"augment_copies": -1}, "augment_copies -1 must be 0 or more"),
        ({"transfer": "stream", "consolidation": "copies"}, "consolidation: copies needs the whole pool, not transfer"),
        ({"stop_device": 2, "aggregate_aux": False}, "stop_device goes by the loss of a∘d, so it needs a head for all"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    """By value and rule."""
    with pytest.raises(ValueError, match=message):
        Ampere(**options)
