"""Handles by hand: what scripts' calls queue, cost and announce, without any runtime or torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fedsim.learning.context import Device, Job, Server
from fedsim.learning.learners import Batch, Learner, Node
from fedsim.learning.optimizers import Sgd
from fedsim.learning.plan import DEVICE, SERVER_BLOCK, BlockPlan
from fedsim.learning.sums import Mean
from fedsim.script import SERVER, Command, Connected, Disconnected, Message, Payload, Purpose, Recv
from tests.learning.toys import MLP, Federation

PLANS = MLP.bench(split=True).plans
WHOLE = MLP.bench().plans


class FakePort:
    """Notes what it is told."""

    def __init__(self, node: int, absent: Collection[int] = ()) -> None:
        self.node = node
        self.now = 0.0
        self.absent: Collection[int] = absent
        self.commands: list[Command] = []
        self.marks: list[tuple[str, float, Any]] = []
        self.published: list[tuple[int, tuple[Payload, ...]]] = []
        self.waiting: list[Message] = []

    def poll(self, *kinds: type[Message]) -> Message | None:
        """The first waiting message of these kinds."""
        found = next((m for m in self.waiting if isinstance(m, kinds)), None)
        if found is not None:
            self.waiting.remove(found)
        return found

    def arrived(self, kind: type[Message]) -> list[Message]:
        """Nothing ever comes."""
        return []

    def outgoing(self, kind: type[Message]) -> int:
        """Whatever is sent has been delivered."""
        return 0

    def drop(self, message: Message) -> None:
        """There is nothing to refuse."""

    def command(self, command: Command) -> None:
        """Note it."""
        self.commands.append(command)

    def mark(self, name: str, value: float = 0.0, detail: Mapping[str, object] | None = None) -> None:
        """Note it."""
        self.marks.append((name, value, detail))

    def publish(self, version: int, model: tuple[Payload, ...]) -> None:
        """Note it."""
        self.published.append((version, model))

    def said(self) -> list[tuple[Any, ...]]:
        """What was queued: learner, method, arguments."""
        return [(c.learner, c.method, *c.args) for c in self.commands]


def job(
    samples: Sequence[int] = (20, 5, 8),
    *,
    batch: int = 8,
    participants: int = 3,
    plans: Mapping[str, BlockPlan] = PLANS,
    seed: int = 1,
) -> Job:
    """What scripts know."""
    return Job(seed=seed, plans=dict(plans), samples=samples, participants=participants, rounds=2, batch=batch)


# ------------------------------------------------------------------------------------------------ learners


def test_calls_that_take_no_time_are_queued_in_order() -> None:
    """`load`, `weights`, `clone`, `close`, `take`: commands of the node, payloads with known bytes."""
    port = FakePort(4)
    learner = Learner(Node(port), PLANS[DEVICE])
    w = learner.weights()
    learner.load(w)
    other = learner.clone()
    learner.close()
    taken = other.take()
    assert port.said() == [
        (1, "open", DEVICE),
        (1, "weights", "weights"),
        (1, "load", w),
        (2, "open", DEVICE),
        (2, "copy", 1),
        (1, "close"),
        (2, "weights", "weights"),
        (2, "close"),
    ]
    assert (w.node, w.number, taken.number) == (4, 1, 2)
    assert w.nbytes == taken.nbytes == 4 * (7 * 6 + 6)
    assert [c.output for c in port.commands if c.output is not None] == [w, taken]


def test_works_announce_result_and_cost_before_they_run() -> None:
    """And queue nothing."""
    port = FakePort(0)
    node = Node(port)
    device, server = Learner(node, PLANS[DEVICE]), Learner(node, PLANS[SERVER_BLOCK])
    batch = Batch(0, 0, 5)
    forward = device.forward(batch, tag=3)
    y = device.labels(batch)
    step = server.train_step(forward.result, y)
    backward = device.backward(step.result, tag=3)
    assert [c[1] for c in port.said()] == ["open", "open", "labels"]
    assert (forward.command.method, forward.command.args) == ("forward", (batch, 3))
    assert (backward.command.method, backward.command.args) == ("backward", (step.result, 3, True))
    assert (forward.result.nbytes, y.nbytes, step.result.nbytes) == (5 * 6 * 4, 5 * 8, 5 * 6 * 4)
    assert [p.meta.purpose for p in (forward.result, y, step.result)] == [
        Purpose.ACTIVATIONS,
        Purpose.LABELS,
        Purpose.GRADIENTS,
    ]
    (f,), (s,), (b,) = forward.parts, step.parts, backward.parts
    assert (f.kind, f.samples, f.cost.macs) == ("forward", 0, 5 * 42)
    assert (s.kind, s.samples, s.cost.macs) == ("step", 5, 5 * 3 * (30 + 20))
    assert (b.kind, b.samples, b.cost.macs) == ("backward", 5, 5 * 42)
    assert backward.result is None


@pytest.mark.parametrize("keep", [False, True])
def test_a_learner_says_what_it_holds(keep: bool) -> None:
    """Weights from `load` on, a gradient and a momentum each once it computes, until it is closed: all, or but that."""
    federation = dataclasses.replace(MLP, optimizer=Sgd(lr=0.1, momentum=0.9), keep=keep)
    plan = federation.bench(split=True).plans[DEVICE]
    weights = 4 * (7 * 6 + 6)
    port = FakePort(4)
    node = Node(port)
    learner = Learner(node, plan)
    batch = Batch(0, 0, 5)

    def held() -> list[int]:
        found = [command.holds for command in port.commands]
        port.commands.clear()
        return found

    other = node.payload(plan.weights)
    learner.load(other)
    assert held() == [0, weights], "opened, loaded"
    forward = learner.forward(batch)
    backward = learner.backward(node.payload(plan.activations(5)))
    assert (forward.command.holds, backward.command.holds) == (2 * weights, 0)
    learner.load(other)
    learner.weights()
    learner.close()
    assert held() == [0, 0, -2 * weights if keep else -3 * weights]
    learner.load(other)
    learner.close()
    assert held() == [weights, -weights], "the state that is kept stays beside the weights, and when they go"
    unused = Learner(node, plan)
    unused.load(other)
    unused.close()
    assert held() == [0, weights, -weights], "no momentum of a learner that has not computed"


def test_a_mean_says_what_it_holds() -> None:
    """One sum, from the first member on, which then takes the place of the global model."""
    port = FakePort(SERVER)
    node = Node(port)
    total = Mean(node, PLANS[DEVICE], [2, 5], "samples")
    for member in (2, 5):
        total.put(member, node.payload(PLANS[DEVICE].weights), 7)
    weights = PLANS[DEVICE].weights.nbytes
    assert [command.holds for command in port.commands] == [0, weights, 0]
    assert total.result().command.holds == -weights


def test_training_is_one_work_with_a_span_a_step() -> None:
    """The last batch at its true size; equal batches share one cost object, so that it is priced once."""
    learner = Learner(Node(FakePort(0)), WHOLE["model"])
    work = learner.train((Batch(0, 0, 8), Batch(0, 8, 8), Batch(0, 16, 3)))
    assert [part.samples for part in work.parts] == [8, 8, 3]
    assert work.parts[0].cost is work.parts[1].cost is not work.parts[2].cost
    assert [part.cost.forward_macs for part in work.parts] == [8 * 92, 8 * 92, 3 * 92]


def test_a_mean_is_summed_as_its_members_come() -> None:
    """Members sorted at the opening; weights by samples or uniform; one MAC a parameter and member."""
    for weighting, weight in (("samples", 7), ("uniform", 1)):
        port = FakePort(SERVER)
        node = Node(port)
        total = Mean(node, PLANS[DEVICE], [5, 2, 9], weighting)  # type: ignore[arg-type]
        w = node.payload(PLANS[DEVICE].weights)
        with pytest.raises(AssertionError, match="a mean of nothing"):
            total.result()
        total.put(2, w, 7)
        assert total.members == 1
        work = total.result()
        assert port.said() == [(1, "mean.open", (DEVICE,), "weights", (2, 5, 9), None), (1, "mean.add", 2, w, weight)]
        assert work.command.method == "mean.result"
        assert work.result.nbytes == w.nbytes
        assert work.parts[0].cost.macs == PLANS[DEVICE].trainable


# ------------------------------------------------------------------------------------------------- devices


def test_steps_go_on_and_passes_begin_afresh() -> None:
    """Steps run through the epochs; a pass leaves the rest of a started one."""
    me = Device(FakePort(0), job())
    assert me.batches(2) == (Batch(0, 0, 8), Batch(0, 8, 8))
    assert me.batches(2) == (Batch(0, 16, 4), Batch(1, 0, 8))
    assert me.batches() == (Batch(2, 0, 8), Batch(2, 8, 8), Batch(2, 16, 4))
    assert me.batches(None, 2)[3:] == (Batch(4, 0, 8), Batch(4, 8, 8), Batch(4, 16, 4))
    assert me.batches(1) == (Batch(5, 0, 8),)


def test_few_samples_make_one_small_batch() -> None:
    """Fewer than a batch, and exactly one."""
    assert Device(FakePort(1), job()).batches(2) == (Batch(0, 0, 5), Batch(1, 0, 5))
    assert Device(FakePort(2), job()).batches() == (Batch(0, 0, 8),)


def test_a_device_that_returns_goes_on_with_its_batches() -> None:
    """With a fresh learner."""
    port = FakePort(0)
    me = Device(port, job())
    me.batches(2)
    again = me.again(port)
    assert again.batches(1) == (Batch(0, 16, 4),)
    assert port.said() == [(1, "open", DEVICE), (1, "open", DEVICE)]


def test_a_device_has_samples() -> None:
    """Partitions see to it; a device without any would wait for ever, or divide by zero."""
    with pytest.raises(AssertionError, match="device 1 has no samples"):
        Device(FakePort(1), job((3, 0)))


@pytest.mark.parametrize("seed", [0, 1])
def test_an_order_depends_on_seed_node_and_epoch_only(seed: int) -> None:
    """Not on the batch size, the other nodes, or what was asked for before; every pass holds every sample once."""
    what = dataclasses.replace(MLP, sizes=(12, 12))
    bench = what.bench()

    def order(node: int, epoch: int, batch: int) -> list[int]:
        rows: list[int] = []
        for start in range(0, 12, batch):
            rows += bench.host.core.indices(node, Batch(epoch, start, min(batch, 12 - start))).tolist()
        return rows

    first = order(0, seed, 5)
    assert order(1, seed, 4) != first
    assert order(0, seed + 1, 12) != first
    assert order(0, seed, 12) == first == order(0, seed, 1)
    assert sorted(first) == what.shards()[0].tolist()
    bench.host.core.seed += 1
    bench.host.core._orders.clear()
    assert order(0, seed, 12) != first


# -------------------------------------------------------------------------------------------------- server


def test_the_server_opens_its_block_and_knows_the_first_weights() -> None:
    """`initial` are the device's; the block is its own."""
    port = FakePort(SERVER)
    me = Server(port, job(), 3)
    assert port.said() == [(1, "open", DEVICE), (1, "weights", "weights"), (1, "close"), (2, "open", SERVER_BLOCK)]
    assert me.initial.nbytes == PLANS[DEVICE].weights.nbytes
    assert me.mean([0], of="copies").result is not None
    me.publish(me.initial, me.block.weights())
    me.publish(me.initial)
    assert [version for version, _ in port.published] == [1, 2]


