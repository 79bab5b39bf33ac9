"""Where commands print their tables."""

from __future__ import annotations

from typing import Final

from rich.console import Console

WIDE: Final = 200
"""Columns where nobody looks: whoever reads it later can scroll, and nothing is cut off."""


def wide_console() -> Console:
    """Standard output: as wide as the terminal, and wide where there is none."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=WIDE)
