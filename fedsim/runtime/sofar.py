"""The figures of a run so far: bytes by direction, idle time, who is there, how good the model is.

A tally reads each record of a trace once, when it is asked, and knows neither who writes them nor why anybody looks. At
the end of a run its figures are those of the summary; before, what they were if the run ended now.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fedsim.intervals import apart
from fedsim.script import SERVER
from fedsim.trace import LOAD, PRESENCE, PURPOSES, Mark, Span, Trace, Transfer, columns

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class SoFar:
    """Figures of a run up to a moment; None where there is none yet."""

    now: int
    """Nanoseconds of the run's clock."""
    up: int = 0
    """Bytes that have arrived at the server."""
    down: int = 0
    """Bytes that have arrived elsewhere."""
    present: int = 0
    """Devices that are there."""
    devices: int = 0
    server_idle: float | None = None
    """Share of its time in which the server has not computed; a mean over its lanes."""
    devices_idle: float | None = None
    """The same of devices, of the time in which each was there; a mean over those that were."""
    version: int | None = None
    """Of the current global model; the first one has not been trained."""
    rounds: int = 0
    """Barriers that have closed."""
    accuracy: float | None = None
    loss: float | None = None
    best_accuracy: float | None = None
    best_loss: float | None = None


class Tally:
    """Figures of a run, record by record.

    Args:
        devices: how many there are.
        lanes: works that a node runs at once, where that is not one.
    """

    def __init__(self, devices: int, lanes: Mapping[int, int]) -> None:
        size = devices + 1  # the server has row 0
        self._devices = devices
        self._lanes = max(lanes.get(SERVER, 1), 1)
        self._seen = {Span: 0, Transfer: 0, Mark: 0}
        self._bytes = [0, 0]
        self._busy = np.zeros(size, np.int64)
        self._reached = np.zeros(size, np.int64)  # up to when what is busy has been counted
        self._lane_busy = 0  # of the server, all lanes
        self._active = np.zeros(size, np.int64)  # up to `_since`
        self._since = np.zeros(size, np.int64)  # -1 for one that is not there
        self._joined = np.zeros(size, np.bool_)
        self._version: int | None = None
        self._rounds = 0
        self._last: tuple[float, float] | None = None
        self._best: tuple[float | None, float | None] = None, None

    def look(self, trace: Trace, now: int, computing: Sequence[tuple[Any, ...]] = ()) -> SoFar:
        """The figures of a trace up to now; `computing` are spans that are under way, as they will be."""
        found = self._fresh(trace.transfers, Transfer, ("target", "outcome", *PURPOSES))
        arrived = found["outcome"].among("delivered")
        nbytes = sum((found[purpose][arrived] for purpose in PURPOSES), np.zeros(int(arrived.sum()), np.int64))
        self.carried(found["target"][arrived], nbytes)
        self.computed(self._fresh(trace.spans, Span, ("node", "kind", "start", "end")))
        self.marked(self._fresh(trace.marks, Mark, Mark._fields))
        return self.so_far(now, computing)

    def _fresh(self, rows: Sequence[tuple[Any, ...]], record: type[Any], names: Sequence[str]) -> dict[str, Any]:
        """The records that have not been read yet."""
        seen, self._seen[record] = self._seen[record], len(rows)
        return columns(rows, record, seen, names)

    def carried(self, target: Ints, nbytes: Ints) -> None:
        """Count messages that have arrived."""
        up = target == SERVER
        self._bytes[0] += int(nbytes[up].sum())
        self._bytes[1] += int(nbytes[~up].sum())

    def computed(self, spans: Mapping[str, Any]) -> None:
        """Count spans, by the columns of `Span`."""
        works = ~spans["kind"].among(LOAD)
        node, start, end = (spans[name][works] for name in ("node", "start", "end"))
        self._lane_busy += int((end - start)[node == SERVER].sum())
        _cover(self._busy, self._reached, node + 1, start, end)

    def marked(self, marks: Mapping[str, Any]) -> None:
        """Count marks, by the columns of `Mark`."""
        names, here = marks["name"].names, marks["name"].among("publish", "round.close", "evaluate", *PRESENCE)
        details = marks["detail"]
        for node, time, code, value, detail in zip(
            *(column[here].tolist() for column in (marks["node"], marks["time"], marks["name"].codes, marks["value"])),
            details.codes[here].tolist(),
            strict=True,
        ):
            name = names[code]
            if name == "publish":
                self._version = int(value)
            elif name == "round.close":
                self._rounds += 1
            elif name == "evaluate":
                self.measured(value, json.loads(details.names[detail])["loss"])
            else:
                self._present(node + 1, time, PRESENCE[name], joins=name == "join")

    def measured(self, accuracy: float, loss: float) -> None:
        """Count an evaluation."""
        accuracies, losses = ([best, last] for best, last in zip(self._best, (accuracy, loss), strict=True))
        self._last = accuracy, loss
        self._best = (
            max((value for value in accuracies if value is not None and math.isfinite(value)), default=None),
            min((value for value in losses if value is not None and math.isfinite(value)), default=None),
        )

    def _present(self, row: int, time: int, comes: bool, *, joins: bool) -> None:
        since = self._since[row]
        if joins and not self._joined[row]:
            self._joined[row] = True
            self._since[row] = time
        elif comes and since < 0:
            self._since[row] = time
        elif not comes and since >= 0:
            self._active[row] += time - since
            self._since[row] = -1

    def so_far(self, now: int, computing: Iterable[tuple[Any, ...]] = ()) -> SoFar:
        """The figures up to now, with what is being computed."""
        busy, lanes = self._busy, self._lane_busy
        going = [(row[0] + 1, row[3], min(row[4], now)) for row in computing if row[3] < now and row[2] != LOAD]
        if going:
            node, start, end = np.array(going, np.int64).T
            busy, reached = busy.copy(), self._reached.copy()
            _cover(busy, reached, node, start, end)
            lanes += int((end - start)[node == SERVER + 1].sum())
        there = self._since >= 0
        horizon = self._active + np.where(there, np.maximum(now - self._since, 0), 0)
        taking_part = horizon[1:] > 0
        idle = 1.0 - busy[1:][taking_part] / horizon[1:][taking_part]
        return SoFar(
            now=now,
            up=self._bytes[0],
            down=self._bytes[1],
            present=int(there[1:].sum()),
            devices=self._devices,
            server_idle=1.0 - lanes / self._lanes / int(horizon[0]) if horizon[0] else None,
            devices_idle=float(idle.mean()) if len(idle) else None,
            version=self._version,
            rounds=self._rounds,
            accuracy=self._last and self._last[0],
            loss=self._last and self._last[1],
            best_accuracy=self._best[0],
            best_loss=self._best[1],
        )


def _cover(busy: Ints, reached: Ints, node: Ints, start: Ints, end: Ints) -> None:
    """Add to each node what intervals cover beyond what was reached before, which then is their end."""
    start = np.maximum(start, reached[node])
    node, start, end = apart(node, start, np.maximum(start, end))
    np.add.at(busy, node, end - start)
    np.maximum.at(reached, node, end)
