"""Where runs are recorded: what is refused, and when."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedsim.cli import main
from fedsim.errors import RunError, UserError
from fedsim.report.tracking import targets
from fedsim.report.tracking.account import Account
from fedsim.report.tracking.targets import Target, parse, record
from tests.cli.toys import written
from tests.report.tracking.runs import finished


def test_what_is_no_target_is_refused() -> None:
    """With what there is, and an example."""
    with pytest.raises(UserError, match=r"--track wandb:x: unknown tracker 'wandb'.*give tensorboard:FOLDER or mlflow"):
        parse(["wandb:x"])
    with pytest.raises(UserError, match=r"--to tensorboard does not say where; give tensorboard:FOLDER"):
        parse(["tensorboard"], "--to")


def test_a_missing_extra_is_told_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit status 2, the way out, and no folder."""
    monkeypatch.setattr(targets, "find_spec", lambda _: None)
    assert main(["run", written(tmp_path), "--out", str(tmp_path / "x"), "--track", "mlflow:sqlite:///m.db"]) == 2
    assert (
        "error: --track mlflow:sqlite:///m.db needs mlflow, which is not installed; install it with "
        "pip install 'fedsim-edge[track]', or leave --track out"
    ) in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
    assert main(["track", str(tmp_path)]) == 2
    assert "give --to tensorboard:FOLDER or --to mlflow:ADDRESS" in capsys.readouterr().err


@pytest.mark.slow
def test_a_tracker_that_fails_costs_neither_the_run_nor_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the folder, the reason, and the command that tries again."""
    folder, recorded = finished(tmp_path / "first"), []

    def fails(target: Target, told: Account) -> None:
        if target.kind == "mlflow":
            raise OSError("nobody answers")
        recorded.append(told.name)

    monkeypatch.setattr(Target, "record", fails)
    with pytest.raises(RunError, match=r"first is complete but was not recorded: mlflow:x: OSError: nobody answers; "
                       r"`fedsim track .*first --to 'mlflow:x'` tries again"):  # fmt: skip
        record(folder, [Target("mlflow", "x"), Target("tensorboard", "y")])
    assert recorded == ["first"]


@pytest.mark.slow
def test_a_run_is_recorded_when_it_has_ended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By `fedsim run --track`, and by `fedsim track` later."""
    pytest.importorskip("tensorboard", reason="the extra track is not installed")
    scenario, out = written(tmp_path), tmp_path / "x"
    assert main(["run", scenario, "--out", str(out), "--track", f"tensorboard:{tmp_path}/a", "--json"]) == 0
    assert main(["track", str(out), "--to", f"tensorboard:{tmp_path}/b"]) == 0
    assert capsys.readouterr().out.endswith(f"{out}: tensorboard:{tmp_path}/b\n")
    for where in ("a", "b"):
        assert len(list((tmp_path / where / "x").iterdir())) == 1
