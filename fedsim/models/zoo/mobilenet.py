"""MobileNetV3-Large, from torchvision's inverted residual blocks."""

from __future__ import annotations

from torch import nn

from fedsim.models.options import MobileNet
from fedsim.models.units import UnitList
from fedsim.models.zoo.layers import draw_by_fan_out, normalisation, square
from fedsim.torchvision_shim import import_torchvision


def mobilenetv3_large(*, options: MobileNet, input: tuple[int, ...], classes: int, norm: str) -> UnitList:
    """MobileNetV3-Large (arXiv 1905.02244, table 1): stem, 15 bottlenecks, a 1x1 convolution, and the head.

    torchvision's network taken apart, with its initial weights. Its batch norm changes the running statistics by a
    hundredth a step; here it is PyTorch's tenth, since a federated run evaluates after few steps.
    """
    import_torchvision()
    from torchvision.models.mobilenetv3 import MobileNetV3, _mobilenet_v3_conf

    channels, _ = square("mobilenetv3_large", input, 16)
    settings, last = _mobilenet_v3_conf("mobilenet_v3_large", width_mult=options.width_ratio)
    layer = normalisation(norm, eps=1e-3)
    whole = MobileNetV3(settings, last, num_classes=classes, norm_layer=layer, dropout=options.dropout)
    stem, *bottlenecks, expand = whole.features
    if channels != 3 or options.stem == "small":
        stride = 1 if options.stem == "small" else 2
        stem[0] = nn.Conv2d(channels, stem[0].out_channels, 3, stride=stride, padding=1, bias=False)
        draw_by_fan_out(stem[0])
    units: list[tuple[str, nn.Module]] = [("stem", stem)]
    units += [(f"bottleneck{index + 1}", bottleneck) for index, bottleneck in enumerate(bottlenecks)]
    units += [("expand", expand), ("head", nn.Sequential(whole.avgpool, nn.Flatten(), *whole.classifier))]
    return UnitList("mobilenetv3_large", units, input=input, classes=classes)
