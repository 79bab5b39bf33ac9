"""The report of a pruning, from a document made by hand."""

from __future__ import annotations

from typing import Any

import pytest

from fedsim.report import pruned

MODEL: dict[str, Any] = {
    "parameters": 1000,
    "nonzero": 900,
    "decoder": None,
    "decoder_nonzero": None,
    "macs": 5000,
    "disk": None,
    "wire": 4000,
    "update": 4000,
    "resident": 4000,
    "cache": None,
    "quality": {"accuracy": 0.5, "loss": 1.25, "samples": 10},
    "time": {"forward, batch 1": {"p50": 0.002, "p95": 0.003, "repeats": 5}},
    "priced": 0.01,
}


def document(**changed: Any) -> dict[str, Any]:
    """Of a network of images."""
    smaller = {**MODEL, "parameters": 250, "nonzero": 250, "macs": 2500, "disk": 1100, "wire": 1000, "priced": 0.004}
    made: dict[str, Any] = {
        "model": {"name": "net <1>", "data": "image", "input": [3, 4, 4], "classes": 10, "fingerprint": "f"},
        "method": "reconvene",
        "privacy": "data-free",
        "calibration": "",
        "seed": 0,
        "advice": None,
        "recovery": None,
        "targets": [{"name": "params", "of": "of the parent's", "asked": "25 %", "target": 0.25, "realised": 0.2494}],
        "parent": MODEL,
        "pruned": smaller,
        "baselines": {},
        "layers": [{"layer": "conv", "kind": "filters", "of": 8, "kept": 4, "target": None, "realised": 0.5}],
        "outliers": None,
        "checked": [["runs", "forward, and backward to 3 tensors"]],
        "timings": {"study": 0.5},
        "peak_memory_bytes": 2_000_000,
        "profile": "board",
        "threads": 2,
        "evaluated": "somewhere/digits",
        "notices": ["a reconstruction"],
        "notes": ["weights are trained"],
    }
    return made | changed


def language() -> dict[str, Any]:
    """Of a language model with one block."""
    model = MODEL | {
        "decoder": 800,
        "decoder_nonzero": 700,
        "cache": 64,
        "quality": {"perplexity": 20.5, "top1": 0.25, "windows": 3, "length": 16},
    }
    rows = [
        {
            "layer": f"b1.{name}",
            "block": "b1",
            "projection": name,
            "elements": 100,
            "held": 80,
            "nonzero": 50 + number,
            "target": 0.5,
            "realised": 0.5 - number / 100,
        }
        for number, name in enumerate(pruned.PROJECTIONS)
    ]
    outliers = {
        "factor": 5.0,
        "blocks": [{"name": "b1", "projections": dict.fromkeys(pruned.PROJECTIONS, 0.2), "all": 0.4}],
    }
    said = {"name": "lm", "data": "text", "input": [16], "classes": 256, "fingerprint": "f"}
    return document(model=said, parent=model, pruned=model, layers=rows, outliers=outliers, profile=None)


def test_shares_of_the_parent_stand_beside_what_is_left() -> None:
    """Only where something is gone; what is not known is a dash."""
    rows = {row[0]: row[1:] for row in pruned.sizes(document())}
    assert rows["parameters held"] == ("1,000", "250 (25.0 %)")
    assert rows["of these other than zero"] == ("900", "250 (27.8 %)")
    assert rows["bytes on disk"] == ("–", "1.1 kB")
    assert rows["MACs of a sample"] == ("5 kMAC", "2.5 kMAC (50.0 %)")
    assert "bytes of KV cache a token" not in rows


def test_language_models_say_decoder_and_whole() -> None:
    """The denominator is never left open."""
    labels = [row[0] for row in pruned.sizes(language())]
    assert labels[:2] == ["parameters held, decoder", "of these other than zero"]
    assert {"parameters held, whole model", "bytes of KV cache a token", "MACs of a sequence of 16"} <= set(labels)


def test_times_say_where_they_are_from() -> None:
    """This host and its threads, or a profile."""
    assert pruned.times(document()) == [
        ("forward, batch 1, p50 (this host, 2 threads)", "2 ms", "2 ms"),
        ("forward, batch 1, p95 (this host, 2 threads)", "3 ms", "3 ms"),
        ("forward of one by the cost model of board", "10 ms", "4 ms"),
    ]


