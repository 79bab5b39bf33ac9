"""Real pictures, where they are at hand: `../shared/data` beside the checkout, or the folder in FEDSIM_DATA."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import fedsim

DATA = Path(os.environ.get("FEDSIM_DATA") or Path(__file__).parents[3] / "shared" / "data")


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.skipif(not (DATA / "cifar10-train.parquet").is_file(), reason="CIFAR-10 is not there")
def test_cifar10_trains() -> None:
    """The shipped scenario, on a fifth of its samples, is well above chance after a few rounds."""
    overrides = [
        f"data.path={DATA}",
        "data.samples=4000",
        "evaluate.samples=1000",
        "until.rounds=4",
        "training.batch=16",
    ]
    run = fedsim.run("cifar10-twenty", overrides=overrides)
    assert run.summary["accuracy"]["best"] > 0.22
    assert run.summary["devices"]["count"] == 20
