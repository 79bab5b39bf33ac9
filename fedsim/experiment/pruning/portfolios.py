"""A portfolio: variants of one trained network at rising compression, each without its empty filters."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fedsim.errors import UserError, shown
from fedsim.experiment.pruning.documents import circumstances, finite, said_of
from fedsim.experiment.pruning.running import Asked, Report, loaded
from fedsim.experiment.pruning.stages import Heard, Stages
from fedsim.experiment.pruning.subjects import Subject
from fedsim.hardware.machines import Machine

if TYPE_CHECKING:
    from fedsim.experiment.pruning.writing import Places
    from fedsim.pruning.reconvene.portfolios import Variant

SCHEMA: Final = 1
WHOLE: Final = "whole"
"""The name of the network itself, among those of compressions."""
BATCH: Final = 1
"""Samples of the forward that latency is of."""


@dataclass(frozen=True, kw_only=True)
class Portfolio:
    """The variants, with what they come to."""

    asked: Asked
    subject: Subject
    machine: Machine | None
    parent: Report
    variants: tuple[tuple[Variant, Report], ...]
    timings: dict[str, float]


def compressions(text: str) -> tuple[float, ...]:
    """What `--portfolio` says: numbers of 1 or more, each above the one before.

    Raises:
        UserError: it does not.
    """
    try:
        found = tuple(float(each) for each in text.split(","))
    except ValueError:
        found = ()
    if not found or any(not 1 <= each < 1e6 for each in found) or sorted(set(found)) != list(found):
        raise UserError(
            f"--portfolio {shown(text)} names no compressions; write numbers from 1 to a million in rising order, "
            "as in 1,2,4"
        )
    return found


def check(asked: Asked, places: Places) -> None:
    """Refuse what is for a single pruned model.

    Raises:
        UserError: something is.
    """
    for option, value in {**asked.pruning, "--onnx": places.onnx, "--hugging-face": places.hugging_face}.items():
        if value:
            raise UserError(f"{option} is for one pruned model, not for a portfolio; leave it out, or --portfolio")


def run(asked: Asked, sizes: tuple[float, ...], heard: Heard = lambda _: None) -> Portfolio:
    """Make and measure it.

    Raises:
        UserError: the model is no network of convolutions that can be traced.
        PruningError: a variant computes something else than the sparse network.
    """
    from fedsim.pruning.reconvene.portfolios import portfolio

    stages = Stages(heard)
    found, device, _, meter = loaded(asked, stages)
    if found.text or found.stored is not None:
        what = "a language model" if found.text else "pruned before, and a folder is of one cut"
        raise UserError(
            f"a portfolio is of a whole network of convolutions, and {found.name} is {what}; name one of "
            "`fedsim list models`, with --weights"
        )
    with stages.stage("make"):
        made = portfolio(found.module, found.example, sizes, machine=device, batch=BATCH, private=asked.private)
    modules = {f"{each.compression:g}": each.emptied.pruned.module for each in made}
    with stages.stage("count"):
        counts = meter.counts(found.module)
    together = {WHOLE: found.module, **modules}
    qualities = meter.qualities(together, stages)
    timed = meter.times(together, stages)
    parent = Report(counts=counts, quality=qualities[WHOLE], timed=timed[WHOLE], priced=meter.priced(found.module))
    variants = []
    for each, name in zip(made, modules, strict=True):
        report = Report(counts=each.counts, quality=qualities[name], timed=timed[name], priced=each.latency)
        variants.append((each, report))
    return Portfolio(
        asked=asked, subject=found, machine=device, parent=parent, variants=tuple(variants), timings=stages.seconds
    )


def document(made: Portfolio) -> dict[str, Any]:
    """All of it, as JSON takes it; what is not known is null."""
    found = made.subject
    notices = ["removal of empty filters is our reconstruction of DNNShifter (arXiv 2309.06973)"]
    if not found.pretrained:
        notices.append("the network is not trained; a portfolio is of one that is: give --weights")
    if any(each.compression > 1 for each, _ in made.variants):
        notices.append("weights were set to zero by their magnitudes, and what is left was not trained again")
    document: dict[str, Any] = finite(
        {
            "schema": SCHEMA,
            "model": said_of(found) | {"fingerprint": None},
            "parent": made.parent.data(),
            "variants": {f"{each.compression:g}": _variant(each, report) for each, report in made.variants},
            **circumstances(made),
            "notices": notices,
        }
    )
    return document


def _variant(each: Variant, report: Report) -> dict[str, Any]:
    return {
        **report.data(),
        "units": dict(each.emptied.pruned.realised["units"]),
        "removed": each.emptied.removed,
        "difference": each.emptied.difference,
        "switching": each.switching,
    }


def write(made: Portfolio, folder: Path) -> None:
    """A folder of folders; see `fedsim.pruning.reconvene.portfolios.write`.

    Raises:
        UserError: it cannot be written; what was is gone then.
    """
    from fedsim.experiment.pruning.writing import together
    from fedsim.pruning.reconvene.portfolios import write as store

    with together() as begun:
        begun(folder)
        more = [finite({"quality": report.quality}) for _, report in made.variants]
        store(folder, [each for each, _ in made.variants], more)
