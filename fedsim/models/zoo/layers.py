"""What several families are made of: normalisation, initial weights, convolution and dense units, square images."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn
from torch.nn import functional

from fedsim.errors import UserError


class BatchNorm(nn.BatchNorm2d):
    """Batch norm that takes a batch of one value a channel too, and normalises it with the running statistics.

    PyTorch refuses such a batch, and a device whose last batch holds one sample would stop the run where the maps have
    shrunk to 1x1.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Maps `batch channels h w`, of the same shape afterwards."""
        if self.training and input.numel() == input.shape[1]:
            return functional.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
            )
        return super().forward(input)


class FrozenBatchNorm(nn.BatchNorm2d):
    """Batch norm that always goes by its stored statistics, in training as well, and never changes them.

    Scale and shift are trained. The names are those of batch norm, so weights that were trained with it fit.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Maps `batch channels h w`, of the same shape afterwards."""
        return functional.batch_norm(
            input, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
        )


def normalisation(norm: str, *, eps: float = 1e-5) -> Callable[[int], nn.Module]:
    """From a number of channels to a norm layer.

    `bn` is batch norm, `frozen_bn` batch norm with fixed statistics, `gn` group norm in groups of 16 channels; where 16
    does not divide the channels they form one group (Wu and He 2018).
    """
    kinds: dict[str, Callable[..., nn.Module]] = {"bn": BatchNorm, "frozen_bn": FrozenBatchNorm, "gn": _group_norm}
    return partial(kinds[norm], eps=eps)


def normalised_like(layer: nn.Module) -> str:
    """The norm, as `normalisation` takes it, that a layer is of."""
    if isinstance(layer, nn.GroupNorm):
        return "gn"
    return "frozen_bn" if isinstance(layer, FrozenBatchNorm) else "bn"


def _group_norm(channels: int, *, eps: float) -> nn.Module:
    return nn.GroupNorm(channels // 16 if channels % 16 == 0 else 1, channels, eps=eps)


def draw_by_fan_out(layer: nn.Conv2d) -> None:
    """Weights by the size of what the layer writes, as torchvision's residual and mobile networks begin."""
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")


class ConvUnit(nn.Sequential):
    """A convolution, then norm, activation and pooling, as far as the network has them."""


class DenseUnit(nn.Sequential):
    """A linear layer and its activation; the first one of a network flattens its input before."""


def dense_unit(inputs: int, outputs: int, *, flatten: bool = False, dropout: float = 0.0) -> DenseUnit:
    """A linear layer with ReLU; `dropout` is the share of outputs that training sets to zero."""
    layers: list[nn.Module] = [nn.Flatten()] if flatten else []
    layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return DenseUnit(*layers, *([nn.Dropout(dropout)] if dropout else []))


def square(name: str, input: tuple[int, ...], least: int) -> tuple[int, int]:
    """Channels and side of a square image of at least `least` pixels a side.

    Raises:
        UserError: the images are not square, or too small.
    """
    channels, height, width = input
    if height != width or height < least:
        raise UserError(
            f"model {name} takes square images of at least {least}x{least}, but these are {height}x{width}; "
            f"set data.resize to {max(least, 32)}"
        )
    return channels, height


def scaled(channels: int, ratio: float) -> int:
    """A number of channels times `ratio`, at least one."""
    return max(1, round(channels * ratio))
