"""The quantities of `units` as field types for pydantic models: strings with units in, SI floats inside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer

from fedsim.errors import shown
from fedsim.units import BYTES, ENERGY_PER_BYTE, FRACTION, FREQUENCY, RATE, SECONDS, SPEED, WATTS, Dimension


def _parser(dimension: Dimension, *, positive: bool) -> BeforeValidator:
    def parse(value: object) -> float:
        number = dimension.parse(value)
        if number < 0 or (positive and number == 0):
            rule = "greater than zero" if positive else "zero or more"
            wanted = f"a {dimension.name} here is {rule}, like {dimension.example}"
            raise ValueError(f"{shown(value)} is out of range; {wanted}")
        return number

    return BeforeValidator(parse)


def _writer(dimension: Dimension) -> PlainSerializer:
    if not dimension.canonical:  # a plain number is its own notation
        return PlainSerializer(float, return_type=float)
    write: Callable[[float], str] = dimension.format
    return PlainSerializer(write, return_type=str)


Duration = Annotated[float, _parser(SECONDS, positive=True), _writer(SECONDS)]
Delay = Annotated[float, _parser(SECONDS, positive=False), _writer(SECONDS)]
Size = Annotated[float, _parser(BYTES, positive=True), _writer(BYTES)]
Reserve = Annotated[float, _parser(BYTES, positive=False), _writer(BYTES)]
Rate = Annotated[float, _parser(RATE, positive=True), _writer(RATE)]
Speed = Annotated[float, _parser(SPEED, positive=True), _writer(SPEED)]
Frequency = Annotated[float, _parser(FREQUENCY, positive=True), _writer(FREQUENCY)]
EnergyPerByte = Annotated[float, _parser(ENERGY_PER_BYTE, positive=False), _writer(ENERGY_PER_BYTE)]
Power = Annotated[float, _parser(WATTS, positive=False), _writer(WATTS)]
Fraction = Annotated[float, _parser(FRACTION, positive=False), _writer(FRACTION)]
Deviation = Annotated[float, BeforeValidator(FRACTION.parse), _writer(FRACTION)]
"""A fraction of either sign."""
