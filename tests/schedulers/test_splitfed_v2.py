"""SplitFed version 2: one server block for all devices, which trains batches as they come or a device at a time."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from itertools import groupby, pairwise
from typing import Any, Literal

import numpy as np
import pytest
import torch

from fedsim.experiment.building import build
from fedsim.experiment.loading import load_scenario
from fedsim.learning.optimizers import AdamW, Sgd
from fedsim.report import summarise
from fedsim.schedulers.splitfed import Activations, Gradient, SplitFed, Trained
from fedsim.script import SERVER, Compute, Payload, Recv, Send
from fedsim.simulation import Ending, Fault
from fedsim.testing import DEVICES, Outcome, by_hand, check_scheduler, simulate, toy
from fedsim.trace import Mark, Transfer
from tests.experiment.toys import TOY
from tests.learning.test_oracles import ALONE, centralised
from tests.learning.toys import Federation, bits, furthest
from tests.schedulers.closed_forms import LABEL, all_batches, batches, loss, macs, measured, state
from tests.schedulers.halves import Split, marks, rounds_with_one_server_block
from tests.schedulers.plain import finished

ROUNDS = 3
Order = Literal["arrival", "device"]
ORDERS = pytest.mark.parametrize("order", ["arrival", "device"])


def version2(order: Order = "arrival", **options: Any) -> SplitFed:
    """With one block."""
    return SplitFed(version=2, order=order, **options)


def consumed(outcome: Outcome) -> list[int]:
    """Whose batches the server block was trained on, in order."""
    return [int(mark.value) for mark in marks(outcome.simulation, "consumed")]


# --------------------------------------------------------------------------------------------- what it learns


@pytest.mark.slow
@pytest.mark.parametrize("order", ["arrival", "device"])
@pytest.mark.parametrize("participants", [None, 3])
def test_a_run_equals_its_batches_in_order(order: Order, participants: int | None) -> None:
    """With several devices, batch norm, and momentum, which the server block keeps for good and devices for a round."""
    what = Federation(optimizer=Sgd(lr=0.05, momentum=0.5))
    host, simulation = what.simulation(version2(order), rounds=ROUNDS, participants=participants)
    finished(simulation)
    assert simulation.published is not None
    expected = rounds_with_one_server_block(Split.of(what), simulation)
    assert furthest(host.model_tensors(simulation.published.model), expected) < 1e-9


@pytest.mark.slow
@ORDERS
def test_one_device_is_centralised_sgd(order: Order) -> None:
    """Oracle 1, bitwise over several rounds: there is nobody else's batch, nor another copy."""
    assert bits(ALONE.run(version2(order), rounds=3)) == bits(centralised(ALONE, epochs=3))


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", [Sgd(lr=0.02, momentum=0.9), AdamW(lr=0.002)], ids=lambda o: type(o).__name__)
def test_one_round_of_one_device_is_centralised_training_with_any_optimizer(optimizer: Any) -> None:
    """The device's optimizer lives for a round, the server's for longer: one round is one run of both."""
    what = replace(ALONE, optimizer=optimizer)
    assert bits(what.run(version2(local_epochs=2), rounds=1)) == bits(centralised(what, epochs=2))


def test_the_versions_differ_where_there_are_several_devices() -> None:
    """One block that has seen all batches is no mean of copies that each saw some."""
    one, two = (simulate(toy(SplitFed(version=version), rounds=1)).weights for version in (1, 2))
    assert one is not None
    assert two is not None
    assert not all(tensor.equal(two[name]) for name, tensor in one.items())


# -------------------------------------------------------------------------------------------------- its costs


