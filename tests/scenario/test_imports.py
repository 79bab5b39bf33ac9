"""Reading a scenario costs no heavy import."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.slow
def test_importing_scenario_is_light() -> None:
    """Neither torch, Ray, gRPC, numpy nor another layer comes with it."""
    program = "import sys, fedsim.scenario; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"torch", "torchvision", "ray", "grpc", "numpy", "pyarrow", "sklearn"} & set(done.stdout.split())
    program = "import sys, fedsim.scenario; print(*sorted(name for name in sys.modules if name.startswith('fedsim.')))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    below = {"errors", "lazily", "units", "quantities", "catalogue", "checkpoints", "documents", "scenario"}
    assert {name.split(".")[1] for name in done.stdout.split()} == below
