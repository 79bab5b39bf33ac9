"""Random convolutional networks with every kind of coupling, and the parts that they are made of."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from fedsim.models.building import seeded
from fedsim.models.zoo.layers import normalisation
from fedsim.models.zoo.resnet import ResidualBlock


class Depthwise(nn.Module):
    """Expand, filter each channel by itself, project; around it a shortcut where the shapes agree."""

    def __init__(self, inputs: int, outputs: int, norm: str) -> None:
        super().__init__()
        wide = 2 * inputs
        self.expand = nn.Conv2d(inputs, wide, 1, bias=False)
        self.norm1 = normalisation(norm)(wide)
        self.filter = nn.Conv2d(wide, wide, 3, padding=1, groups=wide)
        self.project = nn.Conv2d(wide, outputs, 1, bias=False)
        self.norm2 = normalisation(norm)(outputs)
        self.adds = inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Maps `batch inputs h w` to `batch outputs h w`."""
        out: Tensor = self.norm2(self.project(self.filter(torch.relu(self.norm1(self.expand(x))))))
        return x + out if self.adds else out


class Squeeze(nn.Module):
    """A convolution whose channels are scaled by gates that see their means."""

    def __init__(self, inputs: int, outputs: int, norm: str) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm = normalisation(norm)(outputs)
        self.squeeze = nn.Conv2d(outputs, 3, 1)
        self.excite = nn.Conv2d(3, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Maps `batch inputs h w` to `batch outputs h w`."""
        x = torch.relu(self.norm(self.conv(x)))
        return x * torch.sigmoid(self.excite(torch.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))


class Dense(nn.Module):
    """What comes in and what a convolution makes of it, one behind the other."""

    def __init__(self, inputs: int, outputs: int, norm: str) -> None:
        super().__init__()
        self.norm = normalisation(norm)(inputs)
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Maps `batch inputs h w` to `batch inputs+outputs h w`."""
        return torch.cat([x, self.conv(torch.relu(self.norm(x)))], 1)


class Projected(nn.Module):
    """Two branches added, one of them a single convolution."""

    def __init__(self, inputs: int, outputs: int, norm: str) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs + 1, 3, padding=1, bias=False)
        self.second = nn.Conv2d(outputs + 1, outputs, 3, padding=1)
        self.norm = normalisation(norm)(outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Maps `batch inputs h w` to `batch outputs h w`."""
        return torch.relu(self.norm(self.second(torch.relu(self.first(x)))) + self.shortcut(x))


class Plain(nn.Sequential):
    """Convolution, norm, activation, pooling."""

    def __init__(self, inputs: int, outputs: int, norm: str) -> None:
        pool = nn.MaxPool2d(2, ceil_mode=True)
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, padding=1), normalisation(norm)(outputs), nn.PReLU(outputs), pool
        )


class Padded(ResidualBlock):
    """fedsim's block, whose shortcut is padded."""

    def __init__(self, inputs: int, outputs: int, norm: str) -> None:
        super().__init__(inputs, max(inputs, outputs), 2, norm)


BLOCKS: tuple[Callable[[int, int, str], nn.Module], ...] = (Plain, Depthwise, Squeeze, Dense, Projected, Padded)


def network(seed: int, norm: str, *, blocks: int = 4, side: int = 6) -> nn.Module:
    """A stem, random blocks, and one or two linear layers on pooled or flattened maps; nothing has a special value."""
    draw = np.random.default_rng(seed)
    with seeded(seed):
        width = int(draw.integers(4, 9))
        layers: list[nn.Module] = [Plain(2, width, norm)]
        for _ in range(blocks):
            kind = BLOCKS[int(draw.integers(len(BLOCKS)))]
            outputs = width if draw.random() < 0.4 else int(draw.integers(4, 9))
            layers.append(kind(width, outputs, norm).eval())
            width = layers[-1](torch.zeros(2, width, 4, 4)).shape[1]
        flat = bool(draw.random() < 0.5)
        layers += [nn.Flatten()] if flat else [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        body = nn.Sequential(*layers).eval()
        width = body(torch.zeros(2, 2, side, side)).shape[1]
        ends = [nn.Linear(width, 5), nn.ReLU(), nn.Linear(5, 3)] if draw.random() < 0.5 else [nn.Linear(width, 3)]
        model = nn.Sequential(*layers, *ends)
        disturb(model)
    return model


def disturb(model: nn.Module) -> None:
    """Give every norm statistics, scale and shift of its own; from PyTorch's generator as it stands."""
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if tensor.dim() == 1 and tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) + 0.5 if "var" in name else torch.randn_like(tensor) * 0.5 + 0.25)


IMAGES = torch.randn(2, 2, 6, 6, generator=torch.Generator().manual_seed(0))