@ORDERS
@pytest.mark.parametrize("local", [{}, {"local_steps": 7}, {"local_epochs": 2}], ids=str)
def test_it_costs_its_closed_form(local: dict[str, int], order: Order) -> None:
    """As version 1 in bytes and MACs; only device blocks are put together: P·θ_d."""
    assembly = toy(version2(order, **local), rounds=ROUNDS)
    found = measured(simulate(assembly, learning=False))
    model, cut = assembly.model, assembly.cut
    assert cut is not None
    d, s = model.units[:cut], model.units[cut:]
    sizes = all_batches(assembly, steps=local.get("local_steps"), epochs=local.get("local_epochs", 1))
    samples, z, size = sum(sizes), model.activation_bytes(cut), ROUNDS * DEVICES * state(d)
    assert found.up == {"weights": size, "activations": samples * z, "gradients": 0, "labels": samples * LABEL}
    assert found.down == {"weights": size, "activations": 0, "gradients": samples * z, "labels": 0}
    assert found.device_macs == macs(d, sizes, to_input=False)
    assert found.server_macs == macs(s, sizes, to_input=True) + loss(model, sizes)
    assert found.aggregate_macs == ROUNDS * DEVICES * sum(unit.trainable for unit in d)


@pytest.mark.parametrize("devices", [1, 2, 4, 8])
def test_one_copy_whatever_the_number_of_devices(devices: int) -> None:
    """No clone of the server block is ever made; version 1 makes one a device. Memory is predicted accordingly."""
    made: tuple[tuple[Literal[1, 2], int], ...] = ((1, devices), (2, 0))
    for version, copies in made:
        server = by_hand(SplitFed(version=version), "server", devices=devices)
        assert sum(command.method == "copy" for command in server.port.commands) == copies
        server.close()


def test_memory_does_not_grow_with_copies() -> None:
    """`fedsim check` adds up one server block and its gradients, or one of each a device."""
    found = []
    for version in (1, 2):
        made = build(
            load_scenario(TOY, updates={"learning": False, "scheduler": {"name": "splitfed", "version": version}})
        )
        found.append(made.needs()[-1].model)
    block = made.assembly.blocks()["server"]
    assert found[0] - found[1] == 2 * (block.state_bytes + block.warm_bytes), "three copies against one"


@ORDERS
def test_memory_of_the_server_is_that_of_one_block(order: Order) -> None:
    """In the run's own account, too, from two devices on: the rest are messages that wait."""
    peaks = []
    for scheduler in (SplitFed(), version2(order)):
        outcome = simulate(toy(scheduler, rounds=1), learning=False)
        peaks += [m.value for m in marks(outcome.simulation, "memory.peak") if m.node == SERVER]
    block = toy(SplitFed()).blocks()["server"]
    assert peaks[0] - peaks[1] >= 2 * block.state_bytes


# ------------------------------------------------------------------------------------------------- its orders


def test_batches_are_served_as_they_arrive() -> None:
    """One at a time, whoever they are from: the order of consumption is that of arrival."""
    outcome = simulate(toy(version2(), rounds=ROUNDS), learning=False)
    rows = [Transfer(*row) for row in outcome.simulation.trace.transfers]
    arrived = sorted((t.arrived, t.number, t.source) for t in rows if t.role == "activations")
    assert consumed(outcome) == [source for _, _, source in arrived]
    assert len(list(groupby(consumed(outcome)))) > ROUNDS * DEVICES, "devices take turns within a round"


def test_what_comes_at_the_same_moment_is_served_in_a_drawn_order() -> None:
    """Equal devices at equal links: nobody is the first, or the last, of every round."""
    base = toy(version2(local_steps=2), rounds=24)
    group = replace(base.fleet.groups[0], count=DEVICES)
    assembly = replace(base, fleet=replace(base.fleet, groups=(group,)), samples=np.full(DEVICES, 16))
    outcome = simulate(assembly, learning=False)
    rows = [Transfer(*row) for row in outcome.simulation.trace.transfers]
    first = [t.arrived for t in rows if t.role == "activations"][:DEVICES]
    assert len(set(first)) == 1, "they come at the same moment"
    served = consumed(outcome)
    rounds = [tuple(served[i : i + DEVICES]) for i in range(0, len(served), 2 * DEVICES)]
    assert all(sorted(each) == list(range(DEVICES)) for each in rounds)
    assert len({each[0] for each in rounds}) == len({each[-1] for each in rounds}) == DEVICES


