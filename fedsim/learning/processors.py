"""What computes the blocks of a simulation: the CPU, or a GPU with settings by which it rounds and repeats as asked.

Payloads, samples, sums, and all that nodes keep between works lie in host memory whatever computes, so that the rest
of the code is the same. A GPU gives the same weights again on one kind of card and with one version of its libraries.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.utils import deterministic

from fedsim.errors import UserError
from fedsim.learning.blocks import HOST


def use_processor(name: str) -> torch.device:
    """The processor `cpu` or `cuda`, for as long as this process lives.

    On a GPU, matrix products and convolutions are those of float32 (no TF32), and kernels are deterministic where
    PyTorch has one that is; it warns of those where it has none.

    Raises:
        UserError: there is no such processor here.
    """
    if name == "cpu":
        return HOST
    if not torch.cuda.is_available():
        raise UserError(
            f"workers.processor: {name}, but torch {torch.__version__} finds no CUDA device here; give cpu, or install "
            "the driver and a torch built for CUDA"
        )
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read once, when cuBLAS starts
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = False, True
    torch.use_deterministic_algorithms(True, warn_only=True)
    deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # whoever takes such memory overwrites it whole
    return torch.device(name, 0)


@contextmanager
def computing(name: str) -> Iterator[torch.device]:
    """The same for the length of a run; PyTorch is as it was afterwards.

    Raises:
        UserError: there is no such processor here.
    """
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    rounding = matmul.allow_tf32, cudnn.allow_tf32
    choosing = cudnn.benchmark, cudnn.deterministic
    repeating = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    filling = deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    try:
        yield use_processor(name)
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = rounding
        cudnn.benchmark, cudnn.deterministic = choosing
        torch.use_deterministic_algorithms(repeating[0], warn_only=repeating[1])
        deterministic.fill_uninitialized_memory = filling  # type: ignore[attr-defined]
