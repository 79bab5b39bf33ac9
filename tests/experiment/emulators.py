"""What stands in for emulations: simulations whose trace is changed afterwards."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from fedsim.experiment.output import Output
from fedsim.experiment.running import Run, Watcher, run_scenario
from fedsim.report import measure, summarise
from fedsim.scenario import Scenario
from fedsim.trace import Trace


def same(trace: Trace) -> Trace:
    """As simulated."""
    return trace


@dataclass
class Emulator:
    """Simulates, and changes the trace by the next of `changes`, the last one over and over."""

    changes: list[Callable[[Trace], Trace]]
    fidelity: Mapping[str, Any] = field(default_factory=lambda: {"faithful": True, "dilation": 1.0})
    seen: list[Scenario] = field(default_factory=list)

    def __call__(
        self,
        scenario: Scenario,
        *,
        output: Output | None = None,
        watcher: Watcher | None = None,
        objects: Mapping[str, Any] | None = None,
    ) -> Run:
        """A run that says that it was an emulation."""
        self.seen.append(scenario)
        virtual = scenario.model_copy(update={"mode": "simulate"})
        run = run_scenario(virtual, output=output, watcher=watcher, objects=objects)
        change = self.changes[min(len(self.seen), len(self.changes)) - 1]
        found = change(run.trace)
        trace = replace(found, scenario={**found.scenario, "mode": "emulate"})
        measures = measure(trace)
        summary = summarise(trace, status="done", wall_seconds=1.0, measures=measures, fidelity=self.fidelity)
        return replace(run, trace=trace, measures=measures, summary=summary)
