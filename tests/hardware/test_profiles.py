"""Profiles: what ships is complete and sourced; what cannot be is refused in words that help."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from fedsim import catalogue
from fedsim.costs import OpClass
from fedsim.documents.problems import DocumentError
from fedsim.errors import UserError
from fedsim.hardware import sources
from fedsim.hardware.fits import Calibration, ModelFit
from fedsim.hardware.links import Link
from fedsim.hardware.modes import Mode
from fedsim.hardware.power import Draw
from fedsim.hardware.processors import Efficiency, Processor, Processors
from fedsim.hardware.profiles import CostModel, Kind, Memory, Profile, Thermal, Variation, load_profile
from fedsim.hardware.times import ModelTimes, UnitTimes

BOARD = """\
schema: 1
id: my-board
name: A board on my desk
kind: board
cost_model: scalar
speed: 2 GMAC/s
memory: {capacity: 4 GB, usable: 3 GB, runtime: 250 MB}
power: {idle: 2 W, busy: 6 W}
sources:
  - {field: speed, confidence: measured, ref: a stopwatch}
"""

ROOFLINE = """\
schema: 1
id: my-board
name: A board with two processors
kind: jetson
cost_model: roofline
processors:
  cpu: {cores: 4, clock: 1.5 GHz, peak: 48 GFLOP/s, gemm: 40 GFLOP/s, bandwidth: 7.5 GB/s, overhead: 60 us}
  gpu:
    {cores: 128, clock: 0.9 GHz, gemm: 140 GFLOP/s, bandwidth: 19 GB/s, overhead: 50 us,
    efficiency: {conv: 40 %, copy: 2},
    half_batch: 4}
use: gpu
memory: {capacity: 4 GB, usable: 3 GB, runtime: 250 MB, workspace: 100 MB}
power: {idle: 2 W, busy: 10 W, ready: 3 W}
variation: {jitter: 3 %, spread: 10 %}
thermal: {factor: 86 %, after: 300 s}
modes:
  5w: {cpu.cores: 2, cpu.clock: 0.9 GHz, gpu.clock: 0.6 GHz, power.busy: 5 W}
  host: {use: cpu, cpu.gemm: 30 GFLOP/s}
  full: {}
calibration: none
sources:
  - {field: modes.5w, confidence: specification, ref: a data sheet}
  - {field: processors.gpu.efficiency.conv, confidence: unverified, ref: a hunch}
  - {field: processors, confidence: derived, ref: a benchmark}
"""

TABLE = """\
schema: 1
id: my-board
name: A phone with measured times
kind: phone
cost_model: table
times:
  vgg5:
    batches: [8, 32]
    units:
      conv1: {forward: [6 ms, 22 ms], backward: [13 ms, 48 ms], optimizer: 1 ms}
      loss: {forward: [1 ms, 1 ms], backward: [1 ms, 2 ms]}
memory: {capacity: 4 GB, usable: 3 GB, runtime: 250 MB}
power: {idle: 2 W, busy: 6 W}
sources:
  - {field: times.vgg5, confidence: measured, ref: a stopwatch}
"""

FEDSCALE = BOARD.replace(
    "cost_model: scalar\nspeed: 2 GMAC/s", "cost_model: fedscale_scalar\nsample_time: 5 ms"
).replace("field: speed", "field: sample_time")

CALIBRATION = """\
calibration:
  mape: 7 %
  bias: -1 %
  worst: 24 %
  left_out: 15 %
  rho: 0.99
  machine: a desktop
  threads: 1
  versions: {torch: 2.13.0}
  date: 2026-03-31
  models:
    - {model: vgg5, mape: 6 %, left_out: 12 %}
"""

TIERS = {
    "pi-tier-1": 2.2e9,
    "pi-tier-2": 1.6e9,
    "pi-tier-3": 1.1e9,
    "pi-tier-4": 0.65e9,
    "jetson-tier-1": 55e9,
    "jetson-tier-2": 40e9,
    "jetson-tier-3": 25e9,
    "jetson-tier-4": 12e9,
    "cpu-60g": 60e9,
    "gpu-1t": 1e12,
    "gpu-2t5": 2.5e12,
    "gpu-3t": 3e12,
    "gpu-30t": 30e12,
}


def write(folder: Path, text: str, name: str = "my-board.yaml") -> Path:
    """A profile file."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", catalogue.names("profile"))
def test_every_number_of_a_shipped_profile_has_a_source(name: str) -> None:
    """No figure ships without a word on where it is from."""
    profile = load_profile(name)
    assert sources.uncovered(profile, profile.sources) == []


