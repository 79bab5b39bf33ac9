"""The plain rates of a machine: a large matrix product, copying, and what an operator takes that has nothing to do.

They bound and complete a fit; they are not fitted themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import torch
from torch import Tensor

from fedsim.calibration.targets import Target
from fedsim.calibration.timing import Clock, Patience, first, repeated

SIDES: Final = (512, 1024, 2048)
"""Rows and columns of the matrices that are multiplied."""

COPIED: Final = 256_000_000
"""Bytes that are copied: more than any cache holds."""

CHAINS: Final = (200, 1200)
"""Lengths of the two chains of operators on one element whose difference gives the time of one."""

_ITEM: Final = 4


@dataclass(frozen=True, slots=True)
class Rates:
    """What was measured."""

    products: dict[int, float]
    """MAC/s of the product of two square matrices, by their side."""
    copy: float
    """Bytes per second, read and written."""
    overhead: float
    """Seconds an operator on one element takes."""

    @property
    def gemm(self) -> float:
        """MAC/s of the best of the products."""
        return max(self.products.values())


SETTLES: Final = 31 * 2**20
"""Bytes of a block whose release makes glibc keep what is freed later: its threshold follows the largest, up to 32 MiB.

Else times would depend on which network was measured before: up to 1.4 times with large batches.
"""


def warm_up(target: Target, clock: Clock, seconds: float = 3.0) -> None:
    """Multiply matrices for a while: clocks rise, libraries load, the allocator settles."""
    torch.ones(SETTLES // _ITEM, device=target.device)  # freed at once
    a = torch.ones((SIDES[0], SIDES[0]), device=target.device)
    began = clock()
    while clock() - began < seconds:
        torch.mm(a, a)
        target.wait()


def measure_rates(target: Target, patience: Patience, clock: Clock) -> Rates:
    """The rates of a processor."""

    def timed(work: Callable[[], object]) -> float:
        def lap() -> tuple[float]:
            began = clock()
            work()
            target.wait()
            return (clock() - began,)

        first(lap, clock)
        return repeated(lap, patience, clock)[0].seconds

    device = target.device
    products = {}
    for side in SIDES:
        a, product = torch.ones((side, side), device=device), torch.empty((side, side), device=device)
        products[side] = side**3 / timed(partial(torch.mm, a, a, out=product))
    source, copy = torch.ones(COPIED // _ITEM, device=device), torch.empty(COPIED // _ITEM, device=device)
    copied = timed(partial(copy.copy_, source))
    x = torch.ones(1, device=device, requires_grad=True)
    short, long = (timed(partial(_chain, x, length)) for length in CHAINS)
    return Rates(products, 2 * COPIED / copied, max(0.0, (long - short) / (CHAINS[1] - CHAINS[0])))


def _chain(x: Tensor, length: int) -> None:
    """Additions one after the other, recorded by autograd as in training."""
    for _ in range(length):
        x = x + 1
