"""Codecs under every scheduler: bytes by closed form, virtual bytes as real ones, the same trace with learning off."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from fedsim.experiment.assembly import Assembly
from fedsim.learning.host import Host
from fedsim.learning.learners import meta_of
from fedsim.payload.codecs import Codecs, Half, Int8, TopK
from fedsim.payload.coding import encode
from fedsim.payload.meta import TensorMeta
from fedsim.payload.tensors import FlatTensors
from fedsim.schedulers.catalogue import SCHEDULERS
from fedsim.schedulers.fedavg import FedAvg
from fedsim.schedulers.splitfed import SplitFed
from fedsim.script import Command
from fedsim.testing import DEVICES, simulate, toy
from tests.schedulers.closed_forms import LABEL, all_batches, measured

ROUNDS = 2
MIXED = Codecs(activations=Int8(), gradients=TopK(fraction=0.25, feedback=True), weights=Half())


def coded(scheduler: Any, codecs: Codecs, **more: Any) -> Assembly:
    """The toy run behind codecs."""
    assembly = toy(scheduler, rounds=ROUNDS, **more)
    return replace(assembly, training=replace(assembly.training, codecs=codecs))


@pytest.mark.parametrize(
    ("codecs", "each", "once"),
    [(Codecs(), 4, 0), (Codecs(weights=Half()), 2, 0), (Codecs(weights=Int8()), 1, 8)],
    ids=["fp32", "fp16", "int8"],
)
def test_bytes_of_fedavg(codecs: Codecs, each: int, once: int) -> None:
    """P|w| each way, |w| by the parameter and, for int8, scale and low by the tensor."""
    assembly = coded(FedAvg(), codecs)
    found = measured(simulate(assembly, learning=False))
    shapes = assembly.blocks()["model"].parameters.shapes
    size = sum(each * shape.elements + once for shape in shapes)
    assert found.up == found.down
    assert found.up == {"weights": ROUNDS * DEVICES * size, "activations": 0, "gradients": 0, "labels": 0}


@pytest.mark.parametrize(
    ("codecs", "z", "g"),
    [
        (Codecs(), lambda n: 4 * n, lambda n: 4 * n),
        (Codecs(activations=Half(), gradients=Int8()), lambda n: 2 * n, lambda n: n + 8),
        (Codecs(activations=TopK(fraction=0.5), gradients=Half()), lambda n: 8 * round(n / 2), lambda n: 2 * n),
        (Codecs(activations=Int8(), gradients=TopK()), lambda n: n + 8, lambda n: 8 * round(n / 10)),
    ],
    ids=["fp32", "fp16-int8", "topk-fp16", "int8-topk"],
)
def test_bytes_of_splitfed(codecs: Codecs, z: Any, g: Any) -> None:
    """S(z+y) up and Sz down, by the codec of each, a message a batch; labels keep their eight bytes."""
    assembly = coded(SplitFed(), codecs)
    found = measured(simulate(assembly, learning=False))
    assert assembly.cut is not None
    (width,) = assembly.model.units[assembly.cut - 1].output
    sizes = all_batches(assembly)
    d = sum(4 * shape.elements for shape in assembly.blocks()["device"].parameters.shapes)
    up = {"activations": sum(z(width * b) for b in sizes), "gradients": 0, "labels": LABEL * sum(sizes)}
    assert found.up == {"weights": ROUNDS * DEVICES * d} | up
    down = {"activations": 0, "gradients": sum(g(width * b) for b in sizes), "labels": 0}
    assert found.down == {"weights": ROUNDS * DEVICES * d} | down


@pytest.mark.slow
@pytest.mark.parametrize("name", SCHEDULERS)
def test_timing_alone_gives_the_same_trace(name: str) -> None:
    """Bytes are known before values are, whatever the codec; and a run is the same twice, feedback included."""
    scheduler = SCHEDULERS[name]()
    one, two = (simulate(coded(scheduler, MIXED)) for _ in range(2))
    assert one.weights is not None
    assert two.weights is not None
    assert all(tensor.equal(two.weights[key]) for key, tensor in one.weights.items())
    if not getattr(scheduler, "validates", False):
        without = simulate(coded(scheduler, MIXED), learning=False)
        assert without.simulation.trace.transfers == one.simulation.trace.transfers
        assert without.simulation.trace.spans == one.simulation.trace.spans
        assert without.simulation.trace.end == one.simulation.trace.end


@pytest.mark.parametrize("codecs", [Codecs(), MIXED, Codecs(activations=TopK(), weights=Int8())], ids=str)
@pytest.mark.parametrize("name", SCHEDULERS)
def test_virtual_bytes_are_real_bytes(name: str, codecs: Codecs, monkeypatch: pytest.MonkeyPatch) -> None:
    """What every payload of a run would really be written in is as long as was charged for it."""
    written = 0
    run = Host.run

    def weighed(host: Host, command: Command) -> None:
        nonlocal written
        run(host, command)
        if command.output is not None:
            assert _length(meta_of(command.output), host.value(command.output)) == command.output.nbytes
            written += 1

    monkeypatch.setattr(Host, "run", weighed)
    simulate(coded(SCHEDULERS[name](), codecs))
    assert written


def _length(meta: TensorMeta, value: Any) -> int:
    tensors = value.views() if isinstance(value, FlatTensors) else [value]
    return sum(len(encode(s.coded(meta.codec), x)) for s, x in zip(meta.shapes, tensors, strict=True))


@pytest.mark.parametrize("scheduler", [FedAvg(), SplitFed()], ids=lambda s: type(s).__name__)
def test_codecs_relieve_links_alone(scheduler: Any) -> None:
    """The same works in less time."""
    plain, small = (simulate(coded(scheduler, codecs), learning=False).simulation.trace for codecs in (Codecs(), MIXED))
    assert sum(span[5] for span in plain.spans) == sum(span[5] for span in small.spans)
    assert small.end < plain.end
