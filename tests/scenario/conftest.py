"""A folder to work in, which is also the catalogue."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fedsim import catalogue
from tests.scenario import toys


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The current folder and the only root of the catalogue, with the toys' files."""
    path = tmp_path_factory.mktemp("scenario").resolve()
    toys.populate(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalogue, "_roots", lambda: (path,))
        patch.chdir(path)
        yield path
