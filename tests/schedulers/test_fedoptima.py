"""FedOptima: devices wait for their next block only; one server block takes from all alike and holds ω at most."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

import fedsim
from fedsim.experiment.assembly import Assembly
from fedsim.experiment.fleet import Fleet, Group
from fedsim.hardware.links import load_link
from fedsim.hardware.machines import Machine, machine
from fedsim.hardware.profiles import load_profile
from fedsim.learning.optimizers import Schedule, Sgd
from fedsim.mailbox import Mailbox
from fedsim.report.columns import tabulate
from fedsim.report.contributions import contributions as counted
from fedsim.schedulers.admission import Credit
from fedsim.schedulers.fedoptima import Activations, Block, FedOptima, Trained
from fedsim.schedulers.staleness import mixing
from fedsim.schedulers.tasks import Dequeue, Priority, Tasks
from fedsim.script import SERVER, Disconnected, Message, Payload, Recv
from fedsim.simulation import Ending, Fault
from fedsim.testing import DEVICES, Outcome, by_hand, check_scheduler, simulate, toy
from fedsim.trace import Wait
from tests.learning.toys import Federation, furthest
from tests.schedulers.closed_forms import LABEL, loss, macs, state
from tests.schedulers.federations import Ran
from tests.schedulers.local_losses import (
    Parts,
    State,
    device_side,
    idle_of,
    joined,
    marks,
    server_side,
    spans,
    trained,
    transfers,
    units_of,
)
from tests.schedulers.plain import Plain, mean
from tests.schedulers.stepping import Stepped

ROUNDS = 4
OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"activation_cap": 1},
    {"activation_cap": 3, "outstanding": 1},
    {"activation_cap": 5, "outstanding": 5, "release": "start"},
    {"activation_cap": 1000, "outstanding": 1000},
    {"admission": "slot", "activation_cap": 4},
    {"admission": "slot", "activation_cap": 11, "outstanding": 1},
    {"admission": "fcfs", "activation_cap": 1},
    {"admission": "fcfs", "activation_cap": 2, "outstanding": 1},
    {"admission": "fcfs", "activation_cap": 3, "release": "start"},
    {"activation_cap": 2, "on_denied": "wait"},
    {"admission": "fcfs", "activation_cap": 1, "on_denied": "wait"},
)
EACH = pytest.mark.parametrize("options", OPTIONS, ids=lambda o: " ".join(map(str, o.values())) or "default")


def busy_server(options: dict[str, Any], **more: Any) -> tuple[Assembly, Outcome]:
    """A run whose server is no faster than a device, so that batches queue there."""
    base = toy(FedOptima(**options), rounds=ROUNDS, **more)
    assembly = replace(base, fleet=replace(base.fleet, server=machine(load_profile("pi-tier-4"))))
    return assembly, simulate(assembly, learning=False)


@dataclass
class Sent:
    """A batch on its way, by the trace: moments (ns) of its send, its arrival, and of its step's beginning and end."""

    device: int
    samples: int
    queued: int
    arrived: int | None
    refused: bool = False
    began: int | None = None
    ended: int | None = None


def batches_of(outcome: Outcome | Ran, options: dict[str, Any]) -> list[Sent]:
    """Every batch that was sent, in order; checks which ones found no room against what the server says of them."""
    ups = sorted((row for row in transfers(outcome) if row.message == "Activations"), key=lambda row: row.number)
    sent = {
        row.number: Sent(
            row.source, row.labels // LABEL, row.queued, row.arrived if row.outcome == "delivered" else None
        )
        for row in ups
    }
    taken = [span for span in spans(outcome) if span.node == SERVER and span.kind == "step" and not span.wasted]
    consumed = marks(outcome, "consumed")
    assert [mark.time for mark in consumed] == [span.end for span in taken], "one mark a step"
    here = sorted((b for b in sent.values() if b.arrived is not None), key=lambda b: b.arrived or 0)
    if options.get("admission") == "fcfs":
        frees = [span.start if options.get("release") == "start" else span.end for span in taken]
        accepted = 0
        for batch in here:
            assert batch.arrived is not None
            batch.refused = accepted - sum(free <= batch.arrived for free in frees) >= options["activation_cap"]
            accepted += not batch.refused
        end = taken[-1].end
        said = Counter(int(mark.value) for mark in marks(outcome, "rejected"))
        refused = Counter(b.device for b in here if b.refused)
        early = Counter(b.device for b in here if b.refused and b.arrived is not None and b.arrived < end)
        assert early <= said <= refused, "of what comes while the run ends, nothing may be said"
    else:
        assert not marks(outcome, "rejected")
    waiting: dict[int, list[Sent]] = {k: [b for b in here if b.device == k and not b.refused] for k in range(64)}
    for span, mark in zip(taken, consumed, strict=True):
        batch = waiting[int(mark.value)].pop(0)
        batch.began, batch.ended = span.start, span.end
        assert batch.samples == span.samples
        assert batch.arrived is not None
        assert batch.arrived <= span.start
    return list(sent.values())


# ------------------------------------------------------------------------------------------ by hand