def test_a_device_at_a_time_in_random_order() -> None:
    """All batches of one device, then of the next; in an order that the seed draws for each round."""
    outcome = simulate(toy(version2("device"), rounds=8), learning=False)
    served = iter(consumed(outcome))
    steps = [len(batches(int(held), 8)) for held in toy(version2()).samples]
    rounds = []
    for _ in range(8):
        turns: list[int] = []
        while len(turns) < DEVICES:
            k = next(served)
            assert [next(served) for _ in range(steps[k] - 1)] == [k] * (steps[k] - 1)
            turns.append(k)
        rounds.append(tuple(turns))
    assert next(served, None) is None
    assert all(sorted(each) == list(range(DEVICES)) for each in rounds)
    assert len(set(rounds)) > 4
    again = simulate(toy(version2("device"), rounds=8), learning=False)
    assert consumed(again) == consumed(outcome)


def test_one_device_has_the_same_trace_in_either_order() -> None:
    """There is nothing to order."""
    one, other = (simulate(toy(each, devices=1), learning=False) for each in (version2(), version2("device")))
    assert one.simulation.trace.spans == other.simulation.trace.spans
    assert one.simulation.trace.transfers == other.simulation.trace.transfers


@ORDERS
def test_one_gradient_a_batch_in_order(order: Order) -> None:
    """Each device gets as many as it sends, of the same sizes, each before it sends the next."""
    outcome = simulate(toy(version2(order), rounds=ROUNDS), learning=False)
    for k in range(DEVICES):
        rows = [Transfer(*row) for row in outcome.simulation.trace.transfers if k in (row[1], row[2])]
        steps = sorted((t for t in rows if t.role in ("activations", "gradient")), key=lambda t: t.queued)
        assert [t.role for t in steps] == ["activations", "gradient"] * (len(steps) // 2)
        assert [t.activations for t in steps[::2]] == [t.gradients for t in steps[1::2]]
        assert all(one.arrived <= two.queued for one, two in pairwise(steps))


def test_a_turn_by_hand() -> None:
    """The server takes nothing but what the device has sent whose turn it is; then comes the next one's turn."""
    server = by_hand(version2("device"), "server", devices=3, rounds=1)
    assert isinstance(server.effect, Send)
    server.answer(None)
    turns: list[int] = []
    z, y = (Payload(0, n, meta) for n, meta in ((1, _plan().activations(8)), (2, _plan().labels(8))))
    for _ in range(3):
        assert isinstance(server.effect, Recv)
        assert server.effect.source is not None
        k = server.effect.source
        turns.append(k)
        server.answer(Activations(z, y, 0, sender=k))
        assert isinstance(server.effect, Compute)
        (work,) = server.effect.works
        server.answer(work.result)
        assert isinstance(server.effect, Send)
        assert server.effect.to == (k,)
        assert isinstance(server.effect.message, Gradient)
        server.answer(None)
        assert isinstance(server.effect, Recv)
        assert server.effect.source == k, "its round is not over"
        server.answer(Trained(Payload(k, 3, _plan().weights), 8, 0, sender=k))
    assert sorted(turns) == [0, 1, 2]
    assert isinstance(server.effect, Compute)
    (work,) = server.effect.works
    assert work.command.method == "mean.result", "of device blocks; there is nothing else to average"
    server.answer(work.result)
    assert server.effect is None


def _plan() -> Any:
    return toy(SplitFed()).blocks()["device"]


# ------------------------------------------------------------------------------- those who are late, or leave


def expected_of(outcome: Outcome) -> dict[str, torch.Tensor]:
    """What plain modules learn along a toy run's trace."""
    return rounds_with_one_server_block(Split.of_toy(SplitFed()), outcome.simulation)


def near(outcome: Outcome, expected: dict[str, torch.Tensor]) -> None:
    """The weights of a run, to float32's precision."""
    assert outcome.weights is not None
    assert outcome.weights.keys() == expected.keys()
    for name, tensor in outcome.weights.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-6)


@ORDERS
def test_a_device_that_leaves_has_taught_the_block_what_it_has(order: Order) -> None:
    """What s has learnt of it stays; d is averaged without it."""
    whole = simulate(toy(version2(order), rounds=1), learning=False)
    late = consumed(whole)[-1]
    moment = [mark.time for mark in marks(whole.simulation, "consumed") if int(mark.value) == late][1]
    fault = Fault(device=late, leave=moment / 1e9 + 1e-6)
    outcome = simulate(toy(version2(order), rounds=2, faults=[fault]))
    assert outcome.ending is Ending.SERVER
    assert Counter(consumed(outcome))[late] == 2, "of more"
    near(outcome, expected_of(outcome))


