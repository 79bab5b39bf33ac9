"""Scripts as coroutines: how one begins and ends, where it is, and what is said when it misbehaves."""

from __future__ import annotations

from collections.abc import Coroutine
from types import CoroutineType
from typing import Any, Final

from fedsim.errors import ScriptError
from fedsim.script import SERVER
from fedsim.units import human_count

ANY: Final = -2
"""The source of a wait for messages of any node."""

SLEEP: Final = "sleep"
SENDING: Final = "send"

_CLOSINGS: Final = 10  # awaits in `finally` blocks that are cut short before a script is given up


def name(node: int) -> str:
    """What a node is called in messages."""
    return "the server" if node == SERVER else f"device {node}"


def started(node: int, made: object) -> Any:
    """The coroutine that a script is, before its first step.

    Raises:
        ScriptError: it is no coroutine.
    """
    if not isinstance(made, Coroutine):
        raise ScriptError(
            f"the script of {name(node)} is no coroutine but of type {type(made).__name__}; "
            "write it as an async def without yield"
        )
    return made


def place(script: Any) -> str:
    """Where a script is suspended: its own line, then those of the coroutines that it awaits there."""
    lines = []
    while isinstance(script, CoroutineType) and script.cr_frame is not None:
        frame = script.cr_frame
        lines.append(f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}")
        script = script.cr_await
    return ", ".join(lines) or "an unknown place"


def foreign(awaited: object) -> ScriptError:
    """The error of a script that has awaited something that is no effect."""
    return ScriptError(
        f"the script awaited something that is not a fedsim effect ({type(awaited).__name__}); "
        "await only compute, send, recv, sleep, gather, broadcast or coroutines made of these "
        "(asyncio and other event loops do not run here)"
    )


def out_of_memory(who: str, moment: float, needed: int, usable: int) -> str:
    """The sentence of a node whose memory does not suffice."""
    return (
        f"{who} is out of memory at {moment:g} s: it needs {human_count(needed, 'B')}, but may use "
        f"{human_count(usable, 'B')}; give it a smaller batch, another cut, model or profile, or set on_oom: leave or "
        "record to see what becomes of the run"
    )


def close(script: Any, node: int) -> None:
    """Close a script that has not returned; None is one that has not begun.

    Raises:
        ScriptError: it awaited something on its way out.
    """
    if script is None:
        return
    stuck: str | None = None
    for _ in range(_CLOSINGS):
        try:
            script.close()
            break
        except RuntimeError as error:
            if "ignored GeneratorExit" not in str(error):
                raise  # its own error
            code = script.cr_code  # a coroutine inside it has gone on: the script itself is over, its line is lost
            over = f"{code.co_filename}:{code.co_firstlineno} in {code.co_name}"
            stuck = stuck or (over if script.cr_frame is None else place(script))
    if stuck is not None:
        raise ScriptError(
            f"the script of {name(node)} awaited again after it was closed, at {stuck}; "
            "let GeneratorExit pass (no await in `finally`, no bare `except`)"
        )
