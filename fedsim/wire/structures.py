"""Structures: what payloads have in common whose batches differ. Described once a connection, then a small number.

A structure is the meta of a payload without the first dimension of activations, gradients and labels, which a header
gives. Names and shapes of a model take kilobytes, far more than a header may. Each side of a connection keeps the
structures that it has described, or was told, under the same numbers. Knows nothing of values.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from fedsim.payload.codecs import PLAIN, Codec, Half, Int8, Plain, TopK
from fedsim.payload.meta import ITEM_BYTES, Shape, TensorMeta
from fedsim.script import Payload, Purpose
from fedsim.wire import protocol_pb2 as pb
from fedsim.wire.refusals import Bounds, WireError

L = TypeVar("L")

_BATCHED: Final = frozenset({Purpose.ACTIVATIONS, Purpose.GRADIENTS, Purpose.LABELS})
_RANK: Final = 16  # dimensions of a tensor
_ELEMENTS: Final = 1 << 48  # of a tensor, or of one of its dimensions
_DIGEST: Final = 64  # characters of a support's digest
_KEPT: Final = 64  # metas of weights whose structure is found by identity, since hashing one takes a while

_PURPOSES: Final[Mapping[Purpose, pb.Purpose]] = {
    Purpose.WEIGHTS: pb.PURPOSE_WEIGHTS,
    Purpose.ACTIVATIONS: pb.PURPOSE_ACTIVATIONS,
    Purpose.GRADIENTS: pb.PURPOSE_GRADIENTS,
    Purpose.LABELS: pb.PURPOSE_LABELS,
    Purpose.CONTROL: pb.PURPOSE_CONTROL,
}
_PURPOSE_OF: Final = {number: purpose for purpose, number in _PURPOSES.items()}
_DTYPES: Final[Mapping[str, pb.Dtype]] = {
    "float32": pb.DTYPE_FLOAT32,
    "float64": pb.DTYPE_FLOAT64,
    "float16": pb.DTYPE_FLOAT16,
    "bfloat16": pb.DTYPE_BFLOAT16,
    "int64": pb.DTYPE_INT64,
    "int32": pb.DTYPE_INT32,
    "uint8": pb.DTYPE_UINT8,
    "bool": pb.DTYPE_BOOL,
}
_DTYPE_OF: Final = {number: name for name, number in _DTYPES.items()}
assert _DTYPES.keys() == ITEM_BYTES.keys()


@dataclass(frozen=True, slots=True)
class Structure:
    """A meta; where it is `batched`, without the first dimension of its tensors."""

    purpose: Purpose
    codec: Codec
    tensors: tuple[Shape, ...]
    batched: bool
    support: str = ""

    def meta(self, batch: int) -> TensorMeta:
        """The meta of a payload of `batch` samples; of any, where it is not batched."""
        if not self.batched:
            return TensorMeta(self.purpose, self.tensors, self.codec, self.support)
        shapes = tuple(Shape(each.name, (batch, *each.shape), each.dtype) for each in self.tensors)
        return TensorMeta(self.purpose, shapes, self.codec)


def of(meta: TensorMeta) -> tuple[Structure, int]:
    """The structure of a meta, and how many samples it is of; 0 where it is not batched."""
    shapes = meta.shapes
    batch = shapes[0].shape[0] if shapes and shapes[0].shape else -1
    if meta.purpose not in _BATCHED or not all(each.shape[:1] == (batch,) for each in shapes) or not shapes:
        return Structure(meta.purpose, meta.codec, shapes, False, meta.support), 0
    rest = tuple(Shape(each.name, each.shape[1:], each.dtype) for each in shapes)
    return Structure(meta.purpose, meta.codec, rest, True), batch


# --------------------------------------------------------------------------------------------- described


def described(structure: Structure, number: int) -> pb.Structure:
    """A structure as a peer is told of it."""
    codec = structure.codec
    purpose = _PURPOSES[structure.purpose]
    made = pb.Structure(number=number, purpose=purpose, batched=structure.batched, support=structure.support)
    match codec:
        case Plain():
            made.coding = pb.CODING_PLAIN
        case Half():
            made.coding = pb.CODING_HALF
        case Int8():
            made.coding = pb.CODING_INT8
        case TopK(fraction=fraction, feedback=feedback):
            made.coding, made.fraction, made.feedback = pb.CODING_TOP_K, fraction, feedback
    for each in structure.tensors:
        made.tensors.add(name=each.name, dtype=_DTYPES[each.dtype], shape=each.shape, kept=each.kept)
    return made


def understood(told: pb.Structure) -> Structure:
    """The structure that a peer describes.

    Raises:
        WireError: there can be no such structure.
    """
    purpose = _PURPOSE_OF.get(told.purpose)
    if purpose is None:
        raise WireError(f"a structure with the purpose {told.purpose}, which is none")
    tensors = tuple(_tensor(each) for each in told.tensors)
    if len(told.support) > _DIGEST or (told.support and purpose is not Purpose.WEIGHTS):
        raise WireError(f"{purpose} of a support of {len(told.support)} characters")
    if any(each.kept is not None for each in tensors) and not told.support:
        raise WireError("tensors with a mask, but of no support")
    if told.batched and (purpose not in _BATCHED or not tensors):
        raise WireError(f"a structure of {len(tensors)} tensors of {purpose}, in batches")
    if purpose is not Purpose.WEIGHTS and len(tensors) != 1:
        raise WireError(f"{purpose} of {len(tensors)} tensors; only weights may have more or fewer than one")
    return Structure(purpose, _codec(told), tensors, told.batched, told.support)


def _codec(told: pb.Structure) -> Codec:
    match told.coding:
        case pb.CODING_PLAIN:
            return PLAIN
        case pb.CODING_HALF:
            return Half()
        case pb.CODING_INT8:
            return Int8()
        case pb.CODING_TOP_K if 0 < told.fraction <= 1:
            return TopK(fraction=told.fraction, feedback=told.feedback)
    raise WireError(f"a structure in the coding {told.coding} with the fraction {told.fraction}, which is none")


def _tensor(told: pb.Structure.Tensor) -> Shape:
    dtype, shape = _DTYPE_OF.get(told.dtype), tuple(told.shape)
    if dtype is None:
        raise WireError(f"a tensor of the dtype {told.dtype}, which is none")
    if len(shape) > _RANK or max(shape, default=0) > _ELEMENTS or math.prod(shape) > _ELEMENTS:
        raise WireError(
            f"a tensor of {len(shape)} dimensions, {shape[:_RANK]}; there are at most {_RANK}, and {_ELEMENTS} entries"
        )
    kept = told.kept if told.HasField("kept") else None
    if kept is not None and kept > math.prod(shape):
        raise WireError(f"{kept} entries kept of a tensor {shape}")
    return Shape(told.name, shape, dtype, kept)


# ------------------------------------------------------------------------------------------- two sides


class Told:
    """The sender's side: the structures that the peer knows, the last used ones."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._numbers: OrderedDict[Structure, int] = OrderedDict()
        self._found: dict[int, tuple[TensorMeta, Structure]] = {}  # by identity; it holds them, so that they keep it

    def refer(self, payload: Payload) -> tuple[list[int], pb.Structure | None]:
        """How a header refers to the structure of a payload, and its description where the peer has not had it."""
        meta = payload.meta
        assert isinstance(meta, TensorMeta), f"a payload whose meta is {type(meta).__name__} has no tensors to send"
        structure, batch = self._structure(meta)
        number = self._numbers.get(structure)
        news = None
        if number is None:
            full = len(self._numbers) >= self._capacity
            number = self._numbers.popitem(last=False)[1] if full else len(self._numbers)
            self._numbers[structure] = number
            news = described(structure, number)
        self._numbers.move_to_end(structure)
        return ([number, batch] if structure.batched else [number]), news

    def _structure(self, meta: TensorMeta) -> tuple[Structure, int]:
        if len(meta.shapes) == 1:
            return of(meta)
        found = self._found.get(id(meta))
        if found is None:
            if len(self._found) >= _KEPT:
                self._found.clear()
            found = self._found[id(meta)] = (meta, of(meta)[0])
        return found[1], 0


