"""Programs of this repository that pages name: where they are, and which options they have."""

from __future__ import annotations

import importlib
import io
import re
import sys
from contextlib import redirect_stdout, suppress
from functools import cache
from pathlib import Path
from unittest.mock import patch

from tests.docs.pages import ROOT


def module_of(name: str) -> Path:
    """The file of a module, or that of a package that can be run."""
    path = ROOT / name.replace(".", "/")
    return path / "__main__.py" if path.is_dir() else path.with_suffix(".py")


@cache
def options_of(name: str) -> frozenset[str]:
    """The options that a program's `--help` tells."""
    module = importlib.import_module(f"{name}.__main__" if module_of(name).name == "__main__.py" else name)
    said = io.StringIO()
    with patch.object(sys, "argv", [name, "--help"]), redirect_stdout(said), suppress(SystemExit):
        module.main()
    return frozenset(re.findall(r"--[a-z][a-z-]*", said.getvalue()))
