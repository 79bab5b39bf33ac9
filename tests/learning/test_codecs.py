"""Training behind codecs: plain PyTorch loops that quantise at the same places; what is held, and what is coded."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedsim.learning.learners import Batch, Learner, Node
from fedsim.learning.pool import Pool
from fedsim.learning.sums import Changes, Combining, Mean
from fedsim.payload.codecs import Codec, Codecs, Half, Int8, TopK
from fedsim.schedulers.fedavg import FedAvg
from fedsim.schedulers.splitfed import SplitFed
from fedsim.script import SERVER, Work
from tests.learning.test_handles import FakePort
from tests.learning.test_oracles import batches, optimizer_of, weighted_mean
from tests.learning.toys import Federation, furthest

State = dict[str, Tensor]

# ------------------------------------------------------------- what codecs do, in the plainest words


def half(x: Tensor) -> Tensor:
    """There and back."""
    return x.half().to(x.dtype)


def int8(x: Tensor) -> Tensor:
    """In 256 steps."""
    low, high = x.min(), x.max()
    if low == high:
        return x
    step = (high - low) / 255
    return ((x - low) / step).round() * step + low


def largest(fraction: float) -> Callable[[Tensor], Tensor]:
    """The largest entries alone."""

    def kept(x: Tensor) -> Tensor:
        order = x.abs().flatten().sort(descending=True, stable=True).indices[: max(1, round(fraction * x.numel()))]
        made = torch.zeros_like(x).flatten()
        made[order] = x.flatten()[order]
        return made.reshape(x.shape)

    return kept


def plain(codec: Codec) -> Callable[[Tensor], Tensor]:
    """The plain form of a codec."""
    match codec:
        case Half():
            return half
        case Int8():
            return int8
        case TopK(fraction=fraction):
            return largest(fraction)
        case _:
            return lambda x: x


def coded(state: State, codec: Codec) -> State:
    """A state dictionary as it arrives."""
    return {name: (plain(codec)(v) if v.is_floating_point() else v).clone() for name, v in state.items()}


# -------------------------------------------------------------------------------------- whole runs


def plain_fedavg(what: Federation, rounds: int) -> State:
    """Federated averaging; models are coded on their way to the devices and on their way back."""
    model, data, shards = nn.Sequential(*what.network()), what.data(), what.shards()
    names = list(what.network().state_dict())
    x, y = torch.tensor(data.train.inputs, dtype=torch.float64), torch.tensor(data.train.labels)
    weights: State = {k: v.clone() for k, v in model.state_dict().items()}
    for t in range(rounds):
        members = []
        for k in range(len(what.sizes)):
            shard = shards[k]
            model.load_state_dict(coded(weights, what.codecs.weights))
            optimizer = optimizer_of(what.optimizer, model)
            for batch in batches(len(shard), what.batch, k, t):
                rows = torch.from_numpy(shard[batch])
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
                optimizer.step()
            members.append((coded(model.state_dict(), what.codecs.weights), len(shard)))
        weights = weighted_mean(members)
    return dict(zip(names, weights.values(), strict=True))


def plain_splitfed(what: Federation, rounds: int) -> State:
    """Split training of a copy a device; all that crosses the cut is coded, the server's block never."""
    units, data, shards = list(what.network()), what.data(), what.shards()
    names = list(what.network().state_dict())
    device, server = nn.Sequential(*units[: what.cut]), nn.Sequential(*units[what.cut :])
    x, y = torch.tensor(data.train.inputs, dtype=torch.float64), torch.tensor(data.train.labels)
    d: State = {n: v.clone() for n, v in device.state_dict().items()}
    s: State = {n: v.clone() for n, v in server.state_dict().items()}
    forth, back = plain(what.codecs.activations), plain(what.codecs.gradients)
    feedback = isinstance(what.codecs.gradients, TopK) and what.codecs.gradients.feedback
    owed: dict[tuple[int, torch.Size], Tensor] = {}
    for t in range(rounds):
        devices, servers = [], []
        for k in range(len(what.sizes)):
            shard = shards[k]
            device.load_state_dict(coded(d, what.codecs.weights))
            server.load_state_dict(s)
            steppers = optimizer_of(what.optimizer, device), optimizer_of(what.optimizer, server)
            for batch in batches(len(shard), what.batch, k, t):
                rows = torch.from_numpy(shard[batch])
                for stepper in steppers:
                    stepper.zero_grad()
                z = device(x[rows])
                arrived = forth(z.detach()).requires_grad_()
                nn.functional.cross_entropy(server(arrived), y[rows]).backward()
                steppers[1].step()
                assert arrived.grad is not None
                due = arrived.grad + owed.get((k, z.shape), 0) if feedback else arrived.grad
                sent = back(due)
                owed[k, z.shape] = due - sent
                z.backward(sent)
                steppers[0].step()
            devices.append((coded(device.state_dict(), what.codecs.weights), len(shard)))
            servers.append(({n: v.clone() for n, v in server.state_dict().items()}, len(shard)))
        d, s = weighted_mean(devices), weighted_mean(servers)
    return dict(zip(names, (*d.values(), *s.values()), strict=True))


