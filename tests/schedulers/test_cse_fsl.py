"""CSE-FSL: one server block, a step for every h-th batch of whoever it comes from."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from fedsim.learning.optimizers import Sgd
from fedsim.report import summarise
from fedsim.schedulers.cse_fsl import CseFsl
from fedsim.schedulers.fedavg import FedAvg
from fedsim.schedulers.locsplitfed import LocSplitFed
from fedsim.simulation import Fault
from fedsim.testing import DEVICES, by_hand, check_scheduler, simulate, toy
from tests.learning.test_oracles import weighted_mean
from tests.learning.toys import Federation, bits, furthest
from tests.schedulers.closed_forms import LABEL, all_batches, loss, macs, measured, state
from tests.schedulers.federations import Ran, run
from tests.schedulers.local_losses import (
    SMALL,
    Parts,
    device_side,
    first_of,
    idle_of,
    joined,
    marks,
    published,
    server_side,
    trained,
    transfers,
    units_of,
)

ROUNDS = 3


@pytest.mark.parametrize("every", [None, 1, 2, 100])
@pytest.mark.parametrize("steps", [None, 1, 7, 10, 11])
def test_it_costs_its_closed_form(every: int | None, steps: int | None) -> None:
    """u = Σ over devices and rounds of ⌈H/h⌉ batches, at their true size: up u(z+y), m_s + m_s,bwd for u; the rest as
    LocSplitFed, but that only d and a are averaged. By default h is 5."""
    scheduler = CseFsl(local_steps=steps) if every is None else CseFsl(local_steps=steps, upload_every=every)
    assembly = toy(scheduler, rounds=ROUNDS)
    outcome = simulate(assembly, learning=False)
    found = measured(outcome)
    d, a, s = units_of(assembly)
    sizes, sent = all_batches(assembly, steps=steps), first_of(assembly, every or 5, steps=steps)
    held = assembly.samples.tolist()
    count = sum(-(-(steps or -(-n // assembly.training.batch)) // (every or 5)) for n in held) * ROUNDS
    assert len(sent) == len(marks(outcome, "consumed")) == count
    size = ROUNDS * DEVICES * (state(d) + state(a))
    z = assembly.model.activation_bytes(1) * sum(sent)
    assert found.up == {"weights": size, "activations": z, "gradients": 0, "labels": LABEL * sum(sent)}
    assert found.down == {"weights": size, "activations": 0, "gradients": 0, "labels": 0}
    assert assembly.head is not None
    assert found.device_macs == macs((*d, *a), sizes, to_input=False) + loss(assembly.head, sizes)
    assert found.server_macs == macs(s, sent, to_input=False) + loss(assembly.model, sent)
    assert found.aggregate_macs == ROUNDS * DEVICES * sum(unit.trainable for unit in (*d, *a))


def test_devices_never_wait_for_the_server() -> None:
    """Oracle 8, and no gradient travels."""
    outcome = simulate(toy(CseFsl(), rounds=ROUNDS), learning=False)
    assert {row.message for row in transfers(outcome)} == {"Train", "Activations", "Trained"}
    assert {cause for cause, share in idle_of(outcome).items() if share} == {"straggler", "model"}


@pytest.mark.parametrize("devices", [2, 7])
def test_one_server_block_for_any_number_of_devices(devices: int) -> None:
    """No copy is made of it, where LocSplitFed makes one a device."""
    for scheduler, copies in ((CseFsl(), 0), (LocSplitFed(), devices)):
        me = by_hand(scheduler, "server", devices=devices)
        assert [command.method for command in me.port.commands].count("copy") == copies
        me.close()
    peaks = []
    for kind in (CseFsl, LocSplitFed):
        outcome = simulate(toy(kind(upload_every=5), devices=devices), learning=False)
        peaks.append(
            summarise(outcome.simulation.trace, status="done", wall_seconds=1.0)["server"]["peak_memory_bytes"]
        )
    assert peaks[0] < peaks[1]


# --------------------------------------------------------------------------------------- what it learns


@pytest.mark.slow
def test_devices_learn_what_fedavg_learns_on_the_joined_model() -> None:
    """Oracle 3, to the bit: whatever the server learns."""
    what = Federation(optimizer=Sgd(lr=0.02, momentum=0.9))
    options: dict[str, Any] = {"local_steps": 6}
    ours = device_side(trained(what, CseFsl(**options), rounds=ROUNDS, participants=3))
    theirs = run(joined(what), FedAvg(**options), rounds=ROUNDS, participants=3)
    assert bits(ours) == bits(published(theirs))
    each = trained(what, CseFsl(upload_every=1, **options), rounds=ROUNDS, participants=3)
    assert bits(ours) == bits(device_side(each))


def served(ran: Ran, what: Federation, every: int) -> Parts:
    """s, and the last round's start of d, by a plain loop that takes batches in the order in which the run did."""
    parts = Parts(what)
    ends = [mark.time for mark in marks(ran, "round.close")]
    consumed = marks(ran, "consumed")
    begin = 0
    for t, end in enumerate(ends):
        start, members, sent = parts.device, [], {}
        for k, n in enumerate(what.sizes):
            parts.load(start)
            sent[k] = list(parts.local(parts.rows(k), t))[::every]
            members.append((parts.device, n))
        order = [int(mark.value) for mark in consumed if begin < mark.time <= end]
        parts.serve([sent[k].pop(0) for k in order], t)
        assert not any(sent.values()), "all are taken within their round"
        parts.load(weighted_mean(members))
        begin = end
    return parts


@pytest.mark.slow
@pytest.mark.parametrize("every", [1, 2])
def test_the_server_block_equals_its_arrivals_replayed(every: int) -> None:
    """A step on each batch as it comes, whoever sent it; rounds pass it by."""
    what = Federation(sizes=(24, 7, 40), optimizer=Sgd(lr=0.02))
    ran = trained(what, CseFsl(upload_every=every), rounds=ROUNDS)
    parts = served(ran, what, every)
    assert furthest(device_side(ran), parts.device) < 1e-9
    assert furthest(server_side(ran), parts.server) < 1e-9


def test_batches_that_were_delivered_count_though_their_device_left() -> None:
    """s keeps them; d and a are averaged over the others."""
    what = replace(SMALL, sizes=(20, 24, 14))
    whole = trained(what, CseFsl(upload_every=1), rounds=1)
    mine = [row.arrived for row in transfers(whole) if row.source == 1 and row.message == "Activations"]
    leave = (mine[1] + mine[2]) / 2e9
    ran = trained(what, CseFsl(upload_every=1), rounds=1, faults=[Fault(device=1, leave=leave)])
    order = [int(mark.value) for mark in marks(ran, "consumed")]
    assert order.count(1) == 2
    parts = Parts(what)
    start, members, sent = parts.device, [], {}
    for k, n in enumerate(what.sizes):
        parts.load(start)
        sent[k] = list(parts.local(parts.rows(k)))
        members.append((parts.device, n))
    parts.serve([sent[k].pop(0) for k in order])
    del members[1]
    assert furthest(published(ran), weighted_mean(members) | parts.server) < 1e-9


# --------------------------------------------------------------------------------------------- the rest


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"upload_every": 1, "weighting": "uniform"}], ids=str)
def test_it_conforms(options: dict[str, Any]) -> None:
    """Whatever its options."""
    check_scheduler(CseFsl(**options))


def test_wrong_options_are_refused() -> None:
    """As LocSplitFed's."""
    with pytest.raises(ValueError, match="upload_every -1 must be 1 or more"):
        CseFsl(upload_every=-1)
