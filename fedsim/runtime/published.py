"""A global model and its quality, and what a trace says of that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from fedsim.script import Payload, Quality

Q = TypeVar("Q", Quality, Quality | None)


@dataclass(slots=True, eq=False)
class Published:
    """A global model and, once measured, its quality."""

    version: int
    model: tuple[Payload, ...]
    quality: Quality | None = None

    def measured(self, measure: Callable[[tuple[Payload, ...]], Q]) -> Q | Quality:
        """Its quality, asked for once; None as long as nothing is learnt."""
        if self.quality is not None:
            return self.quality
        found = measure(self.model)
        self.quality = found
        return found


def told(quality: Quality, version: int, trained: int) -> dict[str, Any]:
    """The detail of a mark `evaluate`; `trained` is the number of samples that devices had trained by then."""
    detail: dict[str, Any] = {
        "loss": quality.loss,
        "samples": quality.samples,
        "version": version,
        "trained": trained,
    }
    if quality.variants:
        detail["variants"] = [{"accuracy": each.accuracy, "loss": each.loss} for each in quality.variants]
    return detail
