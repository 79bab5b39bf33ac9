"""What Reconvene can be told. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isfinite
from typing import Final, Literal

from fedsim.units import BYTES, FRACTION, SECONDS, Dimension

SCORES: Final = ("random", "magnitude", "snip", "grasp", "synflow")
"""The scores that fedsim has."""
SENSITIVITIES: Final = ("mean", "global")
"""Names that `tau` may have, `quantile:x` beside them."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What the pruned model may come to at most; all that are given hold.

    A number up to 1 and a percentage are a share of the parent's; greater numbers and those with a unit are absolute.
    """

    params: float | str | None = None
    """Parameters: `0.25`, `6.17 %`, or `900 k`."""
    macs: float | str | None = None
    """Multiply-accumulates of a sample's forward: `0.4`, `40 %`, or `60 MMAC`."""
    memory: float | str | None = None
    """Bytes of training (weights, gradients, optimizer state, and what a batch leaves for the backward): `256 MiB`."""
    latency: float | str | None = None
    """Seconds of a forward on the device by its profile's cost model: `50 %`, or `20 ms`."""

    def __post_init__(self) -> None:
        for name, value in self.given.items():
            try:
                limit(name, value, 1.0)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error

    @property
    def given(self) -> dict[str, float | str]:
        """Those that are given, by name."""
        named = {"params": self.params, "macs": self.macs, "memory": self.memory, "latency": self.latency}
        return {name: value for name, value in named.items() if value is not None}


_ABSOLUTE: Final = {
    "params": Dimension("number of parameters", {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}, "", "6.17 %, 0.25 or 900 k"),
    "macs": Dimension("number of MACs", {"MAC": 1.0, "kMAC": 1e3, "MMAC": 1e6, "GMAC": 1e9}, "MAC", "40 % or 60 MMAC"),
    "memory": BYTES,
    "latency": SECONDS,
}


def limit(name: str, value: float | str, parent: float) -> float:
    """What a budget comes to, for a parent of so much.

    Raises:
        ValueError: it is no share and no amount, or not above 0.
    """
    if isinstance(value, str) and not value.strip().endswith("%") and not is_number(value):
        most = _ABSOLUTE[name].parse(value)
    else:
        most = FRACTION.parse(value)
        if most <= 1:
            most *= parent
        elif isinstance(value, str) and value.strip().endswith("%"):
            raise ValueError(f"{value} is more than the whole model; write at most 100 %")
    if not most > 0:
        raise ValueError(f"{value} must be above 0, such as 25 %")
    return most


def is_number(text: str) -> bool:
    """Whether a text is a plain number."""
    try:
        return isfinite(float(text))
    except ValueError:
        return False


@dataclass(frozen=True, kw_only=True)
class Reconvene:
    """Structured pruning of an untrained convolutional network: a reconstruction after Reconvene."""

    score: str = "synflow"
    """`random`, `magnitude`, `snip`, `grasp`, `synflow`, or your own as `module:Class`."""
    iterations: int = 30  # T
    """How often an iterated score is taken, each time with the weights gone that the last one ranked lowest."""
    lowest_density: float = 1 / 64  # rho_min
    """The density that the last iteration comes to; sizes beyond are extrapolated."""
    tau: float | str = "mean"
    """Below which density a layer is resilient: `mean` of the layers' densities, `global` (of all weights),
    `quantile:0.5` of the layers', or a number."""
    tau_scope: Literal["model", "scope"] = "model"
    """Of which layers the mean or quantile is: the whole model's, or those alone that may be cut."""
    gamma: float = 0.5
    """A resilient layer of density d keeps the share d^gamma of its filters. 0.5 keeps as many parameters as the mask
    where inputs and outputs shrink alike."""
    min_channels: int = 1
    """What a layer keeps at least; also of a layer in which no weight was left."""
    round_to: int = 1
    """Widths become multiples of this, upwards, as far as the layer is as wide."""
    reinitialise: Literal["changed", "all", "none"] = "changed"
    """Which layers get new initial values: those whose own inputs or outputs were cut, all, or none."""
    pretrained: bool = False
    """Whether the weights are trained already. They are kept then, which makes this ordinary structured pruning."""
    private: bool = False
    """Whether a batch that scores are taken from is data of the devices, rather than public."""
    budget: Budget = field(default_factory=Budget)
    """What the model may come to."""
    density: float | None = None
    """In place of a budget: the density of the unstructured pruning that widths are taken from."""
    scope: tuple[str, ...] = ()
    """Units or other modules outside of which nothing changes shape; empty is the whole model."""
    protected: tuple[str, ...] = ()
    """Modules whose outputs keep their width."""

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise ValueError(f"iterations {self.iterations} must be 1 or more, such as 30")
        if not 0 < self.lowest_density < 1:
            raise ValueError(f"lowest_density {self.lowest_density} must be above 0 and below 1, such as 0.015625")
        _check_tau(self.tau)
        if not self.gamma > 0:
            raise ValueError(f"gamma {self.gamma} must be above 0, such as 0.5")
        for name, value in (("min_channels", self.min_channels), ("round_to", self.round_to)):
            if value < 1:
                raise ValueError(f"{name} {value} must be 1 or more, such as 1 or 8")
        if self.density is not None and not 0 < self.density <= 1:
            raise ValueError(f"density {self.density} must be above 0 and at most 1, such as 0.1")
        if self.density is not None and self.budget.given:
            given = " and ".join(f"budget.{name}" for name in self.budget.given)
            raise ValueError(f"density and {given} would contradict one another; leave one or the other out")
        if self.score not in SCORES and ":" not in self.score:
            raise ValueError(f"score {self.score} is not one of {', '.join(SCORES)}; your own is named module:Class")


def _check_tau(tau: float | str) -> None:
    rule = f"tau {tau} must be mean, global, a quantile from 0 to 1 such as quantile:0.5, or a density such as 0.3"
    if isinstance(tau, str) and tau not in SENSITIVITIES:
        name, _, share = tau.partition(":")
        if name != "quantile" or not is_number(share) or not 0 <= float(share) <= 1:
            raise ValueError(rule)
    if not isinstance(tau, str) and not 0 < tau <= 1:
        raise ValueError(rule)
