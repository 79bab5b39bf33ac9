"""fedsim's own format: what its rows mean, and what it refuses, with the line."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedsim.errors import UserError
from fedsim.hardware.traces.loading import load_attendance, load_rates
from fedsim.hardware.traces.rates import RateTrace


def write(folder: Path, text: str) -> Path:
    """A file with this in it."""
    path = folder / "x.csv"
    path.write_text(text, encoding="utf-8")
    return path


def rates(path: Path, unit: str | None = None) -> RateTrace:
    """With an efficiency that shows where it is applied: nowhere, as the rates are given as goodput."""
    return load_rates(path, "fedsim", unit=unit, rate="goodput", efficiency=0.5, up=7.0, down=9.0)


def test_rows_hold_until_the_next(tmp_path: Path) -> None:
    """bit/s become bytes/s; a last row without values ends the recording."""
    found = rates(write(tmp_path, "time_s,up_bit_s,down_bit_s\n0,8,80\n1.5,16,160\n\n4,,\n"))
    assert (found.times.tolist(), found.up.tolist(), found.down.tolist()) == ([0, 1.5], [1, 2], [10, 20])
    assert (found.length, found.wrap) == (4, True)


@pytest.mark.parametrize("last", ["4,,", "4"])
def test_a_time_alone_needs_no_commas(tmp_path: Path, last: str) -> None:
    """As people write it; a row with some of its cells is still incomplete."""
    assert rates(write(tmp_path, f"time_s,up_bit_s,down_bit_s\n0,8,80\n{last}\n")).length == 4
    with pytest.raises(UserError, match=r"2 cells, but 3 columns; complete the row \(.*x\.csv, line 3\)"):
        rates(write(tmp_path, "time_s,up_bit_s,down_bit_s\n0,8,80\n1,8\n"))


def test_a_last_row_with_values_lasts_as_long_as_the_one_before(tmp_path: Path) -> None:
    """So that an evenly sampled recording needs no row to end it."""
    assert rates(write(tmp_path, "time_s,up_bit_s,down_bit_s\n0,8,80\n3,16,160\n")).length == 6


def test_rates_on_the_wire_are_said_by_the_link(tmp_path: Path) -> None:
    """The file does not say; unless told otherwise its rates are on the wire."""
    path = write(tmp_path, "time_s,up_bit_s,down_bit_s\n0,8,80\n")
    found = load_rates(path, efficiency=0.5)
    assert (found.up.tolist(), found.down.tolist()) == ([0.5], [5])


@pytest.mark.parametrize(("column", "up", "down"), [("up_bit_s", 1, 9), ("down_bit_s", 7, 1)])
def test_a_direction_that_is_not_recorded_is_the_link_s(tmp_path: Path, column: str, up: float, down: float) -> None:
    """Columns come in any order, others do not matter, and a byte order mark neither."""
    found = rates(write(tmp_path, f"\ufeffplace, time_s ,{column}\nhome,0,8\n"))
    assert (found.up.tolist(), found.down.tolist()) == ([up], [down])


def test_nothing_flows_while_offline(tmp_path: Path) -> None:
    """Whatever the cells say, or do not say."""
    found = rates(write(tmp_path, "time_s,up_bit_s,down_bit_s,online\n0,8,80,1\n1,,,0\n2,8,80,0\n3,8,80,true\n"))
    assert (found.times.tolist(), found.down.tolist()) == ([0, 1, 3], [10, 0, 10])


def test_one_device_of_several_is_chosen(tmp_path: Path) -> None:
    """By unit; without it the second device is refused."""
    path = write(tmp_path, "device,time_s,up_bit_s,down_bit_s\na,0,8,80\nb,0,16,160\na,5,24,240\n")
    assert rates(path, "a").times.tolist() == [0, 5]
    assert rates(path, "b").down.tolist() == [20]
    with pytest.raises(UserError, match=r"^a second device, 'b'; choose one with unit: a \(.*x.csv, line 3\)$"):
        rates(path)
    with pytest.raises(UserError, match=r"^there is no device 'c'; correct unit \(.*x.csv\)$"):
        rates(path, "c")


def test_devices_come_and_go(tmp_path: Path) -> None:
    """One recording a device, in the order of their first rows; who is never there is left out."""
    text = "device,time_s,online\na,0,0\na,2,on\na,3,\nb,0,1\nc,0,0\nb,5,0\nc,1,\nb,7,1\n"
    fleet = load_attendance(write(tmp_path, text))
    first, second = fleet.members
    assert (first.starts.tolist(), first.ends.tolist(), first.length) == ([2], [3], 3)
    assert (second.starts.tolist(), second.ends.tolist(), second.length) == ([0, 7], [5, 9], 9)
    assert load_attendance(write(tmp_path, text), wrap=False).members[0].wrap is False


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("up_bit_s\n1\n", r"there is no column time_s; .*\(.*x.csv, line 1\)"),
        ("time_s\n0\n", r"there is neither a column up_bit_s nor down_bit_s; add what the link carries \(.*, line 1\)"),
        ("time_s,up_bit_s\n", r"there are columns, but no rows; give a file with a recording in it \(.*x.csv\)"),
        ("time_s,up_bit_s,down_bit_s\n0,8,9\n1,8\n", r"2 cells, but 3 columns; complete the row \(.*x.csv, line 3\)"),
        ("time_s,up_bit_s\n0,fast\n", r"up_bit_s: 'fast' is no number of zero or more; correct it \(.*x.csv, line 2\)"),
        ("time_s,up_bit_s\n0,-1\n", r"up_bit_s: '-1' is no number of zero or more; correct it \(.*x.csv, line 2\)"),
        ("time_s,up_bit_s\n0,nan\n", r"up_bit_s: 'nan' is no number of zero or more; correct it \(.*x.csv, line 2\)"),
        ("time_s,up_bit_s\n,8\n", r"time_s: '' is no number of zero or more; correct it \(.*x.csv, line 2\)"),
        ("time_s,up_bit_s\n3,8\n", r"the recording begins with 3 s; begin at 0 s \(.*x.csv, line 2\)"),
        ("time_s,up_bit_s\n0,\n", r"the recording begins with no values; begin at 0 s \(.*x.csv, line 2\)"),
        ("time_s,up_bit_s\n0,8\n5,8\n5,9\n", r"time_s: 5 s comes after 5 s; times must ascend \(.*x.csv, line 4\)"),
        ("time_s,up_bit_s\n0,8\n5,\n6,8\n", r"a row after the one without values, which ends .* \(.*x.csv, line 4\)"),
        (
            "time_s,up_bit_s,down_bit_s\n0,8,\n",
            r"down_bit_s: no number; give one \(the row that ends a recording has no values at all\) \(.*, line 2\)",
        ),
        ("time_s,up_bit_s,online\n0,8,maybe\n", r"online: 'maybe' does not fit; give 1 or 0 \(.*x.csv, line 2\)"),
        (
            "time_s,up_bit_s\n0,0\n",
            r"up is 0 all through; nothing would ever arrive; correct the recording \(.*x.csv\)",
        ),
        ('time_s,up_bit_s\n0,"8\n', r"not CSV: unexpected end of data; correct the line \(.*x.csv, line 2\)"),
    ],
    ids=str,
)
def test_a_wrong_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    """With the line, the rule and the way out."""
    with pytest.raises(UserError, match=f"^{message}"):
        rates(write(tmp_path, text))


def test_a_recording_in_which_nobody_is_there_is_refused(tmp_path: Path) -> None:
    """A fleet of it would never begin."""
    with pytest.raises(UserError, match=r"^no device is ever online; correct the recording \(.*x.csv\)$"):
        load_attendance(write(tmp_path, "time_s,online\n0,0\n9,\n"))
    with pytest.raises(UserError, match=r"^there is no column online; its columns are time_s \(.*x.csv, line 1\)$"):
        load_attendance(write(tmp_path, "time_s\n0\n"))