WEIGHTS = [Codecs(weights=Half()), Codecs(weights=Int8())]


@pytest.mark.slow
@pytest.mark.parametrize("codecs", WEIGHTS, ids=str)
def test_fedavg_is_a_plain_loop_that_quantises(codecs: Codecs) -> None:
    """Both ways, with batch norm's buffers; the mean itself is not coded, only what leaves."""
    what = Federation(codecs=codecs)
    ours = what.run(FedAvg(), rounds=3)
    assert furthest(ours, plain_fedavg(what, 3)) < 1e-9
    assert furthest(ours, plain_fedavg(dataclasses.replace(what, codecs=Codecs()), 3)) > 1e-5
    assert all(bool((v >= 0).all()) for name, v in ours.items() if name.endswith("running_var"))


SPLIT = [
    Codecs(activations=Int8()),
    Codecs(gradients=Half()),
    Codecs(activations=TopK(fraction=0.3), gradients=TopK(fraction=0.2)),
    Codecs(gradients=TopK(fraction=0.2, feedback=True)),
    Codecs(activations=Half(), gradients=Int8(), weights=Int8()),
]


@pytest.mark.slow
@pytest.mark.parametrize("codecs", SPLIT, ids=str)
def test_splitfed_is_a_plain_loop_that_quantises(codecs: Codecs) -> None:
    """At the cut, both ways, and device blocks where weights are coded; the server block never is."""
    what = Federation(codecs=codecs)
    ours = what.run(SplitFed(), rounds=2)
    assert furthest(ours, plain_splitfed(what, 2)) < 1e-9
    assert furthest(ours, plain_splitfed(dataclasses.replace(what, codecs=Codecs()), 2)) > 1e-5


@pytest.mark.slow
def test_feedback_is_felt() -> None:
    """Runs with it and without it differ."""
    one, other = (
        Federation(codecs=Codecs(gradients=TopK(fraction=0.2, feedback=feedback))).run(SplitFed(), rounds=2)
        for feedback in (False, True)
    )
    assert furthest(one, other) > 1e-5


# ---------------------------------------------------------------------- who sees what, and who holds what


def test_a_model_is_coded_where_it_arrives_and_nowhere_else() -> None:
    """A small step of the global model survives: the server mixes what it has, not what it once sent."""
    bench = Federation(codecs=Codecs(weights=Int8()), dtype="float32").bench(split=True)
    w = bench.learner(SERVER).weights()
    start = {name: tensor.clone() for name, tensor in bench.flat(w).named().items()}
    device = bench.learner(0)
    device.load(w)
    back = device.weights()
    arrived = coded(start, Int8())
    assert furthest(bench.flat(back).named(), arrived) < 1e-6
    mixed = bench.do(Combining(bench.node(SERVER), bench.plans.values()).mix(w, back, 1e-3))
    expected = {name: v + (arrived[name] - v) * 1e-3 if v.is_floating_point() else v for name, v in start.items()}
    assert furthest(bench.flat(mixed).named(), expected) < 1e-6
    assert furthest(expected, start) > 1e-6
    assert bench.flat(w).named().keys() == start.keys()
    assert all(tensor.equal(start[name]) for name, tensor in bench.flat(w).named().items())


