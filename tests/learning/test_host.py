"""The host, told commands by hand: what is shared is never written to, and what is wrong raises."""

from __future__ import annotations

import dataclasses
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedsim.data import Shards, from_arrays
from fedsim.errors import ScriptError
from fedsim.learning.host import Host
from fedsim.learning.learners import Batch, Learner, Node
from fedsim.learning.optimizers import AdamW, Sgd
from fedsim.learning.plan import DEVICE, MODEL, SERVER_BLOCK, plans
from fedsim.learning.samples import TensorSamples
from fedsim.learning.sums import Mean
from fedsim.models.building import build
from fedsim.models.counting import measure
from fedsim.models.options import TextTransformer
from fedsim.models.units import UnitList
from fedsim.payload.meta import Shape, TensorMeta
from fedsim.script import SERVER, Purpose
from tests.learning import interleaved
from tests.learning.toys import MLP, SEED, Bench, DirectPort, Federation, bits

BATCHES = (Batch(0, 0, 8), Batch(0, 8, 8))
SPLIT = dataclasses.replace(MLP, sizes=(32, 32))


def weights(bench: Bench, learner: Any) -> dict[str, bytes]:
    """The bytes of a learner's weights."""
    return bits(bench.flat(learner.weights()).named())


def gradient(bench: Bench, plan: str, size: int, seed: int = 0) -> Any:
    """A made-up gradient of a block's activations, as a payload."""
    meta = bench.plans[plan].activations(size)
    value = torch.randn(meta.shapes[0].shape, generator=torch.Generator().manual_seed(seed))
    return bench.give(bench.node(SERVER).payload(meta), value)


# ------------------------------------------------------------------------------------------ interleaving


def test_interleaved_devices_do_not_disturb_each_other() -> None:
    """Forward A, forward B, backward A, backward B on one module give the bits of A alone and B alone."""
    together = interleaved.train([0, 1])
    assert together == interleaved.train([0]) | interleaved.train([1])
    assert together[0] != together[1]


@pytest.mark.slow
def test_two_devices_in_one_process_equal_two_in_two_processes(tmp_path: Path) -> None:
    """The same two devices, the second on a host of a process of its own: the same bits."""
    out = tmp_path / "second"
    command = [sys.executable, "-m", "tests.learning.interleaved", str(out), "1"]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[2])
    apart = interleaved.train([0]) | pickle.loads(out.read_bytes())
    assert interleaved.train([0, 1]) == apart


# -------------------------------------------------------------------------------------- copy on write


def test_training_never_changes_weights_that_others_hold() -> None:
    """A payload given to several learners, and the initial weights, stay as they were, whoever trains."""
    bench = MLP.bench()
    initial = weights(bench, bench.learner(SERVER))
    a, b = bench.learner(0), bench.learner(1)
    bench.do(a.train(BATCHES[:1]))
    shared = a.weights()
    before = bits(bench.flat(shared).named())
    b.load(shared)
    c = bench.learner(2)
    c.load(shared)
    bench.do(a.train(BATCHES))
    bench.do(b.train(BATCHES[:1]))
    assert bits(bench.flat(shared).named()) == before == weights(bench, c)
    assert weights(bench, bench.learner(SERVER)) == initial
    assert weights(bench, b) not in (before, initial)


def test_a_clone_has_the_weights_and_nothing_else_in_common() -> None:
    """Cloning a learner that has trained copies its weights; training either leaves the other alone."""
    bench = dataclasses.replace(MLP, optimizer=Sgd(lr=0.1, momentum=0.9)).bench()
    a = bench.learner()
    bench.do(a.train(BATCHES))
    b = a.clone()
    at_cloning = weights(bench, a)
    assert weights(bench, b) == at_cloning
    bench.do(a.train(BATCHES))
    assert weights(bench, b) == at_cloning
    fresh = bench.learner()
    fresh.load(b.weights())
    bench.do(fresh.train(BATCHES))
    bench.do(b.train(BATCHES))
    assert weights(bench, b) == weights(bench, fresh), "a clone starts with a fresh optimizer"


