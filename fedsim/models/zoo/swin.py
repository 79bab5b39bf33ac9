"""The tiny Swin transformer, from torchvision's blocks."""

from __future__ import annotations

from typing import Any

from torch import nn

from fedsim.errors import UserError
from fedsim.models.options import Swin
from fedsim.models.units import UnitList
from fedsim.models.zoo.layers import square
from fedsim.torchvision_shim import import_torchvision

USUAL_WINDOW = 7
"""Of arXiv 2103.14030, for the grids of 56, 28, 14 and 7 patches of a 224x224 image."""


def swin_t(*, options: Swin, input: tuple[int, ...], classes: int, norm: str) -> UnitList:
    """Swin-T (arXiv 2103.14030): embedding, blocks with a merging between stages, each a unit, and the head.

    Activations are `batch h w channels`. torchvision's network on 224x224; on other sizes, unless `window` is given,
    the windows of each stage are fitted to its grid. Norm layers: layer norm only.
    """
    del norm
    import_torchvision()
    from torchvision.models.swin_transformer import PatchMerging, SwinTransformerBlock
    from torchvision.ops.misc import Permute

    channels, side = square("swin_t", input, 2 * options.patch)
    if side % options.patch:
        raise UserError(
            f"model swin_t cuts images into patches of {options.patch}x{options.patch}, but these are {side}x{side}; "
            f"set data.resize to {-(-side // options.patch) * options.patch}"
        )
    width, grid = options.width, side // options.patch
    patches = nn.Conv2d(channels, width, options.patch, stride=options.patch)
    units: list[tuple[str, nn.Module]] = [
        ("embedding", nn.Sequential(patches, Permute([0, 2, 3, 1]), nn.LayerNorm(width)))
    ]
    done, total = 0, sum(options.blocks)
    for stage, (depth, heads) in enumerate(zip(options.blocks, options.heads, strict=True)):
        if stage:
            units.append((f"merge{stage}", PatchMerging(width)))
            width, grid = 2 * width, -(-grid // 2)
        window = options.window or fitting_window(grid)
        for index in range(depth):
            block = SwinTransformerBlock(
                width,
                heads,
                window_size=[window, window],
                shift_size=[window // 2 * (index % 2)] * 2,
                dropout=options.dropout,
                attention_dropout=options.dropout,
                stochastic_depth_prob=options.stochastic_depth * done / max(1, total - 1),
            )
            _keep_index(block)
            units.append((f"block{stage + 1}_{index + 1}", block))
            done += 1
    pool = (Permute([0, 3, 1, 2]), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    units.append(("head", nn.Sequential(nn.LayerNorm(width), *pool, nn.Linear(width, classes))))
    model = UnitList("swin_t", units, input=input, classes=classes)
    for module in model.modules():  # as torchvision's SwinTransformer begins
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return model


def fitting_window(grid: int) -> int:
    """The side of a window on `grid` x `grid` patches: 7 where that fits, else what needs no padding, if it can be.

    With 7 on a grid of 8, every window layer would compute on a padded grid of 14, three times the patches. A grid of
    at most 8 is one window; a larger one takes the largest of 8, 6, 5 and 4 that divides it.
    """
    if grid % USUAL_WINDOW == 0:
        return USUAL_WINDOW
    if grid <= 8:
        return grid
    return next((window for window in (8, 6, 5, 4) if grid % window == 0), USUAL_WINDOW)


def _keep_index(block: Any) -> None:
    """The table's index, a constant, as an attribute: it is not a buffer that would travel with the weights."""
    attention = block.attn
    attention.relative_position_index = attention._buffers.pop("relative_position_index")
