"""Which rows and columns of the seven projections stay when units go. The one place that minds grouped queries.

Query head h reads the key and value head h // repeats: q rows and o columns go by query heads, k and v rows by groups.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn

from fedsim.errors import UserError
from fedsim.payload.supports import Axes, Indices
from fedsim.pruning.mosaic.adapters import Block, Projection
from fedsim.pruning.plans import Kept


@dataclass(frozen=True, kw_only=True)
class Units:
    """What stays of a block; None where all does."""

    groups: tuple[int, ...] | None = None
    heads: tuple[int, ...] | None = None
    """Query heads, where they go by themselves; of groups that stay."""
    channels: tuple[int, ...] | None = None

    def query_heads(self, block: Block) -> NDArray[np.int64] | None:
        """Query heads that stay, ascending; of each group that stays the same number."""
        if self.heads is not None:
            return np.array(self.heads, np.int64)
        if self.groups is not None:
            return _blown_up(self.groups, block.repeats)
        return None


def chosen(blocks: Sequence[Block], kept: Sequence[Kept]) -> dict[int, Units]:
    """What a plan keeps, by number of the block.

    Raises:
        UserError: a layer that no block has, or counts that are not those of the block.
    """
    parts: dict[int, dict[str, tuple[int, ...]]] = {}
    for each in kept:
        number = next((n for n, block in enumerate(blocks) if each.layer in block.projections.values()), None)
        if number is None:
            raise UserError(f"the plan keeps units of {each.layer}, which is no projection of this model's blocks")
        block = blocks[number]
        sizes = {"kv_groups": block.kv_heads, "query_heads": block.heads, "mlp_channels": block.channels}
        if sizes.get(each.kind) != each.of:
            raise UserError(
                f"{each.layer}: the plan keeps some of {each.of} {each.kind}, but there are "
                f"{sizes.get(each.kind, 'none')}; make a plan for this model"
            )
        names = {"kv_groups": "groups", "query_heads": "heads", "mlp_channels": "channels"}
        parts.setdefault(number, {})[names[each.kind]] = each.indices
    return {number: Units(**units) for number, units in sorted(parts.items())}


def axes(model: nn.Module, block: Block, units: Units) -> Mapping[str, Axes]:
    """The kept indices of every tensor of a block that is cut, by its name in the model."""
    rows: dict[Projection, Indices] = {}
    columns: dict[Projection, Indices] = {}
    heads = units.query_heads(block)
    if heads is not None:
        rows["q"] = columns["o"] = _blown_up(heads, block.head_size)
    if units.groups is not None:
        rows["k"] = rows["v"] = _blown_up(units.groups, block.head_size)
    if units.channels is not None:
        rows["gate"] = rows["up"] = columns["down"] = np.array(units.channels, np.int64)
    made: dict[str, Axes] = {block.weight(p): (kept, None) for p, kept in rows.items()}
    made |= {block.weight(p): (None, kept) for p, kept in columns.items()}
    for projection, kept in rows.items():
        if getattr(model.get_submodule(block.projections[projection]), "bias", None) is not None:
            made[f"{block.projections[projection]}.bias"] = (kept,)
    return made


def _blown_up(units: Sequence[int] | NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Indices of all parts of units that have `size` parts each, one after another."""
    made: NDArray[np.int64] = (np.array(units, np.int64)[:, None] * size + np.arange(size)).reshape(-1)
    return made