def test_weights_are_those_at_their_place_in_the_queue() -> None:
    """`weights()` before and after a work are different payloads."""
    bench = MLP.bench()
    a = bench.learner()
    before, _, after = a.weights(), bench.do(a.train(BATCHES)), a.weights()
    assert bits(bench.flat(before).named()) != bits(bench.flat(after).named())


def test_two_hosts_of_one_network_are_independent_and_leave_it_as_it_was() -> None:
    """A host has modules of its own: the network it was given keeps its tensors and their values."""
    network = MLP.network()
    tensors = dict(network.named_parameters())
    before = bits(tensors)
    bench = MLP.bench()
    first, second = (Host(network, bench.plans, MLP.samples(), SEED) for _ in range(2))
    bench.host = first
    bench.nodes.clear()
    a = bench.learner()
    bench.do(a.train(BATCHES))
    alone = weights(bench, a)
    bench.host = second
    bench.nodes.clear()
    bench.do(bench.learner().train(BATCHES[1:]))
    bench.host = first
    bench.nodes.clear()
    assert {n: id(p) for n, p in network.named_parameters()} == {n: id(p) for n, p in tensors.items()}
    assert bits(tensors) == before
    assert bits(first.model_tensors([_weights_of(bench, first)])) == bits(tensors)
    assert alone != before


def _weights_of(bench: Bench, host: Host) -> Any:
    bench.host = host
    bench.nodes.clear()
    return bench.learner(5).weights()


def test_the_published_tensors_are_copies() -> None:
    """What a run returns shares no memory with payloads."""
    bench = MLP.bench()
    payload = bench.learner().weights()
    tensors = bench.host.model_tensors([payload])
    before = bits(bench.flat(payload).named())
    for tensor in tensors.values():
        tensor.zero_()
    assert bits(bench.flat(payload).named()) == before


# ------------------------------------------------------------------------------------------- life cycle


def test_a_closed_learner_has_no_weights_until_it_is_loaded() -> None:
    """Neither the old ones nor silently the initial ones."""
    bench = MLP.bench()
    a = bench.learner()
    taken = a.take()
    for use in (a.weights, lambda: bench.do(a.train(BATCHES)), a.clone):
        with pytest.raises(AssertionError, match="learner 1 of node 0 is closed"):
            use()
    a.load(taken)
    assert weights(bench, a) == bits(bench.flat(taken).named())


def test_a_closed_learner_of_the_server_is_gone() -> None:
    """The server opens learners as it goes."""
    bench = MLP.bench()
    copy = bench.learner(SERVER)
    copy.close()
    assert not bench.host.core.learners
    with pytest.raises(AssertionError, match="learner 1 of node -1 is closed"):
        copy.weights()


def test_memory_of_a_closed_learner_serves_the_next() -> None:
    """Instances are pooled: training many devices one after the other takes the memory of one."""
    bench = dataclasses.replace(MLP, sizes=(8,) * 20).bench()
    block = bench.host.core.blocks[MODEL]
    for node in range(20):
        learner = bench.learner(node)
        bench.do(learner.train((Batch(0, 0, 8),)))
        learner.close()
        assert len(block._pool) == 1


@pytest.mark.parametrize("optimizer", [Sgd(lr=0.1, momentum=0.9), AdamW(lr=0.01)])
@pytest.mark.parametrize("keep", [False, True])
def test_pooled_memory_carries_no_optimizer_state_over(optimizer: Any, keep: bool) -> None:
    """A device that trains in memory another has used gets the bits of a device on a fresh host."""
    what = dataclasses.replace(MLP, optimizer=optimizer, keep=keep)
    bench, fresh = what.bench(), what.bench()
    for node in (0, 2):
        learner = bench.learner(node)
        bench.do(learner.train(BATCHES[:1]))
        learner.close()
    for one in (bench, fresh):
        one.do(one.learner(3).train(BATCHES[:1]))
    assert bits(_state(bench, 3)) == bits(_state(fresh, 3))


