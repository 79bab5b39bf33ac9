"""Quantities: read as people write them, written so that they are read back exactly, refused with a way out."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from fedsim.quantities import Delay, Deviation, Duration, Fraction, Frequency, Rate, Reserve, Size
from fedsim.units import (
    BYTES,
    ENERGY_PER_BYTE,
    FRACTION,
    FREQUENCY,
    RATE,
    SECONDS,
    SPEED,
    WATTS,
    Dimension,
    human_count,
    human_seconds,
)

DIMENSIONS = (SECONDS, BYTES, RATE, SPEED, FRACTION, FREQUENCY, ENERGY_PER_BYTE, WATTS)


@pytest.mark.parametrize(
    ("dimension", "text", "value"),
    [
        (SECONDS, "30 s", 30.0),
        (SECONDS, "250 ms", 0.25),
        (SECONDS, "250ms", 0.25),
        (SECONDS, " 6  h ", 21600.0),
        (SECONDS, "1e3 s", 1000.0),
        (SECONDS, "1_000 s", 1000.0),
        (SECONDS, ".5 min", 30.0),
        (SECONDS, "5. µs", 5e-6),
        (SECONDS, "-0 s", 0.0),
        (BYTES, "4 GiB", 4 * 2.0**30),
        (BYTES, "500 MB", 5e8),
        (RATE, "20 Mbit/s", 2.5e6),
        (RATE, "2 MB/s", 2e6),
        (SPEED, "28 GFLOP/s", 14e9),
        (SPEED, "2.2 GMAC/s", 2.2e9),
        (FRACTION, "25 %", 0.25),
        (FRACTION, "57 %", 0.57),
        (FRACTION, "0.25", 0.25),
        (FRACTION, 0.25, 0.25),
        (FRACTION, 1, 1.0),
        (WATTS, "2700 mW", 2.7),
        (FREQUENCY, "1.8 GHz", 1.8e9),
        (FREQUENCY, "918 MHz", 0.918e9),
        (SECONDS, "5e-324 s", 5e-324),
        (SECONDS, "1.7976931348623157e308 s", 1.7976931348623157e308),
    ],
)
def test_quantities_are_read_as_people_write_them(dimension: Dimension, text: object, value: float) -> None:
    """Numbers with units, correctly rounded: 57 % is 0.57."""
    parsed = dimension.parse(text)
    assert parsed == value
    assert math.copysign(1, parsed) == 1


@given(st.sampled_from(DIMENSIONS), st.floats(allow_nan=False, allow_infinity=False))
def test_what_is_written_is_read_back_exactly(dimension: Dimension, value: float) -> None:
    """Any finite float survives, denormal and huge ones, too."""
    assert dimension.parse(dimension.format(value)) == value


@given(st.sampled_from(DIMENSIONS), st.integers(-(2**53), 2**53), st.data())
def test_every_unit_is_its_factor(dimension: Dimension, number: int, data: st.DataObject) -> None:
    """A number in a unit is within one rounding of number x factor."""
    unit = data.draw(st.sampled_from(sorted(dimension.units)))
    assert dimension.parse(f"{number} {unit}") == pytest.approx(number * dimension.units[unit], rel=1e-15)


def test_the_canonical_unit_has_the_factor_one() -> None:
    """So nothing is rounded when a value is written."""
    assert all(dimension.units[dimension.canonical] == 1.0 for dimension in DIMENSIONS)


@given(st.sampled_from(DIMENSIONS), st.text() | st.floats() | st.integers() | st.none() | st.booleans() | st.binary())
def test_anything_is_read_or_refused(dimension: Dimension, value: object) -> None:
    """A finite float, or a ValueError with the way out."""
    try:
        message = "" if math.isfinite(dimension.parse(value)) else "not finite"
    except ValueError as error:
        message = str(error)
    assert not message or (dimension.name in message and message.endswith(dimension.example))


@pytest.mark.parametrize(
    ("dimension", "value", "message"),
    [
        (SECONDS, "soon", "'soon' is not a duration; write it like 30 s, 250 ms or 6 h"),
        (SECONDS, "", "'' is not a duration; write it like"),
        (SECONDS, "nan", "'nan' is not a duration"),
        (SECONDS, "inf s", "'inf s' is not a duration"),
        (SECONDS, True, "true is not a duration"),
        (SECONDS, None, "null is not a duration"),
        (SECONDS, [3], "a list is not a duration"),
        (SECONDS, {"s": 3}, "a mapping is not a duration"),
        (SECONDS, b"3 s", "b'3 s' is not a duration"),
        (SECONDS, "٣ s", "'٣ s' is not a duration"),
        (SECONDS, "30", "'30' has no unit; a duration is given in s, ms, us, µs, ns, min, h, d; write it like 30 s"),
        (SECONDS, 30, "30 has no unit; a duration is given in"),
        (SECONDS, 10**5000, "a number of more than 60 digits has no unit"),
        (FRACTION, 10**400, "a number of more than 60 digits is not finite; write a fraction like 25 % or 0.25"),
        (FRACTION, math.nan, "nan is not finite; write a fraction like 25 % or 0.25"),
        (FRACTION, math.inf, "inf is not finite; write a fraction like"),
        (SECONDS, "1e999 s", "'1e999 s' is not finite; write a duration like"),
        (SECONDS, "1e308 h", "'1e308 h' is not finite"),
        (SECONDS, "3:00", "'3:00' has the unit ':00', but a duration is given in s, ms"),
        (SECONDS, "1_ s", "'1_ s' has the unit '_ s', but"),
        (SECONDS, "3 Mbit/s", "'3 Mbit/s' has the unit 'Mbit/s', but a duration is given in"),
        (RATE, "3 mbit/s", "has the unit 'mbit/s', but a data rate is given in bit/s, kbit/s, Mbit/s, Gbit/s, Tbit/s"),
        (SECONDS, "1" * 400 + " s", "is not finite; write a duration like"),
        (SECONDS, "x" * 400, f"'{'x' * 57}'... is not a duration"),
    ],
    ids=lambda value: str(value)[:30] if not isinstance(value, int) else "number",
)
def test_what_is_no_quantity_is_told(dimension: Dimension, value: object, message: str) -> None:
    """The value, the rule, the way out."""
    with pytest.raises(ValueError, match=re.escape(message)):
        dimension.parse(value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_not_written(value: float) -> None:
    """No file says infinity."""
    with pytest.raises(ValueError, match=r"(nan|inf) is not finite and cannot be written as a duration"):
        SECONDS.format(value)


def test_long_texts_are_refused_quickly() -> None:
    """No pattern goes back and forth over a long text."""
    with pytest.raises(ValueError, match="has the unit"):
        SECONDS.parse("3" + " " * 200_000 + "x")


class Quantities(BaseModel):
    """A model with a field of every rule."""

    time: Duration = 1.0
    delay: Delay = 0.0
    size: Size = 1.0
    rate: Rate = 1.0
    part: Fraction = 0.5
    clock: Frequency = 1.0
    spare: Reserve = 0.0
    off: Deviation = 0.0


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("time", "0 s", "'0 s' is out of range; a duration here is greater than zero, like 30 s, 250 ms or 6 h"),
        ("delay", "-1 s", "'-1 s' is out of range; a duration here is zero or more, like"),
        ("rate", "-1 B/s", "'-1 B/s' is out of range; a data rate here is greater than zero"),
        ("part", -0.5, "-0.5 is out of range; a fraction here is zero or more, like 25 % or 0.25"),
        ("clock", "0 GHz", "'0 GHz' is out of range; a frequency here is greater than zero, like 1.8 GHz"),
        ("clock", 1.8, "1.8 has no unit; a frequency is given in Hz, kHz, MHz, GHz, THz; write it like 1.8 GHz"),
        ("spare", "-1 B", "'-1 B' is out of range; a size here is zero or more, like 4 GiB or 500 MB"),
        ("off", "3 dB", "'3 dB' has the unit 'dB', but a fraction is given in %; write it like 25 % or 0.25"),
    ],
)
def test_fields_say_their_range(field: str, value: Any, message: str) -> None:
    """Durations, sizes, rates and frequencies are positive; delays, reserves and fractions may be zero."""
    with pytest.raises(ValidationError, match=re.escape(message)):
        Quantities.model_validate({field: value})


def test_fields_are_written_with_units() -> None:
    """A fraction is a plain number; all others carry their unit."""
    given = {"time": "2 min", "size": "1 KiB", "clock": "1.8 GHz", "off": "-5 %"}
    written = Quantities.model_validate(given).model_dump(mode="json")
    assert (written["time"], written["delay"], written["part"]) == ("120 s", "0 s", 0.5)
    assert (written["size"], written["spare"], written["rate"]) == ("1024 B", "0 B", "1 B/s")
    assert (written["clock"], written["off"]) == ("1800000000 Hz", -0.05)
    assert Quantities.model_validate(written).model_dump(mode="json") == written


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0 ns"),
        (2.5e-4, "250 µs"),
        (0.25, "250 ms"),
        (90, "90 s"),
        (0.99999, "1 s"),
        (600, "10 min"),
        (86400, "24 h"),
    ],
)
def test_durations_for_people(value: float, text: str) -> None:
    """Three digits and a fitting unit."""
    assert human_seconds(value) == text


@pytest.mark.parametrize(("value", "text"), [(3, "3 B"), (1.2e9, "1.2 GB"), (8.49e6, "8.49 MB"), (999_600, "1 MB")])
def test_counts_for_people(value: float, text: str) -> None:
    """Three digits and a decimal prefix."""
    assert human_count(value, "B") == text