def test_a_mean_of_copies_is_one_of_the_server_block() -> None:
    """And one of devices is one of the device block."""
    port = FakePort(SERVER)
    me = Server(port, job(), 3)
    me.mean([0, 1])
    me.mean([0, 1], of="copies")
    assert [c.args[0] for c in port.commands[-2:]] == [(DEVICE,), (SERVER_BLOCK,)]


def sampled(me: Server) -> tuple[int, ...]:
    """The answer of `sample()` where it does not have to wait."""
    coroutine = me.sample()
    try:
        coroutine.send(None)
    except StopIteration as done:
        chosen: tuple[int, ...] = done.value
        return chosen
    raise AssertionError("it waits")


def test_sampling_is_without_replacement_among_those_present() -> None:
    """Sorted; the same for the same seed; everybody where fewer are there than wanted."""
    samples = np.full(50, 4)
    one, other = (Server(FakePort(SERVER), job(samples.tolist(), participants=7), 50) for _ in range(2))
    rounds = [sampled(one) for _ in range(20)]
    assert rounds == [sampled(other) for _ in range(20)]
    assert all(len(set(chosen)) == 7 and list(chosen) == sorted(chosen) for chosen in rounds)
    assert len(set(rounds)) > 15
    another = Server(FakePort(SERVER), job(samples.tolist(), participants=7, seed=2), 50)
    assert rounds != [sampled(another) for _ in range(20)], "another seed, other devices"
    away = Server(FakePort(SERVER, absent={0, 2}), job(samples.tolist(), participants=7), 9)
    assert sampled(away) == (1, 3, 4, 5, 6, 7, 8)
    few = Server(FakePort(SERVER, absent=set(range(5))), job(samples.tolist(), participants=7), 9)
    assert sampled(few) == (5, 6, 7, 8)


