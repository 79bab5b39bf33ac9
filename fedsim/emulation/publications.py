"""The global models of a run, and when their quality is asked for: measured afterwards, so that it takes no time of it.

Only what is to be measured is kept.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple

from fedsim.runtime.published import Published
from fedsim.script import Payload, Quality

Measure = Callable[[tuple[Payload, ...]], Quality]


class Point(NamedTuple):
    """What the model was worth at a moment (ns)."""

    moment: int
    version: int
    quality: Quality


class Publications:
    """The published models.

    Args:
        each: whether every one of them is measured, at the moment of its publication.
    """

    def __init__(self, *, each: bool) -> None:
        self._each = each
        self._lock = threading.Lock()
        self._current: Published | None = None
        self._asked: list[tuple[int, Published]] = []

    @property
    def current(self) -> Published | None:
        """The last one."""
        return self._current

    def publish(self, version: int, model: tuple[Payload, ...], moment: int) -> Published:
        """A new global model is there."""
        with self._lock:
            self._current = published = Published(version, model)
            if self._each:
                self._asked.append((moment, published))
            return published

    def ask(self, moment: int) -> Published | None:
        """The model's quality at this moment is wanted; answers with the model, if there is one."""
        with self._lock:
            if self._current is not None:
                self._asked.append((moment, self._current))
            return self._current

    @property
    def waiting(self) -> int:
        """Bytes of models that wait to be measured, those of the current one aside."""
        with self._lock:
            models = {id(one): one for _, one in self._asked if one.quality is None and one is not self._current}
        return sum(payload.nbytes for one in models.values() for payload in one.model)

    def measure(self, measure: Measure) -> None:
        """Measure what waits, and let go of it."""
        with self._lock:
            asked = list(self._asked)
        for _, published in asked:
            published.measured(measure)
            if published is not self._current:
                published.model = ()

    def points(self, measure: Measure, end: int) -> list[Point]:
        """All that was asked for up to the end, and the last model's quality."""
        self.measure(measure)
        found = [Point(moment, one.version, one.measured(measure)) for moment, one in self._asked if moment <= end]
        if self._current is not None and (not self._asked or self._asked[-1][1] is not self._current):
            found.append(Point(end, self._current.version, self._current.measured(measure)))
        return found
