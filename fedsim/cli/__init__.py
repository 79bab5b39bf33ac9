"""The command line: `fedsim run`, `check`, `list`, `report`. Imports what a command needs when it needs it."""

from fedsim.cli.app import main

__all__ = ["main"]