@pytest.mark.parametrize("name", catalogue.names("profile"))
def test_a_shipped_profile_names_a_link_that_exists(name: str) -> None:
    """A fleet group without a link gets the profile's own."""
    assert load_profile(name).default_link in catalogue.names("link")


def test_the_abstract_tiers_are_as_specified() -> None:
    """Speeds of the reference scenarios; backward costs twice forward; none of it pretends to be measured."""
    profiles = {name: load_profile(name) for name in TIERS}
    assert {name: profile.speed for name, profile in profiles.items()} == TIERS
    assert {profile.backward_ratio for profile in profiles.values()} == {2.0}
    assert {profile.kind for profile in profiles.values()} == {Kind.ABSTRACT}
    for profile in profiles.values():
        assert sources.unverified(profile, profile.sources) == list(sources.numbers(profile))


def test_a_users_file_is_found_relative_to_the_scenario(tmp_path: Path) -> None:
    """`./my-board.yaml` is looked for beside the scenario; quantities become SI, defaults are filled in."""
    write(tmp_path, BOARD)
    profile = load_profile("./my-board.yaml", relative_to=tmp_path)
    assert (profile.speed, profile.memory.runtime, profile.power.idle) == (2e9, 250e6, 2.0)
    assert (profile.backward_ratio, profile.lanes, profile.power.ready) == (2.0, 1, 2.0)
    assert profile.default_link is None


def test_a_roofline_profile_says_what_computes(tmp_path: Path) -> None:
    """Rates in MAC/s and bytes/s, shares by class, modes by dotted keys; what is not said has its default."""
    write(tmp_path, ROOFLINE)
    profile = load_profile("./my-board.yaml", relative_to=tmp_path)
    assert profile.processors is not None
    cpu, gpu = profile.processors.cpu, profile.processors.gpu
    assert cpu is not None
    assert gpu is not None
    assert (cpu.cores, cpu.clock, cpu.peak, cpu.gemm, cpu.bandwidth, cpu.overhead) == (
        4,
        1.5e9,
        24e9,
        20e9,
        7.5e9,
        6e-5,
    )
    assert (gpu.peak, gpu.half_batch, cpu.half_batch) == (None, 4.0, None)
    assert gpu.efficiency == Efficiency.model_validate({"conv": 0.4, "copy": 2.0})
    assert (profile.cost_model, profile.use, profile.calibration) == (CostModel.ROOFLINE, "gpu", None)
    assert list(profile.modes) == ["5w", "host", "full"]
    assert profile.modes["5w"].of("cpu") == {"cores": 2, "clock": 0.9e9}
    assert (profile.modes["5w"].of("gpu"), profile.modes["5w"].power_busy) == ({"clock": 0.6e9}, 5.0)
    assert (profile.memory.workspace, profile.power.ready) == (1e8, 3.0)
    assert (profile.variation.jitter, profile.variation.spread) == (0.03, 0.1)
    assert profile.thermal is not None
    assert (profile.thermal.factor, profile.thermal.after) == (0.86, 300.0)


def test_shares_that_a_profile_does_not_give_are_starting_values() -> None:
    """Of gemm for the classes that multiply; the others read and write at the full bandwidth."""
    shares = {kind.value: Efficiency().of(kind) for kind in OpClass}
    assert shares == {
        "linear": 0.6,
        "attention": 0.6,
        "conv": 0.35,
        "pointwise": 0.3,
        "depthwise": 1.0,
        "elementwise": 1.0,
        "optimizer": 1.0,
        "copy": 1.0,
    }


def test_the_only_processor_is_the_one_that_trains(tmp_path: Path) -> None:
    """With one processor, `use` need not be said; heat, variation and modes are off unless given."""
    text = re.sub(r"  gpu:.*?use: gpu\n", "", ROOFLINE, flags=re.S)
    text = re.sub(r"variation.*?calibration: none\n", "", text, flags=re.S)
    write(tmp_path, text[: text.index("sources:")])
    profile = load_profile("./my-board.yaml", relative_to=tmp_path)
    assert (profile.use, profile.modes, profile.thermal) == ("cpu", {}, None)
    assert (profile.variation, profile.calibration) == (Variation(), None)


