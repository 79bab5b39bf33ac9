"""Data as the lines of a scenario file."""

from __future__ import annotations

from fedsim.report.page.outline import outline


def test_the_scenario_reads_like_a_scenario_file() -> None:
    """Nested keys and lists are indented, strings that would be misread quoted."""
    nested = {"a": 1, "b": {"c": [{"d": "x", "e": None}, 2]}, "f": "10: y", "g": [], "h": True}
    assert list(outline(nested)) == [
        "a: 1",
        "b:",
        "  c:",
        "    - d: x",
        "      e: null",
        "    - 2",
        'f: "10: y"',
        "g: []",
        "h: true",
    ]
