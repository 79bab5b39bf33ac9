"""Recordings from files: one function for capacity over time, for the rates of users, for when devices are online.

Each takes the path of a file, relative to `relative_to` (the current folder unless given), and the name of its reader,
which is guessed from the file unless given. Knows formats by their descriptions only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from fedsim.hardware.traces.attendance import Attendance
from fedsim.hardware.traces.files import TraceFile, located
from fedsim.hardware.traces.formats import fedscale
from fedsim.hardware.traces.formats.known import FORMATS, format_of
from fedsim.hardware.traces.formats.reading import Choice, Directions, Format, Speeds
from fedsim.hardware.traces.rates import RateTrace, Series, joined


def load_rates(
    path: str | Path,
    reader: str | None = None,
    *,
    relative_to: Path | None = None,
    up_path: str | Path | None = None,
    wrap: bool = True,
    unit: str | None = None,
    step: float | None = None,
    up_over_down: float | None = None,
    up: float | None = None,
    down: float | None = None,
    rate: Literal["goodput", "line"] = "line",
    efficiency: float,
) -> RateTrace:
    """Capacity over time, above TCP.

    Args:
        path: A file with both directions; of a format with one direction a file, the downlink, unless its name says
            that it is the uplink.
        reader: The format of both files.
        relative_to: The folder where relative paths start.
        up_path: The uplink, in a format with one direction a file.
        wrap: Whether the recording begins again when it ends.
        unit: Which device of a file with several.
        step: Seconds over which the packets of `mahimahi` are counted together; 0.5 unless given.
        up_over_down: The uplink, where no file has one, as a multiple of the downlink.
        up: The uplink, where there is neither, as a constant: bytes/s above TCP.
        down: The downlink, where no file has one, as a constant.
        rate: What capacities count as where the format does not say: on the wire, or above TCP.
        efficiency: What messages get of a capacity on the wire.

    Raises:
        UserError: a file cannot be read or breaks a rule of its format, or what it holds is not what is asked for.
    """
    file = _file(path, relative_to)
    known = _holding(file, reader, "rates")
    choice = _choice(file, known, unit, step)
    found = _directions(file, known, choice)
    if up_path is not None:
        second = _file(up_path, relative_to)
        _check_places(file, second, known)
        found = Directions(found.down, _directions(second, known, choice).down)
    elif known.one_way and _named(file) == "up":
        found = Directions(None, found.down)
    factor = 1.0 if (known.measured or rate) == "goodput" else efficiency
    try:
        return joined(*_completed(file, found, factor, up_over_down, up, down), wrap=wrap)
    except ValueError as reason:
        raise file.error(f"{reason}; correct the recording") from reason


def load_attendance(
    path: str | Path, reader: str | None = None, *, relative_to: Path | None = None, wrap: bool = True
) -> Attendance:
    """When devices are online; devices that never are are left out.

    Raises:
        UserError: the file cannot be read or breaks a rule of its format, or no device is ever online.
    """
    file = _file(path, relative_to)
    read = _holding(file, reader, "attendance").attendance
    assert read is not None  # as `_holding` has seen to
    found = read(file, wrap)
    if not found.members:
        raise file.error("no device is ever online; correct the recording")
    return found


def load_speeds(path: str | Path, reader: str | None = None, *, relative_to: Path | None = None) -> Speeds:
    """The rates that users or devices had.

    Raises:
        UserError: the file cannot be read, or breaks a rule of its format.
    """
    file = _file(path, relative_to)
    read = _holding(file, reader, "speeds").speeds
    assert read is not None  # as `_holding` has seen to
    return read(file)


def load_fedscale_devices(path: str | Path, *, relative_to: Path | None = None) -> fedscale.Capacities:
    """Computing times and rates of FedScale's `client_device_capacity`.

    Raises:
        UserError: the file cannot be read, or is not that file.
    """
    return fedscale.capacities(_file(path, relative_to))


def _file(path: str | Path, relative_to: Path | None) -> TraceFile:
    return TraceFile(located(path, relative_to or Path.cwd()))


def _holding(file: TraceFile, reader: str | None, what: Literal["rates", "speeds", "attendance"]) -> Format:
    known = format_of(file, reader)
    if getattr(known, what) is None:
        able = ", ".join(sorted(name for name, other in FORMATS.items() if getattr(other, what) is not None))
        use = {
            "rates": "capacity over time",
            "speeds": "the rates of many users",
            "attendance": "when devices are online",
        }[what]
        raise file.error(f"a file of {known.name} holds {known.holds}, but {use} is wanted; that have: {able}")
    return known


def _choice(file: TraceFile, known: Format, unit: str | None, step: float | None) -> Choice:
    for key, value in (("unit", unit), ("step", step)):
        if value is not None and key not in known.choices:
            raise file.error(f"{key} means nothing to reader {known.name}; remove it")
    return Choice(unit, Choice.step if step is None else step)


def _directions(file: TraceFile, known: Format, choice: Choice) -> Directions:
    assert known.rates is not None  # as `_holding` has seen to
    try:
        return known.rates(file, choice)
    except ValueError as reason:
        raise file.error(f"{reason} in it; give a file with a recording") from reason


def _named(file: TraceFile) -> Literal["up", "down"] | None:
    """The direction that the name of a file tells, in Mahimahi's and the FCC's manner."""
    name = file.path.name.lower()
    if "httppost" in name or name.endswith((".up", "-up.pps")):
        return "up"
    return "down" if "httpget" in name or name.endswith((".down", "-down.pps")) else None


def _check_places(file: TraceFile, second: TraceFile, known: Format) -> None:
    """Files of both directions look alike; a name that tells the opposite of its place is a mistake."""
    if not known.one_way:
        raise file.error(f"a file of {known.name} has all that is known, so it takes no up_path; remove that")
    if _named(file) == "up":
        raise file.error("by its name this is an uplink; give it as up_path, and a downlink as path")
    if _named(second) == "down":
        raise second.error("by its name this is a downlink; give it as path, and an uplink as up_path")


def _completed(
    file: TraceFile,
    found: Directions,
    factor: float,
    up_over_down: float | None,
    up: float | None,
    down: float | None,
) -> tuple[Series, Series]:
    """Up and down above TCP; what the recording says of them is multiplied by `factor`."""
    if found.up is not None and up_over_down is not None:
        raise file.error("the recording has an uplink of its own; remove up_over_down")
    if found.down is not None:
        downlink = found.down.scaled(factor)
    elif down is not None:
        downlink = Series.constant(down)
    else:
        raise file.error("the recording has no downlink; give the link's own as down")
    if found.up is not None:
        return found.up.scaled(factor), downlink
    if up_over_down is not None:
        return downlink.scaled(up_over_down), downlink
    if up is None:
        raise file.error("the recording has no uplink; give up_over_down, or the link's own as up")
    return Series.constant(up), downlink
