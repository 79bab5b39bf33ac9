"""When the server's clock demands something: the end of the run, and the moments at which its model is measured.

Where a quality ends the run, the model is measured at once, while time stands still; else after the run. Models that
wait for that are measured in between where they would take too much memory.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from fedsim.emulation.clock import WallClock
from fedsim.emulation.publications import Measure, Publications
from fedsim.emulation.standstill import Standstill
from fedsim.runtime.conditions import Ending, Limits, nanoseconds
from fedsim.runtime.published import Published

KEPT: Final = 512 * 2**20
"""Bytes of models that may wait to be measured."""


class Conductor:
    """A thread that acts at moments of the clock.

    Args:
        limits: of the run.
        clock: the scenario's time.
        standstill: lets it stand still.
        publications: the models.
        measure: measures one.
        stop: ends the run.
        kept: bytes of models that may wait to be measured.
    """

    def __init__(
        self,
        limits: Limits,
        clock: WallClock,
        standstill: Standstill,
        publications: Publications,
        measure: Measure,
        stop: Callable[[], None],
        *,
        kept: int = KEPT,
    ) -> None:
        self.ending: tuple[Ending, int] | None = None
        """Why and when the run is to end, if it was this that ended it."""
        self._limits = limits
        self._clock = clock
        self._standstill = standstill
        self._publications = publications
        self._measure = measure
        self._stop = stop
        self._kept = kept
        self._changed = threading.Condition()
        self._closed = False
        self._period = None if limits.every is None else nanoseconds(limits.every)
        self._thread = threading.Thread(target=self._run, name="conductor", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """Do nothing more; a measurement that is under way is waited for."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    def published(self) -> None:
        """A model was published, in the script's own thread: it goes on when that has been looked at."""
        if self._period is None and self._limits.reached is not None:
            published = self._publications.current
            assert published is not None
            self._look(published)
        elif self._publications.waiting > self._kept:
            with self._standstill():
                self._publications.measure(self._measure)

    def _run(self) -> None:
        tick = self._period
        horizon = None if self._limits.time is None else self._limits.horizon
        while True:
            moments = [moment for moment in (tick, horizon) if moment is not None]
            if not moments:
                return
            due = min(moments)
            with self._changed:
                while not self._closed and self._clock.now() < due:
                    self._clock.wait(self._changed, due)
                if self._closed:
                    return
            if tick == due:
                assert self._period is not None
                self._tick(due)
                tick = due + self._period
                if self.ending is not None:
                    return
            if horizon == due:
                self._end(Ending.TIME, due)
                return

    def _tick(self, moment: int) -> None:
        published = self._publications.ask(moment)
        if published is not None and self._limits.reached is not None:
            self._look(published, moment)

    def _look(self, published: Published, moment: int | None = None) -> None:
        """Measure a model now, and end the run if it is good enough."""
        assert self._limits.reached is not None
        with self._standstill() as now:
            quality = published.measured(self._measure)
            if self._limits.reached(quality):
                self._end(Ending.QUALITY, now if moment is None else moment)

    def _end(self, ending: Ending, moment: int) -> None:
        with self._changed:
            if self.ending is None:
                self.ending = ending, moment
        self._stop()
