"""Profiles of calibrated machines: valid, sourced, priced as was judged, and refused before anything is measured."""

from __future__ import annotations

import datetime
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from fedsim.calibration import surroundings
from fedsim.calibration.running import Outcome, fit
from fedsim.calibration.writing import WATTS_OF, Description, profile, write
from fedsim.errors import UserError
from fedsim.hardware import sources
from fedsim.hardware.machines import machine
from fedsim.hardware.pricing import seconds
from fedsim.hardware.profiles import Kind, Profile, load_profile
from fedsim.hardware.sources import Confidence
from tests.calibration.machines import evidence, observed, outcome, true

DAY = datetime.date(2026, 3, 31)


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everywhere the same machine."""
    monkeypatch.setattr(surroundings, "cpu_name", lambda: "A processor, 4 cores")
    monkeypatch.setattr(surroundings, "memory", lambda: 8_000_000_000)


def written(folder: Path, done: Outcome, **described: Any) -> Profile:
    """The profile that a file of a calibration is read as."""
    path = folder / "my-board.yaml"
    write(profile(done, Description(path, **described), DAY), path)
    return load_profile(str(path))


def test_the_file_prices_as_was_judged(tmp_path: Path) -> None:
    """To the last bit: what the calibration quotes is what a simulation gets."""
    done = outcome()
    board = machine(written(tmp_path, done))
    assert [seconds(board, o.cost) for o in done.evidence.observations] == done.priced.tolist()


def test_every_number_has_a_source(tmp_path: Path) -> None:
    """Measured, but for what nobody can measure here, which is told."""
    found = written(tmp_path, outcome())
    assert sources.uncovered(found, found.sources) == []
    assert sources.unverified(found, found.sources) == ["memory.usable", "power.idle", "power.busy"]
    origin = sources.origin("processors.cpu.gemm", found.sources)
    assert origin is not None
    assert origin.confidence is Confidence.MEASURED
    assert origin.ref == "fedsim calibrate on 2026-03-31: A processor, 4 cores, 1 thread"
    assert "matrix products of side 512: 40 GMAC/s, 1024: 50 GMAC/s; copying 256 MB: 16 GB/s" in origin.note
    assert "a chain of operators on one element: 4 µs each" in origin.note


def test_what_the_profile_says(tmp_path: Path) -> None:
    """The machine, its memory by the rule for boards, and its processor with the threads as cores."""
    found = written(tmp_path, outcome())
    assert (found.id, found.name, found.kind, found.use) == (
        "my-board",
        "A processor, 4 cores, 1 thread",
        Kind.BOARD,
        "cpu",
    )
    assert (found.memory.capacity, found.memory.usable, found.memory.runtime) == (8e9, 7e9, 230e6)
    assert found.processors is not None
    assert found.processors.cpu is not None
    assert (found.processors.cpu.cores, found.processors.cpu.gemm, found.processors.cpu.overlap) == (1, 50e9, False)


def test_the_evidence_is_in_the_file(tmp_path: Path) -> None:
    """Each measurement beside its prices, each network's error, and the circumstances."""
    done = outcome(load=0.07)
    found = written(tmp_path, done).calibration
    assert found is not None
    assert (found.threads, found.date, found.load, found.scatter) == (1, "2026-03-31", 0.07, 0.01)
    assert found.machine == "A processor, 4 cores"
    assert found.versions["torch"] == str(torch.__version__)
    assert found.versions.keys() == {"fedsim", "torch", "python"}
    assert [one.model for one in found.models] == ["dense", "plain", "mobile", "words"]
    assert found.left_out == pytest.approx(done.accuracy(left_out=True).mape, rel=5e-3)
    assert found.rho == pytest.approx(1.0)
    assert len(found.measurements) == len(done.evidence.observations)
    for one, observation, priced, left_out in zip(
        found.measurements, done.evidence.observations, done.priced, done.left_out, strict=True
    ):
        assert (one.model, one.batch) == (observation.network, observation.batch)
        assert (one.measured, one.priced, one.left_out) == pytest.approx(
            (observation.seconds, priced, left_out), rel=5e-3
        )
    assert {one.part for one in found.measurements} == {"forward", "forward + backward", "optimizer sgd"}