def test_sampling_waits_where_nobody_is_there() -> None:
    """Until somebody comes back; notices that still wait are settled first."""
    port = FakePort(SERVER, absent={0, 1, 2})
    port.waiting = [Disconnected(0), Connected(0), Disconnected(0)]
    coroutine = Server(port, job(), 3).sample()
    effect = coroutine.send(None)
    assert isinstance(effect, Recv)
    assert effect.kinds == (Connected,)
    assert not port.waiting
    port.absent = {0, 2}
    with pytest.raises(StopIteration) as done:
        coroutine.send(Connected(1))
    assert done.value.value == (1,)


def test_a_round_is_two_marks() -> None:
    """The barrier's members, and how many complete it."""
    port = FakePort(SERVER)
    me = Server(port, replace(job(), need=1), 3)
    with me.round(4, (0, 2)):
        assert port.marks == [("round.open", 4, {"nodes": [0, 2], "need": 1})]
    assert port.marks[1:] == [("round.close", 4, None)]


def test_buffers_count_as_bytes_and_not_as_parameters() -> None:
    """Running statistics and the count of batches travel, and are not trained."""
    plan = Federation(dtype="float32", cut=1).bench(split=True).plans[DEVICE]
    assert plan.trainable == 32 * 27 + 32 + 64
    assert plan.weights.nbytes == 4 * plan.trainable + 4 * 64 + 8
    bare = Federation(dtype="float32", cut=1, norm="gn").bench(split=True).plans[DEVICE]
    assert bare.weights.nbytes == 4 * bare.trainable == 4 * plan.trainable
