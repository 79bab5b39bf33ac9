"""`fedsim calibrate`: measure this machine, show how far prices are from times, write a profile."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Table

from fedsim.calibration import surroundings
from fedsim.calibration.accuracy import Accuracy
from fedsim.calibration.networks import BATCHES, TYPICAL, chosen
from fedsim.calibration.observations import Part
from fedsim.calibration.running import LEFT_OUT, Heard, Outcome, Plan, calibrate
from fedsim.calibration.stepping import PLAIN
from fedsim.calibration.targets import target
from fedsim.calibration.timing import QUICK, USUAL
from fedsim.calibration.writing import Description, profile, write
from fedsim.costs import OpClass
from fedsim.errors import UserError, shown
from fedsim.hardware.processors import Processor
from fedsim.hardware.profiles import Kind
from fedsim.units import WATTS, human_count, human_seconds

WIDTH: Final = 80
"""Columns that the table needs."""


def calibrate_command(
    *,
    out: Path | None,
    force: bool,
    threads: int | None,
    processor: str,
    models: str | None,
    quick: bool,
    kind: str,
    idle: str | None,
    busy: str | None,
    allow_load: bool,
    as_json: bool,
) -> int:
    """Calibrate from the command line."""
    plan = Plan(
        networks=chosen(None if models is None else [name.strip() for name in models.split(",") if name.strip()]),
        threads=_threads(threads),
        processor=processor,
        batches=TYPICAL if quick else BATCHES,
        patience=QUICK if quick else USUAL,
        allow_load=allow_load,
    )
    target(processor)  # complains now, not after a minute
    description = None
    if out is not None:
        description = Description(out, Kind(kind), _watts("--idle", idle), _watts("--busy", busy))
        description.check(force=force)
    looked_at = sys.stderr.isatty() and not as_json
    with _bar() if looked_at else nullcontext(_quiet) as heard:
        outcome = calibrate(plan, heard)
    if description is not None:
        write(profile(outcome, description), description.path)
    if as_json:
        print(json.dumps(document(outcome) | {"profile": None if out is None else str(out)}, indent=1))
    else:
        show(outcome)
        if out is not None:
            print(f"\n{out}")
    for remark in outcome.remarks():
        print(f"note: {remark}", file=sys.stderr)
    return 0


def document(outcome: Outcome) -> dict[str, Any]:
    """What was measured and fitted, for programs: seconds, bytes, MAC/s and shares."""
    evidence = outcome.evidence
    return {
        "schema": 1,
        "processor": evidence.plan.processor,
        "threads": evidence.plan.threads,
        "load": evidence.load,
        "scatter": evidence.scatter,
        "rates": {
            "products": {str(side): rate for side, rate in evidence.rates.products.items()},
            "copy": evidence.rates.copy,
            "overhead": evidence.rates.overhead,
        },
        "fit": _fit(outcome.processor),
        "in_sample": _figures(outcome.accuracy()),
        "left_out": _figures(outcome.accuracy(left_out=True)),
        "left_out_typical": _figures(outcome.typical) | {"batches": list(TYPICAL)},
        "left_out_by_part": {
            part.value: outcome.accuracy(left_out=True, batch=TYPICAL, part=part).mape for part in Part
        },
        "models": {
            name: {
                "mape": outcome.accuracy(network=name).mape,
                "left_out": outcome.accuracy(network=name, left_out=True).mape,
            }
            for name in evidence.networks
        },
        "measurements": [
            {
                "model": observation.network,
                "batch": observation.batch,
                "part": observation.part.value,
                "optimizer": observation.optimizer,
                "measured": observation.seconds,
                "priced": priced,
                "left_out": left_out,
                "scatter": observation.scatter,
                "repeats": observation.repeats,
            }
            for observation, priced, left_out in zip(
                evidence.observations, outcome.priced.tolist(), outcome.left_out.tolist(), strict=True
            )
        ],
    }


def show(outcome: Outcome) -> None:
    """Print the table of networks and what it comes to."""
    evidence, fit = outcome.evidence, outcome.processor
    # In a narrower terminal rich would fold each figure by itself; the terminal breaks lines at least as one.
    console = Console(highlight=False, width=max(WIDTH, Console().width))
    console.print(
        f"{surroundings.cpu_name()}; {evidence.plan.processor}, threads: {evidence.plan.threads}, others' load "
        f"{evidence.load:.0%}, scatter of repeats {evidence.scatter:.0%}",
        soft_wrap=True,
    )
    console.print(table(outcome))
    console.print("error: of a price that was fitted without the network")
    gemm, memory = human_count(fit.gemm, "MAC/s"), human_count(fit.bandwidth, "B/s")
    prepared = fit.overhead if fit.overheads.conv is None else fit.overheads.conv
    console.print(
        f"\nfit: gemm {gemm}, of it {_shares(outcome, (OpClass.LINEAR, OpClass.CONV))}; memory {memory}, of it "
        f"{_shares(outcome, (OpClass.OPTIMIZER, OpClass.COPY))}; overhead {human_seconds(fit.overhead)}, of "
        f"convolutions {human_seconds(prepared)}",
        soft_wrap=True,
    )
    inside, outside, typical = outcome.accuracy(), outcome.accuracy(left_out=True), outcome.typical
    console.print(f"fitted:   {_said(inside)}", soft_wrap=True)
    console.print(f"left out: {_said(outside)}", soft_wrap=True)
    batches = " and ".join(map(str, TYPICAL))
    by_part = ", ".join(
        f"{part.value} {outcome.accuracy(left_out=True, batch=TYPICAL, part=part).mape:.1%}" for part in Part
    )
    console.print(
        f"left out, at batch {batches}: mean error {typical.mape:.1%} (limit {LEFT_OUT:.0%}): {by_part}", soft_wrap=True
    )


def table(outcome: Outcome) -> Table:
    """A line a network and typical batch size: times, and the error of prices that were fitted without the network."""
    grid = Table(box=None, pad_edge=False, header_style="bold")
    grid.add_column("network")
    grid.add_column("batch", justify="right")
    for head in ("forward", "fwd + bwd", "optimizer"):
        grid.add_column(head, justify="right")
        grid.add_column("error", justify="right")
    found = {
        (observation.network, observation.batch, observation.part): (observation.seconds, left_out)
        for observation, left_out in zip(outcome.evidence.observations, outcome.left_out.tolist(), strict=True)
        if observation.optimizer == PLAIN
    }
    for name in outcome.evidence.networks:
        for batch in TYPICAL:
            cells = []
            for part in Part:
                if (name, batch, part) not in found:
                    cells += ["", ""]  # too slow to be measured
                    continue
                seconds, left_out = found[name, batch, part]
                cells += [human_seconds(seconds), f"{left_out / seconds - 1:+.0%}"]
            grid.add_row(name, str(batch), *cells)
    return grid


def _threads(given: int | None) -> int:
    there = surroundings.cores()
    if given is None:
        return there
    if not 1 <= given <= there:
        raise UserError(
            f"--threads {given}, but this process may use {there} core{'s' * (there != 1)}, and more threads than "
            f"cores stand in each other's way; give 1{f' to {there}' * (there > 1)}"
        )
    return given


def _watts(option: str, text: str | None) -> float | None:
    if text is None:
        return None
    try:
        return WATTS.parse(text)
    except ValueError as error:
        raise UserError(f"{option} {shown(text)}: {error}") from error


def _shares(outcome: Outcome, kinds: Sequence[OpClass]) -> str:
    return ", ".join(f"{kind} {outcome.processor.efficiency.of(kind):.0%}" for kind in kinds)


def _said(found: Accuracy) -> str:
    errors = f"mean error {found.mape:.1%}, bias {found.bias:+.1%}, worst {found.worst:.0%}"
    return f"{errors}, rank correlation {found.rho:.3f}"


def _fit(processor: Processor) -> dict[str, Any]:
    overhead = {kind: processor.overheads.of(kind) for kind in OpClass}
    return {
        "gemm": processor.gemm,
        "bandwidth": processor.bandwidth,
        "overlap": processor.overlap,
        "overhead": {kind.value: processor.overhead if own is None else own for kind, own in overhead.items()},
        "efficiency": {kind.value: processor.efficiency.of(kind) for kind in OpClass},
    }


def _figures(found: Accuracy) -> dict[str, float]:
    return {"mape": found.mape, "bias": found.bias, "worst": found.worst, "rho": found.rho}


@contextmanager
def _bar() -> Iterator[Heard]:
    """Progress on standard error, gone at the end."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("calibrating", total=1.0)
        yield lambda what, share: progress.update(task, description=what, completed=share)


def _quiet(_what: str, _share: float) -> None:
    """Nobody looks."""
