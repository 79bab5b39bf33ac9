"""Time stands still on all nodes while the server looks at a model: what that takes is not part of the run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fedsim.emulation.clock import WallClock
from fedsim.wire import protocol_pb2 as pb


class Standstill:
    """Pauses of the run's clock, one at a time.

    Args:
        clock: the server's.
        tell: tells every device.
    """

    def __init__(self, clock: WallClock, tell: Callable[[pb.Down], None]) -> None:
        self._clock = clock
        self._tell = tell
        self._lock = threading.Lock()

    @contextmanager
    def __call__(self) -> Iterator[int]:
        """Within, time stands still, at the moment (ns) that this gives."""
        with self._lock:
            moment = self._clock.pause()
            self._tell(pb.Down(freeze=pb.Freeze()))
            try:
                yield moment
            finally:
                paused_for = self._clock.resume()
                self._tell(pb.Down(thaw=pb.Thaw(paused_for=paused_for)))
