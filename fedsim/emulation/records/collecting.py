"""What devices have noted, as their server takes it in: in memory and, where there is a folder, a file each."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from fedsim.emulation.records.recording import noted


class Collection:
    """The notes of all devices.

    Args:
        folder: receives them while the run goes on; None: they are kept in memory only.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._rows: list[list[Any]] = []
        self._files: dict[int, TextIO] = {}

    @property
    def rows(self) -> list[list[Any]]:
        """All notes so far."""
        with self._lock:
            return list(self._rows)

    def after(self, count: int) -> list[list[Any]]:
        """The notes that came after so many of them."""
        with self._lock:
            return self._rows[count:]

    def add(self, device: int, lines: Sequence[str]) -> None:
        """Take in what a device has noted.

        Raises:
            ValueError: a line is no note of that device; none of them counts then.
        """
        rows = [noted(line, device) for line in lines]
        with self._lock:
            self._rows += rows
            if self._folder is None:
                return
            if device not in self._files:
                path = self._folder / f"device-{device}.jsonl"
                self._files[device] = path.open("a", buffering=1, encoding="utf-8")
            for line in lines:
                self._files[device].write(line if line.endswith("\n") else line + "\n")

    def close(self) -> None:
        """Close the files."""
        with self._lock:
            for file in self._files.values():
                file.close()
            self._files.clear()
