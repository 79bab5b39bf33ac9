"""Steps by the gradient of a head that stays as it is, and fits of such heads to the server block (FSL-SAGE).

Nair et al., arXiv 2505.23182. Gradients are taken a sample each, so that they do not depend on how many samples a batch
has: a mean loss times its samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from fedsim import seeds
from fedsim.learning.aligning import Fitting
from fedsim.learning.blocks import HOST, Stepper
from fedsim.learning.core import Core, Operation
from fedsim.learning.learners import Batch
from fedsim.learning.operations.holding import overwritten, part_of
from fedsim.models import building
from fedsim.payload.tensors import FlatTensors
from fedsim.script import Payload

_ALIGNMENT: Final = "alignment"


def _estimated_step(core: Core, node: int, learner: int, batch: Batch) -> Tensor:
    trainee, instance, _ = core.ready(node, learner)
    local = core.local[trainee.block.plan.name]
    x, y = core.samples(node, batch)
    before = [buffer.clone() for buffer in local.head.buffers()]
    with core.noise(node, learner, trainee):
        z: Tensor = local.trunk(x)
        at = z.detach().requires_grad_()
        estimate = torch.autograd.grad(local.head.loss(at, y, local.trunk), at)
    with torch.no_grad():
        for buffer, value in zip(local.head.buffers(), before, strict=True):
            buffer.copy_(value)  # nothing of the head changes, running statistics neither
    torch.autograd.backward(z, estimate)
    instance.step()
    return core.arranged(z)


@torch.no_grad()
def _adopt(core: Core, node: int, learner: int, head: Payload) -> None:
    trainee, value = core.learners[node, learner], core.flat(head)
    assert value.layout is core.layout(trainee.block.plan.name, "head"), "no head of this block"
    if trainee.instance is None:
        trainee.source = overwritten(core.weights(node, learner), value)
        return
    trainee.instance.own()
    mine = trainee.instance.flats.named()
    for name, tensor in value.named().items():
        mine[name].copy_(tensor)


@dataclass(slots=True)
class _Stored:
    """A device's last activations and labels, and its head as it was fitted last."""

    z: Tensor
    y: Tensor
    head: FlatTensors | None = None


@dataclass(slots=True)
class _Alignment:
    keep: int
    devices: dict[int, _Stored] = field(default_factory=dict)


def _open(core: Core, node: int, number: int, keep: int) -> None:
    core.memory[_ALIGNMENT, node, number] = _Alignment(keep)


def _add(core: Core, node: int, number: int, device: int, activations: Payload, labels: Payload) -> None:
    alignment: _Alignment = core.memory[_ALIGNMENT, node, number]
    z, y, keep = core.tensor(activations), core.tensor(labels), alignment.keep
    stored = alignment.devices.get(device)
    if stored is None:
        alignment.devices[device] = _Stored(z[-keep:], y[-keep:])
    else:
        stored.z, stored.y = torch.cat([stored.z, z])[-keep:], torch.cat([stored.y, y])[-keep:]


def _fit(
    core: Core, node: int, number: int, device: int, weights: Payload, learner: int, how: Fitting, count: int, name: str
) -> FlatTensors:
    alignment: _Alignment = core.memory[_ALIGNMENT, node, number]
    stored = alignment.devices[device]
    true = _true_gradients(core, node, learner, stored)
    block, local = core.blocks[name], core.local[name]
    rng = seeds.generator(core.seed, node, f"alignment {device}", count)
    given = core.flat(weights)
    own = core.layout(name, "block")
    start = overwritten(block.initial, given if given.layout is own else core.fitting(own).fitted(given))
    instance = block.acquire()
    instance.load(start if stored.head is None else overwritten(start, stored.head))
    block.bind(instance)
    parameters = list(local.head.body.parameters())
    adam = Stepper(how.adam, parameters)
    rows = len(stored.z)
    noise = seeds.derive(core.seed, node, f"noise of alignment {device}", count)
    draws = building.seeded(noise, core.processor) if block.plan.draws else nullcontext()
    with draws, sdpa_kernel(SDPBackend.MATH):  # fused attention cannot be differentiated twice
        for _ in range(how.epochs):
            order = torch.from_numpy(rng.permutation(rows)) if rows > how.batch else torch.arange(rows)
            for some in order.split(how.batch):
                z = core.here(stored.z[some]).requires_grad_()
                loss = local.head.loss(z, core.here(stored.y[some]), local.trunk) * len(some)
                estimate = torch.autograd.grad(loss, z, create_graph=True)[0]
                error = (estimate - core.here(true[some])).square().sum() / len(some)
                gradients = torch.autograd.grad(error, parameters, allow_unused=True)
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    parameter.grad = gradient
                adam.step()
    stored.head = part_of(instance.flats.clone(), core.layout(name, "head"))
    block.release(instance)
    return stored.head


def _true_gradients(core: Core, node: int, learner: int, stored: _Stored) -> Tensor:
    """The server block's at all that is stored, batch by batch as in training; it stays as it is."""
    trainee, instance, module = core.ready(node, learner)
    before = [buffer.clone() for buffer in module.buffers()]
    found = []
    size = trainee.block.plan.training.batch
    with core.noise(node, learner, trainee):
        for some, y in zip(stored.z.split(size), stored.y.split(size), strict=True):
            z = core.here(some).detach().requires_grad_()
            loss = core.loss(trainee, module, z, core.here(y))[0] * len(z)
            found.append(torch.autograd.grad(loss, [z, *instance.parameters], allow_unused=True)[0].to(HOST))
    with torch.no_grad():
        for buffer, value in zip(module.buffers(), before, strict=True):
            buffer.copy_(value)
    return torch.cat(found)


METHODS: Final[Mapping[str, Operation]] = {
    "estimated_step": _estimated_step,
    "adopt": _adopt,
    "align.open": _open,
    "align.add": _add,
    "align.fit": _fit,
}
