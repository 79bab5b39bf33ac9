"""The run folder is claimed by one run; what cannot be written is said in words."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from fedsim.errors import RunError, UserError
from fedsim.experiment.loading import load_scenario
from fedsim.experiment.output import Output, writing
from tests.experiment.toys import TOY


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_fresh_folders_in_the_same_second() -> None:
    """Each claim gets its own, with the resolved scenario in it."""
    scenario = load_scenario(TOY)
    folders = [Output().claim(scenario) for _ in range(3)]
    assert len(set(folders)) == 3
    assert all((folder / "scenario.yaml").read_text().startswith("name: toy") for folder in folders)
    assert {folder.parent for folder in folders} == {Path("runs")}


def test_a_fresh_folder_is_named_after_scenario_scheduler_and_universal_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the machine is; of a scheduler of the user's own the last part of its name."""
    scenario = load_scenario(TOY)
    scheduler = scenario.scheduler.model_copy(update={"name": "somewhere.own:Outer.Inner"})
    try:
        with monkeypatch.context() as patch:
            patch.setenv("TZ", "XXX-9")  # nine hours ahead of UTC
            time.tzset()
            before = datetime.now(UTC).replace(microsecond=0)
            names = [
                Output().claim(one).name for one in (scenario, scenario.model_copy(update={"scheduler": scheduler}))
            ]
            after = datetime.now(UTC)
    finally:
        time.tzset()
    assert [name.rpartition("-")[0] for name in names] == ["toy-fedavg", "toy-Inner"]
    for name in names:
        stamp = datetime.strptime(name.rpartition("-")[2], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        assert before <= stamp <= after


def test_only_one_run_gets_a_folder() -> None:
    """Of two that found `--out` empty, the second claim fails."""
    scenario, output = load_scenario(TOY), Output(Path("x"))
    output.check()
    output.claim(scenario)
    with pytest.raises(UserError, match="--out x already exists and is not empty"):
        output.check()
    with pytest.raises(UserError, match="run folder x cannot be made: File exists; choose another folder"):
        output.claim(scenario)


def test_places_where_no_folder_can_be() -> None:
    """A file in the way, and names that no file system takes."""
    scenario = load_scenario(TOY)
    Path("runs").touch()
    with pytest.raises(UserError, match="run folder runs cannot be made: File exists; give a folder of your own"):
        Output().claim(scenario)
    for name, reason in (("runs/x", "Not a directory"), ("a\0b", "null"), ("x" * 300, "File name too long")):
        with pytest.raises(UserError, match=reason):
            Output(Path(name)).claim(scenario)


def test_an_error_while_writing() -> None:
    """Becomes an error of the run, with the system's reason."""
    with (
        pytest.raises(RunError, match="run folder x could not be written: No space left on device"),
        writing(Path("x")),
    ):
        raise OSError(28, "No space left on device")
