"""Which kind of pruning suits a device: advice from its profile, by what binds. Our reconstruction.

If nothing binds, or only how much may be sent, weights become zero (unstructured). If memory binds, a part of the share
is cut out (composite), the smallest share that fits. If the time of a token binds, all of it is cut out (structured),
since zeros alone save no time. All is predicted from shapes and the profile; nothing is cut, run or timed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal

from torch import nn

from fedsim.costs import Cost, OpClass, Operator, Phase
from fedsim.errors import UserError
from fedsim.hardware import pricing
from fedsim.hardware.machines import Machine
from fedsim.payload import sparse
from fedsim.pruning.mosaic.adapters import PROJECTIONS, Block, adapter, found
from fedsim.pruning.mosaic.calibration import Windows
from fedsim.pruning.mosaic.composing import composed
from fedsim.pruning.mosaic.indexing import chosen
from fedsim.pruning.mosaic.options import Mosaic
from fedsim.pruning.mosaic.planning import plan
from fedsim.pruning.mosaic.ranking import Ranking
from fedsim.pruning.mosaic.widths import Width, whole
from fedsim.pruning.plans import Plan
from fedsim.units import human_count, human_seconds

Bound = Literal["memory", "time", "download"]
Kind = Literal["unstructured", "composite", "structured"]

SHARES: Final = tuple(n / 20 for n in range(1, 20))
"""What is tried: 5 %, 10 %, ... of the projections' parameters."""

_ALPHA: Final[Mapping[Kind, float]] = {"unstructured": 0.0, "composite": 0.5, "structured": 1.0}


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What is asked of a model on a device."""

    context: int = 512
    """Tokens whose keys and values are held when a token is generated."""
    seconds: float | None = None
    """Most that a token behind those may take; None is any time."""
    download: int | None = None
    """Most bytes that may be sent to the device; None is any number."""

    def __post_init__(self) -> None:
        if self.context < 1:
            raise ValueError(f"context {self.context} must be 1 or more")
        if self.seconds is not None and not self.seconds > 0:
            raise ValueError(f"seconds {self.seconds} must be above 0")
        if self.download is not None and self.download < 1:
            raise ValueError(f"download {self.download} must be 1 or more")


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What a model takes on a device."""

    weights: int
    """Bytes of its parameters, zeros included."""
    cache: int
    """Bytes of the keys and values of one token."""
    memory: int
    """Bytes of both at the context asked for, with one token's logits, the process and its workspace."""
    macs: int
    """Of one token behind the context, zeros included."""
    seconds: float
    """Of the same, at least: by the weights' products alone, as the profile's cost model prices them."""
    download: int
    """Bytes of its parameters when they are sent, zeros as a mask."""

    def misses(self, needs: Needs, machine: Machine) -> tuple[Bound, ...]:
        """What is asked for in vain."""
        made: list[Bound] = []
        if self.memory > machine.memory.usable:
            made.append("memory")
        if needs.seconds is not None and self.seconds > needs.seconds:
            made.append("time")
        if needs.download is not None and self.download > needs.download:
            made.append("download")
        return tuple(made)


