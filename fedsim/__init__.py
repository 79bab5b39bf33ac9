"""Simulation and emulation of federated and split-federated learning on heterogeneous edge devices.

import fedsim
run = fedsim.run("quickstart", scheduler={"name": "splitfed"}, until={"rounds": 10})
run.summary["seconds"]; run.curves; run.trace
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedsim.experiment.artifacts import load_model
    from fedsim.experiment.running import Run, run

__all__ = ["Run", "load_model", "run"]

_HOMES = {
    "Run": "fedsim.experiment.running",
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
