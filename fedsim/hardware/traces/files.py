"""Files of recordings: text by lines, CSV by rows, errors with file and line. Knows nothing of what is recorded.

Files are read as streams: none is held in memory as a whole, but for JSON and pickles, whose libraries know no
other way.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from fedsim.errors import UserError, nearest, shown

_HEAD: Final = 65536  # bytes from which a format is guessed


def located(path: str | Path, folder: Path) -> Path:
    """Where a file is whose path is relative to `folder`, or begins with `~`.

    Raises:
        UserError: there is no such user's home.
    """
    try:
        return folder / Path(path).expanduser()
    except RuntimeError as reason:
        raise UserError(f"{shown(str(path))}: {reason}; give another path") from reason


@dataclass(frozen=True)
class TraceFile:
    """A file as messages speak of it."""

    path: Path

    @property
    def name(self) -> str:
        """The path as seen from the current folder."""
        try:
            return str(self.path.absolute().relative_to(Path.cwd()))
        except ValueError:
            return str(self.path)

    def error(self, sentence: str, place: int | str = "") -> UserError:
        """The error about this file; `place` is a line, or what an entry is called."""
        where = f", line {place}" if isinstance(place, int) else f", {place}" if place else ""
        return UserError(f"{sentence} ({self.name}{where})")

    def head(self) -> bytes:
        """The first bytes of the file.

        Raises:
            UserError: it cannot be read, or is empty.
        """
        with self.reading(), self.path.open("rb") as stream:
            found = stream.read(_HEAD)
        if not found:
            raise self.error("the file is empty; give one with a recording in it")
        return found

    @contextmanager
    def reading(self) -> Iterator[None]:
        """What goes wrong while the file is read becomes an error of the user's."""
        try:
            yield
        except UnicodeDecodeError as reason:
            raise self.error("not text in UTF-8; save it as UTF-8, or name another reader") from reason
        except (OSError, ValueError) as reason:
            why = reason.strerror if isinstance(reason, OSError) else str(reason)
            raise self.error(f"the trace cannot be read: {why}; check the path") from reason
        except MemoryError as reason:
            raise self.error("the file asks for more memory than there is; give a smaller or undamaged one") from reason

    def lines(self) -> Iterator[tuple[int, str]]:
        """Line numbers, from 1, and lines without their ends."""
        with self.reading(), self.path.open(encoding="utf-8-sig") as stream:
            for number, line in enumerate(stream, 1):
                yield number, line.rstrip("\r\n")


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a CSV file, its cells by the names of their columns."""

    file: TraceFile
    line: int
    cells: list[str]
    columns: dict[str, int]

    def text(self, column: str) -> str:
        """A cell; empty where the file has no such column."""
        position = self.columns.get(column)
        return "" if position is None else self.cells[position].strip()

    def number(self, column: str, missing: Iterable[str] = ("",)) -> float:
        """A cell that is a number, 0 or more; NaN where it is one of the signs for `missing`.

        Raises:
            UserError: it is no such number.
        """
        text = self.text(column)
        if text in missing:
            return math.nan
        try:
            found = float(text)
        except ValueError:
            found = -1.0
        if not 0 <= found < math.inf:
            raise self.error(f"{column}: {shown(text)} is no number of zero or more; correct it")
        return found

    def time(self, column: str) -> float:
        """Seconds since 1970 of a cell such as `2021-03-04 05:06:07`; taken as UTC unless it says otherwise.

        Raises:
            UserError: it is no date and time.
        """
        try:
            found = datetime.fromisoformat(self.text(column))
        except ValueError:
            example = "2021-03-04 05:06:07"
            raise self.error(f"{column}: {shown(self.text(column))} is no time; write it like {example}") from None
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()

    def error(self, sentence: str) -> UserError:
        """The error about this row."""
        return self.file.error(sentence, self.line)


def rows(file: TraceFile, needed: Iterable[str], *, bare: bool = False) -> Iterator[Row]:
    """The rows of a CSV file whose first line names the columns; `bare` takes one cell alone for a row of that only.

    Raises:
        UserError: a `needed` column is missing, a row has too few cells, or there is no row.
    """
    with file.reading(), file.path.open(encoding="utf-8-sig", newline="") as stream:
        table = csv.reader(stream, strict=True)
        try:
            names = [name.strip() for name in next(table, [])]
            columns = {name: position for position, name in enumerate(names)}
            for column in needed:
                if column not in columns:
                    hint = nearest(column, columns) or f"its columns are {', '.join(names)[:200] or 'missing'}"
                    raise file.error(f"there is no column {column}; {hint}", 1)
            empty = True
            for cells in table:
                if not cells:
                    continue
                if bare and len(cells) == 1:
                    cells.extend([""] * (len(names) - 1))
                if len(cells) < len(names):
                    raise file.error(f"{len(cells)} cells, but {len(names)} columns; complete the row", table.line_num)
                empty = False
                yield Row(file, table.line_num, cells, columns)
        except csv.Error as reason:
            raise file.error(f"not CSV: {reason}; correct the line", table.line_num) from reason
        if empty:
            raise file.error("there are columns, but no rows; give a file with a recording in it")
