"""A folder of one's own for each test, with the toy scenario in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli import toys


@pytest.fixture
def scenario(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The current folder is empty but for `toy.yaml`."""
    monkeypatch.chdir(tmp_path)
    return toys.written(tmp_path)
