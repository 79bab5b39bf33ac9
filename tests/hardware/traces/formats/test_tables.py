"""CSV of other people's: Cork's 5G traces, WetLinks, the FCC's speed tests, mobilebandwidth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedsim.errors import UserError
from fedsim.hardware.traces.loading import load_rates, load_speeds
from fedsim.hardware.traces.rates import RateTrace

UCC = "Timestamp,Longitude,Latitude,NetworkMode,DL_bitrate,UL_bitrate,State,PINGAVG\n"
WETLINKS = "site_name,timestamp_start,timestamp_end,server,ip_protocol,transport_protocol,download,upload\n"
MBA = (
    "unit_id,dtime,target,address,fetch_time,bytes_total,bytes_sec,bytes_sec_interval,warmup_time,warmup_bytes,"
    "sequence,threads,successes,failures\n"
)


def write(folder: Path, text: str, name: str = "x.csv") -> Path:
    """A file with this in it."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def read(path: Path, **choices: Any) -> RateTrace:
    """With an uplink of 5 bytes/s, and an efficiency that shows if it is applied: it must not be."""
    return load_rates(path, up=5.0, down=6.0, efficiency=0.5, **choices)


def ucc(*rows: tuple[str, str]) -> str:
    """Rows of a time and a downlink."""
    return UCC + "".join(f"2019.11.28_{time},-8.4,51.9,5G,{rate},70,D,-\n" for time, rate in rows)


def test_cork_s_samples_are_kilobits(tmp_path: Path) -> None:
    """Two in one second are averaged, one without a rate is passed over; the uplink recorded is never taken."""
    text = ucc(("07.00.00", "8"), ("07.00.01", "16"), ("07.00.01", "32"), ("07.00.02", "-"), ("07.01.00", "0"))
    found = read(write(tmp_path, text))
    assert (found.times.tolist(), found.length) == ([0, 1, 60], 119)
    assert found.down.tolist() == [1000, 3000, 0]
    assert found.up.tolist() == [5, 5, 5]
    assert read(write(tmp_path, text), up_over_down=0.5).up.tolist() == [500, 1500, 0]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("07.00.00", "x")], r"DL_bitrate: 'x' is no number of zero or more; correct it \(.*x.csv, line 2\)"),
        ([("07:00:00", "1")], r"Timestamp: '2019.11.28_07:00:00' is no time such as 2019.11.28_07.00.00; .*line 2\)"),
        ([("27.00.00", "1")], r"Timestamp: '2019.11.28_27.00.00' is no time such as 2019.11.28_07.00.00; .*line 2\)"),
        (
            [("07.00.01", "1"), ("07.00.00", "1")],
            r"Timestamp: '2019.11.28_07.00.00' is before the row above; sort the rows \(.*x.csv, line 3\)",
        ),
        ([("07.00.00", "-")], r"there is no sample in it; give a file with a recording \(.*x.csv\)"),
    ],
    ids=str,
)
def test_a_wrong_file_of_cork_s_is_refused(tmp_path: Path, rows: list[tuple[str, str]], message: str) -> None:
    """With the line."""
    with pytest.raises(UserError, match=f"^{message}$"):
        read(write(tmp_path, ucc(*rows)))


def test_cork_s_uplink_is_no_capacity(tmp_path: Path) -> None:
    """There is no way to ask for it: the file has no second direction to give."""
    path = write(tmp_path, ucc(("07.00.00", "8")))
    with pytest.raises(UserError, match=r"^a file of ucc has all that is known, so it takes no up_path; remove that"):
        read(path, up_path=path)


def wetlinks(*rows: tuple[str, str, str, str]) -> str:
    """Rows of a start, an end, a download and an upload."""
    return WETLINKS + "".join(
        f"uos,2023-10-12 15:{a},2023-10-12 15:{b},s,4,TCP,{down},{up}\n" for a, b, down, up in rows
    )


def test_measurements_of_wetlinks_hold_until_the_next(tmp_path: Path) -> None:
    """Their seconds are averaged; a gap of 2 s parts them; a second without a value does not count.

    What a measurement lacks altogether is as in the one before.
    """
    text = wetlinks(
        ("00:00", "00:01", "800", "80"),
        ("00:01", "00:02", "1600", ""),
        ("03:00.5", "03:01.5", "2400", "nan"),
        ("03:02.5", "03:03.5", "3200", "160"),
        ("06:00", "06:01", "nan", "240"),
    )
    found = read(write(tmp_path, text))
    assert (found.times.tolist(), found.length) == ([0, 180.5, 360], 539.5)
    assert found.down.tolist() == [150, 350, 350]
    assert found.up.tolist() == [10, 20, 30]


