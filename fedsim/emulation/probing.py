"""What the server's clock says, asked over the connection: at the beginning, and every half a minute from then on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from fedsim.emulation.alignment import PROBES, Alignment
from fedsim.wire import protocol_pb2 as pb

EVERY: Final = 30.0
"""Seconds between two looks at the server's clock."""

ANSWERING: Final = 5.0
"""Seconds that the answers of one look may take."""


class Prober:
    """Looks at the server's clock.

    Args:
        tell: sends a notice to the server.
        closing: set when nothing is asked any more.
    """

    def __init__(self, tell: Callable[[pb.Up], None], closing: threading.Event) -> None:
        self._tell = tell
        self._closing = closing
        self._changed = threading.Condition()  # guards the answers of one look
        self._answers: list[tuple[int, int, int, int]] = []
        self._alignment = Alignment()

    def begin(self, *, shared: bool) -> Alignment:
        """Look for the first time, unless the clock is `shared` with the server; gives what is known from now on."""
        if shared:
            return Alignment.exact()
        self._look()
        threading.Thread(target=self._go_on, name="clock", daemon=True).start()
        return self._alignment

    def answered(self, answer: pb.ClockAnswer) -> None:
        """An answer is here."""
        back = time.monotonic_ns()
        with self._changed:
            self._answers.append((answer.asked, answer.received, answer.answered, back))
            self._changed.notify_all()

    def _go_on(self) -> None:
        while not self._closing.wait(EVERY):
            self._look()

    def _look(self) -> None:
        with self._changed:
            self._answers.clear()
        for _ in range(PROBES):
            self._tell(pb.Up(probe=pb.ClockProbe(asked=time.monotonic_ns())))
            time.sleep(0.005)
        with self._changed:
            self._changed.wait_for(lambda: len(self._answers) >= PROBES, ANSWERING)
            answers = list(self._answers)
        for answer in answers:
            self._alignment.add(*answer)
