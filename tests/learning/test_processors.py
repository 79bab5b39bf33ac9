"""Work on a processor with memory of its own: the same trace, and the same weights where its kernels round alike."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils import deterministic

import fedsim
from fedsim.data import Shards, from_arrays
from fedsim.errors import UserError
from fedsim.experiment.building import build as build_study
from fedsim.experiment.loading import load_scenario
from fedsim.experiment.registry import registry
from fedsim.learning.blocks import HOST
from fedsim.learning.host import Host
from fedsim.learning.learners import Batch, Learner, Node
from fedsim.learning.optimizers import AdamW, Sgd, Training
from fedsim.learning.plan import DEVICE, MODEL, SERVER_BLOCK, plans
from fedsim.learning.processors import computing
from fedsim.learning.samples import TensorSamples
from fedsim.models.building import build
from fedsim.models.counting import measure
from fedsim.models.options import Llama
from fedsim.models.units import UnitList
from fedsim.script import SERVER
from fedsim.testing import simulate, toy
from tests.elsewhere import elsewhere, operations
from tests.experiment.test_working import check_same, pooled, trained
from tests.experiment.toys import TOY
from tests.learning.toys import MLP, SEED, DirectPort, bits
from tests.models.networks import MODELS, batch_for, network

BATCHES = (Batch(0, 0, 8), Batch(0, 8, 8))


@pytest.fixture
def there() -> Iterator[torch.device]:
    """A processor with memory of its own."""
    with elsewhere() as processor:
        yield processor


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "more"),
    [
        *((name, {}) for name in sorted(registry().schedulers)),
        ("fedavg", {"pruned": True}),
        ("splitfed", {"pruned": True}),
        ("ampere", {"apart": True}),
    ],
)
def test_every_system_computes_there_as_here(name: str, more: dict[str, Any], there: torch.device) -> None:
    """The same records and the same bits, and nothing mixes tensors of both sides."""
    made = partial(toy, registry().schedulers[name](), **more)
    before = operations()["aten.addmm.default"]
    check_same(pooled(made(), 1, processor=there)[0], simulate(made()))
    assert name == "inference" or operations()["aten.addmm.default"] > before, "nothing was computed there"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["scaffold", "splitfed", "fedoptima", "pipar"])
@pytest.mark.parametrize(
    "training",
    [
        {"optimizer": Sgd(lr=0.1, momentum=0.9, weight_decay=0.01, clip=1.0), "keep_optimizer_state": True},
        {"optimizer": Sgd(lr=0.1, weight_decay=0.01), "channels_last": True},
        {"optimizer": AdamW(lr=0.01), "keep_optimizer_state": True},
    ],
    ids=["momentum kept", "fused", "adamw kept"],
)
def test_what_is_kept_of_there_lies_here(name: str, training: dict[str, Any], there: torch.device) -> None:
    """Moments and gradients go to host memory and back, whether a learner is closed or its share begins anew."""
    found = pooled(trained(name, **training), 2, reborn=True, processor=there)[0]
    check_same(found, simulate(trained(name, **training)))


@pytest.mark.parametrize("name", ["fedavg", "splitfed"])
def test_large_weights_are_not_lent_from_there(name: str, there: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes out is a copy in host memory, whatever its size."""
    monkeypatch.setattr("fedsim.learning.blocks.LARGE", 1)
    made = partial(toy, registry().schedulers[name]())
    check_same(pooled(made(), 1, processor=there)[0], simulate(made()))


