"""Loading: a file's format is found, or named; asking a file for what it does not hold is refused."""

from __future__ import annotations

import json
import pickle
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from fedsim.errors import UserError
from fedsim.hardware.traces.files import TraceFile
from fedsim.hardware.traces.formats.known import FORMATS, format_of
from fedsim.hardware.traces.loading import load_attendance, load_rates, load_speeds

EXAMPLES = {
    "fedsim": b"\xef\xbb\xbftime_s,up_bit_s,down_bit_s,online\n0,8,8,1\n",
    "mahimahi": b"0\n0\n12\n",
    "ucc": b"Timestamp,Longitude,DL_bitrate,UL_bitrate,PINGAVG\n2019.11.28_07.00.00,0,8,8,-\n",
    "wetlinks": b"site_name,timestamp_start,timestamp_end,download,upload\n"
    b"a,2023-10-12 15:00:00,2023-10-12 15:00:01,8,8\n",
    "mba": b'"unit_id","dtime","target","bytes_sec"\n1,2021-09-01 00:00:00,t,8\n',
    "mobilebandwidth": b"brand,bandwidth_Mbps\na,8\n",
    "fedscale": pickle.dumps({1: {"computation": 1, "communication": 1}}),
    "flash": json.dumps({"a": {"down_u": 1, "down_sigma": 1, "up_u": 1, "up_sigma": 1}}, indent=1).encode(),
}


def write(folder: Path, raw: bytes, name: str = "x") -> Path:
    """A file with this in it."""
    path = folder / name
    path.write_bytes(raw)
    return path


def test_there_is_an_example_of_every_format() -> None:
    """Below."""
    assert set(EXAMPLES) == set(FORMATS)


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_format_is_recognised_by_its_content(tmp_path: Path, name: str) -> None:
    """And by no other reader that comes first; pickles of any protocol."""
    assert format_of(TraceFile(write(tmp_path, EXAMPLES[name])), None).name == name
    assert format_of(TraceFile(tmp_path / "x"), name).name == name
    old = TraceFile(write(tmp_path, pickle.dumps({1: {}}, 0)))
    assert format_of(old, None).name == "fedscale"


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_file_is_asked_for_what_it_holds_only(tmp_path: Path, name: str) -> None:
    """What it cannot give is refused with the readers that can."""
    path, known = write(tmp_path, EXAMPLES[name]), FORMATS[name]
    if known.rates is None:
        with pytest.raises(UserError, match=rf"^a file of {name} holds .*, but capacity over time is wanted; .* ucc"):
            load_rates(path, efficiency=1.0)
    else:
        load_rates(path, up=1.0, efficiency=1.0)
    if known.speeds is None:
        with pytest.raises(
            UserError, match=rf"^a file of {name} holds .*, but the rates of many users is wanted; that"
        ):
            load_speeds(path)
    else:
        load_speeds(path)
    if known.attendance is None:
        message = (
            rf"^a file of {name} holds .*, but when devices are online is wanted; that have: fedscale, fedsim, flash"
        )
        with pytest.raises(UserError, match=message):
            load_attendance(path)


@pytest.mark.parametrize("name", [name for name, known in FORMATS.items() if known.rates is not None])
def test_a_choice_that_means_nothing_is_refused(tmp_path: Path, name: str) -> None:
    """An option without effect is a trap."""
    path = write(tmp_path, EXAMPLES[name])
    choices: dict[str, Any] = {"unit": "1", "step": 1.0}
    for key in choices.keys() - FORMATS[name].choices:
        with pytest.raises(UserError, match=rf"^{key} means nothing to reader {name}; remove it \(.*x\)$"):
            load_rates(path, efficiency=1.0, **{key: choices[key]})


