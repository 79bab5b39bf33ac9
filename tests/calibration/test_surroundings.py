"""What else the machine does, and what it is."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from fedsim.calibration import surroundings
from fedsim.calibration.surroundings import Usage, check_load, cpu_name, load, watched
from fedsim.errors import UserError


@pytest.mark.parametrize(
    ("everybody", "own", "share"),
    [
        (0.0, 0.0, 0.0),
        (1.0, 1.0, 0.0),  # this process alone
        (1.0, 0.0, 0.25),  # one of two cores for two seconds: a quarter
        (4.0, 2.0, 0.5),
        (1.9, 2.0, 0.0),  # counters tick at different moments
        (9.0, 0.0, 1.0),
    ],
)
def test_the_load_is_what_others_took_of_all_cores(everybody: float, own: float, share: float) -> None:
    """Of two cores for two seconds, what everybody used less what this process did; between 0 and 1."""
    assert load(Usage(100.0, 50.0, 1000.0), Usage(100.0 + everybody, 50.0 + own, 1004.0)) == pytest.approx(share)


def test_no_time_has_no_load() -> None:
    """Two readings at one moment."""
    assert load(Usage(1.0, 1.0, 5.0), Usage(1.0, 1.0, 5.0)) == 0.0


def test_a_busy_machine_is_refused() -> None:
    """Above a tenth, unless whoever measures wants it so."""
    check_load(0.10, allowed=False)
    check_load(0.63, allowed=True)
    message = r"other processes take 63% of this machine's processors, .* more than 10% .* --allow-load"
    with pytest.raises(UserError, match=message):
        check_load(0.63, allowed=False)


def test_a_watch_knows_the_load_when_it_is_over() -> None:
    """The counters are read before and after."""
    readings = iter([Usage(0.0, 0.0, 0.0), Usage(3.0, 1.0, 8.0)])
    with watched(lambda: next(readings)) as watch:
        assert watch.share == 0.0
    assert watch.share == 0.25


def test_own_work_is_no_load_of_others() -> None:
    """This process counts as itself: what it computes appears in its own counter and in everybody's."""
    before = surroundings.usage()
    while surroundings.usage().own < before.own + 0.02:
        sum(range(10_000))
    after = surroundings.usage()
    assert after.own > before.own
    assert after.available >= before.available
    assert 0.0 <= load(before, after) <= 1.0


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("processor\t: 0\nmodel name\t: AMD EPYC\nmodel name\t: other\n", "AMD EPYC"),
        ("processor\t: 0\nHardware\t: BCM2835\nModel\t: Raspberry Pi 4\n", "BCM2835"),
        ("model name\t:\nModel\t\t: Raspberry Pi 5\n", "Raspberry Pi 5"),
    ],
)
def test_the_processor_tells_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, name: str) -> None:
    """As Linux has it on x86 and on ARM; with the number of cores."""
    info = tmp_path / "cpuinfo"
    info.write_text(text)
    for count, said in ((1, "1 core"), (4, "4 cores")):
        monkeypatch.setattr(psutil, "cpu_count", lambda logical=True, count=count: count)
        assert cpu_name(info) == f"{name}, {said}"


def test_without_that_file_python_knows_something(tmp_path: Path) -> None:
    """Never an empty name."""
    name, _, cores = cpu_name(tmp_path / "none").rpartition(", ")
    assert name
    assert cores.endswith(("core", "cores"))


def test_figures_of_this_machine_are_possible() -> None:
    """At least a core, memory, and a process in it."""
    assert surroundings.cores() >= 1
    assert 0 < surroundings.own_memory() < surroundings.memory()
