"""LocSplitFed: devices learn what FedAvg on a∘d learns, copies of s what comes of it; nobody waits within a round."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from fedsim.learning.optimizers import Schedule, Sgd
from fedsim.schedulers.fedavg import FedAvg
from fedsim.schedulers.locsplitfed import LocSplitFed
from fedsim.script import SERVER
from fedsim.simulation import Fault
from fedsim.testing import DEVICES, check_scheduler, simulate, toy
from tests.learning.test_oracles import weighted_mean
from tests.learning.toys import Federation, bits, furthest
from tests.schedulers.closed_forms import LABEL, all_batches, loss, macs, measured, state
from tests.schedulers.federations import run
from tests.schedulers.local_losses import (
    SMALL,
    Parts,
    State,
    device_side,
    first_of,
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

ROUNDS = 3
LOCAL: tuple[dict[str, Any], ...] = ({}, {"local_steps": 1}, {"local_steps": 7}, {"local_epochs": 2})


# -------------------------------------------------------------------------------------- what it costs


@pytest.mark.parametrize("weighting", ["samples", "uniform"])
@pytest.mark.parametrize("local", LOCAL, ids=str)
@pytest.mark.parametrize("every", [1, 3])
def test_it_costs_its_closed_form(local: dict[str, Any], weighting: Any, every: int) -> None:
    """Up u(z+y) + P(|d|+|a|), down P(|d|+|a|); (m + m_bwd) of d and a for S, of s without input gradient for u."""
    assembly = toy(LocSplitFed(upload_every=every, weighting=weighting, **local), rounds=ROUNDS)
    found = measured(simulate(assembly, learning=False))
    d, a, s = units_of(assembly)
    given = {"steps": local.get("local_steps"), "epochs": local.get("local_epochs", 1)}
    sizes, sent = all_batches(assembly, **given), first_of(assembly, every, **given)
    assert (sent == sizes) == (every == 1 or local == {"local_steps": 1})
    size = ROUNDS * DEVICES * (state(d) + state(a))
    z = assembly.model.activation_bytes(1) * sum(sent)
    assert found.up == {"weights": size, "activations": z, "gradients": 0, "labels": LABEL * sum(sent)}
    assert found.down == {"weights": size, "activations": 0, "gradients": 0, "labels": 0}
    assert assembly.head is not None
    assert found.device_macs == macs((*d, *a), sizes, to_input=False) + loss(assembly.head, sizes)
    assert found.server_macs == macs(s, sent, to_input=False) + loss(assembly.model, sent)
    theta = assembly.model.parameters + sum(unit.trainable for unit in a)
    assert found.aggregate_macs == ROUNDS * DEVICES * theta


def test_fewer_participants_cost_their_share() -> None:
    """P of K: P models each way, and the averages are of P."""
    assembly = toy(LocSplitFed(), rounds=8, participants=2)
    found = measured(simulate(assembly, learning=False))
    d, a, _ = units_of(assembly)
    assert found.up["weights"] == found.down["weights"] == 8 * 2 * (state(d) + state(a))
    assert found.aggregate_macs == 8 * 2 * (assembly.model.parameters + sum(unit.trainable for unit in a))


def test_heads_that_stay_do_not_travel() -> None:
    """Without `aggregate_aux` |d| goes each way, and means are of d and s."""
    assembly = toy(LocSplitFed(aggregate_aux=False), rounds=ROUNDS)
    found = measured(simulate(assembly, learning=False))
    d, _, _ = units_of(assembly)
    assert found.up["weights"] == found.down["weights"] == ROUNDS * DEVICES * state(d)
    assert found.aggregate_macs == ROUNDS * DEVICES * assembly.model.parameters


def test_there_is_no_gradient() -> None:
    """Down goes one `Train` a device and round, up activations and one `Trained`, and nothing else."""
    outcome = simulate(toy(LocSplitFed(), rounds=ROUNDS), learning=False)
    rows = transfers(outcome)
    assert {row.message for row in rows} == {"Train", "Activations", "Trained"}
    assert [row.message for row in rows if row.source == SERVER] == ["Train"] * (ROUNDS * DEVICES)
    assert all(row.gradients == 0 for row in rows)


def test_nobody_waits_within_a_round() -> None:
    """Oracle 8: devices wait for others and for models, never for the server's step; from the first batch of a round
    to its last they compute without a gap, and the first batch travels while the next is computed."""
    outcome = simulate(toy(LocSplitFed(local_epochs=2), rounds=ROUNDS), learning=False)
    idle = idle_of(outcome)
    assert {cause for cause, share in idle.items() if share} == {"straggler", "model"}
    ups = [row for row in transfers(outcome) if row.target == SERVER]
    for k in range(DEVICES):
        steps = [span for span in spans(outcome) if span.node == k]
        ends = [row.queued for row in ups if row.source == k and row.message == "Trained"]
        assert len(ends) == ROUNDS
        for before, after in pairwise(steps):
            assert before.end == after.start or before.end in ends
        first = next(row for row in ups if row.source == k)
        assert (first.queued, first.message) == (steps[0].end, "Activations")
        assert first.arrived > steps[1].start


def test_batches_are_trained_in_order_of_arrival() -> None:
    """Whoever they come from; a device's `Trained` is reached after all its activations."""
    outcome = simulate(toy(LocSplitFed(), rounds=ROUNDS), learning=False)
    arrived = sorted((r.arrived, r.number, r.source) for r in transfers(outcome) if r.message == "Activations")
    assert [int(mark.value) for mark in marks(outcome, "consumed")] == [source for *_, source in arrived]


