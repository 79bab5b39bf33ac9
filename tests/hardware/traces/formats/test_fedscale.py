"""FedScale's pickles: read as data, never run; kilobits of 1024 bits, milliseconds, seconds."""

from __future__ import annotations

import os
import pickle
from collections import OrderedDict
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedsim.errors import UserError
from fedsim.hardware.traces.loading import load_attendance, load_fedscale_devices, load_speeds

CAPACITY = {1: {"computation": 36.0, "communication": 5648.109619499134}, 2: {"computation": 147, "communication": 80}}
BEHAVIOUR = {
    1: {"duration": 211625, "inactive": [10, 30], "finish_time": 100, "active": [0, 20], "model": "CPH1801"},
    2: {"duration": 0, "inactive": [90], "finish_time": 100, "active": [40, 95], "model": "MI 6"},
    3: {"duration": 0, "inactive": [], "finish_time": 100, "active": [], "model": "MI 6"},
}


def write(folder: Path, data: object, protocol: int | None = None) -> Path:
    """A pickle of this."""
    path = folder / "trace"
    path.write_bytes(pickle.dumps(data, protocol))
    return path


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_capacities_are_read(tmp_path: Path, protocol: int) -> None:
    """Of any age of pickle: seconds a sample, bytes/s the same both ways."""
    path = write(tmp_path, CAPACITY, protocol)
    found = load_fedscale_devices(path.name, relative_to=tmp_path)
    assert found.seconds_per_sample.tolist() == pytest.approx([0.036, 0.147])
    assert found.rates.tolist() == pytest.approx([5648.109619499134 * 128, 80 * 128])
    speeds = load_speeds(path)
    assert speeds.up is not None
    assert (speeds.up.tolist(), speeds.down.tolist()) == (found.rates.tolist(), found.rates.tolist())


def test_availability_is_read(tmp_path: Path) -> None:
    """It begins again after finish_time; a coming without a going lasts until then; who is never there is left out."""
    first, second = load_attendance(write(tmp_path, BEHAVIOUR)).members
    assert (first.starts.tolist(), first.ends.tolist(), first.length) == ([0, 20], [10, 30], 100)
    assert (second.starts.tolist(), second.ends.tolist(), second.wrap) == ([40, 95], [90, 100], True)


class Malicious:
    """Unpickling this runs a program."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch run-by-the-pickle",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_that_would_run_a_program_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: int
) -> None:
    """By name, before anything has happened."""
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path, {1: Malicious()}, protocol)
    with pytest.raises(
        UserError, match=r"^the pickle asks for (posix|os|nt).system; only numbers, text, .* \(trace\)$"
    ):
        load_speeds(path, "fedscale")
    assert [file.name for file in tmp_path.iterdir()] == ["trace"]


@pytest.mark.parametrize(
    ("data", "asked"),
    [
        (np.float64(3), r"numpy.*scalar"),
        (np.arange(3), r"numpy.*"),
        (OrderedDict(a=1), r"collections.OrderedDict"),
        (Fraction(1, 3), r"fractions.Fraction"),
        (print, r"builtins.print"),
        (Path("x"), r"pathlib.*Path"),
    ],
    ids=str,
)
def test_nothing_but_plain_data_is_read(tmp_path: Path, data: object, asked: str) -> None:
    """Harmless objects of libraries neither: there is no list of what is harmless."""
    with pytest.raises(UserError, match=rf"^the pickle asks for {asked}; only numbers, text, lists and dictionaries"):
        load_attendance(write(tmp_path, {1: data}), "fedscale")


@pytest.mark.parametrize(
    "raw",
    [
        b"\x80\x04\x8c\x05posix\x94\x8c\x06system\x94\x93\x94\x8c\x02ls\x94\x85R.",  # STACK_GLOBAL, REDUCE
        b"(S'ls'\niposix\nsystem\n.",  # INST
        b"(cposix\nsystem\nS'ls'\no.",  # OBJ
        b"\x80\x02Pnumber 7\n.",  # PERSID
        b"\x80\x02}cposix\nsystem\nb.",  # BUILD after GLOBAL
    ],
)
def test_every_way_to_a_function_is_closed(tmp_path: Path, raw: bytes) -> None:
    """The opcodes that fetch, and an object that lies elsewhere."""
    path = tmp_path / "trace"
    path.write_bytes(raw)
    with pytest.raises(
        UserError, match=r"^the pickle asks for (posix.system|the object 'number 7' from elsewhere); only"
    ):
        load_speeds(path, "fedscale")


@pytest.mark.parametrize("raw", [b"\x80\x04", b"\x80\x04}", b"\x80\x63.", b"nonsense", b"\x80\x04\x82\x01."])
def test_a_damaged_pickle_is_refused(tmp_path: Path, raw: bytes) -> None:
    """Whatever is wrong with it."""
    path = tmp_path / "trace"
    path.write_bytes(raw)
    with pytest.raises(UserError, match=r"^no readable pickle: .*; get it again \(.*trace\)$"):
        load_speeds(path, "fedscale")


ENTRY = BEHAVIOUR[1]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([1], r"no dictionary with an entry a client; give one of FedScale's own files \(.*trace\)"),
        ({}, r"no dictionary with an entry a client; give one of FedScale's own files \(.*trace\)"),
        ({7: 3}, r"no key active; give FedScale's own file \(.*trace, client 7\)"),
        ({7: {"model": "x"}}, r"no key active; give FedScale's own file \(.*trace, client 7\)"),
        (
            CAPACITY,
            r"this file of FedScale's holds communication, not active; it serves population: \{kind: file, ...\}",
        ),
        ({7: ENTRY | {"finish_time": 0}}, r"finish_time: 0 is no number above zero; correct it \(.*trace, client 7\)"),
        ({7: ENTRY | {"finish_time": True}}, r"finish_time: true is no number above zero; .* \(.*trace, client 7\)"),
        (
            {7: ENTRY | {"active": [1]}},
            r"1 times in active, but 2 in inactive; each coming needs its going \(.*client 7",
        ),
        ({7: ENTRY | {"active": 3}}, r"active: no list of seconds; correct it \(.*trace, client 7\)"),
        ({7: ENTRY | {"inactive": ["x", 2]}}, r"inactive: no list of seconds; correct it \(.*trace, client 7\)"),
        (
            {7: ENTRY | {"inactive": [float("inf"), 2]}},
            r"active or inactive holds a time that is not finite; correct it \(.*trace, client 7\)",
        ),
        ({"7": BEHAVIOUR[3]}, r"no device is ever online; correct the recording \(.*trace\)"),
    ],
    ids=str,
)
def test_wrong_availability_is_refused(tmp_path: Path, data: object, message: str) -> None:
    """With the client, where it concerns one."""
    with pytest.raises(UserError, match=f"^{message}"):
        load_attendance(write(tmp_path, data), "fedscale")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            BEHAVIOUR,
            r"this file of FedScale's holds active, not communication; it serves availability: ... \(.*trace\)",
        ),
        ({7: {"communication": 3}}, r"computation: null is no number above zero; correct it \(.*trace, client 7\)"),
        (
            {7: {"computation": 1, "communication": float("nan")}},
            r"communication: nan is no number above zero; correct it \(.*trace, client 7\)",
        ),
    ],
    ids=str,
)
def test_wrong_capacities_are_refused(tmp_path: Path, data: object, message: str) -> None:
    """With the client, where it concerns one."""
    with pytest.raises(UserError, match=f"^{message}"):
        load_fedscale_devices(write(tmp_path, data))
