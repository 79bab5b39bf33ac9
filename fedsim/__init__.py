"""Simulation and emulation of federated and split-federated learning on heterogeneous edge devices.

import fedsim
run = fedsim.run("quickstart", scheduler={"name": "splitfed"}, until={"rounds": 10})
run.summary["seconds"]; run.curves; run.trace
both = fedsim.compare("quickstart", ["fedavg", "splitfed"], seeds=3)
both.summary["ratios"]["splitfed"]["bytes_total"]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedsim.experiment.artifacts import load_model
    from fedsim.experiment.comparing import Comparison, compare
    from fedsim.experiment.running import Run, run

__all__ = ["Comparison", "Run", "compare", "load_model", "run"]

_HOMES = {
    "Comparison": "fedsim.experiment.comparing",
    "Run": "fedsim.experiment.running",
    "compare": "fedsim.experiment.comparing",
    "run": "fedsim.experiment.running",
    "load_model": "fedsim.experiment.artifacts",
}


def __dir__() -> list[str]:
    """The public names, imported or not."""
    return sorted({*globals(), *_HOMES})


def __getattr__(name: str) -> Any:
    """Import on first use, so that `import fedsim.scenario` stays light."""
    if name not in _HOMES:
        raise AttributeError(f"module 'fedsim' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