def test_quality_says_of_what() -> None:
    """Without the folders of a machine."""
    assert pruned.qualities(document())[0] == ("accuracy (digits, 10 samples)", "50.00 %", "50.00 %")
    assert pruned.qualities(language())[0][0] == "perplexity (digits, 3 windows of 16)"
    none = MODEL | {"quality": None}
    assert pruned.qualities(document(parent=none, pruned=none)) == []


def test_blocks_say_the_share_of_each_projection_and_the_furthest_off_target() -> None:
    """In per cent, and in points."""
    head, rows = pruned.layers(language())
    assert head[1:8] == pruned.PROJECTIONS
    assert rows == [("b1", "50.0", "49.0", "48.0", "47.0", "46.0", "45.0", "44.0", "20.00 %", "6.000 points")]


def test_baselines_are_rows_under_the_models_that_they_compare_with() -> None:
    """Of the same columns."""
    head, rows = pruned.baselines(document(baselines={"uniform": MODEL | {"wire": 1500, "resident": 2500}}))
    assert [row[0] for row in rows] == ["parent", "pruned", "uniform"]
    assert all(len(row) == len(head) for row in rows)
    assert dict(zip(head, rows[2], strict=True)) == {
        "": "uniform",
        "held": "1,000",
        "other than zero": "900",
        "MACs": "5 kMAC",
        "on the wire": "1.5 kB",
        "forward, batch 1, p50": "2 ms",
        "forward, board": "10 ms",
        "accuracy": "50.00 %",
    }


@pytest.mark.parametrize("made", [document(), language(), document(parent=None, targets=[], layers=[])])
def test_the_page_is_one_file_with_everything_escaped(made: dict[str, Any]) -> None:
    """No scripts, no links."""
    page = pruned.render(made)
    assert page.startswith("<!DOCTYPE html>")
    assert "net <1>" not in page
    assert "<script" not in page
    assert "src=" not in page
    for piece in ("a reconstruction", "weights are trained", "forward, and backward to 3 tensors", "500 ms"):
        assert piece in page


def test_a_heat_map_is_darkest_where_the_value_is_greatest() -> None:
    """And has no colour at zero."""
    page = pruned.heat_map({"row": {"a": (0.0, "none"), "b": (2.0, "most <2>"), "c": (1.0, "half")}}, "abcd", "said")
    assert "var(--s0) 0%" in page
    assert "var(--s0) 85%" in page
    assert "most &lt;2&gt;" in page
    assert page.count("<td") == 5
    assert "<td>–</td>" in page


def test_what_was_decided_is_said_with_its_figures() -> None:
    """Advice of a device, and losses of a recovery; nothing where there was neither."""
    assert pruned.decided(document()) == []
    recovery = {"options": {"kind": "lora", "batch": 4}, "steps": 16, "losses": [3.25, 2.5]}
    assert pruned.decided(document(advice={"text": "what binds is time"}, recovery=recovery)) == [
        "advice for board: what binds is time",
        "recovery: lora, 16 steps of 4 windows; mean loss of its epochs 3.25, 2.5",
    ]
    assert "what binds is time" in pruned.render(document(advice={"text": "what binds is time"}))


def test_a_portfolio_is_a_column_a_variant() -> None:
    """Beside the whole; filters that went, and empty ones that could not."""
    units = {"live": 5, "zero": 2, "folded": 1, "unread": 3, "padded": 4, "last": 1}
    variant = {**MODEL, "parameters": 10, "units": units, "removed": 6, "difference": 0.0, "switching": 0.25}
    made = {"profile": "board", "parent": MODEL, "variants": {"4": variant}}
    head, rows = pruned.portfolio(made)
    assert head == ("", "whole", "4 times")
    found = {label: cells for label, *cells in rows}
    assert found["held"] == ["1,000", "10"]
    assert found["filters removed"] == ["–", "6"]
    assert found["empty, but stayed"] == ["–", "5"]
    assert found["switching"] == ["–", "250 ms"]
    assert found["accuracy"] == ["50.00 %", "50.00 %"]
    assert "switching" not in {label for label, *_ in pruned.portfolio({**made, "profile": None})[1]}
