"""What the interface names and this version does not have yet; a key that lands leaves the list.

Knows nothing of types: it looks for keys in the plain data.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from fedsim.documents.problems import Problem

_KEYS: Final = ("checkpoint",)


def remove(data: dict[str, Any]) -> Iterator[Problem]:
    """Take out of `data` what this version does not have, and say so for each."""
    for key in _KEYS:
        if key in data:
            del data[key]
            yield Problem((key,), "not in this version of fedsim; remove the key")