def test_published_models_are_looked_at_where_they_are() -> None:
    """Evaluation sees the server's model, not what devices get of it."""
    what = Federation(codecs=Codecs(weights=Int8()), dtype="float32")
    bench = what.bench()
    w = bench.learner(SERVER).weights()
    before = bench.host.evaluate([w], "test")
    bench.learner(0).load(w)  # now it has been sent
    network = what.network().state_dict()
    assert all(tensor.equal(network[name]) for name, tensor in bench.host.model_tensors([w]).items())
    assert bench.host.evaluate([w], "test") == before


def test_a_device_that_left_is_owed_nothing() -> None:
    """Error feedback ends with it."""
    bench = Federation(codecs=Codecs(activations=TopK(fraction=0.1, feedback=True))).bench(split=True)
    device, server = bench.learner(0), bench.learner(SERVER, "server")
    seen = []
    for gone in (False, False, True):
        if gone:
            bench.host.forget(0)
            device = bench.learner(0)
        z = bench.do(device.infer(Batch(0, 0, 8)))
        bench.do(server.step(z, device.labels(Batch(0, 0, 8))))
        arrived = bench.host.core.arrivals.seen(z, bench.host.value(z), SERVER)
        assert isinstance(arrived, Tensor)
        seen.append(arrived)
    assert not seen[1].equal(seen[0])
    assert seen[2].equal(seen[0])


def recorded(codecs: Codecs) -> tuple[list[int], list[tuple[int, int]], list[int]]:
    """What a made-up script holds, what its works need, and what its payloads weigh."""
    plans = Federation(codecs=codecs).bench(split=True).plans
    ports = FakePort(0), FakePort(SERVER)
    node, center = (Node(port) for port in ports)
    device, block, batch = Learner(node, plans["device"]), Learner(center, plans["server"]), Batch(0, 0, 8)
    w = Learner(center, plans["device"]).weights()
    device.load(w)
    forward = device.forward(batch)
    z, y = forward.result, device.labels(batch)
    train = block.train_step(z, y)
    backward = device.backward(train.result)
    change = device.change(w)
    pool = Pool(center, "ram")
    pool.add(0, z, y)
    mean = Mean(center, plans["device"], [0], "samples")
    mean.put(0, device.take(), 8)
    changes = Changes(center, plans["device"])
    changes.add(change, 1.0)
    works: list[Work[Any]] = [forward, train, backward, mean.result(), changes.applied(w, rate=1.0, denominator=1.0)]
    commands = [*ports[0].commands, *ports[1].commands, *(work.command for work in works)]
    payloads = [w, z, y, train.result, change, block.weights()]
    parts = [(part.memory, part.keeps) for work in works for part in work.parts]
    return [command.holds for command in commands], parts, [payload.nbytes for payload in payloads]


def test_memory_does_not_depend_on_codecs_and_messages_do() -> None:
    """Nodes hold what is decoded; the server block, which travels nowhere, and labels have no codec."""
    held, needed, sizes = recorded(Codecs())
    again, needed_again, smaller = recorded(Codecs(activations=Half(), gradients=TopK(), weights=Int8()))
    assert (held, needed) == (again, needed_again)
    assert any(held)
    w, z, y, g, change, s = sizes
    tensors = [
        shape for shape in Federation().bench(split=True).plans["device"].weights.shapes if shape.dtype != "int64"
    ]
    counters = 8 * (len(Federation().bench(split=True).plans["device"].weights.shapes) - len(tensors))
    int8_bytes = sum(shape.elements + 16 for shape in tensors) + counters
    assert w == change
    assert smaller == [int8_bytes, z // 4, y, 12 * round(g / 8 / 10), int8_bytes, s]
