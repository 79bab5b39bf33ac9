"""Pictures: where a curve's points come to lie, and what its legend names."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pytest

from fedsim.report.charts import Axis, Series, amount_axis, columns, curves, legend, style, time_axis


def drawn(picture: str) -> list[list[tuple[float, float]]]:
    """The points of each line of a picture."""
    lines = re.findall(r'points="([^"]*)"', picture)
    return [[(float(x), float(y)) for x, y in (pair.split(",") for pair in line.split())] for line in lines]


def picture(*lines: Sequence[tuple[float, float]]) -> str:
    """A chart of lines that have no band, over an axis in its own unit."""
    series = [Series(f"system {number}", line) for number, line in enumerate(lines)]
    return curves("quality", series, Axis("seconds", 1.0, "{:g} s".format), "{:g}".format)


def test_a_curve_fills_its_frame_from_bottom_to_top() -> None:
    """Higher is better and stands higher: 0 on the lower edge, 1 on the upper one."""
    assert drawn(picture([(0.0, 0.0), (5.0, 0.5), (10.0, 1.0)])) == [[(62.0, 256.0), (282.0, 134.0), (502.0, 12.0)]]


def test_a_thinned_curve_ends_where_the_run_did() -> None:
    """The last of 4,001 points is drawn although only every third is."""
    (line,) = drawn(picture([(float(n), 0.0 if n < 4000 else 1.0) for n in range(4001)]))
    assert len(line) == 1335
    assert line[-1] == (502.0, 12.0)


def test_points_that_are_no_numbers_are_not_drawn() -> None:
    """A diverged run has a gap, not a line to nowhere."""
    points = [(0.0, 1.0), (1.0, float("nan")), (2.0, float("inf")), (3.0, 2.0)]
    assert len(drawn(picture(points))[0]) == 2


def test_nothing_to_draw_is_said() -> None:
    """In the place of axes without a line."""
    assert "No value to show." in picture([(0.0, float("nan"))])
    assert "<svg" not in picture([])


def test_a_point_says_its_value_and_its_place() -> None:
    """Also where the axis counts in minutes."""
    page = curves("a", [Series("x", [(0.0, 0.0), (90.0, 1.0)])], Axis("minutes", 60.0, "{:g} s".format), "{:g}".format)
    assert "<title>x: 1 at 90 s</title>" in page
    assert ">1.5</text>" in page


def test_a_band_reaches_from_the_lowest_to_the_highest() -> None:
    """Along its lower edge and back along the upper one; the frame holds it."""
    series = Series("a", [(0.0, 1.0), (10.0, 1.0)], [(0.0, 0.0, 2.0), (10.0, 1.0, 1.0)])
    page = curves("a", [series], Axis("s", 1.0, str), "{:g}".format)
    band, line = drawn(page)
    assert band == [(62.0, 256.0), (502.0, 134.0), (502.0, 134.0), (62.0, 12.0)]
    assert line == [(62.0, 134.0), (502.0, 134.0)]


def test_a_band_leaves_out_what_is_no_number() -> None:
    """As its line does."""
    band = [(0.0, 0.0, 2.0), (5.0, float("nan"), 2.0), (10.0, 1.0, 1.0)]
    page = curves("a", [Series("a", [(0.0, 1.0), (10.0, 1.0)], band)], Axis("s", 1.0, str), "{:g}".format)
    assert "nan" not in page
    assert len(drawn(page)[0]) == 4


def test_of_many_points_only_the_last_can_be_hovered_over() -> None:
    """120 can; beyond, they would hide one another and fill the page."""
    few, many = (picture([(float(n), 0.0) for n in range(count)]) for count in (120, 121))
    assert few.count("<circle") == 120
    assert many.count("<circle") == 1
    assert "system 0: 0 at 120 s" in many


def test_a_legend_stands_where_there_are_several() -> None:
    """Two lines are named, one is not."""
    assert legend([("s0", "one")], 2) == ""
    assert legend([("s0", "one"), ("s1", "<two>")], 2).count("<span>") == 2
    assert "&lt;two&gt;" in legend([("s0", "one"), ("s1", "<two>")])


def test_no_two_of_many_lines_look_alike() -> None:
    """Sixteen systems: eight colours, then the same ones dashed."""
    line = [(0.0, 0.0), (1.0, 1.0)]
    styles = re.findall(r'<g class="([^"]*)">', picture(*[line] * 16))
    assert len(set(styles)) == 16
    assert styles == [style(number) for number in range(16)]
    assert [style(number) for number in (7, 8, 16)] == ["s7", "s0 dashed", "s0 dotted"]


@pytest.mark.parametrize(
    ("longest", "label"), [(0.5, "s"), (119.0, "s"), (120.0, "min"), (7199.0, "min"), (7200.0, "h")]
)
def test_time_is_counted_in_what_suits_the_longest_run(longest: float, label: str) -> None:
    """No axis ends at 90,000 s."""
    assert time_axis(longest).label == f"time, {label}"


def test_amounts_take_the_prefix_of_the_most() -> None:
    """And the axis is divided by it."""
    axis = amount_axis("bytes", 2.5e9, "B")
    assert (axis.label, axis.unit) == ("bytes, GB", 1e9)
    assert amount_axis("energy", 12.0, "J").label == "energy, J"


def heights(page: str) -> list[float]:
    """Of the columns of a picture."""
    return [float(height) for height in re.findall(r'<rect [^>]*height="([^"]*)"', page)]


def test_a_column_is_as_high_as_its_value() -> None:
    """On one scale, groups named below."""
    page = columns("updates", np.array([1.0, 2.0, 4.0]), [2, 1], "s0", "{:g}".format)
    assert heights(page) == [30.0, 60.0, 120.0]
    assert "device 2: 4</title>" in page
    names = re.findall(r'<text x="([^"]*)"[^>]*>group (\d)</text>', page)
    columns_at = [float(x) for x in re.findall(r'<rect x="([^"]*)"', page)]
    width = columns_at[1] - columns_at[0]
    assert [group for _, group in names] == ["0", "1"]
    middles = [columns_at[1], columns_at[2] + width / 2]
    assert [float(x) for x, _ in names] == pytest.approx(middles, abs=0.1), "each below the middle of its own"


def test_many_devices_share_columns() -> None:
    """A thousand devices in 400 columns, each with its devices and their range; none is left out."""
    values = np.arange(1000.0)
    page = columns("updates", values, [1000], "s0", "{:g}".format)
    assert len(heights(page)) == 400
    assert heights(page)[-1] == pytest.approx(120 * 998 / 1000, abs=0.1), "the mean of 997, 998 and 999"
    named = re.findall(r"devices (\d+) to (\d+): (\d+) to (\d+)", page)
    assert [int(low) for low, *_ in named][1:] == [int(high) + 1 for _, high, *_ in named][:-1]
    assert (named[0][0], named[-1][1]) == ("0", "999")
    assert all(low == least and high == most for low, high, least, most in named)
