"""PiPar: SplitFed in micro-batches; the same gradients, other moments."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch

from fedsim.experiment.fleet import process_bytes
from fedsim.hardware.links import load_link
from fedsim.hardware.machines import machine
from fedsim.learning.learners import Batch
from fedsim.learning.optimizers import Schedule, Sgd
from fedsim.models.options import Mlp
from fedsim.report import summarise
from fedsim.schedulers.pipar import Activations, Gradient, PiPar
from fedsim.schedulers.splitfed import SplitFed, Train
from fedsim.script import SERVER, Compute, Disconnected, Payload, Recv, Send
from fedsim.simulation import Ending, Fault
from fedsim.testing import DEVICES, Outcome, Steps, by_hand, check_scheduler, simulate, toy
from fedsim.trace import Span, Transfer
from tests.learning.test_oracles import centralised
from tests.learning.toys import Federation, bits, furthest
from tests.schedulers.closed_forms import LABEL, all_batches, loss, macs, measured, state
from tests.schedulers.halves import Half, Split, marks, train
from tests.schedulers.plain import State, finished, state_of
from tests.schedulers.test_closed_forms import faster

ROUNDS = 3
NO_NORM = Federation(model="mlp", options=Mlp(hidden=[6, 5]), shape=(7,), cut=1)
"""Float64, and nothing that goes by batches; the sizes leave batches that are not full."""


def micro(sizes: list[int], usual: int, number: int) -> list[int]:
    """Sizes of the micro-batches of batches: of ⌊B/M⌋ samples, one at least, as many as a batch holds."""
    b = max(1, usual // number)
    return [min(b, size) for size in sizes for _ in range(max(1, size // b))]


def records(outcome: Outcome) -> tuple[Any, ...]:
    """All of a trace."""
    trace = outcome.simulation.trace
    return trace.spans, trace.transfers, trace.waits, trace.marks, trace.end


# ---------------------------------------------------------------------------------------- one micro-batch


@pytest.mark.parametrize(
    "more",
    [{}, {"participants": 2}, {"faults": [Fault(device=1, leave=0.05, back=0.3)]}, {"devices": 1}],
    ids=str,
)
@pytest.mark.parametrize("local", [{}, {"local_steps": 3, "weighting": "uniform"}, {"local_epochs": 2}], ids=str)
def test_one_micro_batch_is_splitfed(local: dict[str, Any], more: dict[str, Any]) -> None:
    """Version 1, to the last record of the trace and the last bit of the weights."""
    one = simulate(toy(PiPar(micro_batches=1, **local), rounds=ROUNDS, **more))
    other = simulate(toy(SplitFed(**local), rounds=ROUNDS, **more))
    assert records(one) == records(other)
    assert one.weights is not None
    assert other.weights is not None
    assert bits(one.weights) == bits(other.weights)


@pytest.mark.slow
@pytest.mark.parametrize(
    "optimizer",
    [
        Sgd(lr=0.05),
        Sgd(lr=0.02, momentum=0.9, weight_decay=0.01),
        Sgd(lr=0.1, schedule=Schedule(kind="exponential", factor=0.5)),
    ],
    ids=["plain", "momentum", "schedule"],
)
def test_one_micro_batch_is_splitfed_with_batch_norm(optimizer: Sgd) -> None:
    """Bitwise in float32, at learning rates by rounds on both sides of the cut."""
    what = Federation(sizes=(24, 7, 13), dtype="float32", optimizer=optimizer)
    one = bits(what.run(PiPar(micro_batches=1), rounds=2))
    assert one == bits(what.run(SplitFed(), rounds=2))
    if optimizer.schedule is not None:
        steady = replace(what, optimizer=replace(optimizer, schedule=None))
        assert one != bits(steady.run(PiPar(micro_batches=1), rounds=2))


@pytest.mark.parametrize("changes", [{"need": 2}, {"window": 0.03}, {"need": 3, "window": 0.05}], ids=str)
def test_one_micro_batch_is_splitfed_where_devices_are_late(changes: dict[str, Any]) -> None:
    """They abandon a batch alike, whether enough others have come or the time is up."""
    one, other = (simulate(replace(toy(each, rounds=5), **changes)) for each in (PiPar(micro_batches=1), SplitFed()))
    assert records(one) == records(other)
    assert one.weights is not None
    assert other.weights is not None
    assert bits(one.weights) == bits(other.weights)
    full = simulate(toy(SplitFed(), rounds=5), learning=False)
    assert 0 < measured(one).aggregate_macs < measured(full).aggregate_macs, "some were late"


# ----------------------------------------------------------------------------------- several micro-batches


@pytest.mark.slow
@pytest.mark.parametrize("number", [2, 4, 8, 100])
@pytest.mark.parametrize("optimizer", [Sgd(lr=0.1), Sgd(lr=0.05, momentum=0.9)], ids=str)
def test_micro_batches_that_fill_a_batch_make_the_same_steps(number: int, optimizer: Sgd) -> None:
    """Without batch norm, several devices and rounds: SplitFed's weights, but for rounding."""
    what = replace(NO_NORM, sizes=(24, 8, 40, 16), optimizer=optimizer)
    one = what.run(PiPar(micro_batches=number), rounds=ROUNDS, participants=3)
    assert furthest(one, what.run(SplitFed(), rounds=ROUNDS, participants=3)) < 1e-12


