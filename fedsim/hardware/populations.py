"""Populations: what rates the users of a kind of link have, from which each device draws its own, once.

Knows distributions and seeds; nothing of links and fleets. All rates are above TCP, as users measure them.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Final, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from fedsim.documents.translate import rule
from fedsim.errors import UserError
from fedsim.hardware.sources import Text
from fedsim.hardware.traces.loading import load_speeds
from fedsim.quantities import Fraction, Rate
from fedsim.seeds import normals, uniforms

AT: Final = (0.001, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999)
"""Shares of the users, at which a list of quantiles gives the rates unless it says otherwise."""

_MBIT: Final = 125e3  # bytes
_TAKES: Final = {
    "quantiles": ("down", "up_over_down"),
    "lognormal": ("mu", "sigma", "up_over_down"),
    "file": ("path",),
}
_OWN: Final = {"down": "quantiles", "at": "quantiles", "mu": "lognormal", "sigma": "lognormal"} | {
    "path": "file",
    "reader": "file",
}
_EXAMPLES: Final = {
    "down": "down: [1 Mbit/s, ...], 15 of them",
    "mu": "mu: 3.02",
    "sigma": "sigma: 1.57",
    "path": "path: 4G.csv",
    "up_over_down": "up_over_down: 0.4",
}


class Population(BaseModel):
    """The rates of many users. Immutable."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["quantiles", "lognormal", "file"] = Field(examples=["quantiles"])
    """Measured quantiles of the downlink, a log-normal downlink, or a file with a rate a user."""
    at: tuple[Fraction, ...] = AT
    """For quantiles: the shares of the users whose rates are at most those of `down`; ascending."""
    down: tuple[Rate, ...] = ()
    """For quantiles: the downlinks, ascending, one for each of `at`. In between, their logarithm is interpolated
    linearly in the share; outside it stays as at the ends."""
    mu: Annotated[float, Field(strict=True, allow_inf_nan=False)] | None = None
    """For lognormal: mean of the natural logarithm of the downlink in Mbit/s."""
    sigma: Annotated[float, Field(ge=0, strict=True, allow_inf_nan=False)] | None = None
    """For lognormal: standard deviation of that logarithm."""
    path: Path | None = None
    """For file: a file with rates of users or devices."""
    reader: Text | None = None
    """For file: how it is written; guessed unless given."""
    up_over_down: Annotated[Fraction, Field(gt=0)] | None = None
    """A user's uplink over its downlink; needed unless a file has both."""

    @model_validator(mode="after")
    def _takes_what_its_kind_needs(self) -> Self:
        for key, kind in _OWN.items():
            if getattr(self, key) != type(self).model_fields[key].default and self.kind != kind:
                raise rule(f"only kind {kind} takes it, and the kind is {self.kind}; remove it", key)
        for key in _TAKES[self.kind]:
            if getattr(self, key) in (None, ()):
                raise rule(f"kind {self.kind} needs {key}; add it, as in '{_EXAMPLES[key]}'")
        if self.kind == "quantiles":
            self._check_quantiles()
        return self

    def _check_quantiles(self) -> None:
        if len(self.down) != len(self.at) or len(self.at) < 2:
            number = f"{len(self.down)} rates, but {len(self.at)} shares in at"
            raise rule(f"{number}; give one rate for each, at least two", "down")
        if not all(0 < low < high < 1 for low, high in zip(self.at, self.at[1:], strict=False)):
            raise rule("the shares do not ascend between 0 and 100 %; sort them", "at")
        if any(low > high for low, high in zip(self.down, self.down[1:], strict=False)):
            raise rule("the rates do not ascend; sort them", "down")


def draw(population: Population, seed: int, nodes: NDArray[np.int64]) -> NDArray[np.float64]:
    """(nodes, 2); uplink and downlink of each device, whole bytes/s above TCP, from (seed, node) alone.

    Whole bytes, so that machines whose logarithms differ in the last bit agree.

    Raises:
        UserError: the population's file cannot be read, or lacks a direction.
    """
    match population.kind:
        case "quantiles":
            share = uniforms(seed, nodes, "link")
            down = np.exp(np.interp(share, population.at, np.log(population.down)))
            rates = _both(population, down, None)
        case "lognormal":
            assert population.mu is not None and population.sigma is not None
            down = _MBIT * np.exp(population.mu + population.sigma * normals(seed, nodes, "link"))
            rates = _both(population, down, None)
        case "file":
            rates = _from_file(population, seed, nodes)
    return np.maximum(np.rint(rates), 1.0)


def _both(population: Population, down: NDArray[np.float64], up: NDArray[np.float64] | None) -> NDArray[np.float64]:
    ratio = population.up_over_down
    if up is None and ratio is None:
        raise UserError(f"{population.path} has no uplinks; add '{_EXAMPLES['up_over_down']}' to the population")
    if up is not None and ratio is not None:
        raise UserError(f"{population.path} has uplinks of its own; remove up_over_down from the population")
    return np.column_stack([down * (ratio or math.nan) if up is None else up, down])


def _from_file(population: Population, seed: int, nodes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Each device is one of the file's users, drawn with replacement; where a user's rate varied, one draw of it."""
    assert population.path is not None
    speeds = load_speeds(population.path, population.reader)
    user = (uniforms(seed, nodes, "link") * len(speeds.down)).astype(np.int64)
    down = _once(speeds.down[user], speeds.down_deviation, user, seed, nodes, "link/down")
    up = None if speeds.up is None else _once(speeds.up[user], speeds.up_deviation, user, seed, nodes, "link/up")
    return _both(population, down, up)


def _once(
    mean: NDArray[np.float64],
    deviations: NDArray[np.float64] | None,
    user: NDArray[np.int64],
    seed: int,
    nodes: NDArray[np.int64],
    purpose: str,
) -> NDArray[np.float64]:
    """A normal rate above 0: drawn again while it is not, as FLASH does."""
    if deviations is None:
        return mean
    deviation = deviations[user]
    found = mean + deviation * normals(seed, nodes, purpose)
    attempt = 0
    while (wrong := np.flatnonzero(found <= 0)).size:
        attempt += 1
        found[wrong] = mean[wrong] + deviation[wrong] * normals(seed, nodes[wrong], purpose, attempt)
    return found