# --------------------------------------------------------------------------------------- what it learns


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "participants", "optimizer"),
    [
        ({}, None, Sgd(lr=0.05)),
        ({"upload_every": 3, "local_steps": 5}, 2, Sgd(lr=0.05)),
        ({"weighting": "uniform", "local_epochs": 2}, None, Sgd(lr=0.02, momentum=0.9, weight_decay=0.01)),
        ({}, 3, Sgd(lr=0.1, clip=0.5, schedule=Schedule(kind="exponential", factor=0.5))),
    ],
    ids=["plain", "steps", "momentum", "clipped"],
)
def test_devices_learn_what_fedavg_learns_on_the_joined_model(
    options: dict[str, Any], participants: int | None, optimizer: Sgd
) -> None:
    """Oracle 3, to the bit: d and a, running statistics included."""
    what = Federation(optimizer=optimizer)
    ours = device_side(trained(what, LocSplitFed(**options), rounds=ROUNDS, participants=participants))
    options = {name: value for name, value in options.items() if name != "upload_every"}
    theirs = run(joined(what), FedAvg(**options), rounds=ROUNDS, participants=participants)
    assert bits(ours) == bits(published(theirs))


@pytest.mark.slow
def test_devices_learn_the_same_whatever_the_server_learns() -> None:
    """Oracle 3, "any s": another initial server block, and fewer batches for it, change no bit of d and a."""
    what = Federation()
    plain = trained(what, LocSplitFed(), rounds=2)
    weights = {name: tensor.clone() for name, tensor in what.network().state_dict().items()}
    first = what.network().block(0, what.cut).state_dict().keys()
    for name, tensor in weights.items():
        if name not in first and tensor.is_floating_point():
            tensor.add_(0.1)
    other = trained(what, LocSplitFed(upload_every=2), rounds=2, weights=weights)
    assert bits(device_side(other)) == bits(device_side(plain))
    assert server_side(other)["head.bias"].sub(server_side(plain)["head.bias"]).abs().max() > 0.05


def plain_loop(what: Federation, *, rounds: int, every: int = 1, own_heads: bool = False) -> State:
    """All of it with modules and dictionaries: the published model, and a where that is averaged."""
    parts = Parts(what)
    d, s = parts.device, parts.server
    heads = {k: {n: v for n, v in d.items() if n in parts.a.state_dict()} for k in range(len(what.sizes))}
    for _ in range(rounds):
        devices, servers = [], []
        for k, n in enumerate(what.sizes):
            parts.load(d | s | (heads[k] if own_heads else {}))
            pairs = list(parts.local(parts.rows(k)))
            parts.serve(pairs[::every])
            heads[k] = {name: v for name, v in parts.device.items() if name in heads[k]}
            devices.append((parts.device, n))
            servers.append((parts.server, n))
        d, s = weighted_mean(devices), weighted_mean(servers)
    if own_heads:
        d = {name: tensor for name, tensor in d.items() if name not in heads[0]}
    return d | s


@pytest.mark.slow
@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("own_heads", [False, True])
def test_it_equals_a_plain_loop(every: int, own_heads: bool) -> None:
    """A copy of s a device, trained on its activations and averaged; with heads of their own, which devices keep."""
    what = Federation()
    scheduler = LocSplitFed(upload_every=every, aggregate_aux=not own_heads)
    ours = published(trained(what, scheduler, rounds=ROUNDS))
    assert furthest(ours, plain_loop(what, rounds=ROUNDS, every=every, own_heads=own_heads)) < 1e-9
    other = plain_loop(what, rounds=ROUNDS, every=every, own_heads=not own_heads)
    shared = ours.keys() & other.keys()
    assert furthest({n: ours[n] for n in shared}, {n: other[n] for n in shared}) > 1e-4


# -------------------------------------------------------------------------------------------- leaving


def test_a_copy_goes_with_its_device() -> None:
    """Who leaves in the middle of a round takes part in neither mean, though the server had trained on its batches."""
    what = replace(SMALL, sizes=(20, 24, 14))
    whole = trained(what, LocSplitFed(), rounds=1)
    mine = [row.arrived for row in transfers(whole) if row.source == 1 and row.message == "Activations"]
    assert len(mine) == 3
    leave = (mine[0] + mine[1]) / 2e9
    ran = trained(what, LocSplitFed(), rounds=1, faults=[Fault(device=1, leave=leave)])
    assert 1 in [int(mark.value) for mark in marks(ran, "consumed")]
    parts = Parts(what)
    d, s = parts.device, parts.server
    devices, servers = [], []
    for k in (0, 2):
        parts.load(d | s)
        parts.serve(list(parts.local(parts.rows(k))))
        devices.append((parts.device, what.sizes[k]))
        servers.append((parts.server, what.sizes[k]))
    assert furthest(published(ran), weighted_mean(devices) | weighted_mean(servers)) < 1e-9


# --------------------------------------------------------------------------------------------- the rest


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"upload_every": 2, "local_steps": 3}, {"aggregate_aux": False}], ids=str)
def test_it_conforms(options: dict[str, Any]) -> None:
    """Whatever its options."""
    check_scheduler(LocSplitFed(**options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"upload_every": 0}, "upload_every 0 must be 1 or more"),
        ({"local_steps": 0}, "local_steps 0 must be 1 or more"),
        ({"local_epochs": 0}, "local_epochs 0 must be 1 or more"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    """By value and rule."""
    with pytest.raises(ValueError, match=message):
        LocSplitFed(**options)
