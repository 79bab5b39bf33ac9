"""What importing the lower layers must not drag in, seen from a fresh interpreter.

The contracts in `pyproject.toml` read the source; this looks at what really got loaded, through third parties too.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "torchvision", "ray", "grpc", "sklearn")


PROGRAM = """
import importlib, pkgutil, sys
for name in sys.argv[1:]:
    package = importlib.import_module(name)
    for module in pkgutil.walk_packages(getattr(package, "__path__", ()), name + "."):
        importlib.import_module(module.name)
print(*sorted(set(%r) & set(sys.modules)))
"""


def loaded_by(*names: str) -> set[str]:
    """Those of `HEAVY` that a fresh interpreter has loaded after importing modules and all that is below them."""
    command = [sys.executable, "-c", PROGRAM % (HEAVY,), *names]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.slow
def test_what_describes_a_run_loads_nothing_heavy() -> None:
    """Scenarios, profiles, links and scripts: `fedsim check` and `fedsim list` answer at once."""
    below = ("fedsim.script", "fedsim.mailbox", "fedsim.trace", "fedsim.catalogue", "fedsim.hardware", "fedsim.network")
    assert loaded_by("fedsim.scenario", *below) == set()


@pytest.mark.slow
@pytest.mark.parametrize("package", ["fedsim.schedulers", "fedsim.simulation", "fedsim.report", "fedsim.data"])
def test_a_package_that_needs_no_tensors_loads_nothing_heavy(package: str) -> None:
    """A script can be stepped, a trace read and data partitioned without a second of imports."""
    assert loaded_by(package) == set()


@pytest.mark.slow
def test_the_package_itself_is_light() -> None:
    """`import fedsim` is what every command begins with."""
    program = f"import fedsim, sys; print(*(set({HEAVY!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr
