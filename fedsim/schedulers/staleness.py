"""How much a late model counts: staleness functions of asynchronous aggregation.

Xie, Koyejo, Gupta, "Asynchronous Federated Optimization", arXiv 1903.03934, section 5.2: constant, polynomial, hinge.
"""

from __future__ import annotations

from typing import Final, Literal

Staleness = Literal["polynomial", "constant", "hinge"]

_USUAL: Final = {"polynomial": 0.5, "hinge": 10.0, "constant": None}
"""a, where none is given."""
_B: Final = 4


def check_mixing(alpha: float, staleness: Staleness, a: float | None, b: int) -> None:
    """Refuse weights that are none.

    Raises:
        ValueError: alpha outside (0, 1], or a parameter below 0 or of another function.
    """
    if not 0 < alpha <= 1:
        raise ValueError(f"alpha {alpha} must be above 0 and at most 1")
    if a is not None and not a > 0:
        raise ValueError(f"a {a} must be above 0")
    if a is not None and staleness == "constant":
        raise ValueError(f"a {a} is for staleness: polynomial or hinge; leave it out")
    if b < 0:
        raise ValueError(f"b {b} must be 0 or more")
    if b != _B and staleness != "hinge":
        raise ValueError(f"b {b} is for staleness: hinge; leave it out")


def usual(staleness: Staleness, a: float | None) -> float | None:
    """The parameter a that counts: that of the function, where none is given; None for `constant`, which has none."""
    return _USUAL[staleness] if a is None else a


def factor(staleness: Staleness, tau: int, a: float | None = None, b: int = _B) -> float:
    """s(τ): 1 for fresh models. Polynomial (τ + 1)^−a; hinge 1 up to b, then 1/(a(τ − b) + 1)."""
    assert tau >= 0, f"staleness {tau}"
    given = usual(staleness, a)
    if given is None:
        return 1.0
    if staleness == "polynomial":
        return float((tau + 1) ** -given)
    return 1.0 if tau <= b else 1 / (given * (tau - b) + 1)


def mixing(alpha: float, staleness: Staleness, tau: int, a: float | None = None, b: int = _B) -> float:
    """α_t = alpha·s(τ): the weight of a model that is τ versions old in the mixture with the current one."""
    return alpha * factor(staleness, tau, a, b)
