"""The stages of a pruning: told as they begin, and timed by the clock on the wall."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Heard = Callable[[str], None]
"""Is told what happens now."""


class Stages:
    """Seconds by stage; the same stage again adds to it."""

    def __init__(self, heard: Heard) -> None:
        self.seconds: dict[str, float] = {}
        self._heard = heard

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """A stage begins here."""
        self._heard(name)
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began
