"""Pictures: where a curve's points come to lie, and what its legend names."""

from __future__ import annotations

import re

from fedsim.report.charts import curves, legend


def drawn(picture: str) -> list[list[tuple[float, float]]]:
    """The points of each line of a picture."""
    lines = re.findall(r'points="([^"]*)"', picture)
    return [[(float(x), float(y)) for x, y in (pair.split(",") for pair in line.split())] for line in lines]


def test_a_curve_fills_its_frame_from_bottom_to_top() -> None:
    """Higher is better and stands higher: 0 on the lower edge, 1 on the upper one."""
    picture = curves([("a", [(0.0, 0.0), (5.0, 0.5), (10.0, 1.0)])], "seconds", "accuracy", "{:g}".format)
    assert drawn(picture) == [[(64.0, 260.0), (404.0, 137.0), (744.0, 14.0)]]


def test_a_thinned_curve_ends_where_the_run_did() -> None:
    """The last of 4,001 points is drawn although only every third is."""
    points = [(float(n), 0.0 if n < 4000 else 1.0) for n in range(4001)]
    (line,) = drawn(curves([("a", points)], "seconds", "accuracy", "{:g}".format))
    assert len(line) == 1335
    assert line[-1] == (744.0, 14.0)


def test_points_that_are_no_numbers_are_not_drawn() -> None:
    """A diverged run has a gap, not a line to nowhere."""
    points = [(0.0, 1.0), (1.0, float("nan")), (2.0, float("inf")), (3.0, 2.0)]
    assert len(drawn(curves([("a", points)], "seconds", "loss", "{:g}".format))[0]) == 2


def test_a_legend_stands_where_there_are_several() -> None:
    """Two lines are named, one is not."""
    line = [(0.0, 0.0), (1.0, 1.0)]
    assert "legend" not in curves([("one", line)], "x", "y", "{:g}".format)
    assert curves([("one", line), ("two", line)], "x", "y", "{:g}".format).count("<span>") == 2
    assert legend([("busy", "busy")]).count("<span>") == 1


def test_no_two_of_many_lines_look_alike() -> None:
    """Sixteen systems: eight colours, then the same ones dashed."""
    line = [(0.0, 0.0), (1.0, 1.0)]
    page = curves([(f"system {i}", line) for i in range(16)], "x", "y", "{:g}".format)
    styles = re.findall(r'<g class="([^"]*)">', page)
    assert len(set(styles)) == 16
    assert styles == re.findall(r'<i class="([^"]*)">', page)
