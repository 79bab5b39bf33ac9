"""Whether a run still goes on, as its server sees it; one that does not is ended, with the text of a deadlock.

The server knows what its own script is at, devices tell what theirs are, and the transport how much it moves.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Final

from fedsim.emulation.clock import WallClock
from fedsim.emulation.driver import Driver
from fedsim.emulation.watchdog import Progress
from fedsim.runtime.coroutines import ANY
from fedsim.runtime.deadlock import Waiting
from fedsim.script import SERVER
from fedsim.wire import protocol_pb2 as pb

LOOK: Final = 1.0
"""Seconds between two looks."""


class Supervisor:
    """A thread that ends a run in which nothing happens any more.

    Args:
        dilation: wall seconds a second of the scenario.
        longest: seconds of the scenario that the longest work of any node takes.
    """

    def __init__(self, dilation: float, longest: float) -> None:
        self._dilation = dilation
        self._longest = longest
        self._progress: Progress | None = None
        self._lock = threading.Lock()
        self._at: dict[int, pb.Records] = {}
        self._closed = threading.Event()

    def watch(self, driver: Driver, clock: WallClock, moved: Callable[[], int], stuck: Callable[[str], None]) -> None:
        """Begin.

        Args:
            driver: of the server's script.
            clock: the scenario's time.
            moved: frames that have been sent or have come so far.
            stuck: told of a run that does not go on, and why that is known.
        """
        progress = self._progress = Progress(clock.now, self._dilation, self._longest)
        threading.Thread(
            target=self._run, args=(progress, driver, moved, stuck), name="supervisor", daemon=True
        ).start()

    def at(self, device: int, records: pb.Records) -> None:
        """What a device is at has changed."""
        with self._lock:
            self._at[device] = records
        self.beat(device, records.due if records.HasField("due") else None)

    def beat(self, device: int, due: int | None = None) -> None:
        """A device has done something."""
        if self._progress is not None:
            self._progress.beat(device, due)

    def left(self, device: int) -> None:
        """A device is gone."""
        with self._lock:
            self._at.pop(device, None)
        self.beat(device)

    def close(self) -> None:
        """Look no more."""
        self._closed.set()

    def _run(self, progress: Progress, driver: Driver, moved: Callable[[], int], stuck: Callable[[str], None]) -> None:
        before: tuple[object, ...] = ()
        while not self._closed.wait(LOOK):
            now = (moved(), driver.effects, driver.due)
            if now != before:
                before = now
                progress.beat(SERVER, driver.due)
            if progress.check():
                stuck(progress.text(self._waits(driver)))
                return

    def _waits(self, driver: Driver) -> Iterator[Waiting]:
        own = driver.awaiting
        if own is not None:
            yield own
        with self._lock:
            at = sorted(self._at.items())
        for device, records in at:
            if records.awaited:
                yield Waiting(device, records.awaited, ANY, records.since, {})
