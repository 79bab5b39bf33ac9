"""Blocks of code done in the current folder: commands in this process, Python in a namespace, files written."""

from __future__ import annotations

import io
import math
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, Final

import fedsim.cli
from tests.docs.pages import Block

_RECORDING: Final = 'fedsim() { printf "%s\\0" "$#" "$@" >> "$RECORD"; }\nexport -f fedsim\n'
_NUMBER: Final = re.compile(r"(?<![\w.])[-+]?\d[\d,]*(?:\.\d+)?")
_TOLERANCE: Final = 0.15
"""What numbers of a page may be off from those of a run: other processors round differently."""


@contextmanager
def importable() -> Iterator[None]:
    """Within, modules of the current folder can be imported; later nobody finds them."""
    paths, modules = list(sys.path), set(sys.modules)
    sys.path.insert(0, "")
    try:
        yield
    finally:
        sys.path[:] = paths
        here = Path.cwd()
        for name in set(sys.modules) - modules:
            source = getattr(sys.modules[name], "__file__", None)
            if source is not None and Path(source).is_relative_to(here):
                del sys.modules[name]


def ran(block: Block, text: str, namespace: dict[str, Any]) -> str:
    """What executing Python prints."""
    said = io.StringIO()
    with redirect_stdout(said):
        exec(compile(text, block.place, "exec"), namespace)
    return said.getvalue()


def fedsim_calls(script: str) -> list[list[str]]:
    """The arguments of every `fedsim` of a shell script, which is run but for these, by bash."""
    record = Path("fedsim-calls").absolute()
    record.write_bytes(b"")
    environment = {"PATH": "/usr/bin:/bin", "RECORD": str(record)}
    subprocess.run(["bash", "-euc", _RECORDING + script], env=environment, check=True, timeout=60)
    words = record.read_bytes().decode().split("\0")[:-1]
    record.unlink()
    calls = []
    while words:
        count = int(words[0])
        calls.append(words[1 : count + 1])
        words = words[count + 1 :]
    return calls


def called(arguments: Sequence[str]) -> tuple[int, str]:
    """The status and all that is printed of a `fedsim` command."""
    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        status = fedsim.cli.main(list(arguments))
    return status, said.getvalue()


def shortened(arguments: Sequence[str]) -> list[str]:
    """The same command with two rounds and one seed, where it runs something."""
    match arguments:
        case ["run", *_]:
            return [*arguments, "--set", "until.rounds=2"]
        case ["compare", *_]:
            return [*arguments, "--set", "until.rounds=2", "--seeds", "1"]
        case _:
            return list(arguments)


def words(command: str) -> list[str]:
    """A command as a shell has it."""
    return shlex.split(command, comments=True)


def not_said(expected: str, said: str) -> list[str]:
    """The lines of `expected` that were not said, but for spaces and, a little, for numbers."""
    lines = [" ".join(line.split()) for line in said.splitlines()]
    return [line for line in expected.splitlines() if line.strip() and not any(_alike(line, real) for real in lines)]


def _alike(expected: str, real: str) -> bool:
    wanted = " ".join(expected.split())
    pattern = _NUMBER.sub("\0", wanted)
    matcher = re.escape(pattern).replace(re.escape("\0"), f"({_NUMBER.pattern})")
    return any(
        all(_near(one, other) for one, other in zip(_NUMBER.findall(wanted), found.groups(), strict=True))
        for found in re.finditer(matcher, real)
    )


def _near(one: str, other: str) -> bool:
    first, second = (float(text.replace(",", "")) for text in (one, other))
    return math.isclose(first, second, rel_tol=_TOLERANCE)