@dataclass(frozen=True, kw_only=True)
class Advice:
    """A kind of pruning, and what comes of it."""

    binds: tuple[Bound, ...]
    """What the whole model lacks."""
    kind: Kind
    options: Mosaic
    plan: Plan
    dense: Forecast
    pruned: Forecast

    def data(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {
            "binds": list(self.binds),
            "kind": self.kind,
            "sparsity": self.options.sparsity,
            "alpha": self.options.alpha,
            "dense": asdict(self.dense),
            "pruned": asdict(self.pruned),
            "text": self.text,
        }

    @property
    def text(self) -> str:
        """The reason in a sentence, and the figures in another."""
        reason = f"what binds is {' and '.join(self.binds) or 'nothing'}"
        before, after = self.dense, self.pruned
        return (
            f"{reason}: {self.kind} pruning of {self.options.sparsity:.0%} (alpha {self.options.alpha:g}). Memory "
            f"{human_count(before.memory, 'B')} -> {human_count(after.memory, 'B')}, a token at least "
            f"{human_seconds(before.seconds)} -> {human_seconds(after.seconds)}, download "
            f"{human_count(before.download, 'B')} -> {human_count(after.download, 'B')}"
        )


def advise(
    model: nn.Module,
    ranking: Ranking,
    machine: Machine,
    needs: Needs | None = None,
    options: Mosaic | None = None,
    *,
    kind: Kind | None = None,
    windows: Windows | None = None,
) -> Advice:
    """The kind of pruning that suits a device, and the smallest share with which the model meets what is asked of it.

    With `order: unstructured-first`, shares are tried by plans of the other order, whose widths are the same; then
    zeros are set in a copy, to plan in the order asked for.

    Args:
        options: everything else; where nothing binds, its `sparsity` is the share. Its `alpha` is taken for composite
            pruning, if it is one.
        kind: overrides the advice; the share is still the smallest that does.
        windows: what zeros are set by before a cut is chosen, with `order: unstructured-first`.

    Raises:
        UserError: no share of `SHARES` does; the profile cannot price a token; see `plan`.
    """
    needs, options = needs or Needs(), options or Mosaic()
    blocks = found(adapter(options.adapter), model)
    size = _Size(model, blocks)
    dense = size.forecast(machine, needs)
    binds = dense.misses(needs, machine)
    advised = kind or _kind(binds)
    if not binds:
        told = replace(options, alpha=_alpha(advised, options))
        made = _planned(model, ranking, told, windows)
        return Advice(
            binds=(), kind=advised, options=told, plan=made, dense=dense, pruned=size.forecast(machine, needs, made)
        )
    best: tuple[float, Forecast] | None = None
    refused: UserError | None = None
    for sparsity in SHARES:
        told = replace(options, sparsity=sparsity, alpha=_alpha(advised, options))
        try:
            made = plan(model, ranking, replace(told, order="structured-first") if told.zeros_first else told)
        except UserError as error:  # a share that whole heads and channels cannot make up; others may be reached
            refused = error
            continue
        pruned = size.forecast(machine, needs, made)
        if told.zeros_first and not pruned.misses(needs, machine):
            made = _planned(model, ranking, told, windows)
            pruned = size.forecast(machine, needs, made)
        if not pruned.misses(needs, machine):
            return Advice(binds=binds, kind=advised, options=told, plan=made, dense=dense, pruned=pruned)
        best = sparsity, pruned
    if best is None and refused is not None:
        raise refused
    assert best is not None
    raise UserError(_unreachable(machine, needs, advised, *best))


def _planned(model: nn.Module, ranking: Ranking, options: Mosaic, windows: Windows | None) -> Plan:
    """The plan in the order that the options say.

    Raises:
        UserError: zeros come first, and there are no windows; see `plan`.
    """
    return plan(model, ranking, options) if windows is None else composed(model, ranking, options, windows)


def kind_of(alpha: float) -> Kind:
    """What pruning with an `alpha` is called."""
    return "unstructured" if alpha == 0 else "structured" if alpha == 1 else "composite"


def _kind(binds: Sequence[Bound]) -> Kind:
    if "time" in binds:
        return "structured"
    return "composite" if "memory" in binds else "unstructured"


def _alpha(kind: Kind, options: Mosaic) -> float:
    return options.alpha if kind == "composite" and 0 < options.alpha < 1 else _ALPHA[kind]


def _unreachable(machine: Machine, needs: Needs, kind: Kind, share: float, best: Forecast) -> str:
    """What is still lacking at the greatest share."""
    said = {
        "memory": f"needs {human_count(best.memory, 'B')} of {human_count(machine.memory.usable, 'B')}",
        "time": f"takes {human_seconds(best.seconds)} a token, of {human_seconds(needs.seconds or 0.0)}",
        "download": f"is {human_count(best.download, 'B')} to send, of {human_count(needs.download or 0, 'B')}",
    }
    lacking = " and ".join(said[bound] for bound in best.misses(needs, machine))
    return (
        f"no {kind} pruning makes the model fit {machine.id}: with {share:.0%} removed it still {lacking}; ask for "
        "less, take another kind, a smaller model, or another device"
    )


class _Size:
    """What is needed of a model's shapes."""

    def __init__(self, model: nn.Module, blocks: Sequence[Block]) -> None:
        parameters = list(model.parameters())
        self.blocks = blocks
        self.item = parameters[0].itemsize
        self.parameters = sum(parameter.numel() for parameter in parameters)
        embedding = next((part for part in model.modules() if isinstance(part, nn.Embedding)), None)
        self.vocabulary = 0 if embedding is None else embedding.num_embeddings
        self.width = blocks[0].width

    def forecast(self, machine: Machine, needs: Needs, plan: Plan | None = None) -> Forecast:
        """What the model takes as it is, or as planned.

        Raises:
            UserError: the profile cannot price a token.
        """
        widths = self._widths(plan)
        weights = (self.parameters if plan is None else plan.parameters) * self.item
        rows = sum(width.kv_heads * block.head_size for block, width in zip(self.blocks, widths, strict=True))
        cache = 2 * rows * self.item
        memory = machine.memory
        step = self._step(widths, needs.context)
        return Forecast(
            weights=weights,
            cache=cache,
            memory=round(memory.runtime + memory.workspace)
            + weights
            + cache * needs.context
            + self.vocabulary * self.item,
            macs=step.macs,
            seconds=pricing.seconds(machine, step),
            download=weights + self._saved(widths, {} if plan is None else plan.sparsity),
        )

    def _widths(self, plan: Plan | None) -> list[Width]:
        units = {} if plan is None else chosen(self.blocks, plan.kept)
        made = []
        for number, block in enumerate(self.blocks):
            width, kept = whole(block), units.get(number)
            if kept is not None:
                groups = block.kv_heads if kept.groups is None else len(kept.groups)
                heads = kept.query_heads(block)
                channels = block.channels if kept.channels is None else len(kept.channels)
                repeats = block.repeats if heads is None else len(heads) // groups
                width = Width(kv_heads=groups, repeats=repeats, channels=channels)
            made.append(width)
        return made

    def _saved(self, widths: Sequence[Width], zeros: Mapping[str, float]) -> int:
        """What masks change in the bytes that are sent."""
        change = 0
        for block, width in zip(self.blocks, widths, strict=True):
            for projection in PROJECTIONS:
                share = zeros.get(block.weight(projection))
                if share is not None:
                    elements = width.elements(block, projection)
                    kept = elements - round(share * elements)
                    change += sparse.nbytes(elements, kept, self.item) - elements * self.item
        return change

    def _step(self, widths: Sequence[Width], context: int) -> Cost:
        """The products of one token behind `context` others: every weight is read, and all keys and values."""
        made: list[Operator] = []
        for block, width in zip(self.blocks, widths, strict=True):
            for projection in PROJECTIONS:
                made.append(self._product(width.elements(block, projection), block.width))
            heads = width.kv_heads * width.repeats * block.head_size
            keys = width.kv_heads * block.head_size
            read = 2 * keys * context * self.item
            made.append(Operator(OpClass.ATTENTION, Phase.FORWARD, 2 * heads * context, read))
        if self.vocabulary:
            made.append(self._product(self.vocabulary * self.width, self.width))
        return Cost(tuple(made), 1)

    def _product(self, elements: int, width: int) -> Operator:
        """A matrix, one side of which is `width`, and a vector."""
        moved = (elements + width + elements // width) * self.item
        return Operator(OpClass.LINEAR, Phase.FORWARD, elements, moved)
