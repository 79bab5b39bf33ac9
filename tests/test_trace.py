"""Traces on disk: exact, deterministic, and refused with a reason where they cannot be read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim import trace as traces
from fedsim.errors import UserError
from fedsim.records import Words
from fedsim.trace import Node, Trace, columns, read, write
from tests.report.hand_made_traces import fedavg

TEXT = st.text(max_size=5)
NUMBER = st.integers(-(2**63), 2**63 - 1)
FIELD = {int: NUMBER, float: st.floats(allow_nan=False), bool: st.booleans(), str: TEXT}


def rows(record: str) -> st.SearchStrategy[list[tuple[object, ...]]]:
    """Lists of records of one kind with arbitrary fields."""
    types = [kind for _, _, kind in traces._fields(record)]
    return st.lists(st.tuples(*(FIELD[kind] for kind in types)), max_size=4)


def equal(one: Trace, other: Trace) -> bool:
    """Whether two traces hold the same, whatever sequence their nodes are in."""
    return tuple(one.nodes) == tuple(other.nodes) and all(
        getattr(one, name) == getattr(other, name)
        for name in ("scenario", "spans", "transfers", "waits", "stays", "marks", "end")
    )


@pytest.mark.slow
@settings(deadline=None, max_examples=50)
@given(rows("span"), rows("transfer"), rows("wait"), rows("stay"), rows("mark"), NUMBER)
def test_what_is_read_equals_what_was_written(
    tmp_path_factory: pytest.TempPathFactory,
    spans: list[tuple[object, ...]],
    transfers: list[tuple[object, ...]],
    waits: list[tuple[object, ...]],
    stays: list[tuple[object, ...]],
    marks: list[tuple[object, ...]],
    end: int,
) -> None:
    """Any fields, any number of records of each kind, none included."""
    path = tmp_path_factory.getbasetemp() / "any.parquet"
    nodes = (Node(-1, "server", "a", -1, 2, 0, 1.5, float("inf"), 1e9), Node(0, "ü", "b", 0, 1, 7, 0.1, 0.2, 0.3))
    trace = Trace(nodes, {"name": "é", "list": [1, {"x": None}]}, spans, transfers, waits, marks, end, stays=stays)
    write(trace, path)
    assert equal(read(path), trace)


def test_a_trace_is_one_table_that_other_programs_can_read(tmp_path: Path) -> None:
    """A column `record` tells the kinds apart; strings are dictionaries; a wait names the transfer that ended it."""
    trace = fedavg().trace
    write(trace, tmp_path / "t.parquet")
    table = pq.read_table(tmp_path / "t.parquet")
    counts = {one["values"]: one["counts"] for one in table["record"].combine_chunks().value_counts().to_pylist()}
    assert counts == {"span": 3, "transfer": 4, "wait": 7, "mark": 3}
    words = {name for name in table.column_names if pa.types.is_dictionary(table.schema.field(name).type)}
    assert words == {"record", "kind", "message", "role", "outcome", "awaited", "name"}
    waits = table.filter(pa.compute.equal(table["record"], "wait"))
    assert waits["number"].to_pylist() == [wait[5] for wait in trace.waits]
    assert waits["macs"].null_count == 7


def test_row_groups_hold_a_hundred_thousand_records(tmp_path: Path) -> None:
    """So that readers can skip; zstd throughout."""
    trace = fedavg().trace
    with patch.object(traces, "ROW_GROUP", 5):
        write(trace, tmp_path / "t.parquet")
    metadata = pq.ParquetFile(tmp_path / "t.parquet").metadata
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [5, 5, 5, 2]
    assert {metadata.row_group(0).column(i).compression for i in range(metadata.num_columns)} == {"ZSTD"}
    assert traces.ROW_GROUP == 100_000
    assert equal(read(tmp_path / "t.parquet"), trace)


def test_the_same_trace_gives_the_same_bytes(tmp_path: Path) -> None:
    """No times, paths or orders of sets get into the file."""
    for name in ("a", "b"):
        write(fedavg().trace, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_marks_keep_their_detail_as_json() -> None:
    """`mark` writes what it is given; nothing becomes the empty string."""
    trace = Trace((), {})
    trace.mark(0, 5, "join")
    trace.mark(-1, 6, "round.open", 3, {"nodes": [0], "need": 1})
    assert trace.marks == [(0, 5, "join", 0.0, ""), (-1, 6, "round.open", 3, '{"nodes": [0], "need": 1}')]


def test_columns_are_typed_and_words_coded_in_order_of_appearance() -> None:
    """Numbers become arrays, strings words; codes do not depend on hashing."""
    found = columns([(0, 1, "join", 0.5, ""), (2, 3, "end", 1, "x")], traces.Mark)
    assert found["node"].tolist() == [0, 2]
    assert found["value"].tolist() == [0.5, 1.0]
    assert found["detail"].names == ["", "x"]
    assert (found["name"].codes.tolist(), found["name"].names) == ([0, 1], ["join", "end"])
    words = Words.of(["b", "a", "b"])
    assert (words.codes.tolist(), words.names) == ([0, 1, 0], ["b", "a"])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """With where traces are found."""
    with pytest.raises(UserError, match=r"nothing\.parquet does not exist; a trace is the file trace\.parquet"):
        read(tmp_path / "nothing.parquet")


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    """A run that was killed while writing leaves one."""
    (tmp_path / "t.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(UserError, match=r"t\.parquet is not a Parquet file, or is damaged"):
        read(tmp_path / "t.parquet")


def test_another_table_is_not_a_trace(tmp_path: Path) -> None:
    """A Parquet file without our metadata is refused."""
    pq.write_table(pa.table({"x": [1]}), tmp_path / "t.parquet")
    with pytest.raises(UserError, match=r"t\.parquet is a Parquet file but not a trace of fedsim"):
        read(tmp_path / "t.parquet")


def test_a_trace_of_another_schema_is_refused(tmp_path: Path) -> None:
    """With both schema numbers."""
    with patch.object(traces, "SCHEMA", 99):
        write(fedavg().trace, tmp_path / "t.parquet")
    with pytest.raises(UserError, match="has trace schema 99, but this fedsim reads schema 3"):
        read(tmp_path / "t.parquet")


@pytest.mark.slow
def test_importing_the_records_imports_nothing_heavy() -> None:
    """The engine imports `trace`; only reading and writing need numpy and pyarrow."""
    heavy = "{'numpy', 'pyarrow', 'torch', 'ray', 'grpc', 'rich'}"
    code = f"import sys, fedsim.trace; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_how_far_clocks_disagree_is_kept(tmp_path: Path) -> None:
    """Where they may; a trace on a virtual clock says nothing of it, as before there was a bound."""
    trace = fedavg().trace
    write(trace, tmp_path / "virtual.parquet")
    head = (pq.ParquetFile(tmp_path / "virtual.parquet").metadata.metadata or {})[b"fedsim"]
    assert b"clock_bound" not in head
    assert read(tmp_path / "virtual.parquet").clock_bound == 0
    trace.clock_bound = 1500
    write(trace, tmp_path / "wall.parquet")
    found = read(tmp_path / "wall.parquet")
    assert found.clock_bound == 1500
    assert equal(found, trace)
