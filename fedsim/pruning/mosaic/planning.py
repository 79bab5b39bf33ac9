"""From a ranking to a plan: targets, widths, the units that stay, and what is left for zeros. Without a forward.

Structured, unstructured and composite pruning are one: a part `alpha` of the share is cut out, the rest becomes zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor, nn

from fedsim.errors import UserError
from fedsim.models.units import UnitList
from fedsim.payload.supports import Support
from fedsim.pruning import counting
from fedsim.pruning.mosaic.adapters import MLP, PROJECTIONS, Block, scoped
from fedsim.pruning.mosaic.indexing import axes, chosen
from fedsim.pruning.mosaic.options import Mosaic
from fedsim.pruning.mosaic.policies import Profile, Shares, allocated, exact, policy
from fedsim.pruning.mosaic.ranking import Ranking, current
from fedsim.pruning.mosaic.scores import UnitScores
from fedsim.pruning.mosaic.widths import Rules, Width, whole, widths
from fedsim.pruning.plans import Kept, Plan, Privacy, most_private
from fedsim.pruning.resizing import resize
from fedsim.pruning.skeletons import hollow


def plan(model: nn.Module, ranking: Ranking, options: Mosaic | None = None, *, within: Plan | None = None) -> Plan:
    """What to remove from the model that a ranking was made of. The same arguments give the same plan, byte for byte.

    Args:
        within: the plan of a larger variant, which has all heads and channels that are to stay. Where that has fewer of
            a block than this plan would keep, so has this one, and removes a little more than asked for.

    Raises:
        UserError: the ranking is of another model; a scope that matches nothing; a target that cannot be reached;
            `unstructured-first` with both steps, whose cut depends on the first (`prune` does both).
    """
    options = options or Mosaic()
    if options.zeros_first:
        raise UserError(
            "order unstructured-first chooses what to cut when weights are zero already, so a ranking alone gives no "
            "plan; call mosaic.prune, or take order: structured-first"
        )
    _, blocks = current(ranking, model, options)
    units = ranking.units(model, blocks, options.unit_score)
    outlook = Outlook(ranking, blocks, model, options, within)
    return planned(model, blocks, outlook, units, ranking, options)


@dataclass(frozen=True, kw_only=True)
class Cut:
    """The structured step in numbers."""

    widths: tuple[Width, ...]
    """By block in scope."""
    share: float
    """Of the weights of the blocks in scope, as removed."""


class Outlook:
    """What some options make of a model: the policy's targets for any share, the cut, and what is left for zeros.

    Raises:
        UserError: a scope that matches nothing, a policy that is none, a target that cannot be reached.
    """

    def __init__(
        self,
        ranking: Ranking,
        blocks: Sequence[Block],
        model: nn.Module,
        options: Mosaic,
        within: Plan | None = None,
    ) -> None:
        self.within: Mapping[tuple[str, str], tuple[int, ...]] = (
            {} if within is None else {(kept.layer, kept.kind): kept.indices for kept in within.kept}
        )
        """Units that may stay, by layer and kind; all of those that are not there."""
        self.privacy: Privacy = "data-free" if options.data_free else ranking.privacy
        """What a choice depends on."""
        if within is not None:
            self.privacy = most_private(self.privacy, within.privacy)
        self.scope = scoped(blocks, options.scope)
        self._policy = policy(options.policy)
        known = ranking.distribution(model, tuple(blocks), options.outlier_factor)
        inside = [known[number] for number in self.scope]
        self.profile = Profile(
            outliers=np.array([[own[p] for p in PROJECTIONS] for own, _ in inside], np.float64),
            all_outliers=np.array([together for _, together in inside], np.float64),
            elements=np.array([[blocks[n].elements(p) for p in PROJECTIONS] for n in self.scope], np.int64),
            strength=options.strength,
            most=options.most,
        )
        scope = [blocks[number] for number in self.scope]
        self.cut = _capped(scope, _cut(scope, self.shares, options), self.within)
        left = (options.sparsity - self.cut.share) / (1 - self.cut.share)
        self.zeros = max(left, 0.0) if options.alpha < 1 else 0.0
        """Share of what the cut leaves that has to become zero."""

    def shares(self, sparsity: float) -> Shares:
        """Targets by block in scope and projection."""
        return allocated(self._policy, self.profile, sparsity)


def planned(
    model: nn.Module,
    blocks: Sequence[Block],
    outlook: Outlook,
    units: Sequence[UnitScores],
    ranking: Ranking,
    options: Mosaic,
    least: Callable[[tuple[Kept, ...]], Shares] | None = None,
) -> Plan:
    """The plan for units with these scores.

    Args:
        least: for what is kept, the shares of zeros that are there already, by block in scope and projection.
    """
    scope = [blocks[number] for number in outlook.scope]
    cut = outlook.cut
    if options.pattern is not None:
        _check_pattern(scope, options.pattern, options.zeros_of[1])
    kept: list[Kept] = []
    parameters = sum(parameter.numel() for parameter in model.parameters())
    for number, block, width in zip(outlook.scope, scope, cut.widths, strict=True):
        if width != whole(block):
            kept += _kept(block, width, units[number], outlook.within)
            parameters -= _fewer(model, block, width)
    return Plan(
        method="mosaic",
        parent=ranking.parent,
        seed=options.seed,
        options=asdict(options) | {"scope": list(options.scope)},
        source=ranking.digest,
        kept=tuple(kept),
        sparsity=_zeros(scope, outlook, options, least(tuple(kept)) if least else 0.0),
        parameters=parameters,
        macs=macs(model, blocks, kept),
        privacy=outlook.privacy,
    )


def macs(model: nn.Module, blocks: Sequence[Block], kept: Sequence[Kept]) -> int | None:
    """Forward MACs of a sample of a list of units, once only what is kept is left: counted on shapes, without a cut.

    None for whole models of transformers, which take samples of any length.
    """
    if not isinstance(model, UnitList):
        return None
    units = chosen(blocks, kept)
    support = Support({name: each for n, own in units.items() for name, each in axes(model, blocks[n], own).items()})
    shapes = {name: support.shape(name, tuple(tensor.shape)) for name, tensor in model.state_dict().items()}
    outline = deepcopy(model, hollow(model))
    resize(outline, shapes)
    sample = torch.zeros((1, *model.input), dtype=torch.int64, device="meta")
    return counting.macs(outline, sample)


def _cut(scope: Sequence[Block], shares: Callable[[float], Shares], options: Mosaic) -> Cut:
    """Widths of the blocks in scope, for the part of the share that is cut out."""
    target = options.alpha * options.sparsity
    last = len(scope) - options.protect_blocks
    free = [options.protect_blocks <= number < last for number in range(len(scope))]
    rules = Rules(kv_unit=options.kv_unit, round_to=options.round_to, most=options.most, uniform=options.uniform_widths)
    made = widths(scope, free, shares(target), target, rules) if target else tuple(whole(b) for b in scope)
    before = sum(whole(block).total(block) for block in scope)
    after = sum(width.total(block) for width, block in zip(made, scope, strict=True))
    return Cut(widths=made, share=1 - after / before)


def _check_pattern(scope: Sequence[Block], pattern: str, group: int) -> None:
    for block in scope:
        for projection in PROJECTIONS:
            columns = block.shape(projection)[1]
            if columns % group:
                raise UserError(
                    f"pattern {pattern} needs rows of a multiple of {group} weights, but "
                    f"{block.projections[projection]} has {columns} columns; take another pattern, or none"
                )


def _zeros(scope: Sequence[Block], outlook: Outlook, options: Mosaic, least: float | Shares) -> dict[str, float]:
    """By weight: the share of what the cut leaves that becomes zero, so that both steps together remove `sparsity`."""
    cut, share = outlook.cut, outlook.zeros
    if not share:
        return {}
    left = np.array(
        [[width.elements(b, p) for p in PROJECTIONS] for width, b in zip(cut.widths, scope, strict=True)], np.int64
    )
    shares = outlook.shares(options.sparsity)
    if options.alpha:
        shares = exact(1 - (1 - shares) * outlook.profile.elements / left, left, share, options.most, least)
    return {
        block.weight(projection): float(value)
        for block, row in zip(scope, shares, strict=True)
        for projection, value in zip(PROJECTIONS, row, strict=True)
    }


def _capped(scope: Sequence[Block], cut: Cut, within: Mapping[tuple[str, str], tuple[int, ...]]) -> Cut:
    """The same widths, but none above those of a larger variant."""
    if not within:
        return cut
    made = []
    for block, width in zip(scope, cut.widths, strict=True):
        query, gate = block.projections["q"], block.projections["gate"]
        groups = len(within.get((query, "kv_groups"), range(block.kv_heads)))
        heads = len(within.get((query, "query_heads"), range(groups * block.repeats)))
        channels = len(within.get((gate, "mlp_channels"), range(block.channels)))
        made.append(
            Width(
                kv_heads=min(width.kv_heads, groups),
                repeats=min(width.repeats, heads // groups),
                channels=min(width.channels, channels),
            )
        )
    before = sum(whole(block).total(block) for block in scope)
    after = sum(width.total(block) for width, block in zip(made, scope, strict=True))
    return Cut(widths=tuple(made), share=1 - after / before)


def _kept(
    block: Block, width: Width, units: UnitScores, within: Mapping[tuple[str, str], tuple[int, ...]]
) -> list[Kept]:
    """Which units of a block stay: those of the highest scores, among those that may."""
    made: list[Kept] = []
    query, gate = block.projections["q"], block.projections["gate"]
    groups = tuple(range(block.kv_heads))
    if width.kv_heads < block.kv_heads:
        groups = _highest(units.groups, width.kv_heads, within.get((query, "kv_groups")))
        made.append(Kept(layer=query, kind="kv_groups", of=block.kv_heads, indices=groups))
    if width.repeats < block.repeats:
        allowed = within.get((query, "query_heads"))
        heads: list[int] = []
        for group in groups:
            first, end = group * block.repeats, (group + 1) * block.repeats
            own = None if allowed is None else tuple(head - first for head in allowed if first <= head < end)
            heads += [first + head for head in _highest(units.heads[first:end], width.repeats, own)]
        made.append(Kept(layer=query, kind="query_heads", of=block.heads, indices=tuple(heads)))
    if width.channels < block.channels:
        channels = _highest(units.channels, width.channels, within.get((gate, "mlp_channels")))
        made.append(Kept(layer=gate, kind="mlp_channels", of=block.channels, indices=channels))
    return made


def _highest(scores: Tensor, count: int, allowed: tuple[int, ...] | None) -> tuple[int, ...]:
    """Indices of the highest scores, of those that are allowed, ascending; of equal ones the first."""
    among = torch.arange(len(scores)) if allowed is None else torch.tensor(allowed, dtype=torch.int64)
    order = torch.argsort(scores[among], descending=True, stable=True)
    return tuple(sorted(among[order[:count]].tolist()))


def _fewer(model: nn.Module, block: Block, width: Width) -> int:
    """Parameters that a block loses, biases of the rows that go included."""
    lost = whole(block).total(block) - width.total(block)
    rows = {
        "q": block.heads - width.kv_heads * width.repeats,
        "k": block.kv_heads - width.kv_heads,
        "v": block.kv_heads - width.kv_heads,
    }
    for projection, heads in rows.items():
        if _has_bias(model, block, projection):
            lost += heads * block.head_size
    return lost + sum(_has_bias(model, block, p) * (block.channels - width.channels) for p in MLP if p != "down")


def _has_bias(model: nn.Module, block: Block, projection: str) -> bool:
    name = {str(p): module for p, module in block.projections.items()}[projection]
    return getattr(model.get_submodule(name), "bias", None) is not None
