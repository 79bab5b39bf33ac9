"""The schedulers that fedsim knows by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from fedsim.schedulers.ampere import Ampere
from fedsim.schedulers.cse_fsl import CseFsl
from fedsim.schedulers.fedavg import FedAvg
from fedsim.schedulers.fedoptima import FedOptima
from fedsim.schedulers.locsplitfed import LocSplitFed
from fedsim.schedulers.splitfed import SplitFed

SCHEDULERS: Final[Mapping[str, type[Any]]] = {
    "fedavg": FedAvg,
    "splitfed": SplitFed,
    "locsplitfed": LocSplitFed,
    "cse_fsl": CseFsl,
    "ampere": Ampere,
    "fedoptima": FedOptima,
}
