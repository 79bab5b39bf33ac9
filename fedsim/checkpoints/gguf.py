"""The header of a GGUF file: its keys, and where each tensor lies. Weights are not read.

The format is that of ggml's docs/gguf.md, versions 2 and 3, little-endian. Knows nothing of what keys and tensors mean.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fedsim.errors import UserError

MAGIC: Final = b"GGUF"
VERSIONS: Final = (2, 3)
ALIGNMENT: Final = 32
"""Bytes to a multiple of which tensors are padded, unless `general.alignment` says otherwise."""

_SCALARS: Final = ("B", "b", "H", "h", "I", "i", "f", "?", "", "", "Q", "q", "d")
"""Formats of `struct` by number of the type; 8 is text, 9 an array."""
_TEXT: Final = 8
_ARRAY: Final = 9


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor of the file: `shape` as rows come first, `kind` as ggml numbers its encodings, `offset` in the file."""

    shape: tuple[int, ...]
    kind: int
    offset: int

    @property
    def elements(self) -> int:
        """Number of its values."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Header:
    """What a GGUF file says before its weights."""

    file: Path
    values: Mapping[str, Any]
    tensors: Mapping[str, Entry]


def read_header(file: Path) -> Header:
    """The header of a file.

    Raises:
        UserError: it is not there, is no GGUF file, has an unknown version, or ends too early.
    """
    try:
        with file.open("rb") as opened:
            if opened.read(4) != MAGIC:
                raise UserError(f"{file} is not a GGUF file; give one, or the folder of a model")
            with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return _parsed(file, content)
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}); check the path") from error
    except (struct.error, UnicodeDecodeError, IndexError) as error:
        raise UserError(f"{file} is damaged, or not complete: its header cannot be read ({error})") from error


def _parsed(file: Path, content: mmap.mmap) -> Header:
    cursor = _Cursor(content, len(MAGIC))
    version = cursor.scalar("I")
    if version not in VERSIONS:
        raise UserError(f"{file} has version {version} of the GGUF format; versions 2 and 3 can be read: convert it")
    count, keys = cursor.scalar("Q"), cursor.scalar("Q")
    values = {cursor.text(): cursor.value(cursor.scalar("I")) for _ in range(keys)}
    described = [_described(cursor) for _ in range(count)]
    alignment = int(values.get("general.alignment", ALIGNMENT))
    start = -(-cursor.at // alignment) * alignment
    tensors = {name: Entry(shape, kind, start + offset) for name, shape, kind, offset in described}
    if any(entry.offset >= len(content) for entry in tensors.values() if entry.elements):
        raise IndexError("the weights are missing")
    return Header(file, values, tensors)


def _described(cursor: _Cursor) -> tuple[str, tuple[int, ...], int, int]:
    """Name, shape, kind and offset behind the header of a tensor; the file has the innermost axis first."""
    name = cursor.text()
    axes = cursor.scalar("I")
    shape = tuple(reversed([cursor.scalar("Q") for _ in range(axes)]))
    return name, shape, cursor.scalar("I"), cursor.scalar("Q")


class _Cursor:
    """Reads one thing after the other."""

    def __init__(self, content: mmap.mmap, at: int) -> None:
        self._content = content
        self.at = at

    def scalar(self, form: str) -> Any:
        """A number."""
        made = struct.Struct(f"<{form}")
        (value,) = made.unpack_from(self._content, self.at)
        self.at += made.size
        return value

    def text(self) -> str:
        """A length and as many bytes of UTF-8."""
        first = self.at + 8
        last = first + self.scalar("Q")
        if last > len(self._content):
            raise IndexError("a text is longer than the file")
        self.at = last
        return self._content[first:last].decode("utf-8")

    def value(self, kind: int) -> Any:
        """What stands behind a key: a number, a text, or a list."""
        if kind == _TEXT:
            return self.text()
        if kind == _ARRAY:
            return self._array(self.scalar("I"), self.scalar("Q"))
        if kind >= len(_SCALARS):
            raise IndexError(f"a value is of unknown type {kind}")
        return self.scalar(_SCALARS[kind])

    def _array(self, kind: int, count: int) -> list[Any]:
        if count > len(self._content):
            raise IndexError("a list is longer than the file")
        if kind in (_TEXT, _ARRAY) or kind >= len(_SCALARS):
            return [self.value(kind) for _ in range(count)]
        made = struct.Struct(f"<{count}{_SCALARS[kind]}")
        values = list(made.unpack_from(self._content, self.at))
        self.at += made.size
        return values