def _state(bench: Bench, node: int) -> dict[str, Tensor]:
    instance = bench.host.core.learners[node, 1].instance
    assert instance is not None
    state = [tensor for i in sorted(instance.optimizer.state) for tensor in instance.optimizer.state[i]]
    assert len(state) >= len(instance.parameters)
    return {f"s{i}": t for i, t in enumerate(state)} | {f"p{i}": t for i, t in enumerate(instance.tensors)}


def test_kept_optimizer_state_goes_through_close_and_load() -> None:
    """With `keep`, closing and loading the same weights is as if nothing had happened; without, it resets."""
    for keep in (True, False):
        what = dataclasses.replace(MLP, optimizer=AdamW(lr=0.01), keep=keep)
        bench, through = what.bench(), what.bench()
        a, b = bench.learner(), through.learner()
        bench.do(a.train(BATCHES))
        bench.do(a.train(BATCHES))
        through.do(b.train(BATCHES))
        b.load(b.take())
        other = through.learner(2)
        through.do(other.train(BATCHES[:1]))
        through.do(b.train(BATCHES))
        assert (weights(bench, a) == weights(through, b)) is keep


def test_a_device_that_leaves_takes_everything_with_it() -> None:
    """Also while an autograd graph is alive; whoever comes back starts afresh and others are not touched."""
    bench = SPLIT.bench(split=True)
    a, b = bench.learner(0), bench.learner(1)
    bench.do(a.forward(BATCHES[0]))
    bench.do(b.forward(BATCHES[0]))
    bench.host.forget(0)
    assert list(bench.host.core.learners) == [(1, 1)]
    assert not bench.host.core.blocks[DEVICE]._pool, "its memory may belong to a graph"
    del bench.nodes[0]
    again = bench.learner(0)
    assert weights(bench, again) == weights(bench, bench.learner(SERVER, DEVICE))
    bench.do(again.forward(BATCHES[0]))
    bench.do(b.backward(gradient(bench, DEVICE, 8)))
    alone = SPLIT.bench(split=True)
    c = alone.learner(1)
    alone.do(c.forward(BATCHES[0]))
    alone.do(c.backward(gradient(alone, DEVICE, 8)))
    assert weights(bench, b) == weights(alone, c)


def test_tensors_live_as_long_as_their_handle() -> None:
    """The host holds no payload that nobody can reach any more, from that moment on: nothing waits for a collector."""
    bench = SPLIT.bench(split=True)
    device, server = bench.learner(0), bench.learner(SERVER, SERVER_BLOCK)
    z = bench.do(device.forward(BATCHES[0]))
    y = device.labels(BATCHES[0])
    g = bench.do(server.train_step(z, y))
    bench.do(device.backward(g))
    total = Mean(bench.node(SERVER), bench.plans[DEVICE], [0, 1], "samples")
    first, second = device.take(), bench.learner(1).take()
    total.put(0, first, 3)
    total.put(1, second, 5)
    result = bench.do(total.result())
    assert len(bench.host.core.values) == 6
    del z, y, g, first, second
    assert list(bench.host.core.values) == [result]
    assert not bench.host.core.memory
    del result
    assert not bench.host.core.values