def test_a_direction_comes_from_somewhere(tmp_path: Path) -> None:
    """From the file, a ratio, or the link, in this order; two at once are refused, and none, too."""
    both = write(tmp_path, EXAMPLES["fedsim"])
    with pytest.raises(UserError, match=r"^the recording has an uplink of its own; remove up_over_down \(.*x\)$"):
        load_rates(both, up_over_down=1.0, efficiency=1.0)
    packets = write(tmp_path, EXAMPLES["mahimahi"])
    assert load_rates(packets, up_over_down=0.5, up=1.0, efficiency=1.0).up[0] == 187500
    assert load_rates(packets, up=1.0, efficiency=1.0).up[0] == 1
    with pytest.raises(UserError, match=r"^the recording has no uplink; give up_over_down, or the link's own as up \("):
        load_rates(packets, efficiency=1.0)
    with pytest.raises(UserError, match=r"^the recording has no downlink; give the link's own as down \(.*x.up\)$"):
        load_rates(write(tmp_path, EXAMPLES["mahimahi"], "x.up"), efficiency=1.0)


def test_paths_are_relative_to_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The current one unless given; messages show the path as seen from there."""
    write(tmp_path, EXAMPLES["fedsim"])
    assert len(load_attendance("x", relative_to=tmp_path).members) == 1
    monkeypatch.chdir(tmp_path)
    assert len(load_attendance("x").members) == 1
    assert load_rates("x", wrap=False, efficiency=1.0).wrap is False
    with pytest.raises(UserError, match=r"^the trace cannot be read: No such file or directory; check the path \(y\)$"):
        load_rates("y", efficiency=1.0)
    with pytest.raises(UserError, match=r"^the trace cannot be read: .*null byte.*; check the path \(.*\)$"):
        load_rates("y\0", efficiency=1.0)


@pytest.mark.parametrize(
    ("raw", "reader", "message"),
    [
        (b"", None, r"the file is empty; give one with a recording in it \(.*x\)"),
        (
            b"a,b\n1,2\n",
            None,
            r"this is in no format that fedsim knows; give one of: fedscale, .* name it with reader \(",
        ),
        (b"\xff\xfe\x00", None, r"this is in no format that fedsim knows; give one of: "),
        (
            b"1\n",
            "mahimahy",
            r"unknown reader 'mahimahy'; did you mean mahimahi\? there are: fedscale, fedsim, flash, ",
        ),
        (b"\xff\xfe\x00", "fedsim", r"not text in UTF-8; save it as UTF-8, or name another reader \(.*x\)"),
        (b"time_s,up_bit_s\n0,\xff\n", None, r"not text in UTF-8; save it as UTF-8, or name another reader \(.*x\)"),
        (b"\xff", "mahimahi", r"not text in UTF-8; save it as UTF-8, or name another reader \(.*x\)"),
        (b"tims_s,up_bit_s\n0,1\n", "fedsim", r"there is no column time_s; did you mean tims_s\? \(.*x, line 1\)"),
        (b"time_s,up_bit_s\n" + b"9" * 200_000, "fedsim", r"not CSV: field larger than field limit .* \(.*x, line 2\)"),
    ],
    ids=str,
)
def test_a_file_in_no_known_format_is_refused(tmp_path: Path, raw: bytes, reader: str | None, message: str) -> None:
    """With what there is."""
    with pytest.raises(UserError, match=f"^{message}"):
        load_rates(write(tmp_path, raw), reader, up=1.0, down=1.0, efficiency=1.0)


def test_a_folder_is_no_trace(tmp_path: Path) -> None:
    """Named, or to be guessed."""
    for reader in (None, "fedscale", "flash", "mobilebandwidth"):
        with pytest.raises(UserError, match=r"^the trace cannot be read: Is a directory; check the path \("):
            load_speeds(tmp_path, reader)


@pytest.mark.slow
def test_a_long_file_is_not_held_in_memory(tmp_path: Path) -> None:
    """Packets, and speed tests of many units, of which there is about a megabyte each."""
    packets = write(tmp_path, b"".join(b"%d\n" % (n // 2 + 10**8) for n in range(100_000)))
    line = b"%d,2021-09-01 00:00:00,some.target.of.the.test.example.org,192.168.0.1,8000\n"
    table = b"unit_id,dtime,target,address,bytes_sec\n" + b"".join(line % (n % 50) for n in range(12_000))
    tests = write(tmp_path, table, "tests")
    tracemalloc.start()
    try:
        load_rates(packets, up=1.0, efficiency=1.0, step=1000.0)
        load_speeds(tests)
        assert tracemalloc.get_traced_memory()[1] < 0.6e6
    finally:
        tracemalloc.stop()