@dataclass(slots=True)
class _Entry(Generic[L]):
    structure: Structure
    layout: L | None
    """Of weights: where they are to lie."""
    last: tuple[int, TensorMeta] | None = None
    """The meta of the batch that came last: it is likely to be of the same size."""


@dataclass(slots=True)
class Known(Generic[L]):
    """The receiver's side: the structures that the peer has described.

    Args:
        bounds: how many there may be.
        layout_of: where weights of a meta are to lie; a `KeyError` if there are no such weights in the run.
    """

    bounds: Bounds
    layout_of: Callable[[TensorMeta], L]
    _entries: dict[int, _Entry[L]] = field(default_factory=dict)
    _tensors: int = 0

    def learn(self, told: pb.Structure) -> None:
        """Keep a structure under its number, in the place of another one that had it.

        Raises:
            WireError: it cannot be, is not of this run, or is one too many.
        """
        before = self._entries.get(told.number)
        count = self._tensors + len(told.tensors) - (0 if before is None else len(before.structure.tensors))
        if told.number >= self.bounds.structures or count > self.bounds.tensors:
            raise WireError(
                f"a structure with the number {told.number}, which makes {count} tensors; a peer may describe "
                f"{self.bounds.structures} structures and {self.bounds.tensors} tensors"
            )
        structure = understood(told)
        layout: L | None = None
        if structure.purpose is Purpose.WEIGHTS:
            try:
                layout = self.layout_of(structure.meta(0))
            except KeyError as error:
                raise WireError(f"weights of {len(structure.tensors)} tensors that no block of this run has") from error
        self._entries[told.number] = _Entry(structure, layout)
        self._tensors = count

    def metas(self, references: Iterator[int]) -> Iterator[tuple[TensorMeta, L | None]]:
        """The metas of payloads, and of weights where they are to lie, from how a header refers to them.

        Raises:
            WireError: the peer has described no such structure, or no payload is that large.
        """
        for number in references:
            entry = self._entries.get(number)
            if entry is None:
                raise WireError(f"a payload of the structure {number}, which was never described")
            batch = next(references, None) if entry.structure.batched else 0
            if batch is None:
                raise WireError("a payload that does not say how many samples it is of")
            if entry.last is None or entry.last[0] != batch:
                entry.last = (batch, self._sized(entry.structure, batch))
            yield entry.last[1], entry.layout

    def _sized(self, structure: Structure, batch: int) -> TensorMeta:
        if batch > _ELEMENTS:
            raise WireError(f"a payload of {batch} samples")
        meta = structure.meta(batch)
        if meta.nbytes > self.bounds.body or meta.memory_bytes > self.bounds.memory:
            raise WireError(
                f"a payload of {meta.nbytes} bytes, {meta.memory_bytes} in memory; messages of this run have at most "
                f"{self.bounds.body} and {self.bounds.memory}"
            )
        return meta
