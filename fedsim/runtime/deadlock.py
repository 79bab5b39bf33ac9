"""The text of a deadlock: which node waits for what, and what became of the others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from fedsim.runtime.coroutines import ANY, name

_SHOWN: Final = 20  # lines of nodes


class Waiting(NamedTuple):
    """What a node waits for."""

    node: int
    awaited: str
    """`Go or Ask`, `the end of a sleep`."""
    source: int
    """The only node that it can come from, or `ANY`."""
    since: int
    """Moment in nanoseconds."""
    inbox: Mapping[str, int]
    """How many messages lie in its mailbox, by class name."""


def deadlock(now: int, why: str, waits: Iterable[Waiting], rest: Mapping[str, int]) -> str:
    """The text of a run that is stuck.

    Args:
        now: moment in nanoseconds.
        why: how that is known.
        waits: in the order of their nodes.
        rest: how many devices do not wait for a message, by what they have done instead.
    """
    lines = []
    for wait in waits:
        source = "" if wait.source == ANY else f" from {name(wait.source)}"
        inbox = ", ".join(f"{count} {kind}" for kind, count in wait.inbox.items()) or "nothing"
        lines.append(
            f"  {name(wait.node)} waits for {wait.awaited}{source} since {wait.since / 1e9:g} s; inbox: {inbox}"
        )
    if len(lines) > _SHOWN:
        lines[_SHOWN:] = [f"  and {len(lines) - _SHOWN} more"]
    lines += [f"  devices that have {what}: {count}" for what, count in rest.items() if count]
    return "\n".join((f"deadlock at {now / 1e9:g} s: {why}", *lines))