def test_a_mode_changes_only_what_there_is(tmp_path: Path) -> None:
    """A processor that is not there, cores or a clock that the profile does not give: nothing to compare with."""
    write(tmp_path, ROOFLINE.replace("cores: 128, ", "").replace("gpu.clock: 0.6 GHz", "gpu.cores: 64"))
    message = (
        r"^modes.5w.gpu.cores: the profile does not give the gpu's cores; add processors.gpu.cores, too \(.*line 18\)$"
    )
    with pytest.raises(DocumentError, match=message):
        load_profile("./my-board.yaml", relative_to=tmp_path)
    write(tmp_path, re.sub(r"  gpu:.*?use: gpu\n", "", ROOFLINE, flags=re.S))
    with pytest.raises(DocumentError, match=r"^modes.5w.gpu.clock: there is no gpu, only cpu \(.*line 13\)$"):
        load_profile("./my-board.yaml", relative_to=tmp_path)
    write(tmp_path, re.sub(r"processors:\n.*?use: gpu\n", "processors: {}\n", ROOFLINE, flags=re.S))
    with pytest.raises(DocumentError, match=r"^processors: there are none; describe cpu, gpu or both \(.*line 6\)$"):
        load_profile("./my-board.yaml", relative_to=tmp_path)


def test_a_table_has_measured_times(tmp_path: Path) -> None:
    """By model and unit: forward and backward at each batch size, the optimizer's at any."""
    write(tmp_path, TABLE)
    times = load_profile("./my-board.yaml", relative_to=tmp_path).times["vgg5"]
    assert times.batches == (8, 32)
    assert times.units["conv1"] == UnitTimes.model_validate(
        {"forward": ["6 ms", "22 ms"], "backward": ["13 ms", "48 ms"], "optimizer": "1 ms"}
    )
    assert times.units["loss"].optimizer is None


def test_a_calibration_says_how_far_prices_are_off(tmp_path: Path) -> None:
    """Shares of the measured times, the bias with its sign; and how it was measured."""
    write(tmp_path, BOARD + CALIBRATION)
    found = load_profile("./my-board.yaml", relative_to=tmp_path).calibration
    assert found is not None
    assert (found.mape, found.bias, found.worst, found.left_out, found.rho) == (0.07, -0.01, 0.24, 0.15, 0.99)
    assert (found.machine, found.threads, found.versions, found.date) == (
        "a desktop",
        1,
        {"torch": "2.13.0"},
        "2026-03-31",
    )
    assert [(fit.model, fit.mape, fit.left_out) for fit in found.models] == [("vgg5", 0.06, 0.12)]
    assert (found.load, found.scatter, found.measurements) == (None, None, ())


def test_a_calibration_may_carry_its_evidence(tmp_path: Path) -> None:
    """What else ran, how far repeats scattered, and each time beside its prices."""
    one = "{model: vgg5, batch: 8, part: forward, measured: 3.2 ms, priced: 3.3 ms, left_out: 4 ms, scatter: 2 %}"
    write(tmp_path, BOARD + CALIBRATION + f"  load: 3 %\n  scatter: 1 %\n  measurements:\n    - {one}\n")
    found = load_profile("./my-board.yaml", relative_to=tmp_path).calibration
    assert found is not None
    assert (found.load, found.scatter) == (0.03, 0.01)
    (time,) = found.measurements
    assert (time.model, time.batch, time.part) == ("vgg5", 8, "forward")
    assert (time.measured, time.priced, time.left_out, time.scatter) == (3.2e-3, 3.3e-3, 4e-3, 0.02)


@pytest.mark.parametrize("text", [BOARD, ROOFLINE, TABLE, FEDSCALE, BOARD + CALIBRATION])
def test_a_profile_is_written_and_read_back_unchanged(tmp_path: Path, text: str) -> None:
    """What a program writes is what it has read."""
    write(tmp_path, text)
    profile = load_profile("./my-board.yaml", relative_to=tmp_path)
    assert Profile.model_validate(profile.model_dump(mode="json", by_alias=True)) == profile


def test_every_number_of_a_roofline_profile_needs_a_source(tmp_path: Path) -> None:
    """Those of processors, shares, modes, variation and heat; the most specific source of each counts."""
    write(tmp_path, ROOFLINE)
    profile = load_profile("./my-board.yaml", relative_to=tmp_path)
    assert sources.uncovered(profile, profile.sources) == [
        "modes.host.cpu.gemm",
        *("memory.capacity", "memory.usable", "memory.runtime", "memory.workspace"),
        *("power.idle", "power.busy", "power.ready"),
        *("variation.jitter", "variation.spread", "thermal.factor", "thermal.after"),
    ]
    numbers = list(sources.numbers(profile))
    assert numbers[:6] == [
        f"processors.cpu.{key}" for key in ("cores", "clock", "peak", "gemm", "bandwidth", "overhead")
    ]
    assert "processors.gpu.efficiency.copy" in numbers
    assert "processors.gpu.efficiency.linear" not in numbers
    confidence = {field: sources.origin(field, profile.sources) for field in numbers}
    assert str(getattr(confidence["processors.gpu.efficiency.conv"], "confidence", None)) == "unverified"
    assert str(getattr(confidence["processors.gpu.efficiency.copy"], "confidence", None)) == "derived"
    assert str(getattr(confidence["modes.5w.cpu.cores"], "confidence", None)) == "specification"


