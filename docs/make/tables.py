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
    """GitHub shows `\\|` in code as a bar, others as both characters; an entity is a bar to all, but not in backticks."""
    code = _CODE.sub(lambda found: f"<code>{html.escape(found[1]).replace('|', '&#124;')}</code>", text)
    return code.replace("|", "&#124;")


def keys_table(keys: Iterable[Key], heading: str = "key", prefix: str = "") -> str:
    """A row a key."""
    rows = ([f"`{prefix}{key.name}`", key.takes, key.default, key.meaning] for key in keys)
    return table([heading, "takes", "default", "meaning"], rows)


def replaced(text: str, name: str, body: str) -> str:
    """A page with the region of `name` written anew.

    Raises:
        ValueError: the page has no such region.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"no region {begin} … {end}")
    return pattern.sub(lambda _: f"{begin}\n{body.rstrip()}\n{end}", text)
