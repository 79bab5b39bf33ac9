"""torchvision imports beside any build of torch."""

import subprocess
import sys

import pytest


def run(program: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.slow
def test_torchvision_imports_and_its_models_run() -> None:
    """Models, data sets and transforms work, and a second call returns the same module."""
    program = """
from fedsim.torchvision_shim import import_torchvision
module = import_torchvision()
assert import_torchvision() is module
import torch, torchvision.datasets, torchvision.transforms
with torch.no_grad():
    print(tuple(module.models.squeezenet1_1(num_classes=3).eval()(torch.zeros(1, 3, 32, 32)).shape))
"""
    assert run(program) == "(1, 3)"


@pytest.mark.slow
def test_nothing_is_declared_where_the_operators_exist() -> None:
    """Operators that are already there stay as they are; only what is missing is declared."""
    program = """
import torch
library = torch.library.Library("torchvision", "FRAGMENT")
library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
from fedsim import torchvision_shim as shim
shim._extension_loads = lambda: False
shim._declare_missing()
print(len(shim._declared), hasattr(torch.ops.torchvision, "qnms"))
shim._declare_missing()
print(len(shim._declared))
"""
    assert run(program).split() == ["1", "True", "1"]


@pytest.mark.slow
def test_a_loaded_extension_is_left_alone() -> None:
    """Where torchvision's own operators load, the shim declares nothing."""
    program = """
from fedsim import torchvision_shim as shim
declared = []
shim._extension_loads = lambda: True
shim._declare_missing = lambda: declared.append(1)
try:
    shim.import_torchvision()
except RuntimeError as error:
    assert "nms does not exist" in str(error), error
print(declared)
"""
    assert run(program) == "[]"
