"""What the interface names and this version does not have yet, in two tables; a feature that lands leaves them.

Knows nothing of types: it looks for keys and values in the plain data.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from fedsim.documents.problems import KeyPath, Problem

_KEYS: Final[tuple[KeyPath, ...]] = (("checkpoint",),)
_VALUES: Final[dict[tuple[KeyPath, str], str]] = {}


def remove(data: dict[str, Any]) -> Iterator[Problem]:
    """Take out of `data` what this version does not have, and say so for each."""
    for pattern in _KEYS:
        for path, section, key in list(_matches(data, pattern, ())):
            del section[key]
            yield Problem(path, "not in this version of fedsim; remove the key")
    for (pattern, value), sentence in _VALUES.items():
        for path, section, key in list(_matches(data, pattern, ())):
            if section[key] == value:
                del section[key]
                yield Problem(path, sentence)


def _matches(node: Any, pattern: KeyPath, path: KeyPath) -> Iterator[tuple[KeyPath, dict[str, Any], str]]:
    """The places of the plain data that fit a pattern: the path, the mapping it ends in, the key there."""
    key, rest = pattern[0], pattern[1:]
    if key == "*":
        for index, item in enumerate(node if isinstance(node, list) else ()):
            yield from _matches(item, rest, (*path, index))
    elif isinstance(node, dict) and isinstance(key, str) and key in node:
        if rest:
            yield from _matches(node[key], rest, (*path, key))
        else:
            yield (*path, key), node, key
