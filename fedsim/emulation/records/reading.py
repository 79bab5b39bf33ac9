"""The figures of an emulation while it goes on, from the notes that have come to its server so far.

Devices send theirs every second, so the figures are behind by as much. Bytes count where the receiver has noted them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from fedsim.emulation.records.collecting import Collection
from fedsim.emulation.records.recording import CAME, Notes
from fedsim.runtime.sofar import SoFar, Tally
from fedsim.script import Quality
from fedsim.trace import Mark, Span, columns

_TARGET, _BYTES = 2, slice(5, 10)  # where they stand in a row of `came`


class Reading:
    """Reads each note once.

    Args:
        devices: how many there are.
        lanes: works that a node runs at once, where that is not one.
    """

    def __init__(self, devices: int, lanes: Mapping[int, int]) -> None:
        self._tally = Tally(devices, lanes)
        self._own = {"span": 0, "mark": 0, CAME: 0}
        self._collected = 0

    def measured(self, quality: Quality) -> None:
        """A model has been measured."""
        self._tally.measured(quality.accuracy, quality.loss)

    def look(self, notes: Notes, collection: Collection, now: int) -> SoFar:
        """The figures of what the server has noted itself, and of what devices have."""
        own = {"span": notes.trace.spans, "mark": notes.trace.marks, CAME: notes.arrivals}
        for kind, tape in own.items():
            rows = tape[self._own[kind] :]
            self._own[kind] += len(rows)
            self._read(kind, rows)
        collected = collection.after(self._collected)
        self._collected += len(collected)
        for kind in own:
            self._read(kind, [tuple(row[1:]) for row in collected if row[0] == kind])
        return self._tally.so_far(now)

    def _read(self, kind: str, rows: Sequence[tuple[Any, ...]]) -> None:
        if kind == "span":
            self._tally.computed(columns(rows, Span))
        elif kind == "mark":
            self._tally.marked(columns(rows, Mark))
        else:
            self._tally.carried(_whole(row[_TARGET] for row in rows), _whole(sum(row[_BYTES]) for row in rows))


def _whole(numbers: Iterable[int]) -> Any:
    return np.fromiter(numbers, np.int64)