def test_orders_of_samples_are_kept_for_a_bounded_number_of_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing one again gives the same batches."""
    monkeypatch.setattr("fedsim.learning.core._ORDERS", 2)
    bench = MLP.bench()
    first = [bench.host.core.indices(node, Batch(0, 0, 5)).tolist() for node in range(4)]
    assert len(bench.host.core._orders) == 2
    assert [bench.host.core.indices(node, Batch(0, 0, 5)).tolist() for node in range(4)] == first
    bench.host.core.indices(0, Batch(1, 0, 5))
    assert sum(node == 0 for node in bench.host.core._orders) == 1, "one epoch a device"
    bench.host.core._orders.clear()
    for node, epoch in ((0, 0), (1, 0), (0, 1), (2, 0)):
        bench.host.core.indices(node, Batch(epoch, 0, 5))
    assert list(bench.host.core._orders) == [0, 2], "the one drawn longest ago goes"


@pytest.mark.parametrize("together", [1, 5, 9, 10, 64])
def test_batches_are_the_same_however_many_are_fetched_at_once(together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In their order, across the end of an epoch and a gap, whether they follow one another or not."""
    monkeypatch.setattr("fedsim.learning.core.TOGETHER", together)
    bench = MLP.bench()
    wanted = [Batch(0, 0, 5), Batch(0, 5, 4), Batch(0, 9, 1), Batch(1, 0, 5), Batch(1, 7, 2), Batch(0, 0, 5)]
    found = list(bench.host.core.batches(0, wanted))
    assert len(found) == len(wanted)
    for batch, (x, y) in zip(wanted, found, strict=True):
        alone = bench.host.core.data.train(bench.host.core.indices(0, batch))
        assert torch.equal(x, alone[0])
        assert torch.equal(y, alone[1])


# ----------------------------------------------------------------------------------------------- guards


def test_weights_cannot_change_between_a_forward_and_its_backward() -> None:
    """Loading, closing and stepping raise while a graph needs the weights."""
    bench = SPLIT.bench(split=True)
    a = bench.learner()
    initial = a.weights()
    bench.do(a.forward(BATCHES[0], tag=0))
    with pytest.raises(AssertionError, match=r"residue \[0\] was never consumed by a backward"):
        a.load(initial)
    with pytest.raises(AssertionError, match=r"residue \[0\] was never consumed"):
        a.close()
    with pytest.raises(AssertionError, match=r"residue 0 was never consumed"):
        bench.do(a.forward(BATCHES[1], tag=0))
    bench.do(a.forward(BATCHES[1], tag=1))
    with pytest.raises(AssertionError, match="optimizer step between a forward and its backward"):
        bench.do(a.backward(gradient(bench, DEVICE, 8), tag=0))
    with pytest.raises(AssertionError, match="backward 7 without its forward"):
        bench.do(a.backward(gradient(bench, DEVICE, 8), tag=7))
    instance = bench.host.core.learners[0, 1].instance
    assert instance is not None
    with pytest.raises(AssertionError, match="weights overwritten between a forward and its backward"):
        instance.load(bench.flat(initial))
    with pytest.raises(AssertionError, match="weights released between a forward and its backward"):
        bench.host.core.blocks[DEVICE].release(instance)


def test_a_backward_comes_after_a_forward() -> None:
    """And only once."""
    bench = SPLIT.bench(split=True)
    a = bench.learner()
    g = gradient(bench, DEVICE, 8)
    with pytest.raises(AssertionError, match="backward 0 without its forward"):
        bench.do(a.backward(g))
    bench.do(a.forward(BATCHES[0]))
    bench.do(a.backward(g))
    with pytest.raises(AssertionError, match="backward 0 without its forward"):
        bench.do(a.backward(g))


def test_weights_of_another_block_are_refused() -> None:
    """A device block's weights do not fit the server block."""
    bench = SPLIT.bench(split=True)
    device, server = bench.learner(0), bench.learner(SERVER, SERVER_BLOCK)
    with pytest.raises(ScriptError, match="was given weights of"):
        server.load(device.weights())
    with pytest.raises(AssertionError, match="weights of another block"):
        Mean(bench.node(SERVER), bench.plans[DEVICE], [0], "samples").put(0, server.weights(), 1)


