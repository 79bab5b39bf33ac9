"""FLASH's two device traces (Yang et al., WWW 2021; PKU-Chengxu/FLASH, BSD-2), as JSON, an entry a device.

`speed_distri.json`: `down_u`, `down_sigma`, `up_u`, `up_sigma`, mean and standard deviation of normal rates in kB/s; a
kB is 1024 bytes, as FLASH divides bytes by 1024. (Its upload time divides by 1000 once more, a mistake that is not
repeated here.) `state_traces.json`: `messages`, lines of a time, a tab and what happened. A device is online while it
is locked, charging and on Wi-Fi, as in FLASH's timer.py.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final, NoReturn

import numpy as np

from fedsim.errors import shown
from fedsim.hardware.traces.attendance import Attendance, Availability
from fedsim.hardware.traces.files import TraceFile
from fedsim.hardware.traces.formats.reading import Format, Speeds

_KB: Final = 1024.0
_SPEED: Final = ("down_u", "up_u", "down_sigma", "up_sigma")
_EVENTS: Final = {
    "battery_charged_on": ("charging", True),
    "battery_charged_off": ("charging", False),
    "screen_lock": ("locked", True),
    "screen_unlock": ("locked", False),
    "wifi": ("wifi", True),
    **dict.fromkeys(("unknown", "2g", "3g", "4g", "5g"), ("wifi", False)),
}
_INDIFFERENT: Final = ("screen_on", "screen_off", "battery_low", "battery_okay", "phone_on", "phone_off")


def _speeds(file: TraceFile) -> Speeds:
    found = []
    for name, entry in _entries(file, "down_u", "messages", "availability: ..."):
        for key in _SPEED:
            value = entry.get(key)
            plain = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf
            if not plain or (value == 0 and key.endswith("_u")):
                raise file.error(f"{key}: {shown(value)} is no rate in kB/s; correct it", f"device {name}")
        found.append([entry[key] for key in _SPEED])
    down, up, down_deviation, up_deviation = np.array(found, np.float64).T * _KB
    return Speeds(down, up, down_deviation, up_deviation)


def _attendance(file: TraceFile, wrap: bool) -> Attendance:
    """Devices that are never online, or were seen at one moment only, are left out."""
    found = []
    for name, entry in _entries(file, "messages", "down_u", "population: {kind: file, ...}"):
        text = entry["messages"]
        if not isinstance(text, str):
            raise file.error("messages: no text; correct it", f"device {name}")
        events = list(_events(file, name, text))
        if events and events[-1][0] > events[0][0]:
            member = _availability(events, wrap=wrap)
            if member is not None:
                found.append(member)
    return Attendance(tuple(found))


def _events(file: TraceFile, name: str, text: str) -> Iterator[tuple[float, str]]:
    """Seconds since 1970 and what happened then, in order of time."""
    found = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        moment, _, event = (part.strip().lower() for part in line.partition("\t"))
        if event not in _EVENTS and event not in _INDIFFERENT and not event.endswith("%"):
            raise file.error(f"{shown(event)} is nothing that FLASH records", f"device {name}, message {number}")
        try:
            found.append((datetime.fromisoformat(moment).replace(tzinfo=UTC).timestamp(), event))
        except ValueError:
            wrong = f"{shown(moment)} is no time such as 2020-01-28 17:02:44; correct it"
            raise file.error(wrong, f"device {name}, message {number}") from None
    yield from sorted(found, key=lambda item: item[0])


def _availability(events: list[tuple[float, str]], *, wrap: bool) -> Availability | None:
    state = {"charging": False, "locked": False, "wifi": False}
    begin, end = events[0][0], events[-1][0]
    online: list[tuple[float, float]] = []
    since: float | None = None
    for moment, event in events:
        if event in _EVENTS:
            key, value = _EVENTS[event]
            state[key] = value
        if all(state.values()) and since is None:
            since = moment
        elif not all(state.values()) and since is not None:
            online.append((since - begin, moment - begin))
            since = None
    if since is not None:
        online.append((since - begin, end - begin))
    return Availability.of(np.array(online).reshape(-1, 2), end - begin, wrap=wrap)


def _entries(file: TraceFile, wanted: str, other: str, use: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    data = _json(file)
    if not isinstance(data, dict) or not data:
        raise file.error("no JSON object with an entry a device; give FLASH's speed_distri.json or state_traces.json")
    for name, entry in data.items():
        if not isinstance(entry, dict) or wanted not in entry:
            if isinstance(entry, dict) and other in entry:
                raise file.error(f"this file of FLASH's holds {other}, not {wanted}; it serves {use}")
            raise file.error(f"no key {wanted}; give FLASH's own file", f"device {shown(name)}")
        yield shown(name), entry


def _json(file: TraceFile) -> Any:  # whatever JSON may hold; the caller checks it

    def no_number(constant: str) -> NoReturn:
        raise file.error(f"{constant} is no number of JSON's; correct it")

    with file.reading(), file.path.open(encoding="utf-8-sig") as stream:
        try:
            return json.load(stream, parse_constant=no_number)
        except json.JSONDecodeError as reason:
            raise file.error(f"not JSON: {reason.msg}; correct it", reason.lineno) from reason
        except RecursionError as reason:
            raise file.error("nested too deep; give FLASH's own file") from reason


FORMAT: Final = Format(
    name="flash",
    holds="rates of devices, or when they are online",
    recognises=lambda head: head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{"),
    speeds=_speeds,
    attendance=_attendance,
)
