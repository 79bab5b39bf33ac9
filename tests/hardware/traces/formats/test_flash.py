"""FLASH's JSON: rates in kB of 1024 bytes, and when a phone is locked, charging and on Wi-Fi."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedsim.errors import UserError
from fedsim.hardware.traces.attendance import Attendance
from fedsim.hardware.traces.loading import load_attendance, load_speeds

SPEED = {"down_u": 1000.0, "down_sigma": 10.5, "up_u": 100, "up_sigma": 0}


def write(folder: Path, data: object) -> Path:
    """A file of this."""
    path = folder / "x.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def states(folder: Path, *events: str) -> Attendance:
    """Of one phone: events of the form `17:02:44 wifi`."""
    messages = "\n".join("2020-01-28 " + event.replace(" ", "\t") for event in events)
    return load_attendance(write(folder, {"1": {"guid": "g", "model": "m", "messages": messages + "\n"}}))


def test_rates_are_read(tmp_path: Path) -> None:
    """Means and standard deviations, up and down."""
    found = load_speeds(write(tmp_path, {"a": SPEED, "b": SPEED | {"up_u": 2}}))
    assert found.up is not None
    assert found.down_deviation is not None
    assert found.up_deviation is not None
    assert (found.down.tolist(), found.up.tolist()) == ([1024e3, 1024e3], [102400, 2048])
    assert (found.down_deviation.tolist(), found.up_deviation.tolist()) == ([10752, 10752], [0, 0])


def test_a_phone_is_there_while_locked_charging_and_on_wifi(tmp_path: Path) -> None:
    """All three; the screen and the battery do not matter; seconds count from the first message."""
    fleet = states(
        tmp_path,
        "10:00:00 screen_off",
        "10:00:10 Wifi",
        "10:00:20 battery_charged_on",
        "10:00:30 screen_lock",  # there
        "10:00:40 87.0%",
        "10:00:50 4G",  # gone
        "10:01:00 wifi",  # there
        "10:01:10 screen_unlock",  # gone
        "10:01:20 screen_lock",  # there
        "10:01:30 battery_okay",  # until the end
    )
    (phone,) = fleet.members
    assert (phone.starts.tolist(), phone.ends.tolist(), phone.length) == ([30, 60, 80], [50, 70, 90], 90)


def test_messages_are_sorted_and_phones_that_never_are_there_left_out(tmp_path: Path) -> None:
    """Also those with one message only, or none."""
    there = "2020-01-28 10:00:30\tscreen_lock\n2020-01-28 10:00:00\twifi\n2020-01-28 10:00:10\tbattery_charged_on"
    one, none = "2020-01-28 10:00:00\twifi", "  \n"
    data = {"1": {"messages": one}, "2": {"messages": there + "\n2020-01-28 10:01:00\t2g"}, "3": {"messages": none}}
    (phone,) = load_attendance(write(tmp_path, data), wrap=False).members
    assert (phone.starts.tolist(), phone.ends.tolist(), phone.length, phone.wrap) == ([30], [60], 60, False)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            [],
            r"no JSON object with an entry a device; give FLASH's speed_distri.json or state_traces.json \(.*x.json\)",
        ),
        ({"a": 3}, r"no key messages; give FLASH's own file \(.*x.json, device 'a'\)"),
        (
            {"a": SPEED},
            r"this file of FLASH's holds down_u, not messages; it serves population: \{kind: file, ...\} \(",
        ),
        ({"a": {"messages": 3}}, r"messages: no text; correct it \(.*x.json, device 'a'\)"),
        (
            {"a": {"messages": "2020-01-28 10:00:00\tparty"}},
            r"'party' is nothing that FLASH records \(.*x.json, device 'a', message 1\)",
        ),
        (
            {"a": {"messages": "\nyesterday\twifi"}},
            r"'yesterday' is no time such as 2020-01-28 17:02:44; correct it \(.*x.json, device 'a', message 2\)",
        ),
        ({"a": {"messages": ""}}, r"no device is ever online; correct the recording \(.*x.json\)"),
    ],
    ids=str,
)
def test_wrong_states_are_refused(tmp_path: Path, data: object, message: str) -> None:
    """With the device and the message."""
    with pytest.raises(UserError, match=f"^{message}"):
        load_attendance(write(tmp_path, data), "flash")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"a": {"messages": ""}}, r"this file of FLASH's holds messages, not down_u; it serves availability: ... \("),
        ({"a": {"down_u": 1}}, r"up_u: null is no rate in kB/s; correct it \(.*x.json, device 'a'\)"),
        ({"a": SPEED | {"down_u": 0}}, r"down_u: 0 is no rate in kB/s; correct it \(.*x.json, device 'a'\)"),
        ({"a": SPEED | {"up_sigma": -1}}, r"up_sigma: -1 is no rate in kB/s; correct it \(.*x.json, device 'a'\)"),
        ({"a": SPEED | {"up_sigma": True}}, r"up_sigma: true is no rate in kB/s; correct it \(.*x.json, device 'a'\)"),
    ],
    ids=str,
)
def test_wrong_rates_are_refused(tmp_path: Path, data: object, message: str) -> None:
    """With the device."""
    with pytest.raises(UserError, match=f"^{message}"):
        load_speeds(write(tmp_path, data), "flash")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '{"a":\n 3,}',
            r"not JSON: Expecting property name enclosed in double quotes; correct it \(.*x.json, line 2\)",
        ),
        ('{"a": NaN}', r"NaN is no number of JSON's; correct it \(.*x.json\)"),
        ("[" * 100_000, r"nested too deep; give FLASH's own file \(.*x.json\)"),
    ],
)
def test_what_is_no_json_is_refused(tmp_path: Path, text: str, message: str) -> None:
    """With the line."""
    path = tmp_path / "x.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=f"^{message}$"):
        load_speeds(path, "flash")
