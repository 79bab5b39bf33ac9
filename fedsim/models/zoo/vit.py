"""The small vision transformer, from torchvision's encoder blocks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedsim.errors import UserError
from fedsim.models.options import VisionTransformer
from fedsim.models.units import UnitList
from fedsim.models.zoo.layers import square
from fedsim.torchvision_shim import import_torchvision

EPS = 1e-6
"""Of the layer norms, as in torchvision's encoder blocks."""


class PatchEmbedding(nn.Module):
    """Patches as tokens behind a class token, with learned positions: `batch c side side` -> `batch 1+n width`."""

    def __init__(self, channels: int, side: int, patch: int, width: int, dropout: float) -> None:
        super().__init__()
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.empty(1, 1 + (side // patch) ** 2, width).normal_(std=0.02))
        self.projection = nn.Conv2d(channels, width, patch, stride=patch)
        nn.init.trunc_normal_(self.projection.weight, std=(channels * patch * patch) ** -0.5)
        assert self.projection.bias is not None
        nn.init.zeros_(self.projection.bias)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Images to tokens."""
        patches = self.projection(x).flatten(2).transpose(1, 2)  # batch n width
        tokens = torch.cat([self.class_token.expand(len(x), -1, -1), patches], dim=1)
        out: Tensor = self.dropout(tokens + self.positions)
        return out


class ClassToken(nn.Module):
    """The first token of each sample: `batch tokens width` -> `batch width`."""

    def forward(self, x: Tensor) -> Tensor:
        """Drops the other tokens."""
        return x[:, 0]


def vit_s(*, options: VisionTransformer, input: tuple[int, ...], classes: int, norm: str) -> UnitList:
    """ViT-S (arXiv 2010.11929 in the size of arXiv 2012.12877): embedding, encoder blocks, head on the class token.

    Begins as torchvision's, but for the last layer: torchvision sets it to zero, so that no gradient passes it in the
    first step; here it is drawn as in arXiv 2012.12877. Norm layers: layer norm only.
    """
    del norm
    import_torchvision()
    from torchvision.models.vision_transformer import EncoderBlock

    channels, side = square("vit_s", input, 8)
    patch = options.patch or _patch(side)
    if side % patch:
        fitting = [size for size in range(2, side // 2 + 1) if side % size == 0]
        choice = f"patch {' or '.join(map(str, fitting))}" if fitting else "another size of images"
        raise UserError(
            f"model vit_s cuts images into patches of {patch}x{patch}, but these are {side}x{side}; "
            f"choose {choice}, or set data.resize to {-(-side // patch) * patch}"
        )
    width, rate = options.width, options.dropout
    units: list[tuple[str, nn.Module]] = [("embedding", PatchEmbedding(channels, side, patch, width, rate))]
    for index in range(options.blocks):
        units.append((f"block{index + 1}", EncoderBlock(options.heads, width, 4 * width, rate, rate)))
    last = nn.Linear(width, classes)
    nn.init.trunc_normal_(last.weight, std=0.02)
    nn.init.zeros_(last.bias)
    units.append(("head", nn.Sequential(nn.LayerNorm(width, eps=EPS), ClassToken(), last)))
    return UnitList("vit_s", units, input=input, classes=classes)


def _patch(side: int) -> int:
    """4 on CIFAR's 32 pixels, 8 on Tiny ImageNet's 64, 16 on 224."""
    return 4 if side < 64 else 8 if side < 128 else 16
