"""Blocks in memory: one module a block for all nodes, and instances, the weights that are put into it.

A module is a template. An instance owns flat buffers, the parameters that view them and an optimizer; binding an
instance re-points the module's slots at its tensors. So an autograd graph that outlives a work stays valid while
other nodes use the same module. Instances are pooled: a closed learner's memory serves the next one while it is warm.

Instances, their gradients and the state of their optimizers lie in the memory of the processor that computes; weights
that come in and go out lie in host memory.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

from fedsim.learning.optimizers import AdamW, Optimizer, Sgd
from fedsim.learning.plan import BlockPlan
from fedsim.payload.meta import TensorMeta
from fedsim.payload.tensors import FlatTensors, Layout

HOST: Final = torch.device("cpu")
"""Where everything lies that is not being computed with."""
LARGE: Final = 2**24
"""Bytes from which weights are handed on rather than copied: a small copy takes less time than a new instance."""

State = dict[int, tuple[Tensor, ...]]
"""Optimizer state by number of the parameter: momentum; or first and second moment, and the count of steps."""


class Stepper:
    """PyTorch's optimizers in their functional form, with the bits of `torch.optim`'s plain loop.

    A `torch.optim.Optimizer` imports the compiler when it is made (0.85 s, 75 MB) and takes 9 microseconds a step more.
    Plain SGD is a single `foreach` addition (half of the time of a small model's step). With weight decay it is fused
    (2-10 times faster than the loop); the fused kernels of momentum and AdamW round differently, so those run as
    `foreach` (AdamW 1.0-3 times as fast as the loop). The fused kernel copies what is not contiguous there and back,
    which takes 4-9 times as long as the step, so tensors that are laid out `channels_last` are given to it in the
    order of their memory.
    """

    __slots__ = ("_options", "_parameters", "_plain", "_turned", "now", "state")

    def __init__(self, options: Optimizer, parameters: list[nn.Parameter]) -> None:
        self._options = options
        self.now = options.rate(0)
        """The learning rate."""
        self._parameters = parameters
        sgd_alone = isinstance(options, Sgd) and options.momentum == 0 == options.weight_decay
        self._plain = sgd_alone and options.clip is None
        self._turned = [p.dim() == 4 and not p.is_contiguous() for p in parameters]
        self.state: State = {}

    def pace(self, round: int) -> None:
        """Take steps at the learning rate of `round` from now on."""
        self.now = self._options.rate(round)

    @torch.no_grad()
    def step(self) -> None:
        """Take a step on the gradients; a parameter without one is left alone. Drops the gradients."""
        if self._plain:
            self._add()
            return
        used = [i for i, p in enumerate(self._parameters) if p.grad is not None]
        parameters: list[Tensor] = [self._parameters[i] for i in used]
        gradients = [p.grad for p in parameters if p.grad is not None]
        if self._options.clip is not None:
            clip_grad_norm_(parameters, self._options.clip)
        match self._options:
            case Sgd():
                self._sgd(self._options, used, [*parameters], gradients)
            case AdamW():
                self._adamw(self._options, used, parameters, gradients)
        for parameter in parameters:
            parameter.grad = None

    def _add(self) -> None:
        """A step of plain SGD."""
        moved: list[Tensor] = [p for p in self._parameters if p.grad is not None]
        gradients = [p.grad for p in moved if p.grad is not None]
        torch._foreach_add_(moved, gradients, alpha=-self.now)
        for parameter in moved:
            parameter.grad = None

    def _sgd(self, options: Sgd, used: list[int], parameters: list[Tensor], gradients: list[Tensor]) -> None:
        plain = options.momentum == 0
        if plain:
            for at, i in enumerate(used):
                if self._turned[i] and parameters[at].stride() == gradients[at].stride():
                    parameters[at] = parameters[at].permute(0, 2, 3, 1)
                    gradients[at] = gradients[at].permute(0, 2, 3, 1)
        buffers = [self.state[i][0] if i in self.state else None for i in used]
        sgd(
            parameters,
            gradients,
            buffers,
            has_sparse_grad=False,
            foreach=not plain,
            fused=plain,
            weight_decay=options.weight_decay,
            momentum=options.momentum,
            lr=self.now,
            dampening=0.0,
            nesterov=False,
            maximize=False,
        )
        if not plain:
            self.state.update((i, (buffer,)) for i, buffer in zip(used, buffers, strict=True) if buffer is not None)

    def _adamw(self, options: AdamW, used: list[int], parameters: list[Tensor], gradients: list[Tensor]) -> None:
        for i, parameter in zip(used, parameters, strict=True):
            if i not in self.state:
                moments = (torch.zeros_like(parameter), torch.zeros_like(parameter))
                self.state[i] = (*moments, torch.zeros((), dtype=torch.float32))
        first, second, steps = (list(column) for column in zip(*(self.state[i] for i in used), strict=True))
        adamw(
            parameters,
            gradients,
            first,
            second,
            [],
            steps,
            foreach=True,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=self.now,
            weight_decay=options.weight_decay,
            eps=1e-8,
            maximize=False,
        )


class Instance:
    """One node's weights of a block, in memory of their own, ready to be bound.

    Large ones in host memory are lent out without a copy; whoever is about to change the weights takes fresh memory
    first (`own`).

    Args:
        flats: the memory, with arbitrary contents or the values to look at.
    """

    __slots__ = ("_gaps", "flats", "graphs", "lent", "optimizer", "parameters", "tensors")

    def __init__(self, flats: FlatTensors, parameters: int, optimizer: Optimizer) -> None:
        self.flats = flats
        self.lent = False
        # `.data` gives each tensor a version counter of its own, as separate tensors have: else a module that
        # changes one of its buffers in a forward would make every graph on the same flat buffer invalid.
        views = [view.data for view in self.flats.views()]
        self.parameters = [nn.Parameter(view) for view in views[:parameters]]
        self.tensors: list[Tensor] = [*self.parameters, *views[parameters:]]
        self.optimizer = Stepper(optimizer, self.parameters)
        named, gaps = zip(flats.layout.slots, self.parameters, strict=False), flats.layout.gaps
        self._gaps = [(p, gaps[slot.name].to(p.device)) for slot, p in named if slot.name in gaps]
        self.graphs = 0  # autograd graphs that still need these very values

    def load(self, source: FlatTensors) -> None:
        """Overwrite the weights; the optimizer's state is cleared.

        Raises:
            AssertionError: an autograd graph still needs the old values.
        """
        assert not self.graphs, "weights overwritten between a forward and its backward"
        self.forget_gradients()  # those of a step that did not come
        if self.lent:
            self._move(self.flats.layout.empty())
        self.flats.copy_(source)
        self.optimizer.state = {}

    def lend(self) -> FlatTensors:
        """The weights as they are now, in host memory that nobody writes to any more."""
        if self.graphs or self.flats.nbytes < LARGE or self.flats.away:
            return self.flats.clone()
        self.lent = True
        return self.flats

    def own(self) -> None:
        """Make sure that the weights can be changed; gradients and the optimizer's state stay."""
        if self.lent:
            self._move(self.flats.clone())

    def _move(self, flats: FlatTensors) -> None:
        self.flats, self.lent = flats, False
        for tensor, view in zip(self.tensors, flats.views(), strict=True):
            tensor.data = view.data

    def pace(self, round: int) -> None:
        """Take steps at the learning rate of `round` from now on."""
        self.optimizer.pace(round)

    def frozen(self) -> tuple[FlatTensors, State, float, list[Tensor | None], bool]:
        """All that training goes on from but graphs: weights, the optimizer's state and rate, and gradients so far.

        In host memory.
        """
        gradients = [None if p.grad is None else p.grad.to(HOST) for p in self.parameters]
        return self.flats.on(HOST), state_on(HOST, self.optimizer.state), self.optimizer.now, gradients, self.lent

    def thaw(self, state: State, rate: float, gradients: list[Tensor | None], lent: bool) -> None:
        """Go on from there; the weights are those that it was made with."""
        self.lent = lent
        self.optimizer.now = rate
        self.resume(state)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = None if gradient is None else gradient.to(parameter.device)

    def resume(self, state: State) -> None:
        """Go on with an optimizer's state, wherever it lies."""
        if self.parameters:
            self.optimizer.state = state_on(self.parameters[0].device, state)

    def forget_gradients(self) -> None:
        """Drop the gradients that have been added up."""
        for parameter in self.parameters:
            parameter.grad = None

    def step(self) -> None:
        """An optimizer step on the gradients, which are dropped. What masks leave out stays zero.

        Raises:
            AssertionError: an autograd graph still needs the old values, or somebody else does.
        """
        assert not self.graphs, "optimizer step between a forward and its backward"
        assert not self.lent, "optimizer step on weights that somebody else has"
        for parameter, gaps in self._gaps:
            if parameter.grad is not None:
                parameter.grad.masked_fill_(gaps, 0)
        self.optimizer.step()
        if self._gaps:
            with torch.no_grad():
                for parameter, gaps in self._gaps:  # momentum would bring what is gone back to life
                    parameter.masked_fill_(gaps, 0)


class Block:
    """A block's module with its initial weights, and the pool of its instances.

    Args:
        plan: what it is.
        module: the template; it is bound to an instance whenever it computes.
        processor: where its instances lie.
    """

    def __init__(self, plan: BlockPlan, module: nn.Module, processor: torch.device = HOST) -> None:
        self.plan = plan
        self.module = module
        self.processor = processor
        named = dict((*module.named_parameters(), *module.named_buffers()))
        order = [shape.name for shape in plan.weights.shapes]
        self._parameters = sum(1 for _ in module.parameters())
        assert named.keys() == set(order), "the module is not the one that the plan was made from"
        assert {name for name, _ in module.named_parameters()} == set(order[: self._parameters])
        self.layout = layout_of(plan, plan.weights)
        self._slots = _slots(module, {id(named[name]): index for index, name in enumerate(order)})
        _place_constants(module, processor)
        self.initial = self.layout.zeros()
        with torch.no_grad():
            self.initial.fill_({name: tensor.detach() for name, tensor in named.items()})
            self.initial.mask_()
        self._bound: Instance | None = None
        self._pool: list[Instance] = []

    def acquire(self) -> Instance:
        """An instance with arbitrary contents: the one released last, or a new one."""
        return self._pool.pop() if self._pool else self.instance(self.layout.zeros())

    def showing(self, weights: FlatTensors) -> Instance:
        """An instance with these values that nobody will change; on the very same memory, where that is large."""
        if weights.nbytes >= LARGE and self.processor == HOST:
            instance = self.instance(weights)
            instance.lent = True
        else:
            instance = self.acquire()
            instance.load(weights)
        return instance

    def instance(self, flats: FlatTensors) -> Instance:
        """An instance on this very memory, or on a copy where the processor has memory of its own."""
        return Instance(flats.on(self.processor), self._parameters, self.plan.training.optimizer)

    def release(self, instance: Instance) -> None:
        """Give an instance back; one whose memory somebody else has is gone.

        Raises:
            AssertionError: an autograd graph still needs its values.
        """
        assert not instance.graphs, "weights released between a forward and its backward"
        if not instance.lent:
            self._pool.append(instance)
        elif self._bound is instance:
            self.bind(self.instance(self.initial))  # or the module would keep that memory alive

    def bind(self, instance: Instance) -> nn.Module:
        """The module, computing with this instance's tensors."""
        if self._bound is not instance:
            tensors = instance.tensors
            for holder, name, index in self._slots:
                holder[name] = tensors[index]
            self._bound = instance
        return self.module


def state_on(processor: torch.device, state: State) -> State:
    """An optimizer's state with its moments in a processor's memory; counts of steps stay in host memory."""
    return {n: (*(moment.to(processor) for moment in kept[:2]), *kept[2:]) for n, kept in state.items()}


def layout_of(plan: BlockPlan, meta: TensorMeta) -> Layout:
    """How weights of a plan, or a part of them, lie in memory."""
    masks = {
        shape.name: torch.from_numpy(plan.support.masks[shape.name]) for shape in meta.shapes if shape.kept is not None
    }
    return Layout(meta.shapes, channels_last=plan.training.channels_last, masks=masks)


def _place_constants(module: nn.Module, processor: torch.device) -> None:
    """Move the tensors that modules have as attributes, or tuples of them, such as a table of positions."""
    for part in module.modules():
        for name, value in vars(part).items():
            if isinstance(value, Tensor):
                setattr(part, name, value.to(processor))
            elif isinstance(value, tuple) and value and all(isinstance(each, Tensor) for each in value):
                setattr(part, name, tuple(each.to(processor) for each in value))


def _slots(module: nn.Module, index_of: dict[int, int]) -> list[tuple[dict[str, Any], str, int]]:
    """Every place of a module that holds a tensor: the dict, the key, the tensor's index.

    A tensor that is used in several places has several. Assigning in a module's own dicts skips the checks of
    `__setattr__`.
    """
    found: list[tuple[dict[str, Any], str, int]] = []
    for holder in module.modules():
        for tensors in (holder._parameters, holder._buffers):
            found += [(tensors, name, index_of[id(t)]) for name, t in tensors.items() if t is not None]
    return found
