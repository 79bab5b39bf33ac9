"""The record of a run: spans of computing, transfers, waits, stays and marks, in integer nanoseconds.

Everything a report says is a pure function of a `Trace`. This module knows neither who writes one nor who
reads it. Records are appended as plain tuples, columns in the order of the named tuples below, and become columns
only when the trace is written: `write` makes one Parquet table of all kinds of record, told apart by its column
`record`, and `read` gives back an equal trace. The same trace gives the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, field, fields
from operator import itemgetter
from pathlib import Path
from typing import Any, Final, NamedTuple, get_type_hints

from fedsim.errors import UserError
from fedsim.records import Records, Words

SCHEMA: Final = 3
ROW_GROUP: Final = 100_000
LOAD: Final = "load"
"""Spans of this kind are waiting for data, not computing."""
PRESENCE: Final = {"join": True, "return": True, "leave": False, "end": False}
"""Marks of nodes that come, and go."""
PURPOSES: Final = ("weights", "activations", "gradients", "labels", "control")


class Span(NamedTuple):
    """Computing on one lane of a node; `wasted` where its result was lost: the node left, or the run ended first.

    Of `macs`, `forward_macs` are those that go forward through the model's own units and `head_macs` those that an
    auxiliary head takes, both ways. `samples` are those that it trains: of several spans of one batch, one has them.
    """

    node: int
    lane: int
    kind: str
    start: int
    end: int
    macs: int
    forward_macs: int
    samples: int
    wasted: bool
    head_macs: int


class Transfer(NamedTuple):
    """One message to one node.

    `queued` is the moment of the send, `started` that of its first byte, `arrived` that of its last one. Bytes by
    purpose are payload; `control` is the envelope. `outcome` is `delivered`, `in flight` or the reason of its loss.
    `round` is the one that it says it belongs to, -1 where it says nothing.
    """

    number: int
    source: int
    target: int
    message: str
    role: str
    weights: int
    activations: int
    gradients: int
    labels: int
    control: int
    queued: int
    started: int
    arrived: int
    outcome: str
    round: int = -1


class Wait(NamedTuple):
    """A script that waited: for messages of some roles (joined by `|`), or asleep (`sleep`).

    `message` is the number of the transfer that ended it, -1 if none did.
    """

    node: int
    start: int
    end: int
    awaited: str
    source: int
    message: int


class Stay(NamedTuple):
    """A message that waited for a script, in a node's mailbox: from its arrival until the script took or dropped it.

    Or until the script had ended or its node had left. One that is taken the moment it arrives has no stay. `message`
    is the number of its transfer.
    """

    node: int
    start: int
    end: int
    message: int


class Mark(NamedTuple):
    """A moment with a name: join, leave, end, round.open, round.close, publish, evaluate, …"""

    node: int
    time: int
    name: str
    value: float
    detail: str


@dataclass(frozen=True, slots=True)
class Node:
    """A row of the node table: who took part, on what hardware."""

    number: int
    name: str
    profile: str
    group: int
    lanes: int
    samples: int
    idle_watts: float
    busy_watts: float
    memory: float
    power_confidence: str = "unverified"
    """How far the powers are to be trusted: `measured`, `derived`, `specification` or `unverified`."""
    power_field: str = "power"
    """The field among them that is known least."""
    ready_watts: float | None = None
    """Between two works with everything loaded; None: as idle."""
    radio_watts: float = 0.0
    """Drawn by its link, beside what the machine draws, while bytes flow in one direction."""
    radio_up: float = 0.0
    """Joules a byte that it sends."""
    radio_down: float = 0.0
    """Joules a byte that it receives."""


@dataclass(slots=True)
class Trace:
    """Records of one run, with the table of its nodes and the resolved scenario."""

    nodes: Sequence[Node]
    scenario: Mapping[str, Any]
    spans: list[tuple[Any, ...]] = field(default_factory=lambda: Records(Span))
    transfers: list[tuple[Any, ...]] = field(default_factory=lambda: Records(Transfer))
    waits: list[tuple[Any, ...]] = field(default_factory=lambda: Records(Wait))
    marks: list[tuple[Any, ...]] = field(default_factory=lambda: Records(Mark))
    end: int = 0
    clock_bound: int = 0
    """Nanoseconds by which the clocks of nodes may disagree; 0 on a virtual clock."""
    stays: list[tuple[Any, ...]] = field(default_factory=lambda: Records(Stay))
    provenance: Sequence[Mapping[str, Any]] = ()
    """What each profile and link is and where its figures come from: `of`, `kind`, `speed`, `trust`, `figures`."""

    def mark(self, node: int, time: int, name: str, value: float = 0.0, detail: object = None) -> None:
        """Append a mark; `detail` is kept as JSON."""
        self.marks.append((node, time, name, value, "" if detail is None else json.dumps(detail)))

    def shelve(self) -> None:
        """Put records on disk, if there are many in memory."""
        for records in (self.spans, self.transfers, self.waits, self.stays, self.marks):
            if isinstance(records, Records):
                records.shelve()


_RECORDS: Final[Mapping[str, type[Any]]] = {
    "span": Span,
    "transfer": Transfer,
    "wait": Wait,
    "stay": Stay,
    "mark": Mark,
}
_COLUMN_OF: Final = {("wait", "message"): "number", ("stay", "message"): "number"}
"""Where a record's field is not named like its column."""
_PLAIN: Final = "detail"  # the one string column whose values hardly ever repeat
_METADATA: Final = b"fedsim"