def test_made_bytes_are_the_announced_bytes() -> None:
    """A command that makes something else than was charged for raises."""
    bench = SPLIT.bench(split=True)
    a = bench.learner()
    work = a.forward(BATCHES[0])
    meta = TensorMeta(Purpose.ACTIVATIONS, (Shape("z", (8, 7)),))
    wrong = dataclasses.replace(work.command, output=bench.node(0).payload(meta))
    with pytest.raises(AssertionError, match="forward made 192 bytes, but 224 bytes were announced"):
        bench.host.run(wrong)
    nothing = bench.node(0).command(bench.learner().number, "close", output=wrong.output)
    with pytest.raises(AssertionError, match="close made nothing, but 224 bytes were announced"):
        bench.host.run(nothing)


# ------------------------------------------------------------------------------------------ evaluation


def test_evaluation_changes_nothing() -> None:
    """Not weights, buffers, modes or random numbers, even between a forward and its backward."""
    what = Federation(dtype="float32", optimizer=Sgd(lr=0.05, momentum=0.9))
    results = []
    for evaluated in (False, True):
        bench = what.bench(split=True)
        device, server = bench.learner(0), bench.learner(SERVER, SERVER_BLOCK)
        model = (device.weights(), server.weights())
        random = torch.get_rng_state()
        for batch in BATCHES:
            z = bench.do(device.forward(batch))
            if evaluated:
                quality = bench.host.evaluate(model, "test")
                assert quality.samples == 16
            g = bench.do(server.train_step(z, device.labels(batch)))
            if evaluated:
                assert bench.host.evaluate(model, "test") == quality
            bench.do(device.backward(g))
        assert torch.get_rng_state().equal(random)
        assert all(m.training for block in bench.host.core.blocks.values() for m in block.module.modules())
        results.append(weights(bench, device) | weights(bench, server))
    assert results[0] == results[1]


@pytest.mark.parametrize("channels_last", [False, True])
def test_evaluation_is_that_of_the_network_in_eval_mode(channels_last: bool) -> None:
    """Accuracy and loss equal those of the plain network with the running statistics."""
    what = Federation(dtype="float32", channels_last=channels_last)
    bench = what.bench()
    a = bench.learner()
    bench.do(a.train(BATCHES))
    payload = a.weights()
    quality = bench.host.evaluate((payload,), "test")
    network = what.network()
    network.load_state_dict(bench.host.model_tensors((payload,)))
    data = what.data()
    with torch.no_grad():
        logits = network.eval()(torch.tensor(data.test.inputs))
    y = torch.tensor(data.test.labels)
    assert quality.accuracy == float((logits.argmax(1) == y).double().mean())
    assert quality.loss == pytest.approx(float(nn.functional.cross_entropy(logits, y)), rel=1e-5)


def test_every_sample_of_a_large_test_set_is_evaluated_once() -> None:
    """Batch by batch, the last one smaller; the loss is the mean over samples, not over batches."""
    what = dataclasses.replace(MLP, sizes=(600, 3))
    bench = what.bench()
    data = what.data()
    data = from_arrays(data.train.inputs, data.train.labels, data.train.inputs, data.train.labels, classes=4)
    bench.host.core.data = TensorSamples(data, what.shards())
    quality = bench.host.evaluate((bench.learner().weights(),), "test")
    with torch.no_grad():
        logits = what.network().eval()(torch.tensor(data.test.inputs))
    y = torch.tensor(data.test.labels)
    assert quality.samples == 603
    assert quality.accuracy == float((logits.argmax(1) == y).double().mean())
    assert quality.loss == pytest.approx(float(nn.functional.cross_entropy(logits, y)), rel=1e-5)