def test_measured_times_are_covered_and_a_calibration_is_its_own_evidence(tmp_path: Path) -> None:
    """A list of times is one number to account for; what a calibration found needs no further source."""
    write(tmp_path, TABLE)
    profile = load_profile("./my-board.yaml", relative_to=tmp_path)
    found = [number for number in sources.numbers(profile) if number.startswith("times")]
    assert found == [
        "times.vgg5.batches",
        *(f"times.vgg5.units.conv1.{phase}" for phase in ("forward", "backward", "optimizer")),
        *(f"times.vgg5.units.loss.{phase}" for phase in ("forward", "backward")),
    ]
    assert not set(found) & set(sources.uncovered(profile, profile.sources))
    write(tmp_path, BOARD + CALIBRATION)
    profile = load_profile("./my-board.yaml", relative_to=tmp_path)
    assert not [number for number in sources.numbers(profile) if number.startswith("calibration")]


def test_a_profile_cannot_be_changed() -> None:
    """Profiles are values."""
    with pytest.raises(ValidationError):
        load_profile("pi-tier-1").speed = 1.0


def test_an_unknown_name_suggests_the_nearest() -> None:
    """A slip of the pen costs one look."""
    with pytest.raises(UserError, match=r"unknown profile 'pi-teir-1'; did you mean pi-tier-1\?"):
        load_profile("pi-teir-1")


# what is written instead, what is said, on which line
FAULTS = [
    (
        "speed: 2 GMAC/s",
        "speed: 0 MAC/s",
        r"speed: '0 MAC/s' is out of range; .* greater than zero, like 2.2 GMAC/s",
        6,
    ),
    ("speed: 2 GMAC/s", "speed: 2", r"speed: 2 has no unit; a computing speed is given in .*; write it like 2", 6),
    (
        "speed: 2 GMAC/s",
        "speed:",
        r"speed: missing; add it, as in 'speed: 2.2 GMAC/s', or use another cost model than scalar",
        6,
    ),
    ("speed: 2 GMAC/s", "speed: 017", r"'017' starts with a zero, which some readers take as octal; write 17", 6),
    ("speed: 2 GMAC/s\n", "", r"speed: missing; add it, as in 'speed: 2.2 GMAC/s'", 1),
    ("speed: 2 GMAC/s", "speed: 2 GMAC/s\nsped: 2", r"sped: unknown key; did you mean speed\?", 7),
    (
        "speed: 2 GMAC/s",
        "speed: 2 GMAC/s\nzzz: 2",
        r"zzz: unknown key; the keys here are backward_ratio, calibration, cost_model, ",
        7,
    ),
    ("usable: 3 GB", "usable: 5 GB", r"memory.usable: 5 GB, but capacity is only 4 GB; usable must not exceed", 7),
    ("runtime: 250 MB", "runtime: 3 GB", r"memory.runtime: takes 3 GB of 3 GB usable, .* lower runtime or raise", 7),
    (", runtime: 250 MB", "", r"memory.runtime: missing; add it, as in 'runtime: 250 MB'", 7),
    ("busy: 6 W", "busy: 1 W", r"power.busy: 1 W, less than idle, 2 W; exchange or correct them", 8),
    ("busy: 6 W", "busy: 6 W, ready: 7 W", r"power.ready: 7 W, outside idle to busy, 2 to 6 W; correct it", 8),
    ("idle: 2 W", "idle: -2 W", r"power.idle: '-2 W' is out of range; a power here is zero or more, like 2.7 W", 8),
    ("power: {idle: 2 W, busy: 6 W}", "power: 6 W", r"power: '6 W' does not fit; give a mapping of keys, such as", 8),
    ("cost_model: scalar", "cost_model: scalar\nlanes: 0", r"lanes: 0 does not fit; give 1 or more", 6),
    ("cost_model: scalar", "cost_model: scalar\nlanes: 1.5", r"lanes: 1.5 does not fit; give a whole number", 6),
    ("cost_model: scalar", "cost_model: scalar\nlanes: true", r"lanes: true does not fit; give a whole number", 6),
    (
        "cost_model: scalar",
        "cost_model: scalar\nbackward_ratio: 0",
        r"backward_ratio: 0 does not fit; give more than 0",
        6,
    ),
    (
        "cost_model: scalar",
        "cost_model: scalar\nbackward_ratio: .inf",
        r"backward_ratio: inf .*; give a finite number",
        6,
    ),
    ("cost_model: scalar", "cost_model: zzz", r"cost_model: 'zzz' is not one .*; there are: roofline, scalar, ", 5),
    ("cost_model: scalar", "cost_model: scaler", r"cost_model: 'scaler' is not one .*; did you mean scalar\?", 5),
    (
        "kind: board",
        "kind: boards",
        r"kind: 'boards' does not fit; give board, .* or abstract; did you mean board\?",
        4,
    ),
    ("schema: 1", "schema: 2", r"schema: 2 does not fit; give 1", 1),
    ("schema: 1\n", "", r"schema: missing; add it, as in 'schema: 1'", 1),
    ("id: my-board", "id: your-board", r"id: 'your-board', but the file is called my-board.yaml; make them equal", 2),
    ("id: my-board", "id: 3", r"id: 3 does not fit; give text", 2),
    ("id: my-board\n", "", r"id: missing; add it, as in 'id: my-board'", 1),
    ("name: A board on my desk", "name: ''", r"name: '' does not fit; give text of 1 characters or more", 3),
    ("field: speed", "field: sped", r"sources.0.field: 'sped' is no number of this file; did you mean speed\?", 10),
    (
        "field: speed",
        "field: zzz",
        r"sources.0.field: 'zzz' is no number of this file; there are: speed, memory.cap",
        10,
    ),
    ("confidence: measured", "confidence: sure", r"sources.0.confidence: 'sure' does not fit; give measured, ", 10),
    ("kind: board", "kind: board\nkind: phone", r"the key 'kind' is given twice, in lines 4 and 5; keep one", 5),
    ("kind: board", "kind: !mine board", r"the tag '!mine' has no meaning in a profile; remove it", 4),
    ("kind: board", "kind: [board", r"not valid YAML: .*; close the \[ with \], and put commas between its items", 5),
]


