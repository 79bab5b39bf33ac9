"""What a plain YAML scalar means here: YAML 1.2's core rules, so that nothing turns into something silent.

`on`, `off`, `yes`, `no` stay text (a key that takes a switch reads them), dates and `3:00` stay text, `1e-3` is a
number, and numbers that YAML 1.1 and 1.2 read differently (`017`) are refused. Knows nothing of files.
"""

from __future__ import annotations

import re
from typing import Final

Scalar = None | bool | int | float | str

_WORDS: Final[dict[str, Scalar]] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INT: Final = re.compile(r"[-+]?(?:0|[1-9][0-9]*(?:_[0-9]+)*)")
_BASED: Final = re.compile(r"0x[0-9a-fA-F]+|0o[0-7]+")
_OCTAL: Final = re.compile(r"[-+]?0[0-9_]+")
_FLOAT: Final = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_SPECIAL: Final = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_DIGITS: Final = 400  # more than any float has
_BEGINNINGS: Final = frozenset("+-.0123456789")  # of numbers


def value_of(text: str) -> Scalar:
    """The value of a plain (unquoted) scalar.

    Raises:
        ValueError: the text is a number that cannot be read in one way only.
    """
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in _BEGINNINGS:
        return text
    if _OCTAL.fullmatch(text):
        plain = text.replace("_", "").lstrip("+-0") or "0"
        raise ValueError(f"{text!r} starts with a zero, which some readers take as octal; write {plain[:40]}")
    if _INT.fullmatch(text) or _BASED.fullmatch(text):
        if len(text) > _DIGITS:
            raise ValueError(f"a number of {len(text)} digits is too long; write fewer digits")
        return int(text, 0)
    if _FLOAT.fullmatch(text):
        return float(text)
    if _SPECIAL.fullmatch(text):
        return float(text.replace(".", ""))
    return text


def reads_as_text(text: str) -> bool:
    """Whether `text`, unquoted, is read back as itself."""
    try:
        return value_of(text) == text
    except ValueError:
        return False
