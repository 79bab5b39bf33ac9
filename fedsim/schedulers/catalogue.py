"""The schedulers that fedsim knows by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from fedsim.schedulers.ampere import Ampere
from fedsim.schedulers.cse_fsl import CseFsl
from fedsim.schedulers.ecofed import EcoFed
from fedsim.schedulers.fedasync import FedAsync
from fedsim.schedulers.fedavg import FedAvg
from fedsim.schedulers.fedbuff import FedBuff
from fedsim.schedulers.fedoptima import FedOptima
from fedsim.schedulers.fedprox import FedProx
from fedsim.schedulers.fsl_sage import FslSage
from fedsim.schedulers.gas import Gas
from fedsim.schedulers.inference import Inference
from fedsim.schedulers.locsplitfed import LocSplitFed
from fedsim.schedulers.mergesfl import MergeSFL
from fedsim.schedulers.oafl import Oafl
from fedsim.schedulers.pipar import PiPar
from fedsim.schedulers.scaffold import Scaffold
from fedsim.schedulers.splitfed import SplitFed

SCHEDULERS: Final[Mapping[str, type[Any]]] = {
    "fedavg": FedAvg,
    "fedprox": FedProx,
    "scaffold": Scaffold,
    "fedasync": FedAsync,
    "fedbuff": FedBuff,
    "splitfed": SplitFed,
    "pipar": PiPar,
    "oafl": Oafl,
    "locsplitfed": LocSplitFed,
    "cse_fsl": CseFsl,
    "ampere": Ampere,
    "fedoptima": FedOptima,
    "mergesfl": MergeSFL,
    "ecofed": EcoFed,
    "gas": Gas,
    "fsl_sage": FslSage,
    "inference": Inference,
}