def test_text_is_evaluated_by_the_token() -> None:
    """Accuracy and loss are means over all predictions; the samples are windows."""
    options = TextTransformer(blocks=1, width=8, heads=2)
    network = build("transformer", options, input=(6,), classes=9, kind="text", device="cpu", seed=SEED)
    tokens = np.random.default_rng(0).integers(0, 9, (5, 7))
    data = from_arrays(tokens[:, :-1], tokens[:, 1:], tokens[:, :-1], tokens[:, 1:], classes=9)
    blocks = plans(measure(network), None, MLP.training())
    host = Host(network, blocks, TensorSamples(data, Shards.of(np.zeros(5, np.int64), 1)), SEED)
    payload = Learner(Node(DirectPort(SERVER, host)), blocks[MODEL]).weights()
    quality = host.evaluate((payload,), "test")
    with torch.no_grad():
        logits = network.eval()(torch.tensor(data.test.inputs)).flatten(0, 1)
    y = torch.tensor(data.test.labels).flatten()
    assert quality.samples == 5
    assert quality.accuracy == float((logits.argmax(1) == y).double().mean())
    assert quality.loss == pytest.approx(float(nn.functional.cross_entropy(logits, y)), rel=1e-5)


def test_a_broken_evaluation_leaves_the_modes_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error, or an interruption, in the middle of it does not leave batch norm in eval mode."""
    bench = Federation(dtype="float32").bench()
    payload = bench.learner().weights()

    def fail(*_: object) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(bench.host.core.data, "held_out", fail)
    with pytest.raises(KeyboardInterrupt):
        bench.host.evaluate((payload,), "test")
    assert all(m.training for m in bench.host.core.blocks[MODEL].module.modules())
    assert len(bench.host.core.blocks[MODEL]._pool) == 1


# ------------------------------------------------------------------------------- networks of one's own


def dropping(*, options: Any, input: tuple[int, ...], classes: int, norm: str) -> UnitList:
    """A network that draws random numbers when it trains."""
    units = [
        ("first", nn.Sequential(nn.Linear(7, 9), nn.ReLU(), nn.Dropout(0.5))),
        ("second", nn.Sequential(nn.Linear(9, 9), nn.Dropout(0.3))),
        ("head", nn.Linear(9, classes)),
    ]
    return UnitList("dropping", units, input=input, classes=classes)


def test_dropout_depends_on_seed_node_and_work_only() -> None:
    """Not on the global generator, which stays as it was, nor on what other nodes do on the same host."""
    what = dataclasses.replace(MLP, model=dropping)
    found = []
    for others in (0, 2):
        torch.manual_seed(others)
        random = torch.get_rng_state()
        bench = what.bench()
        learner = bench.learner(0)
        for i in range(2):
            if others:
                bench.do(bench.learner(2 + i).train(BATCHES[:1]))
            bench.do(learner.train(BATCHES))
        assert torch.get_rng_state().equal(random)
        found.append(weights(bench, learner))
    assert found[0] == found[1]
    a, b = (what.bench() for _ in range(2))
    twice, once = a.learner(), b.learner()
    a.do(twice.train(BATCHES[:1]))
    initial = a.learner(SERVER).weights()
    twice.load(initial)
    a.do(twice.train(BATCHES[:1]))
    b.do(once.train(BATCHES[:1]))
    assert weights(a, twice) != weights(b, once), "every work draws new ones"


def test_two_nodes_and_two_learners_of_a_node_draw_different_numbers() -> None:
    """From the same weights and the same activations, what is dropped differs; nobody shares a stream."""
    bench = dataclasses.replace(MLP, model=dropping, cut=1).bench(split=True)
    z = bench.do(bench.learner(0).forward(BATCHES[0]))
    y = bench.learner(0).labels(BATCHES[0])
    blocks = [bench.learner(node, SERVER_BLOCK) for node in (SERVER, SERVER, 5)]
    assert len({weights(bench, block)["second.0.weight"] for block in blocks}) == 1
    gradients = [bench.tensor(bench.do(block.train_step(z, y))) for block in blocks]
    assert not gradients[0].equal(gradients[1]), "two learners of the server"
    assert not gradients[0].equal(gradients[2]), "the first learners of two nodes"


def test_dropout_in_both_halves_of_a_cut_model_is_deterministic() -> None:
    """Forward on the device and the step on the server draw from their own streams."""
    found = []
    for global_seed in (0, 1):
        torch.manual_seed(global_seed)
        bench = dataclasses.replace(MLP, model=dropping, cut=1).bench(split=True)
        device, server = bench.learner(0), bench.learner(SERVER, SERVER_BLOCK)
        for batch in BATCHES:
            z = bench.do(device.forward(batch))
            bench.do(device.backward(bench.do(server.train_step(z, device.labels(batch)))))
        found.append(weights(bench, device) | weights(bench, server))
    assert found[0] == found[1]


class Tied(nn.Module):
    """Two layers with one matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(7, 7), nn.Linear(7, 7)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        """a, then b."""
        out: Tensor = self.b(torch.relu(self.a(x)))
        return out


