"""The networks that a machine is measured on: as unlike as the models of the catalogue are.

Knows which and at what size, not how they are timed. Images have the size of CIFAR's or MNIST's, the usual ones of
federated learning; no sample is ever read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from fedsim.calibration.separable import mobilenetv1
from fedsim.errors import UserError, unknown
from fedsim.models.building import build
from fedsim.models.options import Mlp, MobileNet, Plain, ResNet, SmallCnn, Swin, TextTransformer, Vgg, VisionTransformer
from fedsim.models.units import UnitList

BATCHES: Final = (1, 8, 32, 128)
"""Batch sizes that are measured."""

TYPICAL: Final = (8, 32)
"""Batch sizes that devices train at; those of `--quick`, and those that the error of left-out models is judged by."""

LEAST: Final = 3
"""Networks that a fit needs: fewer tell classes of operators from one another by chance."""


@dataclass(frozen=True, slots=True)
class Network:
    """A network at one size."""

    name: str
    options: Any
    input: tuple[int, ...]
    classes: int
    kind: str = "image"

    def build(self, device: str) -> UnitList:
        """The network itself, on `cpu` or `meta`."""
        own = {"mobilenetv1": mobilenetv1}
        return build(
            own.get(self.name, self.name),
            self.options,
            input=self.input,
            classes=self.classes,
            kind=self.kind,
            device=device,
        )


_CIFAR: Final = (3, 32, 32)
_MNIST: Final = (1, 28, 28)

NETWORKS: Final[Mapping[str, Network]] = {
    network.name: network
    for network in (
        Network("mlp", Mlp(hidden=[512]), _MNIST, 10),
        Network("lenet5", Plain(), _MNIST, 10),
        Network("cnn", SmallCnn(), _MNIST, 10),
        Network("vgg5", Plain(), _CIFAR, 10),
        Network("vgg11", Vgg(), _CIFAR, 10),
        Network("resnet20", Plain(), _CIFAR, 10),
        Network("resnet18", ResNet(), _CIFAR, 10),
        Network("mobilenetv3_large", MobileNet(stem="small"), _CIFAR, 10),
        Network("mobilenetv1", Plain(), _CIFAR, 10),
        Network("vit_s", VisionTransformer(blocks=4), _CIFAR, 10),  # a third of its equal blocks, a third of the time
        Network("swin_t", Swin(), _CIFAR, 10),
        Network("transformer", TextTransformer(blocks=2, width=256), (64,), 512, "text"),
    )
}


def chosen(names: Sequence[str] | None) -> list[Network]:
    """The networks of some names, in the order of the table; all of them for None.

    Raises:
        UserError: an unknown name, or too few.
    """
    if names is None:
        return list(NETWORKS.values())
    for name in names:
        if name not in NETWORKS:
            raise UserError(unknown("network to measure", name, NETWORKS))
    found = [network for name, network in NETWORKS.items() if name in names]
    if len(found) < LEAST:
        raise UserError(
            f"{len(found)} network{'s' * (len(found) != 1)} to measure ({', '.join(n.name for n in found) or 'none'}); "
            f"a fit needs at least {LEAST}, unlike ones, such as mlp,vgg5,transformer; or leave --models out"
        )
    return found
