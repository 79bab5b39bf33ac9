"""`fedsim validate`: its tables, its JSON, its exit status, and Ctrl-C in each of its runs."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fedsim.cli import main
from fedsim.cli.validating import Followers
from fedsim.experiment.running import Watcher
from fedsim.report.differences import LEAST_WORK
from fedsim.script import SERVER
from fedsim.trace import Trace
from tests.cli.toys import parsed
from tests.experiment.emulators import Emulator, same
from tests.report.perturbed import delayed, slowed, stretched

PLAIN = ("--set", "learning=off")


@pytest.fixture
def emulated(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Emulator]:
    """Makes emulations of simulations, which are changed."""

    def make(*changes: Callable[[Trace], Trace], **more: Any) -> Emulator:
        module: Any = ModuleType("fedsim.experiment.emulating")
        module.emulate_scenario = Emulator(list(changes), **more)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        found: Emulator = module.emulate_scenario
        return found

    return make


def test_runs_that_agree(scenario: str, emulated: Callable[..., Emulator], capsys: pytest.CaptureFixture[str]) -> None:
    """Exit status 0, every table, the verdict; nothing is written."""
    sent = {"messages": 12, "frames": 24, "bytes": 12 * 2728 + 12 * 64}
    emulated(same, fidelity={"faithful": True, "dilation": 1.0, "wire": sent})
    assert main(["validate", scenario]) == 0
    out, err = capsys.readouterr()
    for said in (
        "toy · fedavg",
        "length of the run",
        "compute, all nodes",
        "transfer, all nodes",
        "wait, all nodes",
        "idle by cause",
        "down, messages Train",
        "on the wire",
        "as it should be",
        "no event differs",
        "final weights: the same to the bit",
        "agrees: length within 5%, busy and idle within 5 points, bytes equal",
    ):
        assert said in out
    assert err == ""
    assert [path.name for path in Path().iterdir()] == ["toy.yaml"]


def test_runs_that_do_not_agree(
    scenario: str, emulated: Callable[..., Emulator], capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit status 1; what misses the gate, and the first event that differs."""
    emulated(lambda trace: slowed(delayed(trace, 1, SERVER, 30_000_000), 1.07))
    assert main(["validate", scenario, *PLAIN]) == 1
    out, _ = capsys.readouterr()
    assert "does not agree" in out
    assert "  the length of the run is off by 7.0%; at most 5%" in out
    assert "Trained from device 1 to server, number 1 of its size" in out
    assert "agrees:" not in out
    assert "final weights" not in out


def test_medians_and_folders(
    scenario: str, emulated: Callable[..., Emulator], capsys: pytest.CaptureFixture[str]
) -> None:
    """Of three emulations the one in the middle is shown; --out keeps all, and --set reaches every run."""
    emulate = emulated(lambda trace: slowed(trace, 1.5), same, lambda trace: slowed(trace, 1.03))
    assert main(["validate", scenario, *PLAIN, "--set", "until.rounds=1", "--repeat", "3", "--out", "x"]) == 0
    out, _ = capsys.readouterr()
    assert "3 emulations; shown: emulation 3; off: the median of all" in out
    assert "+3.00 %" in out
    assert out.rstrip().endswith("\nx")
    assert {path.name for path in Path("x").iterdir()} == {
        *("simulate", "emulate-1", "emulate-2", "emulate-3", "validation.json")
    }
    assert [one.until.rounds for one in emulate.seen] == [1, 1, 1]
    assert main(["validate", scenario, *PLAIN, "--out", "x"]) == 2
    assert "already exists and is not empty" in capsys.readouterr().err


def test_as_json(scenario: str, emulated: Callable[..., Emulator], capsys: pytest.CaptureFixture[str]) -> None:
    """The same as `validation.json`, and nothing else on standard output; remarks are notes."""
    emulated(same, fidelity={"faithful": False, "overrun_ratio": 0.5, "lag_s": 1.0})
    assert main(["validate", scenario, *PLAIN, "--out", "x", "--json"]) == 0
    out, err = capsys.readouterr()
    assert parsed(out) == parsed(Path("x/validation.json").read_text())
    assert parsed(out)["holds"] is True
    assert err.startswith("note: the emulation is not faithful")


def test_a_wrong_command_line(scenario: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit status 2."""
    assert main(["validate", scenario, "--repeat", "0"]) == 2
    assert main(["validate", "nothing-like-it"]) == 2
    assert main(["validate", scenario, "--set", "until.rouns=1"]) == 2
    assert "rouns" in capsys.readouterr().err


@pytest.mark.parametrize("which", [1, 2])
def test_ctrl_c_while_a_run_goes_on(
    scenario: str,
    emulated: Callable[..., Emulator],
    which: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The run ends there, its folder is kept, nothing else begins: exit status 130."""
    emulate = emulated(same)
    begun: list[str] = []
    begin = Followers.__call__

    def following(self: Followers, what: str) -> Watcher:
        watcher = begin(self, what)
        inner = watcher.begin

        def starting(*parts: Any) -> None:
            inner(*parts)
            begun.append(what)
            if len(begun) == which:
                os.kill(os.getpid(), signal.SIGINT)

        monkeypatch.setattr(watcher, "begin", starting)
        return watcher

    monkeypatch.setattr(Followers, "__call__", following)
    assert main(["validate", scenario, *PLAIN, "--repeat", "2", "--out", "x"]) == 130
    assert begun == ["simulation", "emulation 1 of 2"][:which]
    assert len(emulate.seen) == which - 1
    assert "error: interrupted; x holds what was run up to there" in capsys.readouterr().err
    folder = "simulate" if which == 1 else "emulate-1"
    assert parsed(Path(f"x/{folder}/summary.json").read_text())["status"] == "stopped"
    assert not Path("x/validation.json").exists()


def test_ctrl_c_before_an_emulation_has_begun_is_an_exception() -> None:
    """It has processes to end, which an exit would leave behind; a second one, too."""
    followers = Followers("toy", looked_at=False)
    with pytest.raises(KeyboardInterrupt):
        followers.interrupt(signal.SIGINT, None)
    followers("simulation")
    followers("emulation")
    with pytest.raises(KeyboardInterrupt):
        followers.interrupt(signal.SIGINT, None)


def test_a_node_that_is_paced_badly_is_named(
    scenario: str, emulated: Callable[..., Emulator], capsys: pytest.CaptureFixture[str]
) -> None:
    """Pacing stands before what comes of it."""
    more = 3 * LEAST_WORK * 1e9

    def change(trace: Trace) -> Trace:
        first = next(span for span in trace.spans if span[0] == 0)
        return stretched(trace, 0, 1 + more / (first[4] - first[3]))

    emulated(change)
    assert main(["validate", scenario, *PLAIN]) == 1
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("pacing"))
    assert line.split()[1:3] == ["device", "0"]
    assert "step, number 1 of its size" in line