ROOFLINE_FAULTS = [
    (
        "bandwidth: 7.5 GB/s",
        "bandwidth: 0 GB/s",
        r"processors.cpu.bandwidth: '0 GB/s' is out of range; .* than zero",
        7,
    ),
    ("gemm: 40 GFLOP/s", "gemm: 0 GFLOP/s", r"processors.cpu.gemm: '0 GFLOP/s' is out of range; .* than zero", 7),
    ("clock: 1.5 GHz", "clock: 0 GHz", r"processors.cpu.clock: '0 GHz' is out of range; .* than zero, like 1.8 GHz", 7),
    ("clock: 1.5 GHz", "clock: 1.5", r"processors.cpu.clock: 1.5 has no unit; a frequency is given in Hz, ", 7),
    ("cores: 4", "cores: 0", r"processors.cpu.cores: 0 does not fit; give 1 or more", 7),
    ("overhead: 60 us", "overhead: -1 us", r"processors.cpu.overhead: '-1 us' is out of range; .* zero or more", 7),
    ("overhead: 60 us", "overhead: 60", r"processors.cpu.overhead: 60 has no unit; a duration is given in s", 7),
    (", overhead: 60 us", "", r"processors.cpu.overhead: missing; add it, as in 'overhead: 60 us'", 7),
    (
        "peak: 48 GFLOP/s",
        "peak: 30 GFLOP/s",
        r"processors.cpu.gemm: 20 GMAC/s, but peak is only 15 GMAC/s; gemm must not exceed peak; correct one",
        7,
    ),
    (
        "conv: 40 %",
        "conv: 0 %",
        r"processors.gpu.efficiency.conv: 0.0 does not fit; a share of gemm is more than 0",
        10,
    ),
    ("conv: 40 %", "conv: 40", r"processors.gpu.efficiency.conv: 40.0 does .* at most 1.5; write it like 60 % or", 10),
    (
        "copy: 2",
        "copy: 11",
        r"processors.gpu.efficiency.copy: 11.0 .* share of bandwidth is more than 0 and at most 10",
        10,
    ),
    ("conv: 40 %", "convv: 40 %", r"processors.gpu.efficiency.convv: unknown key; did you mean conv\?", 10),
    ("half_batch: 4", "half_batch: 0", r"processors.gpu.half_batch: 0 does not fit; give more than 0", 11),
    ("half_batch: 4", "half_batsch: 4", r"processors.gpu.half_batsch: unknown key; did you mean half_batch\?", 11),
    ("  cpu: {", "  npu: {", r"processors.npu: unknown key; did you mean .pu\?", 7),
    ("use: gpu", "use: tpu", r"use: 'tpu' is no processor of this file; give cpu or gpu", 12),
    ("use: gpu\n", "", r"use: missing; say which of cpu and gpu trains, as in 'use: cpu'", 1),
    ("use: gpu", "speed: 2 GMAC/s", r"speed: cost model roofline does not look at it; .* or use scalar or table", 12),
    ("use: gpu", "use: gpu\nbackward_ratio: 2", r"backward_ratio: cost model roofline does not .*, or use scalar", 13),
    (
        "use: gpu",
        "use: gpu\nsample_time: 5 ms",
        r"sample_time: cost model roofline does .*, or use fedscale_scalar",
        13,
    ),
    (
        "workspace: 100 MB",
        "workspace: 3 GB",
        r"memory.workspace: takes 3 GB of 3 GB usable, .*; lower workspace or",
        13,
    ),
    (
        "jitter: 3 %",
        "jitter: 3",
        r"variation.jitter: 300% does not fit; a variation is at most 100 %; write it like 3",
        15,
    ),
    ("spread: 10 %", "spread: -1 %", r"variation.spread: '-1 %' is out of range; .* zero or more", 15),
    ("factor: 86 %", "factor: 0 %", r"thermal.factor: 0.0 does not fit; heat leaves more than 0 and at most 100 %", 16),
    ("factor: 86 %", "factor: 86", r"thermal.factor: 86.0 does not fit; heat leaves more than 0 and at most 100 %", 16),
    (", after: 300 s", "", r"thermal.after: missing; add it, as in 'after: 300 s'", 16),
    ("gpu.clock: 0.6 GHz", "gpu.clock: 0 GHz", r"modes.5w.gpu.clock: '0 GHz' is out of range; .* than zero", 18),
    ("gpu.clock: 0.6 GHz", "gpu.clok: 0.6 GHz", r"modes.5w.gpu.clok: unknown key; did you mean gpu.clock\?", 18),
    ("cpu.cores: 2", "cpu.cores: 0", r"modes.5w.cpu.cores: 0 does not fit; give 1 or more", 18),
    ("cpu.gemm: 30 GFLOP/s", "cpu.gemm: 50 GFLOP/s", r"modes.host.cpu.gemm: 25 GMAC/s, but peak is only 24 GMAC/s", 19),
    ("cpu.gemm: 30 GFLOP/s", "cpu.peak: 30 GFLOP/s", r"modes.host.cpu.peak: 20 GMAC/s, but peak is only 15 GMAC/s", 19),
    ("use: cpu,", "use: npu,", r"modes.host.use: there is no npu, only cpu and gpu", 19),
    ("power.busy: 5 W", "power.busy: 1 W", r"modes.5w.power.busy: 1 W, less than idle, 2 W; correct it", 18),
    ("power.busy: 5 W", "power.ready: 9 W", r"modes.5w.power.ready: 9 W, outside idle to busy, 2 to 5.55556 W", 18),
    ("5w: {", "5 W: {", r"modes.5 W: '5 W' does not fit; give lower case words joined by hyphens", 18),
    ("calibration: none", "calibration: some", r"calibration: 'some' does not fit; give a mapping of keys", 21),
    (
        "field: modes.5w,",
        "field: modes.6w,",
        r"sources.0.field: 'modes.6w' is no number of this file; did you mean ",
        23,
    ),
]

