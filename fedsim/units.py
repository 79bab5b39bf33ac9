"""Quantities as people write them (`20 Mbit/s`, `4 GiB`, `250 ms`, `25 %`) to SI floats, and back.

Inside fedsim a quantity is a float in seconds, bytes, bytes per second, MAC/s, joules or watts, or a plain
fraction. Decimal prefixes are powers of 1000; `Ki`, `Mi`, `Gi` are powers of 1024.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Final

from fedsim.errors import shown

_NUMBER: Final = re.compile(r"[-+]?(?:[0-9]+(?:_[0-9]+)*(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
_DECIMAL: Final = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_BINARY: Final = {"Ki": 1024.0, "Mi": 1024.0**2, "Gi": 1024.0**3, "Ti": 1024.0**4}


@dataclass(frozen=True, slots=True)
class Dimension:
    """A kind of quantity: its units with their factors to SI, and how it is written back."""

    name: str
    units: dict[str, float]
    canonical: str
    example: str

    def parse(self, value: object) -> float:
        """The SI value of `value`, a string such as `20 Mbit/s`.

        Raises:
            ValueError: no number, an unknown unit, no unit, or a value that is not finite.
        """
        match value:
            case bool():
                number, unit = None, ""
            case str():
                number, unit = _split(value.strip())
            case int() | float():
                number, unit = _float(value), ""
            case _:
                number, unit = None, ""
        if number is None:
            raise ValueError(f"{shown(value)} is not a {self.name}; write it like {self.example}")
        if unit not in self.units:
            known = ", ".join(u for u in self.units if u and not (u[0] == "K" and u[1] != "i"))
            rule = f"has the unit {shown(unit)}, but" if unit else "has no unit;"
            raise ValueError(f"{shown(value)} {rule} a {self.name} is given in {known}; write it like {self.example}")
        factor = self.units[unit]
        # a division where the factor is below 1 is rounded once: 57 % is 0.57, where 57 * 0.01 is not
        result = number * factor if factor >= 1 else number / round(1 / factor)
        if not math.isfinite(result):
            raise ValueError(f"{shown(value)} is not finite; write a {self.name} like {self.example}")
        return result + 0.0  # -0.0 becomes 0.0

    def format(self, value: float) -> str:
        """The string that `parse` reads back to exactly `value`; the canonical unit's factor is 1.

        Raises:
            ValueError: `value` is not finite.
        """
        if not math.isfinite(value):
            raise ValueError(f"{value!r} is not finite and cannot be written as a {self.name}")
        return f"{float(value)!r} {self.canonical}".replace(".0 ", " ").rstrip()


def _split(text: str) -> tuple[float | None, str]:
    """The leading number of a text, None where there is none, and the unit after it."""
    match = _NUMBER.match(text)
    return (float(match[0].replace("_", "")), text[match.end() :].lstrip()) if match else (None, "")


def _float(number: float) -> float:
    try:
        return float(number)
    except OverflowError:  # an int beyond the largest float
        return math.inf


def _prefixed(unit: str, factor: float = 1.0, *, binary: bool = False) -> dict[str, float]:
    table = {prefix + unit: scale * factor for prefix, scale in _DECIMAL.items()}
    if binary:
        table |= {prefix + unit: scale * factor for prefix, scale in _BINARY.items()}
    return table


SECONDS: Final = Dimension(
    "duration",
    {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9, "min": 60.0, "h": 3600.0, "d": 86400.0},
    "s",
    "30 s, 250 ms or 6 h",
)
BYTES: Final = Dimension("size", _prefixed("B", binary=True), "B", "4 GiB or 500 MB")
RATE: Final = Dimension(
    "data rate", _prefixed("bit/s", 1 / 8) | _prefixed("B/s", binary=True), "B/s", "20 Mbit/s or 2 MB/s"
)
SPEED: Final = Dimension(
    "computing speed", _prefixed("MAC/s") | _prefixed("FLOP/s", 0.5), "MAC/s", "2.2 GMAC/s or 28 GFLOP/s"
)
FRACTION: Final = Dimension("fraction", {"": 1.0, "%": 0.01}, "", "25 % or 0.25")
FREQUENCY: Final = Dimension("frequency", _prefixed("Hz"), "Hz", "1.8 GHz")
ENERGY_PER_BYTE: Final = Dimension(
    "transfer energy",
    {"J/B": 1.0, "nJ/bit": 8e-9, "uJ/bit": 8e-6, "µJ/bit": 8e-6, "pJ/bit": 8e-12, "nJ/B": 1e-9, "uJ/B": 1e-6},
    "J/B",
    "283 nJ/bit",
)
WATTS: Final = Dimension("power", {"W": 1.0, "mW": 1e-3, "kW": 1e3}, "W", "2.7 W")


def human_seconds(seconds: float) -> str:
    """A duration for people: three significant digits with a fitting unit."""
    for limit, factor, unit in ((1e-6, 1e9, "ns"), (1e-3, 1e6, "µs"), (1.0, 1e3, "ms"), (120.0, 1.0, "s")):
        if abs(_rounded(seconds)) < limit:
            return f"{_rounded(seconds) * factor:.3g} {unit}"
    return f"{seconds / 60:.3g} min" if abs(seconds) < 7200 else f"{seconds / 3600:.3g} h"


def human_count(count: float, unit: str) -> str:
    """A count for people, with a decimal prefix: `8.49 MMAC`, `1.2 GB`."""
    shown = _rounded(count)
    for limit, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(shown) >= limit:
            return f"{shown / limit:.3g} {prefix}{unit}"
    return f"{shown:.3g} {unit}"


def _rounded(value: float) -> float:
    """Three significant digits: the unit is chosen for what will be shown, not for 999.6."""
    return float(f"{value:.3g}")