def tied(*, options: Any, input: tuple[int, ...], classes: int, norm: str) -> UnitList:
    """A network with a tensor in two places of one unit."""
    return UnitList("tied", [("body", Tied()), ("head", nn.Linear(7, classes))], input=input, classes=classes)


class Drifting(nn.Module):
    """Takes off a running mean that its own forward changes in place."""

    def __init__(self) -> None:
        super().__init__()
        self.mean: Tensor
        self.register_buffer("mean", torch.zeros(9))

    def forward(self, x: Tensor) -> Tensor:
        """x - mean."""
        if self.training:
            with torch.no_grad():
                self.mean.mul_(0.9).add_(x.mean(0), alpha=0.1)
        return x - self.mean


def drifting(*, options: Any, input: tuple[int, ...], classes: int, norm: str) -> UnitList:
    """A network whose forward changes a buffer after other layers have saved tensors for their backward."""
    body = nn.Sequential(nn.Linear(9, 9), Drifting(), nn.Linear(9, 9), Drifting())
    units: list[tuple[str, nn.Module]] = [("first", nn.Linear(7, 9)), ("body", body), ("head", nn.Linear(9, 4))]
    return UnitList("drifting", units, input=input, classes=classes)


@pytest.mark.parametrize("maker", [tied, drifting])
def test_unusual_modules_train_as_they_do_alone(maker: Any) -> None:
    """Shared tensors inside a unit, and buffers that a forward changes: the bits of a plain loop."""
    what = dataclasses.replace(MLP, model=maker)
    bench = what.bench()
    noise = bench.learner(2)
    learner = bench.learner(0)
    network = what.network()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
    for batch in BATCHES:
        bench.do(noise.train(BATCHES[:1]))
        bench.do(learner.train((batch,)))
        x, y = what.samples().train(bench.host.core.indices(0, batch))
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(x), y).backward()
        optimizer.step()
    named = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    assert weights(bench, learner) == bits(named)


# ---------------------------------------------------------------------------------------------- layout


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(("shape", "cut"), [((3, 8, 8), 2), ((1, 8, 8), 1), ((3, 8, 8), 4)])
def test_activations_and_gradients_lie_in_memory_as_their_shape_says(
    channels_last: bool, shape: tuple[int, ...], cut: int
) -> None:
    """So that they look the same to kernels after a journey over a wire."""
    bench = Federation(dtype="float32", channels_last=channels_last, shape=shape, cut=cut).bench(split=True)
    device, server = bench.learner(0), bench.learner(SERVER, SERVER_BLOCK)
    z = bench.do(device.forward(BATCHES[0]))
    g = bench.do(server.train_step(z, device.labels(BATCHES[0])))
    for payload in (z, g):
        tensor = bench.tensor(payload)
        fresh = torch.empty(tensor.shape)
        if channels_last and tensor.dim() == 4:
            fresh = fresh.to(memory_format=torch.channels_last)
        assert tensor.stride() == fresh.stride()
        assert tensor.nbytes == payload.nbytes
        assert not tensor.requires_grad
        assert tensor.grad_fn is None
    bench.do(device.backward(g))
