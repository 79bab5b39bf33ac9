"""What all tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings

# The same examples on every run and machine, however loaded; nothing is kept in the working directory.
settings.register_profile("fedsim", derandomize=True, deadline=None, database=None)
settings.load_profile("fedsim")


@pytest.fixture(autouse=True, scope="session")
def _no_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is kept from run to run stays out of the user's home."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDSIM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """One intra-op thread: the same bits on every machine, and no fight for its cores."""
    import torch

    torch.set_num_threads(1)