TABLE_FAULTS = [
    (
        "batches: [8, 32]",
        "batches: [32, 8]",
        r"times.vgg5.batches: \[32, 8\] does not rise; sort them, each batch size",
        8,
    ),
    ("batches: [8, 32]", "batches: [0, 32]", r"times.vgg5.batches.0: 0 does not fit; give 1 or more", 8),
    ("batches: [8, 32]", "batches: []", r"times.vgg5.batches: an empty list does not fit; give a list of 1 or more", 8),
    (
        "forward: [6 ms, 22 ms]",
        "forward: [6 ms]",
        r"times.vgg5.units.conv1.forward: 1 times for 2 batch sizes; give one for each of \[8, 32\]",
        10,
    ),
    (
        "forward: [6 ms, 22 ms]",
        "forward: [22 ms, 6 ms]",
        r"times.vgg5.units.conv1.forward: 6 ms at batch 32, less than 22 ms at a smaller one; more samples are never",
        10,
    ),
    (
        "forward: [6 ms, 22 ms]",
        "forward: [6 ms, 60 ms]",
        r"times.vgg5.units.conv1.forward: the line through batch 8 and 32 falls to zero above batch 1; add the time of",
        10,
    ),
    ("forward: [6 ms, 22 ms]", "forward: [0 s, 22 ms]", r"times.vgg5.units.conv1.forward.0: '0 s' is out of range", 10),
    (
        "forward: [6 ms, 22 ms]",
        "forwards: [6 ms]",
        r"times.vgg5.units.conv1.forwards: unknown key; did you mean fo",
        10,
    ),
    ("    batches: [8, 32]\n", "", r"times.vgg5.batches: missing; add it, as in 'batches: \[1, 8, 32\]'", 7),
    ("kind: phone", "kind: phone\nuse: cpu", r"use: cost model table does not look at it; .*, or use roofline", 5),
    ("kind: phone", "kind: phone\nmodes: {a: {}}", r"modes: cost model table does not look at .*, or use roofline", 5),
]

