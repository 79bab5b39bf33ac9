"""A network as a flat list of units: it may be cut after any of them, and nowhere else."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedsim.errors import UserError


class UnitList(nn.Sequential):
    """A network whose children are its units, in order.

    Args:
        name: the model's name in the catalogue.
        units: (name, module) in order; names are unique and become prefixes of parameter names.
        input: shape of one sample without the batch axis.
        classes: size of the last axis of the output.
        tokens: inputs are integer tokens rather than real numbers.
    """

    def __init__(
        self,
        name: str,
        units: Sequence[tuple[str, nn.Module]],
        *,
        input: tuple[int, ...],
        classes: int,
        tokens: bool = False,
        dtype: str = "float32",
    ) -> None:
        super().__init__(OrderedDict(units))
        names = [unit for unit, _ in units]
        if len(set(names)) < len(names) or not names:
            raise UserError(f"model {name}: units {', '.join(names) or 'none'}; give at least one, each its own name")
        self.name = name
        self.input = input
        self.classes = classes
        self.tokens = tokens
        self.dtype = dtype

    def block(self, first: int, last: int) -> nn.Sequential:
        """Units `first` (from 0) up to, not including, `last`, sharing their modules with this list."""
        return nn.Sequential(OrderedDict(list(self.named_children())[first:last]))

    @staticmethod
    def loss(logits: Tensor, labels: Tensor, reduction: Literal["mean", "sum"] = "mean") -> Tensor:
        """Cross entropy over all predictions, a scalar: logits `batch … classes`, labels `batch …`."""
        if logits.dim() > 2:
            logits, labels = logits.flatten(0, -2), labels.flatten()
        return cross_entropy(logits, labels, reduction=reduction)


def check_cut(name: str, units: Sequence[str], cut: int) -> None:
    """Refuse a cut that would leave one side empty.

    Raises:
        UserError: with the range of cuts that exist.
    """
    if not 1 <= cut < len(units):
        raise UserError(f"cut after unit {cut}, but {name} has {len(units)} units; choose 1-{len(units) - 1}")
