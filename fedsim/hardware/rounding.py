"""From seconds to the kernel's clock, which counts whole nanoseconds."""

from __future__ import annotations

import math


def whole_nanoseconds(seconds: float) -> int:
    """`seconds` in nanoseconds, rounded up; what is whole but for floating-point noise stays as it is.

    0.1 s + 0.2 s is 300,000,000 ns, not one more.
    """
    exact = seconds * 1e9
    nearest = round(exact)
    # 1e-15 is four to five units in the last place: what a few operations on doubles leave behind.
    return nearest if math.isclose(exact, nearest, rel_tol=1e-15) else math.ceil(exact)