PLANS = toy(FedOptima(), devices=3).blocks()


def block_of(device: int, given: Message) -> Trained:
    """What comes of a device block that the server has given out."""
    assert isinstance(given, Block)
    return Trained(Payload(device, 1, given.weights.meta), given.version, given.life, sender=device)


def batch_of(device: int) -> Activations:
    """A batch's activations."""
    plan = PLANS["device"]
    return Activations(Payload(device, 2, plan.activations(8)), Payload(device, 3, plan.labels(8)), sender=device)


def test_a_turn_and_its_grants_by_hand() -> None:
    """Of all that waits a device block comes first, then a batch of the device consumed least; a place that is free
    again goes to the device that has contributed least, promises included."""
    server = Stepped(by_hand(FedOptima(activation_cap=3, outstanding=1), "server", devices=3))
    sent, works = server.news()
    first = sent[2][1]
    assert [(to, type(message)) for to, message in sent] == [(k, Block) for k in range(3)] + [
        (k, Credit) for k in range(3)
    ]
    assert works == []
    server.tell(batch_of(1))
    assert server.news() == ([(1, Credit(1))], ["step"]), (
        "each has one now: of equals the first, but 0 and 2 hold theirs"
    )
    server.put(batch_of(1), batch_of(2), block_of(2, first), batch_of(0))
    assert isinstance(server.take(), Trained), "for it a device waits"
    (mixed,) = (work for work in server.works if work.command.method == "mix")
    sent, works = server.news()
    assert works == ["mix"]
    (answer,) = (message for to, message in sent if to == 2 and isinstance(message, Block))
    assert (answer.version, answer.weights) == (1, mixed.result)
    assert [to for to, message in sent if isinstance(message, Credit)] == [], "three wait: there is no place"
    order, granted = [], []
    for _ in range(3):
        order.append(server.take().sender)
        sent, works = server.news()
        assert works == ["step"]
        granted += [to for to, message in sent if isinstance(message, Credit)]
    assert order == [2, 0, 1], "1 has been consumed once already"
    assert granted == [0, 2, 1], "0 and 2 have given one each, 1 two"
    server.steps.close()


def test_a_device_by_hand() -> None:
    """It sends what it has a credit for, drops what it has none for, and waits for nothing but its next block."""
    device = Stepped(by_hand(FedOptima(local_steps=3), 1, devices=3))
    device.put(Credit(2, sender=SERVER))
    device.tell(Block(Payload(SERVER, 1, PLANS["device"].weights), 7, 2, 0, sender=SERVER))
    sent, works = device.news()
    assert works == ["local_step"] * 3
    assert [type(message) for _, message in sent] == [Activations, Activations, Trained]
    assert [mark[0] for mark in device.steps.port.marks] == ["skipped"]
    last = sent[-1][1]
    assert isinstance(last, Trained)
    assert (last.version, last.life) == (7, 0)
    effect = device.steps.effect
    assert isinstance(effect, Recv)
    assert effect.kinds == (Block,)
    device.steps.close()


# -------------------------------------------------------------------------------------- what it costs


