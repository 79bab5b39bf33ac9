"""Which channels of which layers are one and the same: seen by torch-pruning's dependency graph.

The only module that knows torch-pruning (DepGraph, arXiv 2301.12900), which says what the nodes of the graph are and
what each reads. Which channels correspond is seen from the shapes that autograd recorded: torch-pruning infers them
from layers further away, wrongly where shortcuts are padded, and its groups, made from one layer at a time, leave out
what is coupled by way of another. Here units are the connected components of all pairs. An operator that does anything
but pass channels on keeps them whole; what this gets wrong all the same is found by the checks after the cut.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from fedsim.errors import UserError
from fedsim.models.building import seeded
from fedsim.models.zoo.resnet import ResidualBlock
from fedsim.pruning.watching import evaluating

Ints = NDArray[np.int64]
Side = Literal["out", "in"]


class Port(NamedTuple):
    """One end of a layer: the channels that it writes, or those that it reads. Norms and the like have `out` only."""

    layer: str
    side: Side


@dataclass(frozen=True, eq=False)
class Traced:
    """What a trace has found."""

    widths: Mapping[Port, int]
    """How many channels each port has."""
    component: Mapping[Port, Ints]
    """By port, for each channel the number of the unit that it belongs to."""
    whole: frozenset[int]
    """Units that must stay: those that reach the input, an output that is protected, or a layer of no known kind."""
    positions: Mapping[str, int]
    """By convolution or linear layer: how often a sample's forward applies its whole weight."""
    order: tuple[str, ...]
    """Layers with channels, as the forward comes to them."""
    norms: Mapping[str, str]
    """By convolution or linear layer, the norm that reads its output."""
    alone: frozenset[str]
    """Convolutions and linear layers whose output is read once."""


def trace(model: nn.Module, example: Tensor, protected: Sequence[str] = ()) -> Traced:
    """Run a model once and see which channels belong together; it stays as it is.

    Args:
        example: inputs, the batch first.
        protected: modules whose outputs must stay whole. The model's own is always.

    Raises:
        UserError: no such module, or torch-pruning cannot trace the model.
    """
    named = dict(model.named_modules())
    for name in protected:
        if name not in named:
            known = ", ".join(n for n, _ in model.named_children())
            raise UserError(f"protected: there is no module {name} in this model; its parts are {known}")
    with seeded(0), evaluating(model), torch.enable_grad():  # probes draw initial values that nobody looks at
        seen = _look(model, example)
        probed = _Probed(
            model, example, {name: seen.outputs[name] for name in ("", *protected) if name in seen.outputs}
        )
        graph = _graph(probed, example)
        probed.remove()
    return _components(model, graph, probed, seen)


# ------------------------------------------------------------------------------------------------- the runs


@dataclass
class _Seen:
    """What a plain run shows."""

    outputs: dict[str, Tensor] = field(default_factory=dict)
    """By module, the first real-valued tensor that it gave."""
    positions: dict[str, int] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    sequences: set[str] = field(default_factory=set)
    """Linear layers that were called on more than the batch and one axis of features."""


def _look(model: nn.Module, example: Tensor) -> _Seen:
    seen = _Seen()

    def hook(name: str) -> Any:
        def note(part: nn.Module, inputs: Any, output: Any) -> None:
            if not isinstance(output, Tensor) or not output.is_floating_point():
                return
            seen.outputs.setdefault(name, output)
            if name not in seen.order:
                seen.order.append(name)
            if isinstance(part, nn.Linear):
                seen.positions[name] = seen.positions.get(name, 0) + output[0].numel() // part.out_features
                if output.dim() != 2:
                    seen.sequences.add(name)
            elif isinstance(part, _ConvNd):
                swept = inputs[0][0] if isinstance(part, _ConvTransposeNd) else output[0]
                seen.positions[name] = seen.positions.get(name, 0) + swept[0].numel()

        return note

    handles = [part.register_forward_hook(hook(name)) for name, part in model.named_modules()]
    try:
        with torch.no_grad():
            model(example)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise UserError(f"the model does not take inputs of shape {tuple(example.shape)}: {error}") from error
    finally:
        for handle in handles:
            handle.remove()
    return seen


_KNOWN: Final = (_ConvNd, nn.Linear, _NormBase, nn.GroupNorm, nn.LayerNorm, nn.PReLU, nn.Embedding)