def test_weights_come_in_and_go_out_in_host_memory(there: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """They compute there; what is handed on, and the state of a closed learner's optimizer, is here."""
    bench = replace(MLP, optimizer=Sgd(lr=0.1, momentum=0.9), keep=True).bench(processor=there)
    a = bench.learner()
    bench.do(a.train(BATCHES))
    trainee = bench.host.core.learners[0, a.number]
    assert trainee.instance is not None
    assert {p.device.type for p in trainee.instance.parameters} == {there.type}
    assert {t.device.type for kept in trainee.instance.optimizer.state.values() for t in kept} == {there.type}
    for large in (2**24, 1):
        monkeypatch.setattr("fedsim.learning.blocks.LARGE", large)
        assert bench.flat(a.weights()).away is False
    a.close()
    assert trainee.kept is not None
    assert {t.device.type for kept in trainee.kept.values() for t in kept} == {"cpu"}


class Noisy(nn.Module):
    """Drops half of what comes in."""

    def forward(self, x: Tensor) -> Tensor:
        """Dropout in training."""
        return nn.functional.dropout(x.flatten(1), training=self.training)


def _noisy(**_: Any) -> UnitList:
    return UnitList("noisy", [("noise", Noisy()), ("out", nn.Linear(7, 4))], input=(7,), classes=4)


def test_random_numbers_there_are_those_of_a_work(there: torch.device) -> None:
    """Drawn from a seed of its own, and the generators are left as they were."""
    federation = replace(MLP, model=_noisy, options=None)
    found = []
    for processor, others in ((there, 0), (there, 3), (HOST, 0)):
        bench = federation.bench(processor=processor)
        learner = bench.learner()
        torch.rand(others, device=processor)
        generators = (torch, torch.get_device_module(there))
        states = [each.get_rng_state() for each in generators]
        bench.do(learner.train(BATCHES))
        assert all(torch.equal(each.get_rng_state(), s) for each, s in zip(generators, states, strict=True))
        found.append(bits(bench.flat(learner.weights()).named()))
    assert found[0] == found[1] == found[2]


def _mistral() -> UnitList:
    """A language model whose tokens attend to the two before them alone."""
    options = Llama(blocks=2, width=24, heads=6, kv_heads=3, family="mistral", sliding_window=3)
    return build("llama", options, input=(10,), classes=7, kind="text", device="cpu", seed=1)


def _samples(model: UnitList) -> TensorSamples:
    x = batch_for(model, 8).numpy()
    shape = (8, *model.input) if model.tokens else (8,)
    y = np.random.default_rng(0).integers(0, model.classes, shape)
    data = from_arrays(x, y, x, y, name="made up", classes=model.classes)
    return TensorSamples(data, Shards.of(np.zeros(8, np.int64), 1))


@pytest.mark.parametrize("name", [*MODELS, pytest.param("mistral", marks=pytest.mark.slow)])
def test_every_model_computes_there_as_here(name: str, there: torch.device) -> None:
    """Steps together with the server, and held-out results; attention takes another kernel there."""
    model = _mistral() if name == "mistral" else network(name)
    training = Training(batch=4, optimizer=Sgd(lr=0.05), channels_last=False)  # else kernels choose otherwise there
    blocks = plans(measure(model), len(model) // 2, training)
    found = []
    for processor in (there, HOST):
        host = Host(model, blocks, _samples(model), SEED, processor=processor)
        device, server = (
            Learner(Node(DirectPort(node, host)), blocks[block])
            for node, block in ((0, DEVICE), (SERVER, SERVER_BLOCK))
        )

        def do(work: Any, host: Host = host) -> Any:
            host.run(work.command)
            return work.result

        for batch in (Batch(0, 0, 4), Batch(0, 4, 4)):
            gradient = do(server.train_step(do(device.forward(batch)), device.labels(batch)))
            do(device.backward(gradient))
        whole = (device.weights(), server.weights())
        found.append((host.model_tensors(whole), host.evaluate(whole, "test")))
    (weights, quality), (wanted, best) = found
    assert weights.keys() == wanted.keys()
    for key, tensor in wanted.items():  # some begin at zero, and their gradients are nothing but rounding
        torch.testing.assert_close(weights[key], tensor, rtol=1e-5, atol=1e-6, msg=key)
    assert (quality.accuracy, quality.samples) == (best.accuracy, best.samples)
    assert quality.loss == pytest.approx(best.loss, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["transformer", "llama"])
def test_text_is_generated_there(name: str, there: torch.device) -> None:
    """Token by token, what is kept of earlier ones too; nothing is left of it, so that it ends is all there is."""
    model = network(name)
    host = Host(
        model, plans(measure(model), None, Training(batch=4, optimizer=Sgd())), _samples(model), SEED, processor=there
    )
    learner = Learner(node := Node(DirectPort(0, host)), host.core.blocks[MODEL].plan)
    before = operations()["aten.argmax.default"]
    node.queue(learner.number, "answer", Batch(0, 0, 4), 3)
    assert operations()["aten.argmax.default"] - before == 3


# ------------------------------------------------------------------------------------------ CUDA


def _settings() -> tuple[Any, ...]:
    return (
        torch.backends.cuda.matmul.allow_tf32,
        torch.backends.cudnn.allow_tf32,
        torch.backends.cudnn.benchmark,
        torch.backends.cudnn.deterministic,
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        deterministic.fill_uninitialized_memory,  # type: ignore[attr-defined]
    )


def test_on_a_gpu_numbers_are_float32_and_repeat_for_the_length_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch is told so, and is as it was afterwards, also when the run has failed."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    before = _settings()
    with computing("cuda") as found:
        assert found == torch.device("cuda", 0)
        assert _settings() == (False, False, False, True, True, True, False)
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert _settings() == before
    with pytest.raises(ZeroDivisionError), computing("cuda"):
        raise ZeroDivisionError
    assert _settings() == before


def test_the_cpu_is_as_it_is() -> None:
    """No setting is touched for it."""
    before = _settings()
    with computing("cpu") as found:
        assert (found, _settings()) == (HOST, before)


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the version of torch, which may be one without CUDA, and the way out; settings stay."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    before = _settings()
    with pytest.raises(UserError, match=r"workers.processor: cuda, but torch .* finds no CUDA device here; give cpu"):
        fedsim.run(TOY, workers={"processor": "cuda"})
    assert _settings() == before


def test_a_scenario_says_what_computes(there: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same trace, curve and weights; and it is there that they were computed."""
    wanted = fedsim.run(TOY)
    monkeypatch.setattr("fedsim.learning.processors.use_processor", lambda name: there if name == "cuda" else HOST)
    before = operations()
    found = fedsim.run(TOY, workers={"processor": "cuda"})
    assert sum((operations() - before).values()) > 100
    assert found.trace.spans == wanted.trace.spans
    assert found.summary["accuracy"] == wanted.summary["accuracy"]
    assert found.weights is not None
    assert wanted.weights is not None
    assert bits(found.weights) == bits(wanted.weights)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"mode": "emulate"}, "in an emulation every node is a process"),
        ({"learning": False}, "nothing is learnt"),
    ],
)
def test_where_no_pool_computes_a_processor_changes_nothing(changes: dict[str, Any], why: str) -> None:
    """Which is said."""
    study = build_study(load_scenario({**TOY, "workers": {"processor": "cuda"}, **changes}))
    assert f"workers.processor: cuda changes nothing, since {why}" in study.warnings()


# The real one, where there is one.


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("name", sorted(registry().schedulers))
def test_every_system_computes_on_a_gpu(name: str) -> None:
    """The same trace as on the CPU, the same weights but for rounding, and the same bits twice."""
    made = partial(toy, registry().schedulers[name]())
    with computing("cuda") as gpu:
        found, again = (pooled(made(), 2, processor=gpu)[0] for _ in range(2))
    check_same(found, again)
    wanted = simulate(made())
    assert found.simulation.trace.spans == wanted.simulation.trace.spans
    for key, tensor in (wanted.weights or {}).items():
        torch.testing.assert_close((found.weights or {})[key], tensor, rtol=1e-3, atol=1e-4, msg=key)