@ORDERS
@pytest.mark.parametrize("need", [1, 2, 3])
def test_those_who_are_late_have_taught_the_block_what_they_have(order: Order, need: int) -> None:
    """Over-selection: `need` of four complete a round; s keeps what it has learnt of the others."""
    outcome = simulate(replace(toy(version2(order), rounds=1), need=need))
    assert len(set(consumed(outcome))) >= need
    near(outcome, expected_of(outcome))
    averaged = [span for span in outcome.simulation.trace.spans if span[2] == "aggregate"]
    device = toy(SplitFed()).blocks()["device"]
    assert [span[5] for span in averaged] == [need * device.trainable]


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("need", [1, 2])
def test_late_devices_go_on_with_the_newest_round(version: Literal[1, 2], need: int) -> None:
    """They abandon what they were at; nothing of an old round is trained on or averaged in a later one."""
    assembly = replace(toy(SplitFed(version=version), rounds=6), need=need)
    outcome = simulate(assembly)
    assert outcome.ending is Ending.SERVER
    trace = outcome.simulation.trace
    opened = [Mark._make(mark) for mark in trace.marks if mark[2] == "round.open"]
    assert [json.loads(mark.detail) for mark in opened] == [{"nodes": [0, 1, 2, 3], "need": need}] * 6
    parts = assembly.blocks()
    theta = parts["device"].trainable + (parts["server"].trainable if version == 1 else 0)
    assert measured(outcome).aggregate_macs == 6 * need * theta
    sent = sum(t[4] == "activations" for t in trace.transfers)
    served = sum(t[4] == "gradient" for t in trace.transfers)
    assert served == len(consumed(outcome)) < sent, "some came too late to be served"


@ORDERS
def test_a_window_ends_a_round_in_the_middle(order: Order) -> None:
    """With whoever has delivered; or with nobody, and then d stays while s has learnt."""
    whole = simulate(toy(version2(order), rounds=1), learning=False)
    length = whole.simulation.trace.end / 1e9
    outcome = simulate(replace(toy(version2(order), rounds=1), window=length / 2))
    assert 0 < len(consumed(outcome)) < len(consumed(whole))
    near(outcome, expected_of(outcome))
    first = marks(whole.simulation, "consumed")[0].time / 1e9
    nobody = simulate(replace(toy(version2(order), rounds=1), window=first + 1e-6))
    assert nobody.weights is not None
    start = toy_weights()
    assert all(nobody.weights[name].equal(start[name]) == (name in device_names()) for name in start)


def toy_weights() -> dict[str, torch.Tensor]:
    """Before any training."""
    split = Split.of_toy(SplitFed())
    return {**split.first.state_dict(), **split.second.state_dict()}


def device_names() -> set[str]:
    """Names of the device block's tensors."""
    return set(Split.of_toy(SplitFed()).first.state_dict())


# ------------------------------------------------------------------------------------------------- its rules


@ORDERS
def test_idle_times_by_cause(order: Order) -> None:
    """Devices wait for gradients and for the slowest; the causes add up."""
    outcome = simulate(toy(version2(order), rounds=ROUNDS), learning=False)
    devices = summarise(outcome.simulation.trace, status="done", wall_seconds=1.0)["devices"]
    idle = devices["idle_by_cause"]
    assert idle["dependency"] > 0
    assert idle["straggler"] > 0
    assert sum(idle.values()) == pytest.approx(devices["idle"], abs=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(
    "scheduler", [version2(), version2("device"), version2("device", local_steps=5, weighting="uniform")], ids=str
)
def test_it_conforms(scheduler: SplitFed) -> None:
    """In both orders, whoever leaves when."""
    check_scheduler(scheduler)


def test_an_order_is_for_version_2() -> None:
    """Version 1 serves each copy as its batches come."""
    with pytest.raises(ValueError, match=r"order: device is for version 2; version 1 has a copy a device"):
        SplitFed(order="device")