def test_an_uplink_that_wetlinks_never_measured_is_the_link_s(tmp_path: Path) -> None:
    """As for every format."""
    found = read(write(tmp_path, wetlinks(("00:00", "00:01", "800", ""))))
    assert (found.down.tolist(), found.up.tolist()) == ([100], [5])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [("01:00", "01:01", "1", "1"), ("00:00", "00:01", "1", "1")],
            r"timestamp_start: '2023-10-12 15:00:00' is before the measurement above; sort the rows \(.*, line 3\)",
        ),
        ([("now", "01:01", "1", "1")], r"timestamp_start: '2023-10-12 15:now' is no time; write it like .*line 2\)"),
        ([("00:00", "01:01", "fast", "1")], r"download: 'fast' is no number of zero or more; .* \(.*x.csv, line 2\)"),
        ([("00:00", "01:01", "", "1")], r"there is no download in it; give a file with measurements \(.*x.csv\)"),
    ],
    ids=str,
)
def test_a_wrong_file_of_wetlinks_is_refused(
    tmp_path: Path, rows: list[tuple[str, str, str, str]], message: str
) -> None:
    """With the line."""
    with pytest.raises(UserError, match=f"^{message}$"):
        read(write(tmp_path, wetlinks(*rows)))


def mba(*rows: tuple[int, str, int, int, int]) -> str:
    """Rows of a unit, a time, bytes/s, a sequence number and successes."""
    return MBA + "".join(
        f"{unit},2021-09-01 {time},t,1.2.3.4,1,1,{rate},{rate},1,1,{sequence},8,{ok},{1 - ok}\n"
        for unit, time, rate, sequence, ok in rows
    )


TESTS = (
    (7, "02:00:00", 500, 0, 1),
    (7, "00:00:00", 100, 0, 1),
    (7, "00:00:00", 200, 1, 1),
    (7, "01:00:00", 999, 0, 0),
    (8, "00:00:00", 40, 0, 1),
    (8, "01:00:00", 0, 0, 1),
)


def test_speed_tests_of_a_unit_hold_until_the_next(tmp_path: Path) -> None:
    """In bytes/s, in order of time; the last row of a test speaks for it, failed ones are left out."""
    found = read(write(tmp_path, mba(*TESTS)), unit="7")
    assert (found.times.tolist(), found.down.tolist(), found.length) == ([0, 7200], [200, 500], 14400)
    assert read(write(tmp_path, mba(*TESTS)), unit="8").down.tolist() == [40]
    assert read(write(tmp_path, mba(*TESTS[:4]))).down.tolist() == [200, 500]


def test_uploads_are_a_file_of_their_own(tmp_path: Path) -> None:
    """Which direction, only the name tells."""
    down = write(tmp_path, mba(*TESTS), "curr_httpgetmt.csv")
    up = write(tmp_path, mba((7, "00:00:00", 30, 0, 1)), "curr_httppostmt.csv")
    assert read(down, up_path=up, unit="7").up.tolist() == [30, 30]
    assert read(up).up.tolist() == [30]
    with pytest.raises(UserError, match=r"^by its name this is an uplink; give it as up_path, and a downlink as path"):
        read(up, up_path=down, unit="7")


def test_units_have_to_be_chosen(tmp_path: Path) -> None:
    """One that is there, and has tests."""
    path = write(tmp_path, mba(*TESTS))
    with pytest.raises(UserError, match=r"^there are several units; choose one with unit: 7 \(there are 7, 8, ...\)"):
        read(path)
    with pytest.raises(UserError, match=r"^there is no successful test of unit '9'; choose another unit \(.*x.csv\)$"):
        read(path, unit="9")


def test_units_are_users_of_a_population(tmp_path: Path) -> None:
    """Each with the mean over its tests."""
    found = load_speeds(write(tmp_path, mba(*TESTS)))
    assert (found.down.tolist(), found.up) == ([350, 40], None)
    with pytest.raises(UserError, match=r"^there is no successful test in it; give another file \(.*x.csv\)$"):
        load_speeds(write(tmp_path, mba(TESTS[3])))


def test_users_of_mobilebandwidth_are_a_population(tmp_path: Path) -> None:
    """Mbit/s in one column; cells in quotes may hold commas."""
    text = "brand,bandwidth_Mbps,cell_bands\nvivo,138.4,[]\nOPPO,12.8,\"['3', '41']\"\nvivo,0,[]\n"
    found = load_speeds(write(tmp_path, text))
    assert (found.down.tolist(), found.up) == ([17.3e6, 1.6e6], None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bandwidth_Mbps\nfast\n", r"bandwidth_Mbps: 'fast' is no number of zero or more; correct it \(.*, line 2\)"),
        ("bandwidth_Mbps\n\n", r"there are columns, but no rows; give a file with a recording in it \(.*x.csv\)"),
        ("bandwidth_Mbps\n0\n", r"bandwidth_Mbps is 0 in every row; give a file with measurements \(.*x.csv\)"),
        ("bandwidth_Mbps,n\n,1\n", r"bandwidth_Mbps: '' is no number of zero or more; correct it \(.*x.csv, line 2\)"),
    ],
    ids=str,
)
def test_a_wrong_file_of_mobilebandwidth_is_refused(tmp_path: Path, text: str, message: str) -> None:
    """With the line."""
    with pytest.raises(UserError, match=f"^{message}$"):
        load_speeds(write(tmp_path, text))
