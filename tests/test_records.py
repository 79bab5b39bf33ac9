"""Records that go to disk: the same records, columns, traces and reports as in memory, and less of it."""

from __future__ import annotations

import gc
import tracemalloc
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim import trace
from fedsim.records import Records, Words
from fedsim.report import check_identity, summarise
from fedsim.schedulers.fedoptima import FedOptima
from fedsim.testing import simulate, toy
from fedsim.trace import Trace, Transfer, columns


class Kind(NamedTuple):
    """A small record."""

    node: int
    name: str
    lost: bool


ROW = st.tuples(st.integers(-(2**63), 2**63 - 1), st.sampled_from(["a", "b", "", "é"]), st.booleans())


@settings(deadline=None)
@given(st.lists(st.lists(ROW, max_size=4), max_size=6))
def test_what_is_shelved_is_still_there(pieces: list[list[tuple[int, str, bool]]]) -> None:
    """In order, as tuples and as columns, whatever is appended meanwhile."""
    found, wanted = Records(Kind), [row for piece in pieces for row in piece]
    for number, piece in enumerate(pieces):
        found.extend(piece[:1])
        for row in piece[1:]:
            found.append(row)
        if number % 3:
            found.shelve(1)
    assert len(found) == len(wanted)
    assert bool(found) == bool(wanted)
    assert list(found) == wanted
    assert found == wanted
    assert found == Records(Kind, wanted)
    assert found != [*wanted, (0, "a", True)]
    assert [type(value) for row in found for value in row] == [int, str, bool] * len(wanted)
    if wanted:
        assert found[-1] == wanted[-1]
        assert found[1:] == wanted[1:]
    same = columns(found, Kind)
    for name, column in columns(wanted, Kind).items():
        if isinstance(column, Words):
            assert [same[name].names[code] for code in same[name].codes] == [column.names[c] for c in column.codes]
        else:
            assert same[name].dtype == column.dtype
            assert (same[name] == column).all()
    assert list(found) == wanted, "looking at columns changes nothing"


def test_few_records_stay_in_memory() -> None:
    """Up to the limit."""
    found = Records(Kind, [(0, "a", True)] * 5)
    found.shelve(6)
    assert found.columns() is None
    found.shelve(5)
    assert list.__len__(found) == 0
    assert len(found) == 5


def test_a_shelf_ends_with_its_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left in the temporary folder."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    found = Records(Kind, [(0, "a", True)])
    found.shelve(1)
    assert list(tmp_path.iterdir())
    del found
    gc.collect()
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_run_whose_records_go_to_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same trace, the same report, and the same again when it is read."""
    wanted = simulate(toy(FedOptima(), devices=5)).simulation.trace
    monkeypatch.setattr("fedsim.simulation.engine._SHELVE", 20)
    monkeypatch.setattr(Records.shelve, "__defaults__", (10,))
    found = simulate(toy(FedOptima(), devices=5)).simulation.trace
    for each in (found.spans, found.transfers, found.waits, found.stays):
        assert isinstance(each, Records)
        assert len(each) > list.__len__(each), "some are on disk"
    assert found == wanted
    check_identity(found)
    assert summarise(found, status="done", wall_seconds=1.0) == summarise(wanted, status="done", wall_seconds=1.0)
    trace.write(found, tmp_path / "trace.parquet")
    again = trace.read(tmp_path / "trace.parquet")
    assert (again.spans, again.transfers, again.waits) == (wanted.spans, wanted.transfers, wanted.waits)
    assert again.stays == wanted.stays


def test_memory_does_not_grow_with_records() -> None:
    """Of five times as many."""
    row: tuple[Any, ...] = (0, 1, -1, "Update", "contribution", 10**6, 0, 0, 0, 48, 0, 0, 0, "delivered", -1)

    def peak(count: int) -> int:
        made = Trace([], {})
        tracemalloc.start()
        for number in range(count):
            made.transfers.append((10**12 + number, *row[1:10], 10**13 + number, *row[11:]))
            if not number % 1000:
                assert isinstance(made.transfers, Records)
                made.transfers.shelve(4000)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(made.transfers) == count
        assert np.diff(columns(made.transfers, Transfer)["number"]).tolist() == [1] * (count - 1)
        return found

    assert peak(60_000) < 1.2 * peak(12_000)
