"""What models are measured by: sizes, quality on named data, a stopwatch, and a device's cost model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedsim import data as data_sets
from fedsim.errors import UserError
from fedsim.experiment.balanced import samples
from fedsim.experiment.pruning.stages import Stages
from fedsim.experiment.pruning.subjects import Subject
from fedsim.experiment.pruning.texts import WINDOWS, consecutive, text_file
from fedsim.hardware.machines import Machine
from fedsim.payload.supports import WHOLE, Support

if TYPE_CHECKING:
    from torch import nn

    from fedsim.pruning.counting import Counts


@dataclass(frozen=True)
class Meter:
    """How the models of one pruning are measured."""

    subject: Subject
    machine: Machine | None
    named: str | None
    """What they are evaluated on."""
    folder: Path | None
    limit: int | None
    stopwatch: bool
    threads: int

    @classmethod
    def of(cls, asked: Any, subject: Subject, machine: Machine | None) -> Meter:
        """As asked for; what cannot be evaluated is refused now.

        Raises:
            UserError: it cannot.
        """
        made = cls(subject, machine, asked.evaluate, asked.data_path, asked.samples, asked.time, asked.threads)
        if made.named is not None:
            made._wanted  # noqa: B018  # reads what is to be evaluated on
        return made

    def counts(self, module: nn.Module, support: Support = WHOLE) -> Counts:
        """Sizes."""
        from fedsim.pruning.counting import counts

        return counts(module, self.subject.example, support)

    def quality(self, module: nn.Module) -> dict[str, Any] | None:
        """How good it is, where that is asked for, as JSON takes it."""
        if self.named is None:
            return None
        if not self.subject.text:
            return self._right(module)
        from fedsim.pruning.mosaic.evaluating import quality

        found = quality(module, self._wanted)
        return {
            "perplexity": found.perplexity,
            "top1": found.top1,
            "windows": len(found.losses),
            "length": found.length,
        }

    def qualities(self, modules: Mapping[str, nn.Module], stages: Stages) -> dict[str, dict[str, Any] | None]:
        """By model, the same; a stage where that is asked for."""
        if self.named is None:
            return dict.fromkeys(modules)
        with stages.stage("evaluate"):
            return {name: self.quality(module) for name, module in modules.items()}

    def _right(self, module: nn.Module) -> dict[str, Any]:
        from fedsim.learning.measuring import quality
        from fedsim.models.units import UnitList
        from fedsim.pruning.watching import evaluating

        with evaluating(module):
            found = quality(module, UnitList.loss, self._wanted, "test", self.subject.vocabulary)
        return {"accuracy": found.accuracy, "loss": found.loss, "samples": found.samples}

    def times(self, modules: Mapping[str, nn.Module], stages: Stages) -> dict[str, dict[str, Any]]:
        """By model and by what is called: p50 and p95 on this host; nothing where nobody asks."""
        found: dict[str, dict[str, Any]] = {name: {} for name in modules}
        if not self.stopwatch:
            return found
        from fedsim.pruning import calls
        from fedsim.pruning.stopwatch import timed

        example = self.subject.example
        first = next(iter(modules.values()))
        ways = calls.of_text(first, example) if self.subject.text else calls.of_images(example)
        with stages.stage("time"):
            for label, call in ways.items():
                for name, each in timed(modules, call, threads=self.threads).items():
                    found[name][label] = each
        return found

    def priced(self, module: nn.Module) -> float | None:
        """Seconds of a forward of one sample by the profile."""
        if self.machine is None:
            return None
        from fedsim.pruning.prices import forward_seconds

        return forward_seconds(self.machine, module, self.subject.base, self.subject.length)

    @cached_property
    def _wanted(self) -> Any:
        """Windows of a text, or the samples of a data set."""
        assert self.named is not None
        if self.subject.text:
            file = text_file(self.named, self.folder, test=True)
            return consecutive(self.subject, file, windows=self.limit or WINDOWS)
        return self._images()

    def _images(self) -> Any:
        assert self.named is not None
        data = data_sets.load(self.named, path=self.folder)
        example = self.subject.example
        if data.info.shape != tuple(example.shape[1:]) or data.info.classes != self.subject.vocabulary:
            shape, own = ("x".join(map(str, s)) for s in (data.info.shape, example.shape[1:]))
            raise UserError(
                f"--evaluate {self.named} has samples of {shape} in {data.info.classes} classes, but "
                f"{self.subject.name} takes {own} and tells {self.subject.vocabulary} apart; set --input and "
                "--classes to those of the data"
            )
        return samples(data, test=None if self.limit is None else np.arange(min(self.limit, data.info.test)))
