"""What is measured: the CPU or the GPU of this machine, and how to wait until it has done what it was told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from fedsim.errors import UserError


@dataclass(frozen=True, slots=True)
class Target:
    """A processor, by its name in profiles."""

    processor: str
    device: torch.device
    wait: Callable[[], None]
    """Returns when everything has been computed; before each reading of the clock."""


def target(processor: str) -> Target:
    """The processor of a name, `cpu` or `gpu`.

    Raises:
        UserError: there is none that PyTorch can use.
    """
    if processor == "cpu":
        return Target("cpu", torch.device("cpu"), lambda: None)
    if not torch.cuda.is_available():
        raise UserError(
            f"--processor gpu, but torch {torch.__version__} finds no CUDA device; measure the CPU with "
            "--processor cpu, or install the driver and a torch built for CUDA"
        )
    return Target("gpu", torch.device("cuda"), torch.cuda.synchronize)
