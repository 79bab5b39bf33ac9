"""Pruned variants in words: what a summary, or a check, says of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from fedsim.units import human_count

NOTICES: Final = {
    "reconvene": "reconvene is a reconstruction after the paper's abstract (arXiv 2404.16877), not its authors' code",
    "mosaic": "mosaic's projection pruning is written after its public code; structured and composite pruning are our "
    "reconstruction (arXiv 2504.06323)",
}
"""What is to be said wherever results of these methods are shown."""

WHOLE: Final = "whole"
"""In the place of a method, where nothing was pruned."""

SPARSE: Final = "zeros are not sent, but they alone shrink neither memory nor time"


def variant_line(variant: Mapping[str, Any]) -> str:
    """One variant: who has it, how it was made, what is left of what a device holds, and what it weighs."""
    before, after = variant["device"]["parent"], variant["device"]["pruned"]
    groups = ", ".join(str(group) for group in variant["groups"])
    zeros = f", {after['zeros']:,} of them zeros" if after["zeros"] else ""
    who = f"group{'s' if len(variant['groups']) > 1 else ''} {groups}"
    if variant["method"] == WHOLE:
        return (
            f"{who}: whole{': fits' if variant['fit'] else ''}; on the device {after['parameters']:,} parameters, "
            f"{human_count(after['macs'], 'MAC')} a sample, {human_count(after['message_bytes'], 'B')} a message"
            f"{_quality(variant)}"
        )
    fit = "" if variant["fit"] is None else f" to fit the {variant['fit']}"
    return (
        f"{who}: {variant['method']}{fit}; on the device "
        f"{after['parameters']:,} of {before['parameters']:,} parameters{zeros}, "
        f"{human_count(after['macs'], 'MAC')} of {human_count(before['macs'], 'MAC')} a sample, "
        f"{human_count(after['message_bytes'], 'B')} of {human_count(before['message_bytes'], 'B')} a message; "
        f"{variant['privacy']}{_quality(variant)}"
    )


def coverage_line(coverage: Mapping[str, float]) -> str:
    """How much of the model's parameters rounds have reached."""
    share = {name: f"{100 * value:.1f} %" for name, value in coverage.items()}
    span = share["min"] if share["min"] == share["max"] else f"{share['min']} to {share['max']}"
    said = f"A round has reached {span} of the model's parameters"
    return said if "reached" not in share else f"{said}, all rounds together {share['reached']}"


def _quality(variant: Mapping[str, Any]) -> str:
    """How good it is in the end, where that is known."""
    found = variant.get("quality") or {}
    if found.get("accuracy") is None:
        return ""
    start = variant.get("quality_at_start")
    first = "" if start is None else f" ({start['accuracy']:.1%} and {start['loss']:.4g} as installed)"
    return f"; in the end {found['accuracy']:.1%} right, loss {found['loss']:.4g}{first}"


COLUMNS: Final = (
    *("groups", "method", "parameters on the device", "of", "of them zeros", "work a sample", "of", "a message", "of"),
    *("right at first", "in the end", "loss at first", "in the end", "depends on"),
)
"""Of `variant_cells`."""


def variant_cells(variant: Mapping[str, Any]) -> tuple[str, ...]:
    """One variant as a row of a table."""
    before, after = variant["device"]["parent"], variant["device"]["pruned"]
    first, last = (variant.get(name) or {} for name in ("quality_at_start", "quality"))
    return (
        ", ".join(str(group) for group in variant["groups"]),
        f"{variant['method']}: fits" if variant["method"] == WHOLE and variant["fit"] else str(variant["method"]),
        f"{after['parameters']:,}",
        f"{before['parameters']:,}",
        f"{after['zeros']:,}",
        human_count(after["macs"], "MAC"),
        human_count(before["macs"], "MAC"),
        human_count(after["message_bytes"], "B"),
        human_count(before["message_bytes"], "B"),
        *(_written(found.get("accuracy"), "{:.1%}") for found in (first, last)),
        *(_written(found.get("loss"), "{:.4g}") for found in (first, last)),
        {"data-free": "no data", "public": "public data", "device-private": "the devices' data"}[variant["privacy"]],
    )


def _written(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def notices(variants: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What a reader of such figures has to know."""
    for name in dict.fromkeys(variant["method"] for variant in variants):
        if name in NOTICES:
            yield NOTICES[name]
    if any(variant["parameters"]["nonzero"] < variant["parameters"]["held"] for variant in variants):
        yield SPARSE
    if any(variant["privacy"] == "device-private" for variant in variants):
        yield (
            "what was cut depends on the devices' data, so every list of it that is sent tells something of them; "
            "calibration with public text, or a score that needs no data, does not"
        )
