"""Notes of several nodes as one trace, and what is no note."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fedsim.emulation.outcome import memory_of
from fedsim.emulation.records.recording import Notes, merged, noted, read
from fedsim.runtime.envelopes import Parcel
from fedsim.script import SERVER
from fedsim.trace import Transfer

PARCEL = Parcel(("Train", "model", 100, 0, 0, 0, 64), 164, 3)


def test_a_transfer_is_what_both_ends_know(tmp_path: Path) -> None:
    """When it was sent and began from its sender, when it arrived from its receiver; read back from files."""
    ours, theirs = Notes(tmp_path / "server"), Notes(tmp_path / "device")
    ours.sent(5, SERVER, 0, PARCEL, 1_000)
    ours.began(5, 2_000)
    theirs.came(5, SERVER, 0, PARCEL, 9_000)
    ours.sent(6, SERVER, 0, PARCEL, 3_000)  # still under way at the end
    ours.sent(7, SERVER, 1, PARCEL, 4_000)  # to one that leaves
    ours.trace.mark(1, 5_000, "leave")
    theirs.sent(8, 0, SERVER, PARCEL, 8_500)
    ours.came(8, 0, SERVER, PARCEL, 20_000)  # after the end
    ours.close()
    theirs.close()
    rows = [row for name in ("server", "device") for row in read(tmp_path / name)]
    found = {row.number: row for row in map(Transfer._make, merged(rows, (), {}, 10_000).transfers)}
    assert (found[5].queued, found[5].started, found[5].arrived, found[5].outcome) == (1_000, 2_000, 9_000, "delivered")
    assert (found[5].message, found[5].weights, found[5].control, found[5].round) == ("Train", 100, 64, 3)
    assert (found[6].arrived, found[6].outcome) == (10_000, "in flight")
    assert (found[7].arrived, found[7].outcome) == (5_000, "receiver left")
    assert (found[8].arrived, found[8].outcome) == (10_000, "in flight")


def test_of_a_sender_whose_notes_are_lost_it_is_known_when_its_message_came() -> None:
    """And no more."""
    notes = Notes()
    notes.came(5, 0, SERVER, PARCEL, 700)
    (row,) = map(Transfer._make, merged(notes.rows(), (), {}, 1_000).transfers)
    assert (row.queued, row.started, row.arrived, row.outcome) == (700, 700, 700, "delivered")


def test_what_a_node_does_while_it_counts_as_gone_is_left_out() -> None:
    """A span that goes on beyond the moment at which it left is cut there; one that is all beyond is not there."""
    notes = Notes()
    span = ("step", 100, 50, 4, False, 0)
    for start, end in ((0, 10), (8, 20), (25, 30), (38, 45), (50, 120)):
        notes.trace.spans.append((2, 0, span[0], start, end, *span[1:]))
    notes.trace.waits.append((2, 12, 42, "model", -1, -1))
    notes.trace.mark(2, 15, "leave")
    notes.trace.mark(2, 40, "return")
    trace = merged(notes.rows(), (), {}, 100)
    assert [(row[3], row[4]) for row in trace.spans] == [(0, 10), (8, 15), (40, 45), (50, 100)]
    assert [(row[1], row[2]) for row in trace.waits] == [(12, 15)]


def test_a_file_that_ends_in_a_line_is_read_up_to_it(tmp_path: Path) -> None:
    """As that of a process that was killed."""
    path = tmp_path / "notes"
    path.write_text('["began", 1, 2]\n["began", 3, 4')
    assert list(read(path)) == [["began", 1, 2]]


@pytest.mark.parametrize(
    "line",
    [
        "",
        "[]",
        "{}",
        "7",
        '["nothing", 1]',
        '["began", 1]',
        '["began", 1, 2.5]',
        '["began", true, 2]',
        '["wait", 4, 0, 1, "model", -1, -1]',  # of another node
        '["span", 3, 0, "step", 0, 1, 0, 0, 0, 0, 0]',  # no truth value
        '["sent", 1, 4, -1, "Train", "model", 0, 0, 0, 0, 64, -1, 5]',
        '["mark", 3, 0, "join", "x", ""]',
        "[" * 10_000,
    ],
)
def test_what_is_no_note_of_a_node(line: str) -> None:
    """Whatever a device may send."""
    with pytest.raises(ValueError, match=r"."):
        noted(line, 3)


def test_notes_of_a_node() -> None:
    """Of every kind that a device ships."""
    notes: Any = Notes()
    notes.trace.spans.append((3, 0, "step", 0, 1, 5, 3, 4, False, 0))
    notes.trace.mark(3, 5, "end")
    notes.sent(4, 3, SERVER, PARCEL, 9)
    assert [noted(json.dumps(row), 3) for row in notes.rows()] == notes.rows()


def test_memory_that_was_not_declared() -> None:
    """Told from a fifth on, either way, by device."""
    trace = merged([], (), {}, 100)
    for node, declared, measured in ((0, 100.0, 119.0), (1, 100.0, 150.0), (2, 100.0, 70.0), (3, 100.0, 0.0)):
        trace.mark(node, 5, "memory.peak", declared)
        trace.mark(node, 5, "memory.measured", measured)
    assert memory_of(trace) == {1: pytest.approx(0.5), 2: pytest.approx(-0.3)}
