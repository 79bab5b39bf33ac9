"""What a pruning comes to, as one document: for programs, for the table, and for the report."""

from __future__ import annotations

import math
import resource
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from fedsim.experiment.pruning.baselines import Baseline
from fedsim.experiment.pruning.subjects import Subject
from fedsim.experiment.pruning.targets import layers, outliers, support, targets
from fedsim.report.variants import NOTICES, SPARSE

if TYPE_CHECKING:
    from fedsim.experiment.pruning.portfolios import Portfolio
    from fedsim.experiment.pruning.running import Outcome

SCHEMA: Final = 1
ROUNDED: Final = (
    "the weights were rounded to few bits before they came here (GGUF), so figures compare with one another only"
)


def document(outcome: Outcome) -> dict[str, Any]:
    """All of it, as JSON takes it; what is not known is null."""
    found, plan = outcome.subject, outcome.plan
    made_by = outcome.pruned if found.stored is None else found.stored.manifest
    made: dict[str, Any] = {
        "schema": SCHEMA,
        "model": {**said_of(found), "fingerprint": plan.parent},
        "method": plan.method,
        "options": {key: value for key, value in plan.options.items() if key != "found"},
        "seed": plan.seed,
        "privacy": plan.privacy,
        "calibration": calibrated(outcome),
        "advice": None if outcome.advice is None else outcome.advice.data(),
        "targets": targets(outcome),
        "parent": None if outcome.parent is None else outcome.parent.data(),
        "pruned": outcome.now.data(),
        "baselines": {each.name: _baseline(each) for each in outcome.baselines},
        "layers": layers(outcome),
        "outliers": outliers(outcome),
        "checks": None if outcome.checks is None else outcome.checks.data(),
        "checked": [] if outcome.checks is None else [list(row) for row in outcome.checks.rows()],
        "recovery": None if made_by is None else made_by.realised.get("recovery"),
        "reinitialised": list(() if made_by is None else made_by.reinitialised),
        **circumstances(outcome),
        "notices": list(notices(outcome)),
        "notes": list(outcome.notes),
    }
    cleaned: dict[str, Any] = finite(made)
    return cleaned


def calibrated(outcome: Outcome) -> str:
    """What data the choice was made with, in words."""
    if outcome.subject.stored is not None:
        return outcome.subject.stored.manifest.calibration
    text, asked = outcome.calibration, outcome.asked
    if text is not None:
        now = text.described()
        then = getattr(outcome.study, "calibration", now)  # of a ranking, which may have been made before
        return _text(now) if then == now else f"ranked on {_text(then)}; pruned on {_text(now)}"
    if outcome.plan.privacy != "data-free" and asked.data is not None:
        return f"samples of every class of {asked.data}, seed {outcome.plan.seed}"
    return ""


def _text(said: Mapping[str, Any]) -> str:
    return (
        f"{said['windows']} windows of {said['length']} tokens of {said['text']} by tokenizer {said['tokenizer']}, "
        f"seed {said['seed']}"
    )


def notices(outcome: Outcome) -> Iterator[str]:
    """What a reader of the figures has to know."""
    plan = outcome.plan
    if plan.method in NOTICES:
        yield NOTICES[plan.method]
    if any(each.name != "upai" for each in outcome.baselines):
        yield "baselines are our code, too: all-layers after PreCrop (arXiv 2203.02549), the other cuts by one ratio"
    if support(outcome).masks:
        yield SPARSE
    if plan.privacy == "device-private":
        yield "what was cut depends on data of devices, so every list of it that is sent tells something of them"
    if outcome.subject.name.endswith(".gguf") or outcome.subject.name.startswith("package:"):
        yield ROUNDED


def circumstances(made: Outcome | Portfolio) -> dict[str, Any]:
    """How the figures were come by."""
    return {
        "timings": dict(made.timings),
        "peak_memory_bytes": peak_memory(),
        "profile": None if made.machine is None else made.machine.id,
        "threads": made.asked.threads,
        "evaluated": made.asked.evaluate,
    }


def peak_memory() -> int:
    """The most that this process has had in memory, in bytes, whatever for."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def _baseline(baseline: Baseline) -> dict[str, Any]:
    return {**baseline.report.data(), "seconds": baseline.seconds}


def said_of(found: Subject) -> dict[str, Any]:
    """What model it is."""
    return {
        "name": found.name,
        "data": found.kind,
        "input": list(found.example.shape[1:]),
        "classes": found.vocabulary,
    }


def finite(value: Any) -> Any:
    """The same, with null for what JSON has no number for."""
    match value:
        case float():
            return value if math.isfinite(value) else None
        case Mapping():
            return {key: finite(each) for key, each in value.items()}
        case list() | tuple():
            return [finite(each) for each in value]
        case _:
            return value
