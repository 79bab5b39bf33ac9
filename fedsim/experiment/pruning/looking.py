"""What a pruning method may look at beside the model: samples, text, and the device that it is for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fedsim import data as data_sets
from fedsim.data import DataSet
from fedsim.experiment.balanced import balanced
from fedsim.experiment.pruning.subjects import Subject
from fedsim.hardware.machines import Machine

if TYPE_CHECKING:
    from torch import Tensor

    from fedsim.pruning.methods import Material
    from fedsim.pruning.mosaic.calibration import Calibration


@dataclass(frozen=True, kw_only=True)
class Named:
    """A data set by its name; it is read when somebody looks."""

    name: str
    path: Path | None = None
    seed: int = 0

    def read(self) -> DataSet:
        """All of it."""
        return data_sets.load(self.name, path=self.path, seed=self.seed)

    def balanced(self, each: int) -> tuple[Tensor, Tensor]:
        """Training samples, so many of each class."""
        return balanced(self.read(), each, self.seed)


def material(
    subject: Subject,
    *,
    data: Named | None,
    calibration: Calibration | None,
    machine: Machine | None,
    batch: int,
    private: bool,
) -> Material:
    """What a method gets."""
    from fedsim.pruning.methods import Material

    return Material(
        example=subject.example,
        batch=None if data is None or subject.text else data.balanced,
        windows=None if calibration is None else lambda: calibration,
        private=private,
        pretrained=subject.pretrained,
        machine=machine,
        samples=batch,
        seed=subject.seed,
    )
