"""Markdown: tables, and regions of a page that are written anew."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from typing import Final

from docs.make.forms import Key

_CODE: Final = re.compile(r"`([^`|]*\|[^`]*)`")


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; bars inside cells are written so that no reader of Markdown takes them for borders, nor shows more."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines) + "\n"


def _cell(text: str) -> str:
    """An entity is a bar to all, but not in backticks; an escaped bar in backticks is one on GitHub only."""
    code = _CODE.sub(lambda found: f"<code>{html.escape(found[1]).replace('|', '&#124;')}</code>", text)
    return code.replace("|", "&#124;")


def keys_table(keys: Iterable[Key], heading: str = "key", prefix: str = "") -> str:
    """A row a key."""
    rows = ([f"`{prefix}{key.name}`", key.takes, key.default, key.meaning] for key in keys)
    return table([heading, "takes", "default", "meaning"], rows)


def region(text: str, name: str) -> str:
    """What stands between the marks of `name`.

    Raises:
        ValueError: the page has no such region.
    """
    found = _region(name).search(text)
    if not found:
        raise ValueError(f"no region <!-- {name}: begin --> … <!-- {name}: end -->")
    return found[2]


def replaced(text: str, name: str, body: str) -> str:
    """A page with the region of `name` written anew.

    Raises:
        ValueError: the page has no such region.
    """
    region(text, name)
    return _region(name).sub(lambda found: f"{found[1]}\n{body.strip()}\n{found[3]}", text)


def _region(name: str) -> re.Pattern[str]:
    return re.compile(f"(<!-- {re.escape(name)}: begin -->)(.*?)(<!-- {re.escape(name)}: end -->)", re.DOTALL)