OTHER_FAULTS = [
    (ROOFLINE, "cost_model: roofline", "cost_model: scalar", r"speed: missing; add it, .* cost model than scalar", 1),
    (
        BOARD,
        "cost_model: scalar",
        "cost_model: roofline",
        r"processors: missing; add it, as in 'processors: \{cpu: ",
        1,
    ),
    (BOARD, "cost_model: scalar", "cost_model: table", r"times: missing; add it, as in 'times: \{vgg5: \{batches", 1),
    (
        BOARD,
        "cost_model: scalar",
        "cost_model: fedscale_scalar",
        r"sample_time: missing; add it, .* 'sample_time: 5 ms'",
        1,
    ),
    (
        FEDSCALE,
        "sample_time: 5 ms",
        "sample_time: 5 ms\nspeed: 2 GMAC/s",
        r"speed: cost model fedscale_scalar does not",
        7,
    ),
    (FEDSCALE, "sample_time: 5 ms", "sample_time: 5", r"sample_time: 5 has no unit; a duration is given in", 6),
    (BOARD + CALIBRATION, "mape: 7 %", "mape: -7 %", r"calibration.mape: '-7 %' is out of range; .* zero or more", 12),
    (BOARD + CALIBRATION, "  mape: 7 %\n", "", r"calibration.mape: missing; add it, as in 'mape: 7 %'", 11),
    (BOARD + CALIBRATION, "rho: 0.99", "rho: 99", r"calibration.rho: 99 does not fit; give 1.0 or less", 16),
    (
        BOARD + CALIBRATION,
        "date: 2026-03-31",
        "date: in March",
        r"calibration.date: 'in March' is no day; write it like",
        20,
    ),
    (BOARD + CALIBRATION, "threads: 1", "threads: 0", r"calibration.threads: 0 does not fit; give 1 or more", 18),
    (BOARD + CALIBRATION, "model: vgg5, ", "", r"calibration.models.0.model: missing; add it, as in 'model: vgg5'", 22),
]

ALL_FAULTS = [
    *((BOARD, *fault) for fault in FAULTS),
    *((ROOFLINE, *fault) for fault in ROOFLINE_FAULTS),
    *((TABLE, *fault) for fault in TABLE_FAULTS),
    *OTHER_FAULTS,
]


@pytest.mark.parametrize(
    ("text", "old", "new", "message", "line"), ALL_FAULTS, ids=[new.split("\n")[-1] for _, _, new, _, _ in ALL_FAULTS]
)
def test_a_wrong_file_is_refused_with_the_reason_and_the_place(
    tmp_path: Path, text: str, old: str, new: str, message: str, line: int
) -> None:
    """One mistake is one line: what, the value, the rule, the way out, the file and the line."""
    assert old in text
    path = write(tmp_path, text.replace(old, new))
    with pytest.raises(DocumentError, match=rf"^{message}.*\({re.escape(str(path))}, line {line}\)$") as caught:
        load_profile(str(path))
    assert "\n" not in str(caught.value)
    assert "Input should" not in str(caught.value)
    assert "pydantic" not in str(caught.value)


def test_an_id_is_in_lower_case(tmp_path: Path) -> None:
    """A file's name can be anything; an identifier cannot."""
    path = write(tmp_path, BOARD.replace("id: my-board", "id: My Board"), "My Board.yaml")
    message = r"^id: 'My Board' does not fit; give lower case words joined by hyphens, such as .*Board.yaml, line 2\)$"
    with pytest.raises(DocumentError, match=message):
        load_profile(str(path))


