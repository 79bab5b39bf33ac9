"""Both runs of a scenario, several of the second kind, and what they come to; emulations are simulations here."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fedsim.errors import UserError
from fedsim.experiment.loading import load_scenario
from fedsim.experiment.running import Run, Watcher, run_scenario
from fedsim.experiment.validating import Runner, Validation, compared, emulator, validate
from fedsim.report import read_run
from fedsim.scenario import Scenario
from fedsim.script import SERVER
from fedsim.trace import Trace
from tests.experiment.emulators import Emulator, same
from tests.experiment.toys import TOY
from tests.report.perturbed import slowed, without


def toy(**updates: Any) -> Scenario:
    """The toy scenario without learning."""
    return load_scenario(TOY, updates={"learning": False} | updates)


def test_an_emulation_like_the_simulation_agrees() -> None:
    """The scenario that is emulated is the one that was simulated, with all that was chosen, in the other mode."""
    emulate = Emulator([same])
    done = validate(toy(scheduler={"name": "pipar"}), emulate=emulate)
    (scenario,) = emulate.seen
    assert scenario.mode == "emulate"
    assert scenario.scheduler == done.simulated.scenario.scheduler
    assert scenario.scheduler.options.micro_batches is not None  # which is left open, and chosen once
    assert done.simulated.summary["mode"] == "simulate"
    assert done.verdict is not None
    assert done.verdict.holds
    assert done.verdict.total == 0
    assert not done.interrupted
    assert done.remarks() == []
    assert done.folder is None


@pytest.mark.parametrize("learning", [True, False])
def test_final_weights_are_compared_to_the_bit(learning: bool) -> None:
    """None without learning; a last bit that differs is remarked, and not part of the gate."""
    scenario = load_scenario(TOY, updates={"learning": learning, "until": {"rounds": 1}})
    done = validate(scenario, emulate=Emulator([same]))
    assert done.agreements[0].weights is (True if learning else None)
    if learning:
        run = done.emulated[0]
        assert run.weights is not None
        name = next(iter(run.weights))
        other = replace(run, weights=run.weights | {name: run.weights[name] * (1 + 2**-20)})
        differs = compared(done.simulated, other)
        assert differs.weights is False
        (remark,) = replace(done, agreements=(differs,)).remarks()
        assert remark.startswith("the emulation ended with other weights, though rounds decide what is sent")


def test_of_several_emulations_the_median_counts() -> None:
    """Off by 8, 1 and 2 %: 2 %, which is the emulation to show; off by 8, 7 and 1 %: too much."""
    changes = [partial(slowed, factor=factor) for factor in (1.08, 1.01, 0.98)]
    done = validate(toy(), repeat=3, emulate=Emulator(list(changes)))
    assert done.verdict is not None
    assert done.verdict.runs == 3
    assert done.verdict.total == pytest.approx(0.02, abs=1e-6)
    assert done.verdict.holds
    assert done.typical == 2
    changes[2] = partial(slowed, factor=1.07)
    done = validate(toy(), repeat=3, emulate=Emulator(list(changes)))
    assert done.verdict is not None
    assert done.verdict.misses == ("the length of the run is off by 7.0%; at most 5%",)


def test_folders_are_kept(tmp_path: Path) -> None:
    """One a run, and the comparison beside them; a folder that holds something is refused before anything runs."""
    out = tmp_path / "both"
    done = validate(toy(), repeat=2, out=out, emulate=Emulator([same]))
    assert {path.name for path in out.iterdir()} == {"simulate", "emulate-1", "emulate-2", "validation.json"}
    assert read_run(out / "simulate").summary == done.simulated.summary
    assert json.loads((out / "validation.json").read_text()) == json.loads(json.dumps(done.document()))
    emulate = Emulator([same])
    with pytest.raises(UserError, match="already exists and is not empty"):
        validate(toy(), out=out, emulate=emulate)
    assert not emulate.seen


def test_the_document_is_plain(tmp_path: Path) -> None:
    """All figures of every emulation; nothing that JSON has no word for, even of what was nothing before."""
    lost = Emulator([lambda trace: without(trace, lambda sent: sent.target == SERVER)])
    document = validate(toy(), emulate=lost).document()
    text = json.dumps(document, allow_nan=False)
    assert document["holds"] is False
    assert "though rounds decide how many" in document["misses"][0]
    assert document["gate"] == {"total": 0.05, "shares": 0.05, "header_bytes": 64, "frame_bytes": 30}
    (one,) = json.loads(text)["emulations"]
    assert one["summary"]["mode"] == "emulate"
    assert one["agreement"]["differences"][0]["what"] == "message order"
    assert [node["name"] for node in document["nodes"]] == ["server", "device 0", "device 1", "device 2"]


def test_an_emulation_that_was_not_faithful_is_remarked() -> None:
    """It says little, whether or not it agrees."""
    fidelity = {"faithful": False, "overrun_ratio": 0.25, "lag_s": 1.5}
    (remark,) = validate(toy(), emulate=Emulator([same], fidelity)).remarks()
    assert remark.startswith("the emulation is not faithful: 25.0% of its works overran and 1.5 s were lost")
    two = validate(toy(), repeat=2, emulate=Emulator([same], fidelity)).remarks()
    assert [text.split(" is ")[0] for text in two] == ["emulation 1", "emulation 2"]


def test_time_that_nobody_accounts_for_is_remarked() -> None:
    """The server waits for a fiftieth of the run less than it should, and does not compute either."""

    def hurried(trace: Trace) -> Trace:
        waits = list(trace.waits)
        index, longest = max(enumerate(waits), key=lambda pair: pair[1][2] - pair[1][1])
        waits[index] = (longest[0], longest[1] + trace.end // 50, *longest[2:])
        return replace(trace, waits=waits)

    (remark,) = validate(toy(), emulate=Emulator([hurried])).remarks()
    assert remark.startswith("the emulation: ")
    assert "s of some node are neither busy nor waiting" in remark


def stopped(run: Runner) -> Runner:
    """A runner whose runs somebody stops."""

    def running(scenario: Scenario, **more: Any) -> Run:
        return replace(run(scenario, **more), interrupted=True)

    return running


def test_nothing_is_compared_after_somebody_has_stopped_a_run(tmp_path: Path) -> None:
    """Nor run: neither an emulation after the simulation, nor another one after an emulation."""
    emulate = Emulator([same])
    done = validate(toy(), emulate=emulate, simulate=stopped(run_scenario), out=tmp_path / "one")
    assert done.interrupted
    assert not emulate.seen
    done = validate(toy(), repeat=3, emulate=stopped(emulate), out=tmp_path / "two")
    assert (done.verdict, len(emulate.seen), done.agreements) == (None, 1, ())
    assert {path.name for path in (tmp_path / "two").iterdir()} == {"simulate", "emulate-1"}
    assert done.document()["holds"] is None


def test_every_run_has_a_watcher_of_its_own() -> None:
    """Made for it, from what it is."""
    made: list[str] = []

    def watch(what: str) -> Watcher:
        made.append(what)
        return Watcher()

    validate(toy(), repeat=2, emulate=Emulator([same]), watch=watch)
    validate(toy(), emulate=Emulator([same]), watch=watch)
    assert made == ["simulation", "emulation 1 of 2", "emulation 2 of 2", "simulation", "emulation"]


def test_the_emulator_is_found_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulations need none of it."""
    module: Any = ModuleType("fedsim.experiment.emulating")
    emulate = module.emulate_scenario = Emulator([same])
    monkeypatch.setitem(sys.modules, module.__name__, module)
    assert emulator() is module.emulate_scenario
    done = validate(toy())
    assert isinstance(done, Validation)
    assert len(emulate.seen) == 1
