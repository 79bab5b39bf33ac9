"""Records of one kind in the order of their making, older ones on disk: long runs need no more memory than short ones.

What is on disk is a file a column, 8 bytes a value, in a temporary folder that ends with the records; it is read by
mapping it into memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from operator import itemgetter
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any, Final, SupportsIndex, get_type_hints
from weakref import finalize

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    import numpy as np
    import numpy.typing as npt

MOST: Final = 250_000
"""Records of a kind that are held as tuples, which take about 300 bytes each, before they go to disk."""
_PIECE: Final = 10_000
"""Records on disk that are made tuples at a time."""

Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Words:
    """A column of strings: a code a row, and the string of each code."""

    codes: npt.NDArray[np.int32]
    names: Sequence[str]

    @classmethod
    def of(cls, values: Iterable[str]) -> Words:
        """The column that holds `values`; codes are in order of appearance."""
        import numpy as np

        codes: dict[str, int] = {}
        return cls(np.fromiter(_coded(codes, values), np.int32), list(codes))

    def among(self, *wanted: str) -> npt.NDArray[np.bool_]:
        """The rows whose string is one of `wanted`."""
        import numpy as np

        flags = np.array([name in wanted for name in self.names], np.bool_)
        return flags[self.codes] if len(flags) else np.zeros(len(self.codes), np.bool_)


def _coded(codes: dict[str, int], values: Iterable[str]) -> Iterator[int]:
    """The code of each string; new ones get the next."""
    return (codes.setdefault(value, len(codes)) for value in values)


def _dtype(kind: type[Any]) -> str:
    """Of the file of a field; words are codes, flags 0 and 1."""
    return "f8" if kind is float else "i8"


@dataclass(slots=True, weakref_slot=True)
class _Shelf:
    """Records on disk."""

    fields: tuple[tuple[str, type[Any]], ...]
    folder: Path = field(default_factory=lambda: Path(mkdtemp(prefix="fedsim-trace-")))
    codes: dict[str, dict[str, int]] = field(default_factory=dict)
    count: int = 0

    def __post_init__(self) -> None:
        finalize(self, rmtree, self.folder, ignore_errors=True)

    def put(self, rows: list[Row]) -> None:
        """Append rows."""
        import numpy as np

        for index, (name, kind) in enumerate(self.fields):
            values: Iterable[Any] = map(itemgetter(index), rows)
            if kind is str:
                values = _coded(self.codes.setdefault(name, {}), values)
            with (self.folder / name).open("ab") as file:
                np.fromiter(values, _dtype(kind), len(rows)).tofile(file)
        self.count += len(rows)

    def columns(self, first: int = 0, names: Collection[str] | None = None) -> dict[str, Any]:
        """See `Records.columns`."""
        import numpy as np

        found: dict[str, Any] = {}
        for name, kind in self.fields:
            if names is not None and name not in names:
                continue
            values = np.memmap(self.folder / name, _dtype(kind), "r")[first:]
            if kind is str:
                found[name] = Words(values.astype(np.int32), list(self.codes[name]))
            else:
                found[name] = values.astype(np.bool_) if kind is bool else values
        return found

    def __iter__(self) -> Iterator[Row]:
        found = self.columns()
        for first in range(0, self.count, _PIECE):
            parts: list[Iterable[Any]] = []
            for column in found.values():
                if isinstance(column, Words):
                    parts.append([column.names[code] for code in column.codes[first : first + _PIECE].tolist()])
                else:
                    parts.append(column[first : first + _PIECE].tolist())
            yield from zip(*parts, strict=True)


class Records(list[Row]):
    """A list of records that can be appended to at the speed of a list, and iterated, whose older ones may be on disk.

    Args:
        record: the named tuple whose fields they have.
    """

    def __init__(self, record: type[Any], rows: Iterable[Row] = ()) -> None:
        super().__init__(rows)
        self._record = record
        self._shelf: _Shelf | None = None

    def shelve(self, least: int = MOST) -> None:
        """Put what is in memory on disk, if that is so many records."""
        if super().__len__() < max(least, 1):
            return
        if self._shelf is None:
            self._shelf = _Shelf(tuple(get_type_hints(self._record).items()))
        self._shelf.put(list(super().__iter__()))
        super().clear()

    def columns(self, first: int = 0, names: Collection[str] | None = None) -> dict[str, Any] | None:
        """All of them, or those from the `first` on, as columns mapped from disk; None where they are in memory."""
        if self._shelf is None:
            return None
        self.shelve(1)
        return self._shelf.columns(first, names)

    def sort(self, *, key: Any = None, reverse: bool = False) -> None:
        """All of them, in memory."""
        rows = sorted(self, key=key, reverse=reverse)
        self._shelf = None
        super().__init__(rows)

    def __len__(self) -> int:
        return super().__len__() + (0 if self._shelf is None else self._shelf.count)

    def __iter__(self) -> Iterator[Row]:
        return super().__iter__() if self._shelf is None else chain(self._shelf, super().__iter__())

    def __getitem__(self, index: SupportsIndex | slice) -> Any:
        return super().__getitem__(index) if self._shelf is None else list(self)[index]

    def __eq__(self, other: object) -> bool:
        if self._shelf is None and not isinstance(other, Records):
            return super().__eq__(other)
        return (
            isinstance(other, list)
            and len(self) == len(other)
            and all(one == another for one, another in zip(self, other, strict=True))
        )

    __hash__ = None