def test_every_fault_is_reported_at_once(tmp_path: Path) -> None:
    """Three mistakes, one list in the order of lines: nobody mends a file one message at a time."""
    path = write(tmp_path, BOARD.replace("2 GMAC/s", "fast").replace("kind: board", "kind: tree").replace("my-", "a-"))
    with pytest.raises(DocumentError) as caught:
        load_profile(str(path))
    first, *lines = str(caught.value).split("\n  ")
    assert first == f"3 errors in {path}:"
    assert [line.split(": ")[0] for line in lines] == ["id", "kind", "speed"]
    assert [problem.path for problem in caught.value.problems] == [("id",), ("kind",), ("speed",)]


def test_a_file_for_another_cost_model_is_told_so_alone(tmp_path: Path) -> None:
    """Its other keys are right for that model: they are no mistakes."""
    path = write(tmp_path, BOARD.replace("cost_model: scalar\nspeed: 2 GMAC/s", "cost_model: neural\npeak: 3"))
    with pytest.raises(DocumentError, match=r"^cost_model: 'neural' is not one that this version of fedsim can price"):
        load_profile(str(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"^nothing is there; give a mapping of keys, such as 'id: my-board' \(.*my-board.yaml, line 1\)$"),
        (b"- a list", r"^a list is no profile; give a mapping of keys"),
        (b"id: \xff", r"^.*my-board.yaml is not text in UTF-8 \(byte 4\); save it as UTF-8$"),
        (b"id: &a [*a]", r"^the alias \*a stands inside its own anchor; write the value out"),
        (b"[" * 5000, r"^values are nested more than 40 deep; a profile needs no more than five"),
    ],
)
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    """Empty files, lists, binary files and endless nesting are told apart."""
    path = tmp_path / "my-board.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        load_profile(str(path))


def test_plain_words_of_a_profile_stay_text(tmp_path: Path) -> None:
    """YAML 1.2's rules, as in scenarios: a date is text, and so are `on` and `3:00`."""
    write(
        tmp_path, BOARD.replace("ref: a stopwatch", "ref: 2024-01-01, note: on").replace("A board on my desk", "3:00")
    )
    profile = load_profile("./my-board.yaml", relative_to=tmp_path)
    assert (profile.name, profile.sources[0].ref, profile.sources[0].note) == ("3:00", "2024-01-01", "on")


SECTIONS = [
    *(Profile, Memory, Draw, Variation, Thermal, Processors, Processor, Efficiency, Mode, ModelTimes, UnitTimes),
    *(Calibration, ModelFit, Link, sources.Source),
]


@pytest.mark.parametrize("model", SECTIONS)
def test_what_has_no_default_has_an_example(model: type[BaseModel]) -> None:
    """The message about a missing key shows how to write it."""
    for name, field in model.model_fields.items():
        assert field.examples or not field.is_required(), name


def test_the_most_specific_source_of_a_number_counts(tmp_path: Path) -> None:
    """A source for `power` covers its numbers, one for `power.busy` overrules it; the rest has none."""
    meter = "  - {field: power, confidence: measured, ref: meter}\n"
    hunch = "  - {field: power.busy, confidence: unverified, ref: hunch}\n"
    write(tmp_path, BOARD + meter + hunch)
    profile = load_profile("./my-board.yaml", relative_to=tmp_path)
    assert sources.uncovered(profile, profile.sources) == ["memory.capacity", "memory.usable", "memory.runtime"]
    assert sources.unverified(profile, profile.sources)[-1] == "power.busy"
    found = sources.origin("power.idle", profile.sources)
    assert found is not None
    assert found.confidence is sources.Confidence.MEASURED


def test_the_weakest_source_tells_how_far_a_result_is_to_be_trusted() -> None:
    """Confidence is ordered, best first; a number without a source counts as unverified."""
    assert [str(level) for level in sources.Confidence] == ["measured", "derived", "specification", "unverified"]
    given = [
        sources.Source(field="power", confidence=sources.Confidence.MEASURED, ref="meter"),
        sources.Source(field="power.busy", confidence=sources.Confidence.SPECIFICATION, ref="data sheet"),
        sources.Source(field="speed", confidence=sources.Confidence.DERIVED, ref="from a benchmark"),
    ]
    assert sources.weakest(["power.idle"], given) is sources.Confidence.MEASURED
    assert sources.weakest(["power.idle", "speed"], given) is sources.Confidence.DERIVED
    assert sources.weakest(["speed", "power.busy", "power.idle"], given) is sources.Confidence.SPECIFICATION
    assert sources.weakest(["speed", "memory.usable"], given) is sources.Confidence.UNVERIFIED
    assert sources.weakest(["power.idle", "power.busy"], []) is sources.Confidence.UNVERIFIED
