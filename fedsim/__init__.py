"""Simulation and emulation of federated and split-federated learning on heterogeneous edge devices.

import fedsim
run = fedsim.run("quickstart", scheduler={"name": "splitfed"}, until={"rounds": 10})
run.summary["seconds"]; run.curves; run.trace
both = fedsim.compare("quickstart", ["fedavg", "splitfed"], seeds=3)
both.summary["ratios"]["splitfed"]["bytes_total"]
many = fedsim.sweep("quickstart", {"scheduler": ["fedavg", "splitfed"], "data.partition.alpha": [0.1, 1.0]})
many.summary["cells"][0]["at"]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedsim.lazily import attributes

if TYPE_CHECKING:
    from fedsim.experiment.artifacts import load_model
    from fedsim.experiment.comparing import Comparison, compare
    from fedsim.experiment.running import Run, run
    from fedsim.experiment.sweeping import sweep

__all__ = ["Comparison", "Run", "compare", "load_model", "run", "sweep"]

_HOMES = {
    "Comparison": "experiment.comparing",
    "Run": "experiment.running",
    "compare": "experiment.comparing",
    "run": "experiment.running",
    "sweep": "experiment.sweeping",
    "load_model": "experiment.artifacts",
}


def __dir__() -> list[str]:
    """The public names, imported or not."""
    return sorted({*globals(), *_HOMES})


__getattr__ = attributes(__name__, _HOMES)
