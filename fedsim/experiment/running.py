"""Running a scenario from end to end, into a run folder."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from fedsim.errors import UserError
from fedsim.experiment.artifacts import save_model
from fedsim.experiment.building import Study, build
from fedsim.experiment.forecast import shortage
from fedsim.experiment.loading import load_scenario, named
from fedsim.experiment.output import Output, writing
from fedsim.experiment.qualities import mark_variants
from fedsim.experiment.trust import provenance
from fedsim.experiment.working import working
from fedsim.report import Measures, check_identity, measure, summarise, write_run
from fedsim.report.tables import variant_columns
from fedsim.runtime.sofar import SoFar
from fedsim.scenario import Scenario
from fedsim.simulation import Ending
from fedsim.trace import Mark, Trace

if TYPE_CHECKING:
    from torch import Tensor


_POINT: Final = ("time", "round", "version", "accuracy", "loss", "trained")


class Clocked(Protocol):
    """A run that goes on."""

    now: int
    """Nanoseconds of its clock."""
    stopping: bool
    """Set by whoever wants it to end here."""

    def ask(self, look: Callable[[], None], /) -> None:
        """Have `look` called once and soon, in a thread of the run's; it may ask for the figures so far.

        From any thread. In the middle of a long computation, that is when the next event happens.
        """
        ...

    def so_far(self) -> SoFar:
        """The figures up to now; within `look`, or when the run has ended."""
        ...


class Watcher:
    """Follows a run; override what is of interest."""

    def warn(self, text: str) -> None:
        """Something to know before the run."""

    def begin(self, study: Study, simulation: Clocked) -> None:
        """All parts are there and the clock is about to start. `simulation.stopping = True` ends the run."""

    def mark(self, name: str, value: float) -> None:
        """A moment of the run: `round.open`, `publish`, `evaluate` and the like."""

    def end(self) -> None:
        """The clock has stopped."""


@dataclass(frozen=True, repr=False)
class Run:
    """A finished run."""

    scenario: Scenario
    summary: dict[str, Any]
    trace: Trace
    measures: Measures
    weights: dict[str, Tensor] | None
    folder: Path | None
    interrupted: bool = False

    @property
    def curves(self) -> list[dict[str, Any]]:
        """Quality over time: a row an evaluation, with the columns of `curves.csv`."""
        more = variant_columns(self.measures)
        return [
            {
                **{("samples" if key == "trained" else key): getattr(point, key) for key in _POINT},
                **dict(zip(more, chain.from_iterable(point.variants), strict=False)),
            }
            for point in self.measures.curve
        ]

    def remarks(self) -> list[str]:
        """What a reader of the figures should know: memory that did not suffice, no model, a goal not reached."""
        found = [*self._shortages(), *self._fidelity()]
        coverage = self.summary["contributions"]["coverage"]
        if coverage is not None and coverage < 1:
            found.append(f"devices left before they had sent all: the server trained on {coverage:.1%} of the data")
        if not self.scenario.learning:
            return found
        if self.weights is None:
            text = "the server's script published no model (me.publish), so there is no accuracy and no model file"
            return [*found, text]
        if self.measures.curve and not math.isfinite(self.measures.curve[-1].loss):
            found.append("the loss is not a finite number at the end; a lower training.optimizer.lr may help")
        goal = self.scenario.until.accuracy
        if goal is not None and all(point.accuracy < goal for point in self.measures.curve):
            found.append(f"until.accuracy {goal:.4g} was not reached")
        return found

    def _fidelity(self) -> Iterator[str]:
        """What an emulation could not keep to."""
        fidelity = self.summary.get("fidelity")
        if fidelity is None:
            return
        from fedsim.emulation.pacing import unfaithful

        reason = unfaithful(fidelity)
        if reason is not None:
            yield f"the emulation is not faithful: {reason}; give a higher emulation.dilation, or a less busy host"
        for node, share in fidelity["memory_disagreement"].items():
            yield (
                f"the process of device {node} took {share:+.0%} of the memory that its works declare; the ledger goes "
                "by what they declare"
            )
        if fidelity["crashed"]:
            named = ", ".join(f"device {device}" for device in fidelity["crashed"])
            yield f"{named} died or fell silent before the end; the logs in the run's folder say more"

    def _shortages(self) -> Iterator[str]:
        """Who ran out of memory, where the scenario lets that happen."""
        marks = [Mark(*mark) for mark in self.trace.marks if mark[2] == "out_of_memory"]
        if not marks:
            return
        names = {node.number: node.name for node in self.trace.nodes}
        short = list(dict.fromkeys(names[mark.node] for mark in marks))
        listed = ", ".join(short[:5]) + (f" and {len(short) - 5} more" if len(short) > 5 else "")
        then = "left because of it" if self.scenario.on_oom == "leave" else "went on all the same (on_oom: record)"
        yield f"{listed} needed more memory than there was to use and {then}; `fedsim check` shows who needs what"

    def __repr__(self) -> str:
        """The run in a line; its parts are large."""
        summary = self.summary
        return (
            f"Run({summary['name']} · {summary['scheduler']}, {summary['status']}, {summary['seconds']:.6g} s, "
            f"accuracy {summary['accuracy']['final']}, folder {self.folder})"
        )


def run(
    source: str | Path | Mapping[str, Any],
    *,
    out: str | Path | None = None,
    overrides: Sequence[str] = (),
    watcher: Watcher | None = None,
    ray: str | None = None,
    **updates: Any,
) -> Run:
    """Run a scenario.

    Args:
        source: a name of the catalogue, the path of a file, or the same data as a mapping.
        out: the run folder; nothing is written without one.
        overrides: `key.path=value` each, as with `--set`.
        watcher: follows the run.
        ray: as in `run_scenario`.
        updates: sections or keys that replace those of the source, such as `until={"rounds": 40}`; a scheduler,
            model or data set may be an object.

    Raises:
        UserError: the scenario is wrong, or `out` already holds a run.
        RunError: the run could not be finished.
    """
    plain, objects = named(updates)
    scenario = load_scenario(source, overrides=overrides, updates=plain, objects=objects)
    output = None if out is None else Output(Path(out))
    return run_scenario(scenario, output=output, watcher=watcher, objects=objects, ray=ray)


def run_scenario(
    scenario: Scenario,
    *,
    output: Output | None = None,
    watcher: Watcher | None = None,
    objects: Mapping[str, Any] | None = None,
    targets: Sequence[float] = (),
    ray: str | None = None,
) -> Run:
    """Run a checked scenario; see `run`. Without an `output` nothing is written.

    Args:
        targets: accuracies whose time the summary has, beside the one that ends the run.
        ray: address of a Ray cluster that is there, for emulations and for pools of workers; None: a session of our
            own on this host.
    """
    if scenario.mode == "emulate":
        from fedsim.experiment.emulating import emulate_scenario

        return emulate_scenario(scenario, output=output, watcher=watcher, objects=objects, targets=targets, ray=ray)
    began = time.monotonic()
    if output is not None:
        output.check()
    study = build(scenario, objects or {})
    refuse_shortage(study)
    watch = watcher or Watcher()
    with working(study, objects or {}, ray) as work:
        simulation = study.assembly.simulation(work.workers, observe=watch.mark)
        trace = simulation.trace
        folder = None if output is None else output.claim(study.scenario)  # with what was chosen automatically
        try:
            for text in study.warnings():
                watch.warn(text)
            watch.begin(study, simulation)
            try:
                ending = simulation.run()
            finally:
                watch.end()
            check_identity(trace)
            weights = None
            if work.workers is not None and simulation.published is not None:
                weights = work.tensors(simulation.published.model)
        except Exception as error:  # a script may raise anything
            note_failure(error, folder, lambda: trace, time.monotonic() - began)
            raise
    return concluded(study, ending, trace, weights, folder, time.monotonic() - began, targets)


def concluded(
    study: Study,
    ending: Ending,
    trace: Trace,
    weights: dict[str, Tensor] | None,
    folder: Path | None,
    wall_seconds: float,
    targets: Sequence[float] = (),
    fidelity: Mapping[str, Any] | None = None,
) -> Run:
    """What a run has come to, and its folder.

    Raises:
        RunError: the folder cannot be written.
    """
    interrupted = ending is Ending.INTERRUPTED
    mark_variants(study, trace, weights)
    trace.provenance = provenance(study.assembly.fleet)
    measures = measure(trace)
    summary = summarise(
        trace,
        status="stopped" if interrupted else "done",
        wall_seconds=wall_seconds,
        measures=measures,
        targets=targets,
        fidelity=fidelity,
    )
    if folder is not None:
        with writing(folder):
            if weights is not None:
                save_model(folder, study, weights)
            write_run(folder, trace, summary, measures)
    return Run(study.scenario, summary, trace, measures, weights, folder, interrupted)


def memory_verdict(study: Study) -> str | None:
    """What is sure to need more memory than it may use, in a sentence; None where everything fits."""
    short = [shortage(need) for need in study.needs() if not need.fits]
    if not short:
        return None
    ways = "give a smaller training.batch, another cut, model or profile"
    return f"{'; '.join(short)}; {ways}, or on_oom: leave or record to see what becomes of the run"


def refuse_shortage(study: Study) -> None:
    """Refuse a run in which a node is sure to need more memory than it may use, unless the scenario wants to see it.

    Raises:
        UserError: naming the nodes and what they need.
    """
    verdict = memory_verdict(study)
    if verdict is not None and study.scenario.on_oom == "refuse":
        raise UserError(f"{verdict} {study.scenario.where('fleet')}")


def note_failure(error: BaseException, folder: Path | None, trace_of: Callable[[], Trace], wall_seconds: float) -> None:
    """Leave a folder that says `failed` and holds the trace up to there; the run's own error comes first."""
    if folder is None:
        return
    try:
        trace = trace_of()
        write_run(folder, trace, summarise(trace, status="failed", wall_seconds=wall_seconds))
    except Exception as second:
        error.add_note(f"{folder} could not be written either: {second}")
