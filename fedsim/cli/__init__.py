"""The command line: `fedsim run`, `compare`, `check`, `list`, `report`. Imports what a command needs when it needs it.

This file is imported before anything else, so it holds the answer to a Ctrl-C that comes while imports go on.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Sequence
from types import FrameType
from typing import Final

WRONG_INPUT: Final = 2
INTERRUPTED: Final = 130


def leave(_signal: int, _frame: FrameType | None) -> None:
    """Handle SIGINT while there is nothing to save: out at once.

    An exception would not do: C extensions that are being imported print it, or turn it into an ImportError.
    """
    os.write(2, b"error: interrupted\n")
    os._exit(INTERRUPTED)


def main(arguments: Sequence[str] | None = None) -> int:
    """The `fedsim` command; returns its exit status."""
    if threading.current_thread() is not threading.main_thread():
        return _main(arguments)  # only the main thread receives signals
    before = signal.signal(signal.SIGINT, leave)
    try:
        return _main(arguments)
    finally:
        signal.signal(signal.SIGINT, before)


def _main(arguments: Sequence[str] | None) -> int:
    from fedsim.cli.app import invoke

    return invoke(arguments)


__all__ = ["INTERRUPTED", "WRONG_INPUT", "leave", "main"]