class _Probed(nn.Module):
    """A model with layers of its width in front of it and behind what is protected, for the graph to show."""

    def __init__(self, model: nn.Module, example: Tensor, outputs: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.model = model
        self.probes = nn.ModuleList()
        self._convolves = any(isinstance(part, nn.Conv1d) for part in model.modules())
        self._entry = self._probe(example) if example.is_floating_point() else None
        self._handles = []
        self.whole: set[int] = set()
        """Layers that are protected themselves, by identity: torch-pruning knows them, and would miss a probe there."""
        for name, output in outputs.items():
            if isinstance(model.get_submodule(name), _KNOWN):
                self.whole.add(id(model.get_submodule(name)))
                continue
            probe = self._probe(output)

            def through(_part: nn.Module, _inputs: Any, out: Any, probe: nn.Module = probe) -> Any:
                return probe(out) if isinstance(out, Tensor) else None

            self._handles.append(model.get_submodule(name).register_forward_hook(through))

    def _probe(self, like: Tensor) -> nn.Module:
        kinds: dict[int, Any] = {4: nn.Conv2d, 5: nn.Conv3d} | ({3: nn.Conv1d} if self._convolves else {})
        if like.dim() in kinds:
            made = kinds[like.dim()](like.shape[1], like.shape[1], 1, groups=like.shape[1])
        else:
            made = nn.Linear(like.shape[-1], like.shape[-1])
        self.probes.append(made.to(like.device, like.dtype))
        return self.probes[-1]

    def forward(self, x: Tensor) -> Any:
        """The model's output, as far as shapes go."""
        return self.model(x if self._entry is None else self._entry(x))

    def remove(self) -> None:
        """Leave the model as it was."""
        for handle in self._handles:
            handle.remove()


def _graph(probed: _Probed, example: Tensor) -> Any:
    """torch-pruning's graph, which has no types."""
    import torch_pruning

    graph = torch_pruning.DependencyGraph()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what the checks after the cut will find
            with seeded(0):
                return graph.build_dependency(probed, example, verbose=False)
    except Exception as error:
        probed.remove()
        raise UserError(f"torch-pruning cannot trace this model: {type(error).__name__}: {error}") from error


# ------------------------------------------------------------------------------------------- the components


_PERMUTING: Final = ("permute", "transpose", "roll", "flip", "index", "gather", "mm", "bmm", "softmax", "cumsum")
"""Beginnings of names of autograd's functions that move or mix channels though the shape may not tell."""


class _Links:
    """Pairs of channels that are one, and channels that must stay, of the numbered ports of the graph's nodes."""

    def __init__(self, graph: Any, *, pads: bool) -> None:
        self._graph, self._pads = graph, pads
        self.ports: dict[tuple[int, str], int] = {}
        self.starts = [0]
        """By port, the number of its first channel; at the end, how many there are."""
        self.pairs: list[Ints] = []
        self.whole: list[Ints] = []

    def port(self, node: Any, side: Side) -> Ints:
        """The numbers of the channels that a node reads or writes."""
        pruner = self._graph.get_pruner_of_module(node.module)
        if side == "in" and pruner.prune_in_channels == pruner.prune_out_channels:
            side = "out"
        key = (id(node), side)
        if key not in self.ports:
            width = pruner.get_out_channels(node.module) if side == "out" else pruner.get_in_channels(node.module)
            if width is None or _passes(node):
                shape = _shape(node.grad_fn, 0)
                width = shape[1] if len(shape) > 1 else 0
            self.ports[key] = len(self.starts) - 1
            self.starts.append(self.starts[-1] + width)
        number = self.ports[key]
        return np.arange(self.starts[number], self.starts[number + 1])

    def join(self, node: Any) -> None:
        """Pair what a node reads with what its inputs write."""
        given = [(function, place) for function, place in node.grad_fn.next_functions if function is not None]
        given = [(function, place) for function, place in given if "accumulategrad" not in function.name().lower()]
        sources = [self.port(source, "out") for source in node.inputs]
        if not _passes(node):
            for source, into in ((s, self.port(node, "in")) for s in sources):
                self._pair(source, into) if len(source) == len(into) else self.keep(source, into)
            return
        into = self.port(node, "out")
        if len(given) != len(sources):
            self.keep(into, *sources)
            return
        shapes = [_shape(*each) for each in given]
        out = _shape(node.grad_fn, 0)
        if type(node.module).__name__ == "_ConcatOp" and sum(len(source) for source in sources) == len(into):
            places = np.split(into, np.cumsum([len(source) for source in sources])[:-1])
            for source, place in zip(sources, places, strict=True):
                self._pair(source, place)
            return
        for source, shape in zip(sources, shapes, strict=True):
            self._pass(node, source, shape, into, out)

    def _pass(self, node: Any, source: Ints, shape: tuple[int, ...], into: Ints, out: tuple[int, ...]) -> None:
        name = node.grad_fn.name().lower()
        if len(shape) < 2 or len(out) < 2 or shape[0] != out[0] or len(source) != shape[1]:
            self.keep(source, into)
        elif shape[1] == out[1] and not name.startswith(_PERMUTING):
            self._pair(source, into)
        elif len(shape) > 2 and len(out) == 2 and out[1] == math.prod(shape[1:]):  # flattened
            self._pair(np.repeat(source, math.prod(shape[2:])), into)
        elif self._pads and name.startswith("constantpad") and shape[1] < out[1] and not _front(node.grad_fn):
            self._pair(source, into[: shape[1]])
        else:
            self.keep(source, into)

    def _pair(self, first: Ints, second: Ints) -> None:
        self.pairs.append(np.stack([first, second], 1))

    def keep(self, *channels: Ints) -> None:
        """These channels must stay."""
        self.whole += channels

    def labels(self) -> Ints:
        """By channel, the number of its connected component."""
        size = self.starts[-1]
        pairs = np.concatenate([np.empty((0, 2), np.int64), *self.pairs])
        matrix = coo_array((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), shape=(size, size))
        found: Ints = connected_components(matrix, directed=False)[1].astype(np.int64)
        return found


def _shape(function: Any, place: int) -> tuple[int, ...]:
    """Of the output of one of autograd's functions."""
    return tuple(int(size) for size in function._input_metadata[place].shape)


def _front(function: Any) -> bool:
    """Whether a padding puts channels in front of the others."""
    dims = len(_shape(function, 0))
    return bool(function._saved_pad[2 * (dims - 2)])


def _passes(node: Any) -> bool:
    """Whether a node is an operator, rather than a layer or a parameter."""
    return type(node.module).__name__ in _OPERATORS


_OPERATORS: Final = frozenset({"_ElementWiseOp", "_ConcatOp", "_SplitOp", "_ReshapeOp", "_SliceOp", "_UnbindOp"}) | {
    "_ExpandOp",
    "_OutputOp",
}
"""What torch-pruning calls them."""


def _components(model: nn.Module, graph: Any, probed: _Probed, seen: _Seen) -> Traced:
    pads = any(isinstance(part, ResidualBlock) for part in model.modules())
    links = _Links(graph, pads=pads)
    nodes = [node for node in graph.module2node.values() if node.inputs or not _passes(node)]  # not views of weights
    known = {id(node) for node in nodes}
    for node in nodes:
        node.inputs = [source for source in node.inputs if id(source) in known] if not _passes(node) else node.inputs
        links.join(node)
    layers = _layers(model, seen)
    widths: dict[Port, int] = {}
    channels: dict[Port, Ints] = {}
    for node in nodes:
        for side in ("out", "in"):
            numbers = links.port(node, side)
            name = layers.get(id(node.module))
            if side == "out" and id(node.module) in probed.whole:
                links.keep(numbers)
            if name is None or len(numbers) == 1:
                if not _passes(node):
                    links.keep(numbers)
            else:
                own: Side = "in" if side == "in" and (id(node), "in") in links.ports else "out"
                widths[Port(name, own)], channels[Port(name, own)] = len(numbers), numbers
    labels = links.labels()
    whole = frozenset(labels[np.concatenate([np.empty(0, np.int64), *links.whole])].tolist())
    order = tuple(name for name in seen.order if Port(name, "out") in widths)
    component = {port: labels[numbers] for port, numbers in channels.items()}
    norms, alone = _norms(nodes, layers), _alone(nodes, layers)
    return Traced(widths, component, whole, seen.positions, order, norms, alone)


def _norms(nodes: Sequence[Any], layers: Mapping[int, str]) -> dict[str, str]:
    found = {}
    for node in nodes:
        if isinstance(node.module, _NormBase | nn.GroupNorm) and id(node.module) in layers:
            for source in node.inputs:
                if isinstance(source.module, _ConvNd | nn.Linear) and id(source.module) in layers:
                    found[layers[id(source.module)]] = layers[id(node.module)]
    return found


def _alone(nodes: Sequence[Any], layers: Mapping[int, str]) -> frozenset[str]:
    made = [s.module for node in nodes for s in node.inputs if isinstance(s.module, _ConvNd | nn.Linear)]
    readers = Counter(layers[id(module)] for module in made if id(module) in layers)
    return frozenset(name for name, count in readers.items() if count == 1)


def _layers(model: nn.Module, seen: _Seen) -> dict[int, str]:
    """By identity, the names of the layers that may be cut: of known kinds, and with weights of their own."""
    names: dict[int, list[str]] = {}
    owners: dict[int, set[int]] = {}
    for name, part in model.named_modules(remove_duplicate=False):
        names.setdefault(id(part), []).append(name)
        for parameter in part.parameters(recurse=False):
            owners.setdefault(id(parameter), set()).add(id(part))
    shared = {part for parts in owners.values() if len(parts) > 1 for part in parts}
    found = {}
    for name, part in model.named_modules():
        plain = isinstance(part, _ConvNd) and (part.groups == 1 or is_depthwise(part))
        linear = isinstance(part, nn.Linear) and name not in seen.sequences
        norm = isinstance(part, _NormBase | nn.GroupNorm | nn.PReLU)
        if (plain or linear or norm) and len(names[id(part)]) == 1 and id(part) not in shared:
            found[id(part)] = name
    return found


def is_depthwise(part: nn.Module) -> bool:
    """Whether a convolution makes each output channel of the input channel of the same number."""
    return isinstance(part, _ConvNd) and part.groups == part.in_channels == part.out_channels > 1