@pytest.mark.slow
def test_group_norm_is_as_good_as_none() -> None:
    """It goes by samples; batch norm goes by micro-batches, and learns something else."""
    for norm in ("gn", "bn"):
        what = Federation(sizes=(16, 8), norm=norm)
        one, other = (what.run(each, rounds=2) for each in (PiPar(micro_batches=4), SplitFed()))
        counters = [name for name in one if "tracked" in name]
        for name in counters:
            assert (int(one.pop(name)), int(other.pop(name))) == (16, 4), "batches of the device that has two"
        assert (furthest(one, other) > 1e-4) if counters else (furthest(one, other) < 1e-12)


@pytest.mark.slow
def test_one_device_is_centralised_sgd() -> None:
    """Oracle 1, without batch norm."""
    what = replace(NO_NORM, sizes=(32,))
    assert furthest(what.run(PiPar(micro_batches=4), rounds=3), centralised(what, epochs=3)) < 1e-12


@pytest.mark.parametrize("sizes", [(100,), (250,)])
def test_a_step_is_on_the_mean_of_the_samples_that_are_used(sizes: tuple[int, ...]) -> None:
    """B = 100, M = 30: 33 micro-batches of 3, so 99 samples; a batch of 50 that is left has 16 and loses 2."""
    what = replace(NO_NORM, sizes=sizes, batch=100, optimizer=Sgd(lr=1.0))
    host, simulation = what.simulation(PiPar(micro_batches=30), rounds=1)
    finished(simulation)
    assert simulation.published is not None
    split = Split.of(what)
    device, server = split.device(state_of(split.first)), split.server()
    for x, y in next(split.passes(0)):
        used = len(x) // 3 * 3
        train(device, server, (x[:used], y[:used]))
    expected = {**state_of(device.block), **state_of(server.block)}
    assert furthest(host.model_tensors(simulation.published.model), expected) < 1e-12
    dropped = [(mark.node, mark.value) for mark in marks(simulation, "dropped")]
    assert dropped == ([(0, 1)] if sizes == (100,) else [(0, 1), (0, 1), (0, 2)])


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", [Sgd(lr=0.05), Sgd(lr=0.02, momentum=0.9)], ids=str)
def test_immediate_updates(optimizer: Sgd) -> None:
    """The server steps on the loss of every micro-batch; the device once, on their sum. Batch norm included."""
    what = Federation(sizes=(19,), optimizer=optimizer)
    host, simulation = what.simulation(PiPar(micro_batches=3, immediate_update=True), rounds=2)
    finished(simulation)
    assert simulation.published is not None
    split = Split.of(what)
    d, s = state_of(split.first), state_of(split.second)
    passes = split.passes(0)
    for _ in range(2):
        device, server = split.device(d), Half(split.second, what.optimizer)
        server.block.load_state_dict(s)
        for x, y in next(passes):
            parts = [(x[i : i + 2], y[i : i + 2]) for i in range(0, len(x) // 2 * 2, 2)]
            sent = [device.block(each) for each, _ in parts]
            for z, (_, labels) in zip(sent, parts, strict=True):
                received = z.detach().requires_grad_()
                torch.nn.functional.cross_entropy(server.block(received), labels).backward()
                server.step()
                z.backward(received.grad)
            device.step()
        d, s = state_of(device.block), state_of(server.block)
    assert furthest(host.model_tensors(simulation.published.model), {**d, **s}) < 1e-9


def test_when_it_is_sent_changes_nothing_that_is_learnt() -> None:
    """In the background or not: the same weights, later."""
    runs = [simulate(toy(PiPar(micro_batches=4, background=each), rounds=2)) for each in (True, False)]
    assert runs[0].weights is not None
    assert runs[1].weights is not None
    assert bits(runs[0].weights) == bits(runs[1].weights)
    assert runs[0].simulation.trace.end < runs[1].simulation.trace.end


# ---------------------------------------------------------------------------------------------- its costs


@pytest.mark.parametrize("number", [1, 3, 4, 8, 50])
@pytest.mark.parametrize("local", [{}, {"local_steps": 7}, {"local_epochs": 2}], ids=str)
def test_it_costs_its_closed_form(local: dict[str, int], number: int) -> None:
    """As SplitFed version 1 of the samples that are used: S·M'b/B, where all batches are full."""
    options: Any = local
    assembly = toy(PiPar(micro_batches=number, **options), rounds=ROUNDS)
    outcome = simulate(assembly, learning=False)
    found, model, cut = measured(outcome), assembly.model, assembly.cut
    assert cut is not None
    d, s = model.units[:cut], model.units[cut:]
    whole = all_batches(assembly, steps=local.get("local_steps"), epochs=local.get("local_epochs", 1))
    sizes = micro(whole, 8, number)
    samples, z, size = sum(sizes), model.activation_bytes(cut), ROUNDS * DEVICES * state(d)
    assert found.up == {"weights": size, "activations": samples * z, "gradients": 0, "labels": samples * LABEL}
    assert found.down == {"weights": size, "activations": 0, "gradients": samples * z, "labels": 0}
    assert found.device_macs == macs(d, sizes, to_input=False)
    assert found.server_macs == macs(s, sizes, to_input=True) + loss(model, sizes)
    assert found.aggregate_macs == ROUNDS * DEVICES * model.parameters
    assert sum(mark.value for mark in marks(outcome.simulation, "dropped")) == sum(whole) - samples
    by_role = Counter(t[4] for t in outcome.simulation.trace.transfers)
    assert by_role["activations"] == by_role["gradient"] == len(sizes)


def test_full_batches_lose_the_same_share_each() -> None:
    """B − M'b of every B, with b = ⌊B/M⌋ and M' = ⌊B/b⌋: 96 samples, and the bytes of those that are left."""
    for batch, number, used in ((8, 3, 8), (12, 5, 12), (8, 6, 8), (32, 5, 30), (32, 10, 30), (48, 9, 45)):
        assembly = toy(PiPar(micro_batches=number), devices=1, rounds=1)
        assembly = replace(assembly, training=replace(assembly.training, batch=batch))
        found = measured(simulate(assembly, learning=False))
        assert found.up["labels"] == 96 * used // batch * LABEL


# -------------------------------------------------------------------------------------------- its schedule


def one_batch(number: int, *, background: bool = True, device: int = 1) -> tuple[list[Span], list[Transfer]]:
    """Spans of a device in its first batch of 8, and its activations."""
    outcome = simulate(toy(PiPar(micro_batches=number, background=background, local_steps=1), rounds=1), learning=False)
    trace = outcome.simulation.trace
    spans = [span for span in map(Span._make, trace.spans) if span.node == device]
    rows = [t for t in map(Transfer._make, trace.transfers) if t.source == device and t.role == "activations"]
    return sorted(spans, key=lambda span: span.start), sorted(rows, key=lambda t: t.queued)


@pytest.mark.parametrize("number", [2, 4, 8])
def test_a_device_computes_while_it_sends(number: int) -> None:
    """All forwards without a pause, then all backwards; every forward but the first overlaps a transfer."""
    for device in range(DEVICES):
        spans, sent = one_batch(number, device=device)
        assert [span.kind for span in spans] == ["forward"] * number + ["backward"] * number
        forwards = spans[:number]
        assert all(one.end == two.start for one, two in pairwise(forwards)), "nothing to wait for"
        assert [t.queued for t in sent] == [span.end for span in forwards]
        for span in forwards[1:]:
            assert any(t.started < span.end and span.start < t.arrived for t in sent) or link_is_late(sent[0], span)


def link_is_late(first: Transfer, span: Span) -> bool:
    """Whether the latency of the link outlasts a forward: then it overlaps a message that does not flow yet."""
    return first.queued <= span.start and span.end <= first.started


@pytest.mark.parametrize("number", [2, 8])
def test_a_device_that_does_not_send_in_the_background_computes_nothing_meanwhile(number: int) -> None:
    """No forward overlaps a transfer; that time is `flow`."""
    for device in range(DEVICES):
        spans, sent = one_batch(number, background=False, device=device)
        assert [span.kind for span in spans] == ["forward"] * number + ["backward"] * number
        assert not any(t.queued < span.end and span.start < t.arrived for span in spans for t in sent)
        assert all(two.start == t.arrived for t, two in zip(sent, spans[1:number], strict=False))
    for background in (True, False):
        idle = idle_of(PiPar(micro_batches=number, background=background))
        assert (idle["flow"] > 0) == (not background)


def idle_of(scheduler: PiPar) -> dict[str, float]:
    """Shares of the devices' idle time."""
    outcome = simulate(toy(scheduler, rounds=ROUNDS), learning=False)
    devices: dict[str, Any] = summarise(outcome.simulation.trace, status="done", wall_seconds=1.0)["devices"]
    idle: dict[str, float] = devices["idle_by_cause"]
    assert sum(idle.values()) == pytest.approx(devices["idle"], abs=1e-12)
    return idle


def test_idle_times_by_cause() -> None:
    """Dependency on gradients, stragglers at the barrier."""
    idle = idle_of(PiPar(micro_batches=4))
    assert idle["dependency"] > 0
    assert idle["straggler"] > 0
    assert idle["unselected"] == idle["load"] == idle["sleep"] == 0


def test_a_slow_link_is_hidden_behind_computing() -> None:
    """Where a forward and its transfer take as long, and the backward twice that: three quarters of the time."""
    base = toy(SplitFed(), devices=1, rounds=1)
    base = replace(base, training=replace(base.training, batch=48))
    (group,), plan = base.fleet.groups, base.blocks()["device"]
    link = load_link({"up": "20 kB/s", "down": "1 GB/s", "rate": "goodput"})
    seconds = (plan.activations(48).nbytes + plan.labels(48).nbytes) / link.up
    profile = group.machine.profile.model_copy(update={"speed": plan.forward_part(48).cost.macs / seconds})
    group = replace(group, machine=machine(profile), link=link)
    lengths = {}
    for number in (1, 8):
        slow = replace(base, fleet=replace(base.fleet, groups=(group,)), scheduler=PiPar(micro_batches=number))
        lengths[number] = simulate(slow, learning=False).simulation.trace.end
    assert lengths[8] < 0.8 * lengths[1]


def test_a_device_by_hand() -> None:
    """As many forwards as there are micro-batches before the first gradient is waited for; one step, with the last."""
    me = by_hand(PiPar(micro_batches=4), 1)
    plan = toy(SplitFed()).blocks()["device"]
    me.answer(Train(Payload(SERVER, 1, plan.weights), 0, sender=SERVER))
    held = 0
    for i in range(4):
        assert isinstance(me.effect, Compute)
        (work,) = me.effect.works
        assert (work.command.method, work.command.args[1]) == ("forward", i)
        held += work.parts[0].keeps
        me.answer(work.result)
        assert isinstance(me.effect, Send)
        assert not me.effect.blocking
        me.answer(None)
    assert held == 4 * plan.forward_part(2).keeps > 0, "the activation sets of all micro-batches at once"
    for i in range(4):
        g = Payload(SERVER, 2 + i, toy(SplitFed()).blocks()["server"].gradients(2))
        me.answer(Gradient(g, i, 0, sender=SERVER))
        assert isinstance(me.effect, Compute)
        (work,) = me.effect.works
        assert (work.command.method, work.command.args[1:]) == ("backward", (i, i == 3))
        held += work.parts[0].keeps
        me.answer(None)
    assert held == 0
    me.close()


def test_a_device_takes_no_gradient_of_another_round() -> None:
    """One of a round that it has given up is none; an order of a later round ends the batch, and what it holds goes."""
    me = by_hand(PiPar(micro_batches=2), 1)
    plan = toy(SplitFed()).blocks()["device"]
    me.answer(Train(Payload(SERVER, 1, plan.weights), 3, sender=SERVER))
    _forwards(me, 2)
    g = [Payload(SERVER, 2 + i, toy(SplitFed()).blocks()["server"].gradients(4)) for i in range(2)]
    me.answer(Gradient(g[0], 0, 2, sender=SERVER))
    assert isinstance(me.effect, Recv)
    me.answer(Gradient(g[0], 0, 3, sender=SERVER))
    assert isinstance(me.effect, Compute)
    me.answer(None)
    me.port.commands.clear()
    me.answer(Train(Payload(SERVER, 9, plan.weights), 5, sender=SERVER))
    assert [command.method for command in me.port.commands][:2] == ["abandon", "load"]
    sent = _forwards(me, 2)
    assert [(each.number, each.used, each.round) for each in sent] == [(0, 2, 5), (1, 2, 5)]
    me.close()


def _forwards(me: Steps, number: int) -> list[Activations]:
    sent: list[Activations] = []
    for _ in range(number):
        assert isinstance(me.effect, Compute)
        me.answer(me.effect.works[0].result)
        assert isinstance(me.effect, Send)
        assert isinstance(me.effect.message, Activations)
        sent.append(me.effect.message)
        me.answer(None)
    assert isinstance(me.effect, Recv)
    return sent


@pytest.mark.parametrize("immediate", [False, True])
def test_a_server_by_hand(immediate: bool) -> None:
    """A share of the loss each and a step with the last one, or a step on each loss; one who leaves is dropped."""
    server = by_hand(PiPar(micro_batches=4, immediate_update=immediate), "server", devices=2, rounds=1)
    plan = toy(SplitFed()).blocks()["device"]
    server.answer(None)
    learners = []
    for k, used, i in ((0, 4, 0), (1, 3, 0), (0, 4, 1), (1, 3, 1), (1, 3, 2), (0, 4, 2)):
        z, y = (Payload(k, n, meta) for n, meta in ((1, plan.activations(2)), (2, plan.labels(2))))
        before = len(server.port.marks)
        server.answer(Activations(z, y, i, used, 0, sender=k))
        assert isinstance(server.effect, Compute)
        (work,) = server.effect.works
        step = immediate or i == used - 1
        assert work.command.args[2:] == (1.0 if immediate else 1 / used, step)
        learners.append(work.command.learner)
        server.answer(work.result)
        assert server.port.marks[before:] == [("consumed", k, None)] * ((1 if immediate else used) if step else 0)
        assert isinstance(server.effect, Send)
        assert isinstance(server.effect.message, Gradient)
        assert (server.effect.to, server.effect.message.number) == ((k,), i)
        server.answer(None)
    assert len(set(learners)) == 2
    server.answer(Disconnected(0, sender=0))
    closed = [command.learner for command in server.port.commands if command.method == "close"]
    assert learners[0] in closed
    assert learners[1] not in closed
    server.close()


def test_memory_of_a_device_holds_all_micro_batches() -> None:
    """In the run's account: weights, gradients, and M' activation sets at least."""
    for number in (1, 4):
        assembly = toy(PiPar(micro_batches=number, local_steps=1), rounds=1)
        outcome = simulate(assembly, learning=False)
        plan = assembly.blocks()["device"]
        fixed = process_bytes(assembly.fleet.machine(1)) + plan.state_bytes + plan.warm_bytes
        peak = next(mark.value for mark in marks(outcome.simulation, "memory.peak") if mark.node == 1)
        assert peak >= fixed + number * plan.forward_part(8 // number).keeps


@pytest.mark.parametrize("number", [2, 8])
def test_better_hardware_is_never_slower(number: int) -> None:
    """Oracle 11, with the number of micro-batches fixed."""
    base = toy(PiPar(micro_batches=number), rounds=2)
    length = simulate(base, learning=False).simulation.trace.end
    for index, group in enumerate(base.fleet.groups):
        link = group.link.model_copy(update={"up": group.link.up * 3, "down": group.link.down * 3})
        for better in (replace(group, link=link), replace(group, machine=faster(group.machine))):
            groups = (*base.fleet.groups[:index], better, *base.fleet.groups[index + 1 :])
            changed = replace(base, fleet=replace(base.fleet, groups=groups))
            assert simulate(changed, learning=False).simulation.trace.end <= length
    changed = replace(base, fleet=replace(base.fleet, server=faster(base.fleet.server)))
    assert simulate(changed, learning=False).simulation.trace.end <= length


# ----------------------------------------------------------------------------- contributions, and leaving


def consumed(outcome: Outcome) -> Counter[int]:
    """Micro-batches of each device that the server stepped on."""
    return Counter(int(mark.value) for mark in marks(outcome.simulation, "consumed"))


@pytest.mark.parametrize("immediate", [False, True])
def test_all_that_is_sent_is_consumed(immediate: bool) -> None:
    """Micro-batches count as batches: M' at a time, when the step comes, or one by one."""
    scheduler = PiPar(micro_batches=4, immediate_update=immediate)
    outcome = simulate(toy(scheduler, rounds=2), learning=False)
    sent = Counter(t[1] for t in outcome.simulation.trace.transfers if t[4] == "activations")
    assert consumed(outcome) == sent
    moments = Counter((mark.time, mark.value) for mark in marks(outcome.simulation, "consumed"))
    assert (max(moments.values()) == 4) is not immediate
    summary = summarise(outcome.simulation.trace, status="done", wall_seconds=1.0)
    assert summary["contributions"]["max"] == max(sent.values())


def in_the_middle_of_a_batch(device: int) -> float:
    """A moment (s) at which the server has some, not all, of the gradients of a device's first batch."""
    whole = simulate(toy(PiPar(micro_batches=8), rounds=1), learning=False)
    rows = [Transfer(*row) for row in whole.simulation.trace.transfers]
    queued = sorted(t.queued for t in rows if t.target == device and t.role == "gradient")
    return (queued[2] + queued[3]) / 2e9


def leaving(scheduler: Any, rounds: int, *, back: bool) -> State:
    """The weights where device 2 leaves in its first batch."""
    moment = in_the_middle_of_a_batch(2) if isinstance(scheduler, PiPar) else _during_its_first_batch(2)
    faults = [Fault(device=2, leave=moment, back=moment + 1e-3 if back else None)]
    outcome = simulate(toy(scheduler, rounds=rounds, faults=faults))
    assert outcome.ending is Ending.SERVER
    end = marks(outcome.simulation, "round.close")[0].time
    early = [mark for mark in marks(outcome.simulation, "consumed") if mark.value == 2 and mark.time < end]
    assert not early, "of a batch of which only a part has come nothing is consumed"
    assert outcome.weights is not None
    return outcome.weights


def _during_its_first_batch(device: int) -> float:
    whole = simulate(toy(SplitFed(), rounds=1), learning=False)
    sent = next(t for t in map(Transfer._make, whole.simulation.trace.transfers) if t.source == device)
    return (sent.started + sent.arrived) / 2e9


@pytest.mark.parametrize("back", [False, True])
def test_what_has_been_added_up_goes_with_its_device(back: bool) -> None:
    """Its copy and part of a batch's gradient: neither reaches those who go on, in this round or in the next."""
    ours, theirs = (leaving(each, 3, back=back) for each in (PiPar(micro_batches=8), SplitFed()))
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("loads", [True, False])
def test_an_abandoned_batch_leaves_no_gradient(loads: bool) -> None:
    """Of two micro-batches one has gone back, then the batch is given up: the next step is as if it had not been.

    Whether other weights are loaded first, or training goes on from those that are there.
    """
    what = replace(NO_NORM, sizes=(16,))
    found = []
    for interrupted in (True, False):
        bench = what.bench(split=True)
        learner = bench.learner()
        start = learner.weights()
        gradient = bench.node(SERVER).payload(bench.plans["server"].gradients(4))
        bench.give(gradient, torch.ones(4, 6, dtype=torch.float64))
        if interrupted:
            for tag in (0, 1):
                bench.do(learner.forward(Batch(0, 4 * tag, 4), tag))
            bench.do(learner.backward(gradient, 0, step=False))
            learner.abandon()
            if loads:
                learner.load(start)
        bench.do(learner.forward(Batch(0, 8, 4)))
        bench.do(learner.backward(gradient))
        found.append(bits(bench.flat(learner.weights()).named()))
    assert found[0] == found[1]


@pytest.mark.parametrize("need", [1, 3])
def test_late_devices_give_up_their_batch(need: int) -> None:
    """They go on with the newest round; each round averages those that completed it."""
    assembly = replace(toy(PiPar(micro_batches=4), rounds=5), need=need)
    outcome = simulate(assembly)
    assert outcome.ending is Ending.SERVER
    assert measured(outcome).aggregate_macs == 5 * need * assembly.model.parameters


# ------------------------------------------------------------------------------------------------ its rules


@pytest.mark.slow
@pytest.mark.parametrize(
    "scheduler",
    [
        PiPar(micro_batches=3),
        PiPar(micro_batches=4, background=False, local_steps=2),
        PiPar(micro_batches=8, immediate_update=True, weighting="uniform"),
    ],
    ids=str,
)
def test_it_conforms(scheduler: PiPar) -> None:
    """With each option, whoever leaves when."""
    check_scheduler(scheduler)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"micro_batches": 0}, "micro_batches 0 must be 1 or more, or auto"),
        ({"local_steps": 0}, "local_steps 0 must be 1 or more"),
        ({"local_epochs": 0}, "local_epochs 0 must be 1 or more"),
    ],
    ids=str,
)
def test_options_that_cannot_be(options: dict[str, Any], message: str) -> None:
    """Each with its rule."""
    with pytest.raises(ValueError, match=message):
        PiPar(**options)
