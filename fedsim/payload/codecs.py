"""Codecs of the link: what a tensor weighs in each of them. No torch here; `coding` does it to values.

A codec acts on what crosses a link. A node's own models, sums and activations stay as they are, and so does what a
node keeps of what has come: memory is counted in decoded bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from fedsim.script import Purpose

INDEX_BYTES: Final = 4
"""Bytes of the position of an entry: int32."""


@dataclass(frozen=True, slots=True)
class Plain:
    """Values as they lie in memory."""

    def nbytes(self, elements: int, item: int) -> int:
        """Bytes of a tensor of `elements` values of `item` bytes."""
        return elements * item


@dataclass(frozen=True, slots=True)
class Half:
    """IEEE half precision: values beyond ±65,504 become infinite, below 3e-8 they vanish."""

    def nbytes(self, elements: int, item: int) -> int:
        """Two bytes a value."""
        return 2 * elements


@dataclass(frozen=True, slots=True)
class Int8:
    """Affine quantisation between a tensor's least and greatest value: low + scale·q, q in 0-255.

    With a `low` that the tensor has itself, values of either sign are covered, a tensor of one value is exact, so are
    the zeros behind a ReLU, and what was not negative, such as a running variance, does not become so.
    """

    def nbytes(self, elements: int, item: int) -> int:
        """A byte a value, and low and scale once a tensor, in its own precision, float32 at least."""
        return elements + 2 * max(item, 4)


@dataclass(frozen=True, slots=True, kw_only=True)
class TopK:
    """The entries of largest magnitude of a tensor, the rest as zeros; equal ones by their position, first ones first.

    10 % is the least that trains well between the halves of a model (Rudakov et al. 2024, arXiv 2401.07788); models
    that were trained behind it do worse when they are tested without, as the same authors find.

    With `feedback`, what was not sent of a tensor is added to the next one of the same shape to the same receiver. It
    is made for gradients of weights, which sum up over messages (Stich et al. 2018, arXiv 1809.07599). Gradients at
    activations are of other samples each time: it may be tried, but was not found to help much. What is owed of
    activations would grow without end, and drown those that are sent.
    """

    fraction: float = 0.1
    feedback: bool = False

    def __post_init__(self) -> None:
        assert 0 < self.fraction <= 1, f"fraction {self.fraction}"

    def kept(self, elements: int) -> int:
        """How many entries of `elements` are sent; at least one, if there is any."""
        return min(elements, max(1, round(self.fraction * elements)))

    def nbytes(self, elements: int, item: int) -> int:
        """Value and position of each entry that is sent."""
        return self.kept(elements) * (item + INDEX_BYTES)


Codec = Plain | Half | Int8 | TopK

PLAIN: Final = Plain()


@dataclass(frozen=True, slots=True, kw_only=True)
class Codecs:
    """The codec of each purpose. Labels and control travel as they are, and so do whole numbers among weights."""

    activations: Codec = PLAIN
    gradients: Codec = PLAIN
    weights: Plain | Half | Int8 = PLAIN

    def of(self, purpose: Purpose) -> Codec:
        """The codec of a purpose."""
        match purpose:
            case Purpose.ACTIVATIONS:
                return self.activations
            case Purpose.GRADIENTS:
                return self.gradients
            case Purpose.WEIGHTS:
                return self.weights
            case Purpose.LABELS | Purpose.CONTROL:
                return PLAIN
