"""Gradients of stacks of linear layers and ReLUs without autograd, which takes half of a small model's step.

The kernels are those that autograd runs, on the same operands, so gradients are the same to the bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

_ATEN = torch.ops.aten
_log_softmax = _ATEN._log_softmax.default
_log_softmax_backward = _ATEN._log_softmax_backward_data.default
_nll_loss = _ATEN.nll_loss_forward.default
_nll_loss_backward = _ATEN.nll_loss_backward.default
_relu_backward = _ATEN.threshold_backward.default

_MEAN, _IGNORED = 1, -100
"""PyTorch's defaults for cross entropy: the mean over a batch, and the label that does not count."""


class Stack:
    """Linear layers and ReLUs, with the mean cross entropy behind the last one.

    Args:
        flatten: what comes before them, if anything.
        layers: the modules themselves, a linear one first; their parameters may be other ones at every step.
    """

    def __init__(self, flatten: nn.Flatten | None, layers: Sequence[nn.Linear | nn.ReLU]) -> None:
        self._flatten = flatten
        self._layers = layers

    @classmethod
    def of(cls, module: nn.Module, input: Sequence[int]) -> Stack | None:
        """The stack that a module is, given the shape of a sample; None where it is something else."""
        found = list(_flat(module))
        head = found[0] if found else None
        flatten = head if type(head) is nn.Flatten else None
        rest = found if flatten is None else found[1:]
        layers = [layer for layer in rest if type(layer) is nn.Linear or type(layer) is nn.ReLU]
        if not layers or type(layers[0]) is not nn.Linear or len(layers) < len(rest):
            return None
        if len(input) != 1 and repr(flatten) != repr(nn.Flatten()):
            return None
        own = [p for layer in layers for p in layer._parameters.values() if p is not None]
        shared = len({id(p) for p in own}) < len(own)
        if shared or not all(p.requires_grad for p in own) or any(_changed(part) for part in module.modules()):
            return None
        return cls(flatten, layers)

    @torch.no_grad()
    def differentiate(self, x: Tensor, y: Tensor) -> bool:
        """Give the parameters the gradients of a batch's loss; false, and nothing done, where some have one already."""
        if any(p.grad is not None for layer in self._layers for p in layer._parameters.values() if p is not None):
            return False
        if self._flatten is not None:
            x = self._flatten(x)
        kept = []  # what has come into a linear layer, or out of a ReLU
        for layer in self._layers:
            if type(layer) is nn.Linear:
                kept.append(x)
                x = linear(x, layer.weight, layer.bias)
            else:
                x = torch.relu(x)
                kept.append(x)
        logs = _log_softmax(x, 1, False)
        loss, weight = _nll_loss(logs, y, None, _MEAN, _IGNORED)
        g = _nll_loss_backward(torch.ones_like(loss), logs, y, None, _MEAN, _IGNORED, weight)
        g = _log_softmax_backward(g, logs, 1, x.dtype)
        for at in range(len(self._layers) - 1, -1, -1):
            layer = self._layers[at]
            if type(layer) is nn.Linear:
                layer.weight.grad = g.t().mm(kept[at])
                if layer.bias is not None:
                    layer.bias.grad = g.sum(0)
                if at:  # nobody asks for that of the input
                    g = g.mm(layer.weight)
            else:
                g = _relu_backward(g, kept[at], 0)
        return True


def _flat(module: nn.Module) -> Iterator[nn.Module]:
    """The layers of nested sequences, in order; one that is used in two places comes twice."""
    if type(module).forward is not nn.Sequential.forward:
        yield module
        return
    for child in module._modules.values():
        if child is not None:
            yield from _flat(child)


def _changed(module: nn.Module) -> bool:
    """Whether it does something else than its class, or somebody looks on."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(hooks) or "forward" in vars(module)
