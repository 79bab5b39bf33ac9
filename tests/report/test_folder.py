"""Run folders: written, read back, and refused with a reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedsim.errors import UserError
from fedsim.report import read_run, read_summary, summarise, write_comparison, write_run
from tests.report.hand_made_traces import fedavg

FILES = {"trace.parquet", "nodes.csv", "curves.csv", "timeline.json.gz", "report.html", "summary.json"}


def written(folder: Path) -> Path:
    """A folder with a finished run."""
    trace = fedavg().trace
    write_run(folder, trace, summarise(trace, status="done", wall_seconds=1.0))
    return folder


def test_a_run_folder_holds_all_files_and_reads_back(tmp_path: Path) -> None:
    """Summary and trace come back equal; no draft is left behind."""
    folder = written(tmp_path / "new" / "run")
    assert {path.name for path in folder.iterdir()} == FILES
    found = read_run(folder)
    assert found.summary == json.loads((folder / "summary.json").read_text())
    assert found.summary == summarise(found.trace, status="done", wall_seconds=1.0), "a pure function of the trace"
    assert found.trace.spans == fedavg().trace.spans


def test_the_summary_is_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder whose writing was cut short has none, even where an earlier run had left one."""
    folder = written(tmp_path)

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fedsim.report.folder.write_report", fail)
    with pytest.raises(KeyboardInterrupt):
        written(folder)
    with pytest.raises(
        UserError, match=r"has no summary\.json, so its run did not finish; run its scenario.yaml again"
    ):
        read_run(folder)


def test_a_folder_of_runs_is_no_run(tmp_path: Path) -> None:
    """As that of a sweep or of a comparison: what is in it is what there is to read."""
    for name in ("b-seed1", "a-seed1"):
        written(tmp_path / name)
    with pytest.raises(
        UserError, match=rf"{tmp_path} is no run but holds 2; give their folders, like {tmp_path}/a-seed1"
    ):
        read_run(tmp_path)


def test_runs_are_deterministic_to_the_byte(tmp_path: Path) -> None:
    """Every file is a pure function of trace and summary."""
    one, two = written(tmp_path / "a"), written(tmp_path / "b")
    assert all((one / name).read_bytes() == (two / name).read_bytes() for name in FILES)


def test_several_folders_make_one_report(tmp_path: Path) -> None:
    """Side by side."""
    run = read_run(written(tmp_path / "a"))
    write_comparison(tmp_path / "both.html", [run, run])
    assert "by-hand · fedavg (2)" in (tmp_path / "both.html").read_text()


def test_what_is_missing_or_wrong_is_named(tmp_path: Path) -> None:
    """No folder, no trace, no JSON, another schema."""
    with pytest.raises(UserError, match="nowhere is not a folder; give the folder of a run"):
        read_summary(tmp_path / "nowhere")
    folder = written(tmp_path / "run")
    (folder / "trace.parquet").unlink()
    with pytest.raises(UserError, match=r"has a summary\.json but no trace\.parquet"):
        read_run(folder)
    (folder / "summary.json").write_text("{")
    with pytest.raises(UserError, match=r"summary\.json is not JSON"):
        read_run(folder)
    (folder / "summary.json").write_text('{"schema": 2}')
    with pytest.raises(UserError, match="has schema 2, but this fedsim reads schema 1"):
        read_run(folder)