@EACH
def test_it_costs_its_closed_form(options: dict[str, Any]) -> None:
    """U updates and what is sent: up U(|d|+|a|) and z + y of each sample sent, down (K + U)(|d|+|a|); m + m_bwd of d
    and a a local step, of s without input gradient a batch consumed; two blocks are mixed an update."""
    assembly, outcome = busy_server(options)
    d, a, s = units_of(assembly)
    assert assembly.head is not None
    updates, size = ROUNDS * DEVICES, state(d) + state(a)
    assert outcome.ending is Ending.SERVER
    mixed = [span for span in spans(outcome) if span.kind == "aggregate"]
    assert [span.macs for span in mixed] == [2 * sum(unit.trainable for unit in (*d, *a))] * updates
    up = [row for row in transfers(outcome) if row.target == SERVER]
    blocks, sent = ([row for row in up if row.message == name] for name in ("Trained", "Activations"))
    assert len(up) == len(blocks) + len(sent)
    assert len(blocks) - updates in range(DEVICES + 1), "those that came too late to count"
    assert {row[5:9] for row in blocks} == {(size, 0, 0, 0)}
    z = assembly.model.activation_bytes(1)
    assert all(row[5:9] == (0, row.labels // LABEL * z, 0, row.labels) for row in sent)
    down = [row for row in transfers(outcome) if row.source == SERVER]
    assert {row.message for row in down} <= {"Block", "Credit", "Notice"}, "no gradient"
    assert [row[5:9] for row in down if row.message == "Block"] == [(size, 0, 0, 0)] * (DEVICES + updates)
    assert {row[5:9] for row in down if row.message != "Block"} <= {(0, 0, 0, 0)}
    local = [span for span in spans(outcome) if span.node != SERVER and not span.wasted]
    assert {span.kind for span in local} == {"step"}
    for span in local:
        assert span.macs == macs((*d, *a), [span.samples], to_input=False) + loss(assembly.head, [span.samples])
    served = [batch.samples for batch in batches_of(outcome, options) if batch.ended is not None]
    spent = sum(span.macs for span in spans(outcome) if span.node == SERVER and span.kind == "step")
    assert spent == macs(s, served, to_input=False) + loss(assembly.model, served)


@pytest.mark.parametrize("local", [{"local_steps": 1}, {"local_steps": 7}, {"local_epochs": 2}], ids=str)
def test_a_device_trains_so_many_batches_an_update(local: dict[str, Any]) -> None:
    """H of them, and everything that they make is offered: sent, or dropped for lack of a credit."""
    assembly, outcome = busy_server({"activation_cap": 2, **local})
    found = counted(tabulate(outcome.simulation.trace))
    assert found.sent is not None
    assert found.skipped is not None
    assert found.skipped.sum() > 0
    for k in range(DEVICES):
        mine = [span for span in spans(outcome) if span.node == k and not span.wasted]
        whole = [row for row in transfers(outcome) if row.source == k and row.message == "Trained"]
        for before, after in zip([0, *(row.queued for row in whole)], [row.queued for row in whole], strict=False):
            held = int(assembly.samples[k])
            each = local.get("local_steps") or local["local_epochs"] * -(-held // assembly.training.batch)
            assert sum(before < span.end <= after for span in mine) == each
    rows = tabulate(outcome.simulation.trace)
    assert (found.sent + found.skipped)[rows.devices].tolist() == found.trained[rows.devices].tolist()


# --------------------------------------------------------------------------------- the cap, and idle time


@EACH
@pytest.mark.parametrize("devices", [1, 4, 6])
def test_no_more_than_the_cap_at_any_instant(options: dict[str, Any], devices: int) -> None:
    """Oracle 12. Granted, in flight, queued and in training: each credit is a place from when it is given until its
    batch has been trained (or, with `release: start`, begins to be). With `fcfs`: what is queued and in training."""
    if options.get("admission") == "slot" and options["activation_cap"] < devices:
        options = {**options, "activation_cap": 2 * devices}
    _, outcome = busy_server(options, devices=devices)
    cap = options.get("activation_cap", 2 * devices)
    sent = batches_of(outcome, options)
    frees = [b.began if options.get("release") == "start" else b.ended for b in sent]
    freed = [free for free in frees if free is not None]
    fcfs, slot = (options.get("admission") == name for name in ("fcfs", "slot"))
    if fcfs:
        takes = [b.arrived for b in sent if b.arrived is not None and not b.refused]
    elif slot:  # a credit may be for several batches, so by what became of them
        takes = [b.queued for b in sent]
    else:
        takes = [row.queued for row in transfers(outcome) if row.message == "Credit"]
    # A place that is free is given away in the same instant, afterwards.
    assert highest(takes, freed) <= cap
    outstanding = options.get("outstanding", 2)
    if not slot and not fcfs and cap <= devices * outstanding:
        assert highest(takes, freed) == cap, "and the server gives all of them away"
    for k in range(devices):
        mine = [b for b in sent if b.device == k]
        landed = [b.arrived for b in mine if b.arrived is not None]
        if fcfs:
            assert highest([b.queued for b in mine], landed) <= outstanding
        elif slot:
            assert highest([b.queued for b in mine], [b.ended for b in mine if b.ended is not None]) <= cap // devices
            assert highest([b.queued for b in mine], landed) <= outstanding
        else:
            granted = [row.queued for row in transfers(outcome) if row.message == "Credit" and row.target == k]
            assert highest(granted, landed) <= outstanding


def highest(begins: list[int], ends: list[int]) -> int:
    """The most that are open at the same time; what ends makes room for what begins in the same instant."""
    level = top = 0
    for _, change in sorted([(moment, 1) for moment in begins] + [(moment, -1) for moment in ends]):
        level += change
        top = max(top, level)
    return top


@EACH
def test_the_server_is_never_idle_while_something_waits(options: dict[str, Any]) -> None:
    """Neither a batch that found room, nor a device block."""
    _, outcome = busy_server(options)
    sent = batches_of(outcome, options)
    blocks = [row.arrived for row in transfers(outcome) if row.message == "Trained" and row.outcome == "delivered"]
    mixed = [span.start for span in spans(outcome) if span.kind == "aggregate"]
    waits = [Wait(*row) for row in outcome.simulation.trace.waits if row[0] == SERVER]
    assert waits
    for wait in waits:
        for batch in sent:
            if batch.arrived is not None and not batch.refused and batch.arrived < wait.end:
                assert batch.began is not None
                assert batch.began <= wait.start
        assert sum(moment < wait.end for moment in blocks) == sum(moment <= wait.start for moment in mixed)


@EACH
def test_every_batch_is_accounted_for(options: dict[str, Any]) -> None:
    """A batch sent has used a credit that had come by then; sent = consumed + refused + queued + in flight at the end;
    offered = sent + skipped = trained. Reports say the same."""
    _, outcome = busy_server(options)
    rows = tabulate(outcome.simulation.trace)
    found = counted(rows)
    sent = batches_of(outcome, options)
    assert found.consumed is not None
    assert found.sent is not None
    assert found.offered is not None
    assert found.skipped is not None
    for place, node in enumerate(outcome.simulation.trace.nodes):
        if node.number == SERVER:
            continue
        mine = [batch for batch in sent if batch.device == node.number]
        consumed = sum(batch.ended is not None for batch in mine)
        queued = sum(b.arrived is not None and not b.refused and b.ended is None for b in mine)
        flying = sum(batch.arrived is None for batch in mine)
        refused = sum(batch.refused for batch in mine)
        assert len(mine) == consumed + refused + queued + flying
        assert (found.sent[place], found.consumed[place]) == (len(mine), consumed)
        in_hand = found.trained[place] - found.offered[place]
        assert in_hand in ((0, 1) if options.get("on_denied") else (0,)), "one that waits for permission, at the end"
        assert bool(options.get("on_denied")) <= (found.skipped[place] == 0)
        if options.get("admission", "grant") == "grant":
            credits = [r.arrived for r in transfers(outcome) if r.message == "Credit" and r.target == node.number]
            for number, batch in enumerate(mine):
                assert sum(moment <= batch.queued for moment in credits) > number
    assert found.consumed.sum() > 0


@EACH
def test_devices_wait_for_their_next_block_only(options: dict[str, Any]) -> None:
    """Oracles 7 and 8: no straggler, no gradient; but where they are told to wait for permission, that is flow."""
    _, outcome = busy_server(options)
    waits = [Wait(*row) for row in outcome.simulation.trace.waits if row[0] != SERVER]
    allowed = {"model", "credit", "send"} if options.get("on_denied") else {"model"}
    assert {wait.awaited for wait in waits} <= allowed
    causes = {cause for cause, share in idle_of(outcome).items() if share}
    assert causes == ({"model", "flow"} if options.get("on_denied") else {"model"})
    assert {cause for cause, share in idle_of(outcome, "server").items() if share} <= {"dependency"}
    blocks = [row for row in transfers(outcome) if row.message in ("Trained", "Block")]
    for wait in waits:
        if wait.awaited == "model" and wait.start:
            assert any(row.source == wait.node and row.queued == wait.start for row in blocks), "from its own on"


# ------------------------------------------------------------------------------------------ who contributes


def equal(options: dict[str, Any], *, devices: int, server: str) -> Outcome:
    """Devices that differ in nothing but their number."""
    base = toy(FedOptima(**options), devices=devices, rounds=6)
    fleet = Fleet(
        (Group(machine(load_profile("jetson-tier-2")), load_link("ethernet-1g"), devices),),
        machine(load_profile(server)),
        load_link("ethernet-1g"),
    )
    return simulate(replace(base, fleet=fleet, samples=np.full(devices, 40)), learning=False)


def shares(outcome: Outcome) -> list[int]:
    """c_k."""
    tally = Counter(int(mark.value) for mark in marks(outcome, "consumed"))
    return [tally[node.number] for node in outcome.simulation.trace.nodes if node.number != SERVER]


@pytest.mark.parametrize("server", ["cpu-60g", "pi-tier-4"])
@pytest.mark.parametrize("admission", ["grant", "slot", "fcfs"])
def test_equal_devices_without_a_cap_contribute_alike(server: str, admission: Any) -> None:
    """c_k differ by one at most, whether the server or the devices are the bottleneck."""
    options = {"admission": admission, "activation_cap": 1000, "outstanding": 1000}
    found = shares(equal(options, devices=5, server=server))
    assert max(found) - min(found) <= 1
    assert min(found) > 10


def server_bound(scheduler: FedOptima, *, seconds: float = 10.0, faults: Sequence[Fault] = ()) -> Outcome:
    """Four devices of unequal speed, each of which makes more than its share of what the server can train."""
    base = toy(scheduler, rounds=None, time=seconds, faults=faults)

    def kind(speed: float) -> Machine:
        return machine(load_profile("pi-tier-1").model_copy(update={"speed": speed}))

    link = load_link("ethernet-1g")
    groups = tuple(Group(kind(speed), link, 1) for speed in (2e5, 1e5, 7e4, 5e4))
    return simulate(replace(base, fleet=Fleet(groups, kind(5e4), link)), learning=False)


@pytest.mark.parametrize("outstanding", [1, 2, 3])
def test_grants_keep_unequal_devices_level_where_the_server_is_the_bottleneck(outstanding: int) -> None:
    """max c_k − min c_k ≤ outstanding, all the time, and the server is not idle for a moment but the first."""
    cap = DEVICES * outstanding
    outcome = server_bound(FedOptima(outstanding=outstanding, activation_cap=cap, local_steps=50))
    tally = Counter(dict.fromkeys(range(DEVICES), 0))
    for mark in marks(outcome, "consumed"):
        tally[int(mark.value)] += 1
        assert max(tally.values()) - min(tally.values()) <= outstanding
    assert min(tally.values()) > 100
    assert sum(idle_of(outcome, "server").values()) < 0.02


def elsewhere(speeds: Sequence[float], rate: float) -> Outcome:
    """Devices of these speeds on links of one rate (B/s), behind a server that is faster than all of them."""
    base = toy(FedOptima(local_steps=200), rounds=None, time=20.0, devices=len(speeds))
    link = load_link("wifi5").model_copy(update={"up": rate, "latency": 0.0})
    kinds = [machine(load_profile("pi-tier-1").model_copy(update={"speed": speed})) for speed in speeds]
    fleet = Fleet(tuple(Group(kind, link, 1) for kind in kinds), base.fleet.server, base.fleet.server_link)
    return simulate(replace(base, fleet=fleet, samples=np.full(len(speeds), 40)), learning=False)


@pytest.mark.slow
def test_where_devices_are_the_bottleneck_each_gives_all_that_it_computes() -> None:
    """Every device stands at its own limit: nothing is dropped, and contributions go with speeds."""
    speeds = (2e5, 1e5, 5e4)
    outcome = elsewhere(speeds, rate=1e9)
    given = counted(tabulate(outcome.simulation.trace))
    assert given.skipped is not None
    assert given.skipped.sum() == 0
    found = shares(outcome)
    assert min(found) > 100
    assert [share / found[0] for share in found] == pytest.approx([speed / speeds[0] for speed in speeds], rel=0.03)


@pytest.mark.slow
def test_where_one_link_rate_is_the_bottleneck_all_contribute_alike() -> None:
    """Unequal devices, each of which computes more than its link carries: links are never silent, shares within 5 %."""
    outcome = elsewhere((2e5, 1.5e5, 1e5), rate=8e3)
    found = shares(outcome)
    assert min(found) > 100
    assert max(found) / min(found) <= 1.05
    end = outcome.simulation.trace.end
    for k in range(3):
        ups = [row for row in transfers(outcome) if row.source == k]
        assert sum(row.arrived - row.started for row in ups) > 0.95 * end
    assert sum(idle_of(outcome, "server").values()) > 0.5, "the server waits for them"


def finding(admission: str, cap: int, **more: Any) -> tuple[list[int], float]:
    """A minute of 16 boards of four speeds, 12-55 GMAC/s, that train VGG-11 cut behind its second unit, r = 0.1, in
    batches of 32 behind a server of 1 TMAC/s and links of 1 Gbit/s: c_k, and the server's idle share."""
    link = {"up": "1 Gbit/s", "down": "1 Gbit/s", "latency": "0 s", "rate": "goodput"}
    run = fedsim.run(
        {
            "name": "sixteen",
            "learning": False,
            "model": {"name": "vgg11", "cut": 2},
            "data": {"name": "cifar10", "partition": "iid"},
            "fleet": [{"profile": f"jetson-tier-{tier}", "count": 4, "link": link} for tier in (1, 2, 3, 4)],
            "server": {"profile": "gpu-1t", "link": link | {"up": "100 Gbit/s", "down": "100 Gbit/s"}},
            "network": {"jitter": False, "loss": "off", "window": "off"},
            "scheduler": {
                "name": "fedoptima",
                "admission": admission,
                "activation_cap": cap,
                "local_steps": 100,
                **more,
            },
            "auxiliary": {"kind": "scaled_layer", "ratio": 0.1},
            "training": {"batch": 32},
            "until": {"time": "60 s"},
        }
    )
    tally = Counter(int(row[3]) for row in run.trace.marks if row[2] == "consumed")
    return [tally[k] for k in range(16)], run.summary["server"]["idle"]


SERVED = 60 / 300 * 16 * 1293
"""Batches that the server takes in a minute: 1293 a device in 300 s, as a plain queue has been simulated to give."""


@pytest.mark.slow
@pytest.mark.parametrize("cap", [16, 32, 64])
def test_first_come_starves_slow_devices(cap: int) -> None:
    """The choice among what waits cannot balance what was never admitted: the server is never idle, the fastest devices
    give it nearly all, the slowest nothing or next to nothing."""
    found, idle = finding("fcfs", cap, outstanding=1, release="start")
    assert sum(found) == pytest.approx(SERVED, rel=0.01)
    assert idle < 0.01
    assert min(found) <= 3
    assert max(found) > 0.05 * sum(found)


@pytest.mark.slow
@pytest.mark.parametrize(("admission", "cap", "most"), [("grant", 16, 1), ("slot", 32, 2), ("grant", 32, 2)])
def test_grants_and_slots_starve_nobody(admission: str, cap: int, most: int) -> None:
    """In the same setting all contribute alike, and the server has as much to do."""
    found, idle = finding(admission, cap, outstanding=most, release="start")
    assert sum(found) == pytest.approx(SERVED, rel=0.01)
    assert idle < 0.01
    assert max(found) - min(found) <= most


@pytest.mark.slow
def test_a_cap_far_below_the_devices_starves_the_server() -> None:
    """ω = 4 for 16 devices: the server is idle for about a third of the time."""
    found, idle = finding("grant", 4)
    assert idle == pytest.approx(0.357, abs=0.05)
    assert max(found) - min(found) <= 2
    assert finding("grant", 16)[1] < 0.02


# --------------------------------------------------------------------------------------- what it learns


def replayed(ran: Ran, what: Federation, scheduler: FedOptima) -> tuple[State, Parts]:
    """(d, a) by FedAsync's rule from the order of arrivals; and s, from the order in which batches were trained."""
    parts, devices = Parts(what), len(what.sizes)
    arrivals = sorted(
        (row for row in transfers(ran) if row.message == "Trained" and row.outcome == "delivered"),
        key=lambda row: (row.arrived, row.number),
    )[: sum(span.kind == "aggregate" for span in spans(ran))]
    w = parts.device
    downloaded = dict.fromkeys(range(devices), (w, 0))
    made: dict[int, list[Any]] = {k: [] for k in range(devices)}

    def turn(k: int) -> State:
        start, born = downloaded[k]
        parts.load(start)
        made[k] += parts.local(parts.rows(k), born // devices)
        return parts.device

    staleness = set()
    for t, row in enumerate(arrivals):
        born = downloaded[row.source][1]
        staleness.add(t - born)
        alpha = mixing(scheduler.alpha, scheduler.staleness, t - born, scheduler.a, scheduler.b)
        w = mean([(w, 1 - alpha), (turn(row.source), alpha)])
        downloaded[row.source] = (w, t + 1)
    assert len(staleness) > 2, "some are older than others"
    sent = {}
    for k in range(devices):
        turn(k)  # what was under way at the end
        ends = [span.end for span in spans(ran) if span.node == k and not span.wasted]
        left = [row.queued for row in transfers(ran) if row.source == k and row.message == "Activations"]
        sent[k] = [pair for end, pair in zip(ends, made[k], strict=False) if end in left]
    versions = [mark.time for mark in marks(ran, "publish")]
    for mark in marks(ran, "consumed"):
        if mark.time <= versions[-1]:
            version = sum(moment <= mark.time for moment in versions[1:])
            parts.serve([sent[int(mark.value)].pop(0)], version // devices)
    return w, parts


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scheduler", "optimizer"),
    [
        (FedOptima(), Sgd(lr=0.05)),
        (FedOptima(activation_cap=2, staleness="hinge", a=0.5, b=1), Sgd(lr=0.03, weight_decay=0.01)),
        (
            FedOptima(alpha=0.9, staleness="constant", dequeue="fifo", priority="fifo"),
            Sgd(lr=0.1, schedule=Schedule(kind="exponential", factor=0.5)),
        ),
    ],
    ids=["polynomial", "hinge", "constant-schedule"],
)
def test_a_run_equals_its_arrivals_replayed(scheduler: FedOptima, optimizer: Sgd) -> None:
    """Oracle 3: (d, a) are FedAsync's on a∘d for the same arrivals; s is trained on exactly those batches that were
    sent, as they were when their device made them."""
    what = Federation(optimizer=optimizer, sizes=(24, 9, 40))
    ran = trained(what, scheduler, rounds=3)
    w, parts = replayed(ran, what, scheduler)
    assert furthest(device_side(ran), w) < 1e-9
    assert furthest(server_side(ran), parts.server) < 1e-9


@pytest.mark.slow
def test_devices_learn_fedasync_on_the_joined_model() -> None:
    """The same by one model and dictionaries, which know of no cut."""
    what = Federation(sizes=(24, 9, 40))
    scheduler = FedOptima()
    ran = trained(what, scheduler, rounds=3)
    plain = Plain(joined(what))
    w = plain.start
    downloaded = dict.fromkeys(range(3), (w, 0))
    rows = [row for row in transfers(ran) if row.message == "Trained" and row.outcome == "delivered"]
    for t, row in enumerate(sorted(rows, key=lambda row: row.arrived)[:9]):
        start, born = downloaded[row.source]
        alpha = mixing(0.6, "polynomial", t - born)
        w = mean([(w, 1 - alpha), (plain.train(row.source, start), alpha)])
        downloaded[row.source] = (w, t + 1)
    assert furthest(device_side(ran), w) < 1e-9


@pytest.mark.slow
def test_the_final_model_has_no_head() -> None:
    """Its tensors are those of the model."""
    what = Federation()
    assert trained(what, FedOptima(), rounds=1).weights.keys() == what.network().state_dict().keys()


@pytest.mark.parametrize("devices", [2, 9])
def test_one_server_block_for_any_number_of_devices(devices: int) -> None:
    """What the server holds of s does not depend on K: no copy is made, and it holds s, a gradient and no more."""
    me = by_hand(FedOptima(), "server", devices=devices)
    plans = toy(FedOptima(), devices=devices).blocks()
    methods = [command.method for command in me.port.commands]
    assert (methods.count("open"), methods.count("copy")) == (2, 0)
    me.answer(None)
    for k in range(devices):
        while not hasattr(me.effect, "kinds"):
            me.answer(None)
        z, y = Payload(k, 1, plans["device"].activations(8)), Payload(k, 2, plans["device"].labels(8))
        me.answer(Activations(z, y, sender=k))
        (work,) = me.effect.works  # type: ignore[union-attr]
        s = plans["server"]
        assert work.command.holds == (s.state_bytes + s.warm_bytes if k == 0 else 0)
        me.answer(None)
    me.close()


# -------------------------------------------------------------------------------------- the task scheduler


class Waiting:
    """Messages that wait for a server."""

    def __init__(self, dequeue: Dequeue, priority: Priority) -> None:
        self.tasks = Tasks(dequeue, priority, aggregation=Trained, training=Activations)
        self.box = Mailbox()

    def put(self, *what: int | str) -> None:
        """Batches of devices, by number, and device blocks, by a letter."""
        payload: Any = None
        for one in what:
            if isinstance(one, int):
                self.box.put(Activations(payload, payload, sender=one))
            else:
                self.box.put(Trained(payload, 0, 0, sender=ord(one)))

    def serve(self, count: int) -> list[int | str]:
        """What is taken, one after the other."""
        found: list[int | str] = []
        for _ in range(count):
            message = self.box.take((Trained, Activations, Disconnected), by=self.tasks.rank)
            match message:
                case Trained():
                    found.append(chr(message.sender))
                case Activations():
                    found.append(message.sender)
                    self.tasks.consume(message.sender)
                case Message():
                    found.append("left")
                case _:
                    found.append("nothing")
        return found


def test_the_one_that_has_contributed_least_is_next() -> None:
    """Of those that have something there; of equals, what came first; device blocks before all."""
    waiting = Waiting("least_consumed", "aggregation")
    waiting.put(0, 0, 0, 1, 2, 1, "a")
    assert waiting.serve(5) == ["a", 0, 1, 2, 0]
    waiting.put(3, 3, 3, "b")
    assert waiting.serve(7) == ["b", 3, 1, 3, 0, 3, "nothing"]


def test_turns_go_round() -> None:
    """Whoever has not had a turn for longest; one that has nothing there is passed over."""
    waiting = Waiting("round_robin", "aggregation")
    waiting.put(0, 0, 0, 2, 1, 1)
    assert waiting.serve(4) == [0, 2, 1, 0]
    waiting.put(2, 2)
    assert waiting.serve(5) == [2, 1, 0, 2, "nothing"]


def test_first_in_first_out() -> None:
    """Batches by arrival, whoever they are of; with `priority: fifo` blocks as well, otherwise before or after them."""
    arrivals: tuple[int | str, ...] = (1, 1, "a", 0, "b", 1)
    orders: dict[Priority, list[int | str]] = {
        "fifo": [1, 1, "a", 0, "b", 1],
        "aggregation": ["a", "b", 1, 1, 0, 1],
        "training": [1, 1, 0, 1, "a", "b"],
    }
    for priority, order in orders.items():
        waiting = Waiting("fifo", priority)
        waiting.put(*arrivals)
        assert waiting.serve(6) == order
        waiting.put(*arrivals)
        waiting.box.put(Disconnected(5, sender=5))
        assert waiting.serve(1) == ["left"], "who is there comes before all"


@pytest.mark.parametrize(("dequeue", "spread"), [("least_consumed", 1), ("round_robin", 1), ("fifo", 5)])
def test_unequal_devices_that_all_have_something_there(dequeue: Any, spread: int) -> None:
    """One sends three times as much as the others: turns level that, first in first out does not."""
    waiting = Waiting(dequeue, "aggregation")
    for _ in range(12):
        waiting.put(0, 1, 0, 2, 0)
    tally = Counter(waiting.serve(15))
    assert tally[0] - tally[1] in ({0, 1} if spread == 1 else {6, 5, 7})


# ------------------------------------------------------------------------------ devices leave and come back


@pytest.mark.parametrize("phase", ["promised", "in flight", "queued", "in training"])
@pytest.mark.parametrize("back", [None, 2.5])
def test_the_places_of_a_device_that_leaves_are_given_to_others(phase: str, back: float | None) -> None:
    """Whatever has become of its place: a promise, and a batch in flight, are lost, and the place is another's; what
    had arrived is trained. The cap holds, no place is lost for good, and the device is served again once it is back."""
    options: dict[str, Any] = {"activation_cap": 2, "outstanding": 1, "local_steps": 5}
    whole = server_bound(FedOptima(**options), seconds=2.0)
    mine = [b for b in batches_of(whole, options) if b.device == 1 and b.arrived and b.began and b.arrived < b.began][3]
    assert mine.arrived is not None
    assert mine.began is not None
    assert mine.ended is not None
    promises = [row for row in transfers(whole) if row.message == "Credit" and row.target == 1]
    promised = max(row.queued for row in promises if row.arrived <= mine.queued)
    moments = {
        "promised": (promised, mine.queued),
        "in flight": (mine.queued, mine.arrived),
        "queued": (mine.arrived, mine.began),
        "in training": (mine.began, mine.ended),
    }
    leave = sum(moments[phase]) // 2
    outcome = server_bound(FedOptima(**options), seconds=4.0, faults=[Fault(device=1, leave=leave / 1e9, back=back)])
    sent = batches_of(outcome, options)
    (it,) = (b for b in sent if b.device == 1 and b.queued == mine.queued) if phase != "promised" else (None,)
    if it is not None:
        assert (it.ended is not None) == (phase != "in flight")
    after = Counter(b.device for b in sent if b.ended is not None and b.queued > leave)
    assert min(after[k] for k in (0, 2, 3)) > 10
    assert (after[1] > 10) == (back is not None)
    lost = {leave: 1} if phase in ("promised", "in flight") else {}
    credits = [row.queued for row in transfers(outcome) if row.message == "Credit"]
    ends = [b.ended for b in sent if b.ended is not None]
    assert highest(credits, [*ends, *lost]) == 2
    late = [moment for moment in credits if moment > leave + 10**9]
    level = sum(moment <= late[0] for moment in credits) - sum(moment <= late[0] for moment in ends) - len(lost)
    assert level == 2, "no place is lost for good"


def test_what_a_device_has_contributed_is_kept_while_it_is_away() -> None:
    """Device 1 is away for a third of the time; then it is served more than the others until all are level again. Had
    its count begun anew, or its credits been lost, it would be ahead of them or behind."""
    fault = Fault(device=1, leave=3.0, back=6.0)
    outcome = server_bound(FedOptima(local_steps=50), seconds=12.0, faults=[fault])
    consumed = [(mark.time / 1e9, int(mark.value)) for mark in marks(outcome, "consumed")]

    def between(first: float, last: float) -> Counter[int]:
        return Counter(k for moment, k in consumed if first < moment <= last)

    assert between(3.0, 6.0)[1] <= 4, "only what was there"
    assert between(3.0, 6.0)[0] > 30
    before = between(0.0, 6.0)
    assert before[1] < before[0] - 30
    catching_up = between(6.0, 7.0)
    assert catching_up[1] > 2 * catching_up[0]
    total = between(0.0, 12.0)
    assert max(total.values()) - min(total[k] for k in range(DEVICES)) <= 2


def test_a_device_that_was_away_for_a_moment_trains_one_block_at_a_time() -> None:
    """It left and came back while its own block waited at the server, or was mixed: that block counts, and is answered
    by the block that greets the device, not by a second one."""
    options: dict[str, Any] = {"local_steps": 3}
    _, whole = busy_server(options)
    late = [row for row in transfers(whole) if row.message == "Trained" and row.source == 1][1]
    mixed = next(span for span in spans(whole) if span.kind == "aggregate" and span.start >= late.arrived)
    moments = {"waiting": (late.arrived, mixed.start), "mixed": (mixed.start, mixed.end)}
    for begin, end in moments.values():
        if end - begin < 4:
            continue
        leave, back = (begin + (end - begin) * share / 3 for share in (1, 2))
        _, outcome = busy_server(options, faults=[Fault(device=1, leave=leave / 1e9, back=back / 1e9)])
        rows = [
            row for row in transfers(outcome) if 1 in (row.source, row.target) and row.message in ("Block", "Trained")
        ]
        events = sorted((row.queued, row.message) for row in rows if row.queued > leave)
        assert [name for _, name in events] == ["Block", "Trained"] * (len(events) // 2) + ["Block"] * (len(events) % 2)
        assert sum(span.kind == "aggregate" for span in spans(outcome)) == ROUNDS * DEVICES


# --------------------------------------------------------------------------------------------- the rest


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"admission": "fcfs", "activation_cap": 2, "dequeue": "round_robin"},
        {"admission": "slot", "release": "start", "priority": "training"},
        {"on_denied": "wait", "activation_cap": 1},
        {"admission": "fcfs", "on_denied": "wait", "activation_cap": 1, "dequeue": "fifo", "priority": "fifo"},
    ],
    ids=str,
)
def test_it_conforms(options: dict[str, Any]) -> None:
    """Whatever its options."""
    check_scheduler(FedOptima(**options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"local_steps": 0}, "local_steps 0 must be 1 or more"),
        ({"activation_cap": 0}, "activation_cap 0 must be 1 or more"),
        ({"outstanding": 0}, "outstanding 0 must be 1 or more"),
        ({"alpha": 0.0}, r"alpha 0\.0 must be above 0"),
        ({"b": 5}, "b 5 is for staleness: hinge; leave it out"),
        (
            {"admission": "fcfs", "on_denied": "wait", "outstanding": 3},
            "outstanding 3 is not for fcfs with on_denied: wait; leave it out",
        ),
        ({"priority": "fifo"}, "priority: fifo takes what came first, so dequeue must be fifo, not least_consumed"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    """By value and rule."""
    with pytest.raises(ValueError, match=message):
        FedOptima(**options)


def test_the_cap_is_two_a_device() -> None:
    """Unless it is given; the server has to have room for as many batches."""
    assert FedOptima().cap(7) == 14
    assert FedOptima(activation_cap=3).cap(7) == 3
    job = toy(FedOptima()).job()
    assert FedOptima().buffered(job) == 2 * DEVICES * 8
    assert FedOptima(activation_cap=3).buffered(job) == 24
