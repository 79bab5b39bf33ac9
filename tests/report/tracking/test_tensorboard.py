"""A run in TensorBoard's event files, read back by TensorBoard itself; skipped where that is not installed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fedsim.errors import UserError
from fedsim.report.folder import read_run
from fedsim.report.tracking.account import account
from fedsim.report.tracking.targets import parse, record
from tests.report.tracking.runs import finished

pytest.importorskip("tensorboard", reason="the extra track is not installed")


@pytest.mark.slow
def test_what_tensorboard_reads_is_the_account_of_the_run(tmp_path: Path) -> None:
    """Every series and final figure, over models and over the run's clock, and the parameters as text; once only."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = finished(tmp_path / "first")
    targets = parse([f"tensorboard:{tmp_path / 'tb'}"])
    record(folder, targets)
    told = account(read_run(folder))
    found = EventAccumulator(str(tmp_path / "tb" / "first"), size_guidance={"scalars": 0})
    found.Reload()
    final = {f"final/{name}" for name in told.figures}
    assert set(found.Tags()["scalars"]) == set(told.series) | final
    for name, points in told.series.items():
        read = [(event.step, event.wall_time, event.value) for event in found.Scalars(name)]
        assert [row[:2] for row in read] == [(step, seconds) for step, seconds, _ in points]
        assert [value for *_, value in read] == pytest.approx([value for *_, value in points], rel=1e-6)
    (idle,) = found.Scalars("final/devices/idle")
    assert (idle.step, idle.wall_time) == (4, told.seconds)
    assert idle.value == pytest.approx(told.figures["devices/idle"], rel=1e-6)
    (text,) = found.Tensors("scenario")
    assert "| training.batch | 16 |" in text.tensor_proto.string_val[0].decode()
    assert "torch.utils.tensorboard" not in sys.modules
    with pytest.raises(UserError, match=r"tb/first holds events of a run of that name already; remove it"):
        record(folder, targets)
