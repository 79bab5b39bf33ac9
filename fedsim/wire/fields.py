"""The fields of a message as numbers, texts and payloads in a row, by their declared types.

Both sides know the types, so values need neither names nor tags: `put` appends what `take` reads. Knows nothing of
classes and bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import index
from types import NoneType, UnionType
from typing import Any, Final, Protocol, TypeVar, Union, get_args, get_origin

import numpy as np

from fedsim.errors import shown
from fedsim.script import Payload
from fedsim.wire.refusals import WireError

TRAVELS: Final = (
    "int, float, bool, str and Payload, each also with None, and tuples, lists, and mappings by int or str of these"
)
"""What a field of a message may be declared as."""

T = TypeVar("T")

_BITS: Final = 63


class UnfitError(Exception):
    """A value that is not what its field is declared as."""


@dataclass(slots=True)
class Values:
    """What a message consists of, apart from its class and sender; each kind in order of declaration."""

    integers: list[int] = field(default_factory=list)
    reals: list[float] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    payloads: list[Payload] = field(default_factory=list)


class Reading:
    """Values on their way back into fields."""

    __slots__ = ("integers", "payloads", "reals", "texts")

    def __init__(self, values: Values) -> None:
        self.integers: Iterator[int] = iter(values.integers)
        self.reals: Iterator[float] = iter(values.reals)
        self.texts: Iterator[str] = iter(values.texts)
        self.payloads: Iterator[Payload] = iter(values.payloads)

    def finish(self) -> None:
        """Refuse what is left over."""
        for kind in ("integers", "reals", "texts", "payloads"):
            if next(getattr(self, kind), None) is not None:
                raise WireError(f"a message has more {kind} than its class has fields for")


class Kind(Protocol):
    """A declared type."""

    def put(self, value: Any, into: Values) -> None:
        """Append a value; `UnfitError` if it is not of this type."""
        ...

    def take(self, out: Reading) -> Any:
        """Read a value; `WireError` if there is none."""
        ...


@dataclass(frozen=True, slots=True)
class _Integer:
    def put(self, value: Any, into: Values) -> None:
        try:
            number = index(value)
        except TypeError as error:
            raise UnfitError from error
        if not -(1 << _BITS) <= number < 1 << _BITS:
            raise UnfitError("whole numbers have at most 64 bits")
        into.integers.append(number)

    def take(self, out: Reading) -> int:
        return _next(out.integers)


@dataclass(frozen=True, slots=True)
class _Truth:
    def put(self, value: Any, into: Values) -> None:
        if not isinstance(value, bool | np.bool_):
            raise UnfitError
        into.integers.append(1 if value else 0)

    def take(self, out: Reading) -> bool:
        return _flag(out)


@dataclass(frozen=True, slots=True)
class _Real:
    def put(self, value: Any, into: Values) -> None:
        if isinstance(value, str | bytes):
            raise UnfitError
        try:
            into.reals.append(float(value))
        except (TypeError, ValueError, OverflowError) as error:
            raise UnfitError from error

    def take(self, out: Reading) -> float:
        return _next(out.reals)


@dataclass(frozen=True, slots=True)
class _Text:
    def put(self, value: Any, into: Values) -> None:
        if not isinstance(value, str):
            raise UnfitError
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise UnfitError("half a character cannot be written in UTF-8") from error
        into.texts.append(value)

    def take(self, out: Reading) -> str:
        return _next(out.texts)


@dataclass(frozen=True, slots=True)
class _Handle:
    def put(self, value: Any, into: Values) -> None:
        if not isinstance(value, Payload):
            raise UnfitError
        into.payloads.append(value)

    def take(self, out: Reading) -> Payload:
        return _next(out.payloads)


@dataclass(frozen=True, slots=True)
class _Optional:
    of: Kind

    def put(self, value: Any, into: Values) -> None:
        into.integers.append(0 if value is None else 1)
        if value is not None:
            self.of.put(value, into)

    def take(self, out: Reading) -> Any:
        return self.of.take(out) if _flag(out) else None


@dataclass(frozen=True, slots=True)
class _Many:
    of: Kind
    make: type[tuple[Any, ...]] | type[list[Any]]

    def put(self, value: Any, into: Values) -> None:
        if not isinstance(value, Sequence) or isinstance(value, str | bytes):
            raise UnfitError
        into.integers.append(len(value))
        for item in value:
            self.of.put(item, into)

    def take(self, out: Reading) -> Any:
        return self.make([self.of.take(out) for _ in range(_length(out))])


@dataclass(frozen=True, slots=True)
class _Fixed:
    of: tuple[Kind, ...]

    def put(self, value: Any, into: Values) -> None:
        if not isinstance(value, tuple) or len(value) != len(self.of):
            raise UnfitError
        for kind, item in zip(self.of, value, strict=True):
            kind.put(item, into)

    def take(self, out: Reading) -> tuple[Any, ...]:
        return tuple(kind.take(out) for kind in self.of)


@dataclass(frozen=True, slots=True)
class _Table:
    key: Kind
    of: Kind

    def put(self, value: Any, into: Values) -> None:
        if not isinstance(value, Mapping):
            raise UnfitError
        into.integers.append(len(value))
        for key, item in value.items():
            self.key.put(key, into)
            self.of.put(item, into)

    def take(self, out: Reading) -> dict[Any, Any]:
        made: dict[Any, Any] = {}
        for count in range(1, _length(out) + 1):
            key = self.key.take(out)
            made[key] = self.of.take(out)
            if len(made) < count:
                raise WireError(f"a mapping with the key {shown(key)} twice")
        return made


def _next(values: Iterator[T]) -> T:
    for value in values:
        return value
    raise WireError("a message has fewer values than its class has fields")


def _flag(out: Reading) -> bool:
    value = _next(out.integers)
    if value not in (0, 1):
        raise WireError(f"{value} where a message says whether something is so")
    return value == 1


def _length(out: Reading) -> int:
    """Of something whose every entry takes a value, so that a length that lies soon finds none."""
    value = _next(out.integers)
    if value < 0:
        raise WireError(f"a length of {value}")
    return value


_PLAIN: Final[Mapping[object, Kind]] = {
    bool: _Truth(),
    int: _Integer(),
    float: _Real(),
    str: _Text(),
    Payload: _Handle(),
}


def kind_of(declared: object) -> Kind | None:
    """How fields of a declared type travel; None if they cannot."""
    plain = _PLAIN.get(declared) if isinstance(declared, type) else None
    if plain is not None:
        return plain
    origin, args = get_origin(declared), get_args(declared)
    if origin in (Union, UnionType):
        rest = [arg for arg in args if arg is not NoneType]
        of = kind_of(rest[0]) if len(rest) == 1 and len(args) == 2 else None
        return None if of is None else _Optional(of)
    if origin is tuple and not (len(args) == 2 and args[1] is ...):
        items = tuple(kind_of(arg) for arg in args)
        # Nothing at all takes no value, of which there could be any number.
        return _Fixed(tuple(item for item in items if item is not None)) if items and None not in items else None
    if origin in (tuple, list):
        of = kind_of(args[0])
        make = tuple if origin is tuple else list
        return None if of is None else _Many(of, make)
    if origin in (Mapping, dict):
        key, of = kind_of(args[0]), kind_of(args[1])
        return _Table(key, of) if isinstance(key, _Integer | _Text) and of is not None else None
    return None
