"""Large weights are handed on rather than copied, which nobody can notice but by the memory that it saves."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from fedsim.learning import blocks, measuring
from fedsim.learning.learners import Batch, meta_of
from fedsim.learning.optimizers import AdamW
from fedsim.learning.plan import MODEL
from fedsim.schedulers.catalogue import SCHEDULERS
from fedsim.script import Payload
from fedsim.testing import simulate, toy
from tests.learning.toys import MLP, Bench

STEP = (Batch(0, 0, 8),)


@pytest.fixture
def all_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every block counts as large."""
    monkeypatch.setattr(blocks, "LARGE", 0)


def place(bench: Bench, payload: Payload) -> int:
    """Where the weights behind a handle lie."""
    return bench.host.core.flat(payload).buffers[0].data_ptr()


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_system_learns_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the bit, whether weights are copied or handed on."""
    copied = simulate(toy(SCHEDULERS[name]())).weights
    monkeypatch.setattr(blocks, "LARGE", 0)
    handed = simulate(toy(SCHEDULERS[name]())).weights
    assert copied is not None
    assert handed is not None
    assert all(copied[tensor].equal(handed[tensor]) for tensor in copied)


@pytest.mark.usefixtures("all_large")
def test_weights_that_are_taken_are_not_copied() -> None:
    """The learner's own memory goes with them, and does not come back to the pool."""
    bench = MLP.bench()
    learner = bench.learner()
    bench.do(learner.train(STEP))
    trainee = bench.host.core.learners[0, learner.number]
    assert trainee.instance is not None
    mine = trainee.instance.flats.buffers[0].data_ptr()
    assert place(bench, learner.take()) == mine
    assert not bench.host.core.blocks[MODEL]._pool


@pytest.mark.usefixtures("all_large")
@pytest.mark.parametrize("optimizer", [MLP.optimizer, AdamW(lr=0.01)])
def test_steps_after_that_change_nothing_of_them(optimizer: Any) -> None:
    """The learner goes on in fresh memory, with its gradients and the state of its optimizer."""
    bench = dataclasses.replace(MLP, optimizer=optimizer).bench()
    learner = bench.learner()
    bench.do(learner.train(STEP))
    between = learner.weights()
    before = {name: tensor.clone() for name, tensor in bench.host.core.flat(between).named().items()}
    bench.do(learner.train((Batch(0, 8, 8),)))
    after = learner.weights()
    assert place(bench, between) != place(bench, after)
    assert all(before[name].equal(tensor) for name, tensor in bench.host.core.flat(between).named().items())
    plain = dataclasses.replace(MLP, optimizer=optimizer).bench()
    other = plain.learner()
    plain.do(other.train((*STEP, Batch(0, 8, 8))))
    wanted = plain.host.core.flat(other.weights()).named()
    assert all(wanted[name].equal(tensor) for name, tensor in bench.host.core.flat(after).named().items())


@pytest.mark.usefixtures("all_large")
def test_between_a_forward_and_its_backward_weights_are_copied() -> None:
    """The graph needs the learner's own tensors, and the backward ends with a step on them."""
    bench = MLP.bench(split=True)
    learner = bench.learner()
    z = bench.do(learner.forward(Batch(0, 0, 8)))
    between = learner.weights()
    before = [tensor.clone() for tensor in bench.host.core.flat(between).views()]
    bench.host.core.values[z] = torch.ones(meta_of(z).shapes[0].shape)
    bench.do(learner.backward(z))
    assert all(a.equal(b) for a, b in zip(before, bench.host.core.flat(between).views(), strict=True))
    assert not all(a.equal(b) for a, b in zip(before, bench.host.core.flat(learner.weights()).views(), strict=True))


@pytest.mark.usefixtures("all_large")
def test_an_evaluation_looks_at_weights_where_they_lie() -> None:
    """Without a copy, and without keeping them alive afterwards."""
    bench = MLP.bench()
    payload = bench.learner().weights()
    quality = bench.host.evaluate((payload,), "test")
    block = bench.host.core.blocks[MODEL]
    assert not block._pool
    assert block._bound is not None
    assert block._bound.flats is block.initial
    assert quality == bench.host.evaluate((payload,), "test")


def test_evaluations_take_few_samples_at_a_time_where_outputs_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which changes nothing of the result."""
    bench = MLP.bench()
    payload = bench.learner().weights()
    whole = bench.host.evaluate((payload,), "test")
    sizes: list[int] = []
    held_out = bench.host.core.data.held_out

    def watched(split: str, first: int, last: int) -> Any:
        sizes.append(last - first)
        return held_out(split, first, last)

    monkeypatch.setattr(bench.host.core.data, "held_out", watched)
    monkeypatch.setattr(measuring, "OUTPUTS", 13)  # of four classes: three samples
    parts = bench.host.evaluate((payload,), "test")
    assert max(sizes) == 3
    assert (parts.accuracy, parts.samples) == (whole.accuracy, whole.samples)
    assert parts.loss == pytest.approx(whole.loss, rel=1e-6)
