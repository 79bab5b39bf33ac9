"""Blocks in memory: one module a block for all nodes, and instances, the weights that are put into it.

A module is a template. An instance owns flat buffers, the parameters that view them and an optimizer; binding an
instance re-points the module's slots at its tensors. So an autograd graph that outlives a work stays valid while
other nodes use the same module. Instances are pooled: a closed learner's memory serves the next one while it is warm.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fedsim.learning.optimizers import AdamW, Optimizer, Sgd
from fedsim.learning.plan import BlockPlan
from fedsim.payload.tensors import FlatTensors, Layout


def make_optimizer(options: Optimizer, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """PyTorch's optimizer for the options, in its fused form, whose bits equal those of the plain loop."""
    match options:
        case Sgd(lr=lr, momentum=momentum, weight_decay=decay):
            return torch.optim.SGD(parameters, lr=lr, momentum=momentum, weight_decay=decay, foreach=True)
        case AdamW(lr=lr, weight_decay=decay):
            return torch.optim.AdamW(parameters, lr=lr, weight_decay=decay, foreach=True)


class Instance:
    """One node's weights of a block, in memory of their own, ready to be bound."""

    __slots__ = ("_views", "flats", "graphs", "optimizer", "parameters", "tensors")

    def __init__(self, layout: Layout, parameters: int, optimizer: Optimizer) -> None:
        self.flats = layout.empty()
        self._views = self.flats.views()
        self.parameters = [nn.Parameter(view) for view in self._views[:parameters]]
        self.tensors: list[Tensor] = [*self.parameters, *self._views[parameters:]]
        self.optimizer = make_optimizer(optimizer, self.parameters)
        self.graphs = 0  # autograd graphs that still need these very values

    def load(self, source: FlatTensors) -> None:
        """Overwrite the weights; the optimizer's state is cleared.

        Raises:
            AssertionError: an autograd graph still needs the old values.
        """
        assert not self.graphs, "weights overwritten between a forward and its backward"
        with torch.no_grad():
            self.flats.copy_(source)
        self.optimizer.state.clear()

    def step(self) -> None:
        """An optimizer step on the gradients, which are dropped."""
        self.optimizer.step()
        for parameter in self.parameters:
            parameter.grad = None

    def optimizer_state(self) -> list[dict[str, Any]]:
        """The optimizer's state, parameter by parameter, handed over rather than copied."""
        return [self.optimizer.state.pop(p, {}) for p in self.parameters]

    def restore_optimizer(self, state: list[dict[str, Any]]) -> None:
        """Put back what `optimizer_state` gave."""
        for parameter, values in zip(self.parameters, state, strict=True):
            if values:
                self.optimizer.state[parameter] = values


class Block:
    """A block's module with its initial weights, and the pool of its instances."""

    def __init__(self, plan: BlockPlan, module: nn.Module) -> None:
        self.plan = plan
        self.module = module
        named = [*module.named_parameters(), *module.named_buffers()]
        assert {name for name, _ in named} == {shape.name for shape in plan.weights.shapes}
        order = [shape.name for shape in plan.weights.shapes]
        self.layout = Layout(plan.weights.shapes, channels_last=plan.training.channels_last)
        self._parameters = sum(1 for _ in module.parameters())
        assert {n for n, _ in module.named_parameters()} == set(order[: self._parameters])
        self._slots: list[tuple[dict[str, Any], str]] = []
        for name in order:
            owner, _, leaf = name.rpartition(".")
            holder = module.get_submodule(owner)
            # A module finds its tensors in these two dicts; assigning there skips the checks of `__setattr__`.
            self._slots.append((holder._parameters if leaf in holder._parameters else holder._buffers, leaf))
        self.initial = self.layout.empty()
        with torch.no_grad():
            self.initial.fill_({name: tensor.detach() for name, tensor in named})
        self._bound: Instance | None = None
        self._pool: list[Instance] = []

    def acquire(self) -> Instance:
        """An instance with arbitrary contents: the one released last, or a new one."""
        return self._pool.pop() if self._pool else Instance(self.layout, self._parameters, self.plan.training.optimizer)

    def release(self, instance: Instance) -> None:
        """Give an instance back; nothing may refer to its values any more."""
        assert not instance.graphs, "weights released between a forward and its backward"
        self._pool.append(instance)

    def bind(self, instance: Instance) -> nn.Module:
        """The module, computing with this instance's tensors."""
        if self._bound is not instance:
            for (holder, name), tensor in zip(self._slots, instance.tensors, strict=True):
                holder[name] = tensor
            self._bound = instance
        return self.module

    @property
    def parameters(self) -> int:
        """Number of trainable tensors: the first of the layout."""
        return self._parameters
