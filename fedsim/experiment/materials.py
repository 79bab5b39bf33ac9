"""What pruning methods may look at in a scenario: examples, data, text, and what a device's time and memory are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from fedsim import data as data_sets
from fedsim import seeds
from fedsim.data import DataInfo, DataSet, TokenOptions
from fedsim.errors import UserError
from fedsim.experiment.balanced import balanced
from fedsim.experiment.forecast import Load, device_need
from fedsim.hardware.machines import Machine
from fedsim.learning.optimizers import Training
from fedsim.learning.plan import DEVICE, MODEL, BlockPlan
from fedsim.models.measure import ModelMeasure
from fedsim.payload.supports import WHOLE, Support
from fedsim.scenario import Calibration, Scenario

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fedsim.models.units import UnitList
    from fedsim.pruning.counting import Counts
    from fedsim.pruning.methods import Material
    from fedsim.pruning.pruned import Pruned


@dataclass(frozen=True, kw_only=True)
class Materials:
    """Of one scenario."""

    scenario: Scenario
    network: UnitList
    info: DataInfo
    data: Callable[[], DataSet]
    """Reads the data set; asked only by methods that look at data."""
    training: Training
    cut: int | None
    head: ModelMeasure | None
    measure: Callable[[UnitList], ModelMeasure]
    """Counts a network."""

    @property
    def device_block(self) -> bool:
        """Whether only the device block shrinks."""
        scope = "auto" if self.scenario.pruning is None else self.scenario.pruning.scope
        return scope == "device-block" or (scope == "auto" and self.cut is not None)

    @property
    def pretrained(self) -> bool:
        """Whether the model starts from trained weights."""
        model = self.scenario.model
        return model.weights is not None or getattr(model.options, "path", None) is not None

    def of(self, machine: Machine, held: int, calibration: Calibration | None = None) -> Material:
        """What a method that prunes for a machine may look at, of whose devices one has up to `held` samples.

        Raises:
            UserError: only the device block is to shrink, but the scheduler does not cut the model.
        """
        from fedsim.pruning.methods import Material

        load = Load.of(self.scenario.scheduler.options, self.training.batch, held)
        scope: tuple[str, ...] = ()
        if self.device_block:
            if self.cut is None:
                raise UserError(
                    f"scope: device-block, but scheduler {self.scenario.scheduler.name} does not cut the model; "
                    "set scope: model, or leave it out"
                )
            scope = tuple(name for name, _ in list(self.network.named_children())[: self.cut])
        return Material(
            example=self.example(),
            scope=scope,
            protected=scope[-1:],
            batch=cache(self.batch) if self.info.kind != "text" else None,
            windows=cache(partial(self.windows, calibration)) if self.info.kind == "text" else None,
            private=calibration is None,
            pretrained=self.pretrained,
            machine=machine,
            slots=self.training.optimizer.slots,
            units=self.cut,
            memory=partial(self.memory, machine, load),
            trains=load.works is None,
            samples=load.forwards * load.batch,
            seed=self.scenario.seed,
        )

    def example(self) -> Tensor:
        """Two samples of random values, as the model takes them."""
        from fedsim.pruning.calls import drawn

        return drawn(self.network, length=0, vocabulary=self.info.classes, seed=self.scenario.seed)

    def batch(self, each: int) -> tuple[Tensor, Tensor]:
        """Training samples, so many of each class, or all there are of one that has fewer."""
        return balanced(self.data(), each, self.scenario.seed, dtype=self.scenario.training.dtype)

    def windows(self, calibration: Calibration | None) -> Tensor:
        """Pieces of public text or, without any, of the training data: `windows length` tokens."""
        import torch

        given = calibration or Calibration.model_construct(windows=32, length=self.info.shape[0])
        length = min(given.length, self.info.shape[0])
        if calibration is None:
            rows: Any = self.data().train.inputs
        else:
            wanted = self.scenario.data.tokens
            tokens = TokenOptions(length=length, **({} if wanted is None else {"tokenizer": wanted.tokenizer}))
            text = data_sets.load("text", path=calibration.path, tokens=tokens, seed=self.scenario.seed)
            if text.info.classes != self.info.classes:
                raise UserError(
                    f"the calibration text {calibration.path} has {text.info.classes} different tokens, the training "
                    f"data {self.info.classes}; take a tokenizer whose vocabulary does not depend on the text, such as "
                    "bytes"
                )
            rows = text.train.inputs
        rng = seeds.generator(self.scenario.seed, -1, "calibration")
        drawn = rng.choice(len(rows), size=min(given.windows, len(rows)), replace=False)
        return torch.from_numpy(np.array(rows[np.sort(drawn)][:, :length])).long()

    def block(self, network: nn.Module, support: Support = WHOLE) -> BlockPlan:
        """What devices hold of a network: the device block with its head, or all of it."""
        from fedsim.models.units import UnitList

        assert isinstance(network, UnitList)
        model = self.measure(network)
        last, head = (len(model.units), None) if self.cut is None else (self.cut, self.head)
        return BlockPlan(MODEL if self.cut is None else DEVICE, model, 0, last, self.training, head, support)

    def memory(self, machine: Machine, load: Load, network: nn.Module) -> int:
        """Bytes that a machine needs for what devices hold of a network: model, training state and a step."""
        need = device_need(machine, self.block(network), load)
        return need.model + need.step

    def measured(self, network: UnitList) -> ModelMeasure:
        """A network's costs."""
        return self.measure(network)

    def counts(self, pruned: Pruned) -> Counts:
        """The sizes of what a method has made."""
        from fedsim.pruning.counting import counts

        return counts(pruned.module, self.example(), pruned.support)