def columns(
    rows: Sequence[tuple[Any, ...]], record: type[Any], first: int = 0, names: Collection[str] | None = None
) -> dict[str, Any]:
    """The fields of records of one kind as arrays: int64, float64 or bool; `Words` for strings.

    Args:
        rows: the records.
        record: their kind.
        first: the first of them that counts.
        names: the fields that are wanted; None: all.
    """
    import numpy as np

    shelved = rows.columns(first, names) if isinstance(rows, Records) else None
    if shelved is not None:
        return shelved
    if first:
        rows = rows[first:]

    types: dict[type[Any], Any] = {int: np.int64, float: np.float64, bool: np.bool_}
    found: dict[str, Any] = {}
    for index, (name, kind) in enumerate(get_type_hints(record).items()):
        if names is not None and name not in names:
            continue
        values = map(itemgetter(index), rows)
        if kind is str:
            found[name] = Words.of(values)
        else:
            found[name] = np.fromiter(values, types[kind], len(rows))
    return found


def write(trace: Trace, path: Path | str) -> None:
    """Write a trace as Parquet: zstd, row groups of 100,000, times in integer nanoseconds."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = _schema()
    rows = {
        "span": trace.spans,
        "transfer": trace.transfers,
        "wait": trace.waits,
        "stay": trace.stays,
        "mark": trace.marks,
    }
    table = pa.concat_tables([_table(name, rows[name], schema) for name in _RECORDS]).unify_dictionaries()
    words = [column.name for column in schema if pa.types.is_dictionary(column.type)]
    deltas = {column.name: "DELTA_BINARY_PACKED" for column in schema if pa.types.is_int64(column.type)}
    metadata = json.dumps(
        {
            "schema": SCHEMA,
            "clock": "ns",
            "end": int(trace.end),
            **({"clock_bound": int(trace.clock_bound)} if trace.clock_bound else {}),
            **({"provenance": list(trace.provenance)} if trace.provenance else {}),
            "scenario": trace.scenario,
            "nodes": {"fields": [f.name for f in fields(Node)], "rows": [astuple(node) for node in trace.nodes]},
        }
    )
    with pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=words, column_encoding=deltas) as writer:
        writer.write_table(table, row_group_size=ROW_GROUP)
        writer.add_key_value_metadata({_METADATA: metadata.encode()})


def read(path: Path | str) -> Trace:
    """Read a trace that `write` has written.

    Raises:
        UserError: there is no such file, or it is not a trace of this version.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    if not Path(path).is_file():
        raise UserError(f"{path} does not exist; a trace is the file trace.parquet of a run folder")
    try:
        file = pq.ParquetFile(path)
        metadata = (file.metadata.metadata or {}).get(_METADATA)
        table = file.read() if metadata is not None else None
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path} is not a Parquet file, or is damaged; run the scenario again ({error})") from error
    if metadata is None or table is None:
        raise UserError(f"{path} is a Parquet file but not a trace of fedsim; give the trace.parquet of a run folder")
    head = json.loads(metadata)
    if head["schema"] != SCHEMA:
        raise UserError(
            f"{path} has trace schema {head['schema']}, but this fedsim reads schema {SCHEMA}; "
            "read it with the fedsim that wrote it, or run the scenario again"
        )
    names = head["nodes"]["fields"]
    nodes = tuple(Node(**dict(zip(names, row, strict=True))) for row in head["nodes"]["rows"])
    rows = {name: _rows(table.filter(pc.equal(table["record"], name)), name) for name in _RECORDS}
    records = (rows["span"], rows["transfer"], rows["wait"], rows["mark"])
    given = {key: head[key] for key in ("end", "clock_bound", "provenance") if key in head}
    return Trace(nodes, head["scenario"], *records, stays=rows["stay"], **given)


def _fields(record: str) -> Iterable[tuple[str, str, type[Any]]]:
    """Field, column and Python type of each field of a kind of record."""
    for name, kind in get_type_hints(_RECORDS[record]).items():
        yield name, _COLUMN_OF.get((record, name), name), kind


def _schema() -> Any:  # pyarrow ships no types
    import pyarrow as pa

    word = pa.dictionary(pa.int32(), pa.string())
    types = {int: pa.int64(), float: pa.float64(), bool: pa.bool_(), str: word}
    found = {"record": word}
    for record in _RECORDS:
        for _, column, kind in _fields(record):
            found[column] = pa.string() if column == _PLAIN else types[kind]
    return pa.schema(list(found.items()))


def _table(record: str, rows: Sequence[tuple[Any, ...]], schema: Any) -> Any:
    """An Arrow table of records of one kind; the columns of the other kinds are null."""
    import numpy as np
    import pyarrow as pa

    codes = pa.array(np.zeros(len(rows), np.int32))
    arrays = {"record": pa.DictionaryArray.from_arrays(codes, pa.array([record], pa.string()))}
    values = columns(rows, _RECORDS[record])
    for name, column, kind in _fields(record):
        if kind is not str:
            arrays[column] = pa.array(values[name], schema.field(column).type)
        else:
            words = values[name]
            coded = pa.DictionaryArray.from_arrays(pa.array(words.codes), pa.array(words.names, pa.string()))
            arrays[column] = coded.cast(pa.string()) if column == _PLAIN else coded
    return pa.table([arrays.get(f.name, pa.nulls(len(rows), f.type)) for f in schema], schema=schema)


def _rows(table: Any, record: str) -> list[tuple[Any, ...]]:
    """The records of an Arrow table as tuples."""
    import pyarrow as pa

    values: list[list[Any]] = []
    for _, column, _ in _fields(record):
        array = table[column].combine_chunks()
        if pa.types.is_dictionary(array.type):
            words = array.dictionary.to_pylist()
            values.append([words[code] for code in array.indices.to_pylist()])
        elif pa.types.is_integer(array.type) or pa.types.is_floating(array.type):
            values.append(array.to_numpy(zero_copy_only=False).tolist())
        else:
            values.append(array.to_pylist())
    return list(zip(*values, strict=True))
