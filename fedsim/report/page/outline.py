"""Nested mappings and lists as the lines of a scenario file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping


def outline(value: object, depth: int = 0) -> Iterator[str]:
    """The lines of nested mappings and lists, written as in a scenario file."""
    pad = "  " * depth
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if isinstance(inner, Mapping | list | tuple) and inner:
                yield f"{pad}{key}:"
                yield from outline(inner, depth + 1)
            else:
                yield f"{pad}{key}: {_scalar(inner)}"
    elif isinstance(value, list | tuple):
        for inner in value:
            lines = list(outline(inner, depth + 1))
            yield f"{pad}- {lines[0].lstrip()}"
            yield from lines[1:]
    else:
        yield pad + _scalar(value)


def _scalar(value: object) -> str:
    plain = isinstance(value, str) and value and value == value.strip() and not set(value) & set(":#{}[]\n\"'")
    return str(value) if plain else json.dumps(value, ensure_ascii=False, default=str)
