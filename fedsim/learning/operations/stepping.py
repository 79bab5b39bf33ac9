"""Steps of training: whole ones on a node's own data, halves with the server in between, and those on activations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Final

import torch
from torch import Tensor, nn

from fedsim import seeds
from fedsim.learning.augmenting import augmented
from fedsim.learning.blocks import Instance
from fedsim.learning.core import Core, Operation, Residue
from fedsim.learning.learners import Batch, Controlled, Proximal, Pull
from fedsim.learning.operations.controlling import corrected
from fedsim.models.decoding import generate
from fedsim.script import Payload


def _train(core: Core, node: int, learner: int, batches: Sequence[Batch], pull: Pull | None = None) -> None:
    trainee, instance, module = core.ready(node, learner)
    with core.noise(node, learner, trainee):
        for x, y in core.batches(node, batches):
            core.differentiate(trainee, module, x, y)
            if pull is not None:
                _bend(core, node, instance, pull)
            instance.step()


@torch.no_grad()
def _bend(core: Core, node: int, instance: Instance, pull: Pull) -> None:
    """Change the gradients of a step by its pull; a parameter without one is left alone."""
    match pull:
        case Proximal(anchor, mu):
            for parameter, start in zip(instance.parameters, core.flat(anchor).views(), strict=False):
                if parameter.grad is not None:
                    parameter.grad.add_(parameter - core.here(start), alpha=mu)
        case Controlled(control):
            corrected(core, node, instance.parameters, control)


def _local_step(core: Core, node: int, learner: int, batch: Batch) -> Tensor:
    trainee, instance, module = core.ready(node, learner)
    x, y = core.samples(node, batch)
    with core.noise(node, learner, trainee):
        loss, z = core.loss(trainee, module, x, y)
    loss.backward()
    instance.step()
    return core.arranged(z)


def _infer(core: Core, node: int, learner: int, batch: Batch, mode: str, augment: int | None) -> Tensor:
    trainee, _, module = core.ready(node, learner)
    x, _ = core.data.train(core.indices(node, batch))
    if augment is not None:
        x = augmented(x, seeds.generator(core.seed, node, f"augment {augment} {batch.epoch} {batch.start}", 0))
    trunk = core.trunk(trainee, module)
    trunk.train(mode == "train")
    kept = _unchanged(trunk) if mode == "train" else nullcontext()
    with kept, torch.no_grad(), core.noise(node, learner, trainee):
        z: Tensor = trunk(core.here(x))
    trunk.train()
    return core.arranged(z)


def _answer(core: Core, node: int, learner: int, batch: Batch, tokens: int) -> None:
    trainee, _, module = core.ready(node, learner)
    x, _ = core.samples(node, batch)
    trunk = core.trunk(trainee, module)
    trunk.eval()
    try:
        if tokens:
            assert isinstance(trunk, nn.Sequential)
            generate(trunk, x[:, : x.shape[1] - tokens], tokens)
        else:
            with torch.no_grad():
                trunk(x)
    finally:
        trunk.train()


def _labels(core: Core, node: int, _learner: int, batch: Batch) -> Tensor:
    return core.data.labels(core.indices(node, batch))


def _forward(core: Core, node: int, learner: int, batch: Batch, tag: int) -> Tensor:
    trainee, instance, module = core.ready(node, learner)
    assert tag not in trainee.residues, f"residue {tag} was never consumed by a backward"
    x, _ = core.samples(node, batch)
    with core.noise(node, learner, trainee):
        z: Tensor = module(x)
    trainee.residues[tag] = Residue(z, batch, trainee.works)
    instance.graphs += 1
    return core.arranged(z)


def forward_again(core: Core, node: int, learner: int) -> None:
    """Make the autograd graphs of a learner anew, from the same weights, samples and random numbers."""
    trainee, instance, module = core.ready(node, learner)
    with _unchanged(module):
        for tag, residue in trainee.residues.items():
            x, _ = core.samples(node, residue.batch)
            with core.noise_again(node, learner, trainee, residue.work):
                trainee.residues[tag] = replace(residue, out=module(x))
            instance.graphs += 1


@contextmanager
def _unchanged(module: nn.Module) -> Iterator[None]:
    """Buffers as they were before a look."""
    before = [buffer.clone() for buffer in module.buffers()]
    yield
    with torch.no_grad():
        for buffer, value in zip(module.buffers(), before, strict=True):
            buffer.copy_(value)


def _backward(core: Core, node: int, learner: int, gradient: Payload, tag: int, step: bool) -> None:
    trainee = core.learners[node, learner]
    instance = trainee.instance
    assert instance is not None and tag in trainee.residues, f"backward {tag} without its forward"
    torch.autograd.backward(trainee.residues.pop(tag).out, core.here(core.tensor(gradient)))
    instance.graphs -= 1
    if step:
        instance.step()


def _abandon(core: Core, node: int, learner: int) -> None:
    trainee = core.learners[node, learner]
    trainee.residues.clear()
    if trainee.instance is not None:
        trainee.instance.graphs = 0
        trainee.instance.forget_gradients()


def _train_step(core: Core, node: int, learner: int, activations: Payload, labels: Payload) -> Tensor:
    return _accumulate(core, node, learner, activations, labels, 1.0, step=True)


def _accumulate(
    core: Core, node: int, learner: int, activations: Payload, labels: Payload, scale: float, step: bool
) -> Tensor:
    trainee, instance, module = core.ready(node, learner)
    z = core.here(core.tensor(activations)).detach().requires_grad_()
    with core.noise(node, learner, trainee):
        loss = core.loss(trainee, module, z, core.here(core.tensor(labels)))[0]
        (loss if scale == 1.0 else loss * scale).backward()
    if step:
        instance.step()
    assert z.grad is not None
    return core.arranged(z.grad)


def _step(core: Core, node: int, learner: int, activations: Payload, labels: Payload) -> None:
    step_on(core, node, learner, core.tensor(activations), core.tensor(labels))


def step_on(core: Core, node: int, learner: int, z: Tensor, y: Tensor) -> None:
    """A step of a server block on activations whose gradient nobody wants."""
    trainee, instance, module = core.ready(node, learner)
    with core.noise(node, learner, trainee):
        core.loss(trainee, module, core.here(z), core.here(y))[0].backward()
    instance.step()


METHODS: Final[Mapping[str, Operation]] = {
    "train": _train,
    "local_step": _local_step,
    "infer": _infer,
    "answer": _answer,
    "labels": _labels,
    "forward": _forward,
    "backward": _backward,
    "abandon": _abandon,
    "train_step": _train_step,
    "accumulate": _accumulate,
    "step": _step,
}