def test_watts_are_given_or_plausible_for_the_kind(tmp_path: Path) -> None:
    """Either way nobody has checked them, and the source says where they are from."""
    found = written(tmp_path, outcome(), kind=Kind.LAPTOP)
    assert (found.power.idle, found.power.busy) == WATTS_OF[Kind.LAPTOP]
    origin = sources.origin("power.busy", found.sources)
    assert origin is not None
    assert (origin.confidence, origin.ref) == (Confidence.UNVERIFIED, "plausible for a laptop")
    found = written(tmp_path, outcome(), idle=2.7, busy=6.4)
    assert (found.power.idle, found.power.busy) == (2.7, 6.4)
    origin = sources.origin("power", found.sources)
    assert origin is not None
    assert (origin.confidence, origin.ref) == (Confidence.UNVERIFIED, "given by --idle and --busy")


@pytest.mark.slow
def test_every_kind_has_a_profile(tmp_path: Path) -> None:
    """All but the abstract one, which is no machine."""
    for kind in Kind:
        if kind is not Kind.ABSTRACT:
            assert written(tmp_path, outcome(), kind=kind).kind is kind


def test_a_machine_with_little_memory_has_a_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a gigabyte: by the rule less would be usable than the process takes that measured here."""
    monkeypatch.setattr(surroundings, "memory", lambda: 440_000_000)
    found = written(tmp_path, outcome())
    assert (found.memory.usable, found.memory.runtime) == (288e6, 230e6)


def test_a_gpu_has_a_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its own name and memory, and no cores; the fit is the GPU's."""
    properties = type("Properties", (), {"total_memory": 24_000_000_000})
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "A card")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _index: properties)
    done = fit(evidence(observed(true("gpu")), processor="gpu"))
    found = written(tmp_path, done, kind=Kind.SERVER)
    assert (found.use, found.name) == ("gpu", "A card, A processor, 4 cores, 1 thread")
    assert found.processors is not None
    assert found.processors.cpu is None
    assert found.processors.gpu is not None
    assert (found.processors.gpu.cores, found.processors.gpu.foreach) == (None, True)
    assert (found.memory.capacity, found.memory.usable) == (24e9, 22.3e9)
    assert sources.uncovered(found, found.sources) == []
    assert [seconds(machine(found), o.cost) for o in done.evidence.observations] == done.priced.tolist()


@pytest.mark.parametrize(
    ("described", "message"),
    [
        (
            {"path": Path("My Board.yaml")},
            "--out My Board.yaml is no name of a profile; the file is called after its id",
        ),
        ({"path": Path("board.json")}, "--out board.json is no name of a profile"),
        ({"path": Path("-.yaml")}, "--out -.yaml is no name of a profile"),
        ({"path": Path("none/board.yaml")}, "--out none/board.yaml: there is no folder none; make it, or choose"),
        (
            {"path": Path("there.yaml")},
            "--out there.yaml already exists; choose another name, or replace it with --force",
        ),
        ({"path": Path("folder.yaml")}, "--out folder.yaml already exists"),
        (
            {"path": Path("new.yaml"), "busy": 1.0},
            "--idle 3 W and --busy 1 W; a machine draws at least as much busy as",
        ),
        ({"path": Path("new.yaml"), "idle": -1.0}, "--idle -1 W and --busy 8 W"),
    ],
)
def test_what_could_not_be_written_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, described: dict[str, Any], message: str
) -> None:
    """Before minutes of measuring."""
    monkeypatch.chdir(tmp_path)
    Path("there.yaml").touch()
    Path("folder.yaml").mkdir()
    with pytest.raises(UserError, match=re.escape(message)):
        Description(**described).check(force=False)


def test_a_file_is_replaced_where_that_is_wanted(tmp_path: Path) -> None:
    """With force; a folder never is."""
    there = tmp_path / "there.yaml"
    there.touch()
    Description(there).check(force=True)
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(UserError, match="already exists"):
        Description(tmp_path / "folder.yaml").check(force=True)


def test_a_disk_that_refuses_is_named(tmp_path: Path) -> None:
    """With the reason of the system."""
    with pytest.raises(UserError, match=r"--out .*board.yaml cannot be written: No such file or directory; choose"):
        write({"schema": 1}, tmp_path / "gone" / "board.yaml")
