"""A finished run in a folder, for trackers."""

from __future__ import annotations

from pathlib import Path

import fedsim
from tests.experiment.toys import TOY


def finished(folder: Path) -> Path:
    """Three rounds of the toy scenario, its model measured after each."""
    fedsim.run(TOY, out=folder, until={"rounds": 3})
    return folder
