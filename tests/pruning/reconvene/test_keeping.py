"""Curves in files: what comes back is what was kept."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from torch import nn

from fedsim.errors import UserError
from fedsim.pruning.reconvene import Reconvene, score
from fedsim.pruning.reconvene.keeping import load, save


def test_a_curve_comes_back_as_it_was(tmp_path: Path) -> None:
    """With the same digest, which plans carry."""
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
    curve = score(model, Reconvene(iterations=3), torch.zeros(1, 1, 4, 4), seed=3)
    save(curve, tmp_path / "curve")
    found = load(tmp_path / "curve")
    assert found.digest == curve.digest
    for field in fields(curve):
        if field.name not in ("kept", "filters"):
            assert getattr(found, field.name) == getattr(curve, field.name)
    np.testing.assert_array_equal(found.kept, curve.kept)
    assert found.filters.keys() == curve.filters.keys()


def test_other_files_are_refused(tmp_path: Path) -> None:
    """Missing ones, damaged ones, and those of another kind."""
    with pytest.raises(UserError, match="cannot be read as a curve"):
        load(tmp_path / "nothing")
    (tmp_path / "text").write_text("no tensors", encoding="utf-8")
    with pytest.raises(UserError, match="cannot be read as a curve"):
        load(tmp_path / "text")
    save_file({"x": np.zeros(1)}, tmp_path / "other")
    with pytest.raises(UserError, match="is no curve of scores"):
        load(tmp_path / "other")
