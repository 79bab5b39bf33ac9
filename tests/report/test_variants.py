"""Pruned variants in words, in the table of a run and in the report."""

from __future__ import annotations

from typing import Any

from fedsim.report.html import render
from fedsim.report.show import table
from fedsim.report.variants import COLUMNS, coverage_line, notices, variant_cells, variant_line
from tests.report.test_html import Checker, run


def variant(**more: Any) -> dict[str, Any]:
    """One as a summary has it."""
    return {
        "method": "reconvene",
        "groups": [0, 2],
        "fit": None,
        "parameters": {"parent": 2000, "held": 800, "nonzero": 700},
        "device": {
            "parent": {"parameters": 1000, "zeros": 0, "macs": 5_000_000, "message_bytes": 4000},
            "pruned": {"parameters": 250, "zeros": 90, "macs": 2_000_000, "message_bytes": 600},
        },
        "privacy": "data-free",
        "quality": {"accuracy": 0.5, "loss": 1.25},
        "quality_at_start": {"accuracy": 0.25, "loss": 2.5},
        **more,
    }


def test_a_line_says_what_is_left_of_what_a_device_holds() -> None:
    """Whose it is, parameters, zeros, work, bytes, what it depends on, how good it is."""
    assert variant_line(variant()) == (
        "groups 0, 2: reconvene; on the device 250 of 1,000 parameters, 90 of them zeros, 2 MMAC of 5 MMAC a sample, "
        "600 B of 4 kB a message; data-free; in the end 50.0% right, loss 1.25 (25.0% "
        "and 2.5 as installed)"
    )
    plain = variant(groups=[1], fit="memory", quality=None)
    plain["device"]["pruned"]["zeros"] = 0
    assert variant_line(plain).startswith(
        "group 1: reconvene to fit the memory; on the device 250 of 1,000 parameters, 2"
    )


def test_notices_say_what_is_reconstruction_and_what_zeros_do_not_do() -> None:
    """Each once, and only where it applies."""
    found = list(notices([variant(), variant(method="mosaic", privacy="device-private")]))
    assert [text.split()[0] for text in found] == ["reconvene", "mosaic's", "zeros", "what"]
    assert list(notices([variant(method="mine", parameters={"parent": 9, "held": 8, "nonzero": 8})])) == []


def test_the_report_has_a_table_of_variants() -> None:
    """And none where nobody was pruned; the table of a run has a line each."""
    one = run(pruning={"variants": [variant()], "coverage": {"min": 0.25, "mean": 0.5, "max": 1.0}})
    page = render([one])
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    assert "Pruned variants" in page
    assert "25.0 % to 100.0 % of the model" in page
    assert all(f"<td>{cell}</td>" in page for cell in variant_cells(variant()))
    assert len(COLUMNS) == len(variant_cells(variant()))
    assert "Pruned variants" not in render([run()])
    cells = list(table([one.summary]).columns[0].cells)
    assert any("pruned variant 1" in str(cell) for cell in cells)


def test_a_group_that_is_left_whole_has_a_line() -> None:
    """With the reason, if it is that all of it fits; and a row."""
    whole = variant(method="whole", fit="memory", groups=[1], quality_at_start=None)
    whole["device"]["pruned"] = whole["device"]["parent"]
    assert variant_line(whole) == (
        "group 1: whole: fits; on the device 1,000 parameters, 5 MMAC a sample, 4 kB a message; in the end 50.0% "
        "right, loss 1.25"
    )
    assert variant_line({**whole, "fit": None}).startswith("group 1: whole; on the device 1,000 parameters")
    assert variant_cells(whole)[:2] == ("1", "whole: fits")
    assert variant_cells({**whole, "fit": None})[1] == "whole"


def test_coverage_in_a_sentence() -> None:
    """Of a round; and of all rounds together where windows move."""
    coverage = {"min": 0.25, "mean": 0.3, "max": 0.5}
    assert coverage_line(coverage) == "A round has reached 25.0 % to 50.0 % of the model's parameters"
    assert coverage_line({**coverage, "min": 0.5}) == "A round has reached 50.0 % of the model's parameters"
    assert coverage_line({**coverage, "reached": 0.913}).endswith("parameters, all rounds together 91.3 %")
