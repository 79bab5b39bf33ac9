"""A scenario on the wall clock, from end to end, into a run folder."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fedsim.emulation.dilation import Need, Timed, chosen, host_need, loads, network_need, pace_need, projected
from fedsim.emulation.outcome import Outcome, fidelity_of, memory_of, trace_of
from fedsim.emulation.pacing import unfaithful
from fedsim.emulation.records.recording import read
from fedsim.errors import RunError, UserError
from fedsim.experiment.assembly import Assembly
from fedsim.experiment.building import Study, build
from fedsim.experiment.nodes import participate, serve, server_node
from fedsim.experiment.output import Output
from fedsim.experiment.running import Run, Watcher, concluded, note_failure, refuse_shortage
from fedsim.experiment.timing import timed
from fedsim.report import check_emulated
from fedsim.runtime.sofar import SoFar
from fedsim.scenario import Scenario, dump
from fedsim.script import SERVER
from fedsim.simulation import Ending
from fedsim.trace import Trace

if TYPE_CHECKING:
    from fedsim.emulation.membership import Owners
    from fedsim.emulation.serving import ServerNode

POLL: Final = 0.2
"""Seconds between two looks at a run."""

NOTES: Final = "journal"
"""Folder, in that of the run, of what each node notes while the run goes on, and logs."""


class Going:
    """A run on the wall clock as a watcher sees it."""

    def __init__(self, watcher: Watcher) -> None:
        self.now = 0
        """Nanoseconds since the start of the run, as far as is known."""
        self.stopping = False
        """Whether it is to end here."""
        self._watcher = watcher
        self._look: Callable[[], None] | None = None
        self._figures: SoFar | None = None

    @property
    def asked(self) -> bool:
        """Whether somebody wants to look."""
        return self._look is not None

    def ask(self, look: Callable[[], None]) -> None:
        """Have `look` called once, when the server has told how far it is."""
        self._look = look

    def told(self, figures: SoFar | None) -> None:
        """The server has told how far it is; None: it has not begun."""
        look, self._look = self._look, None
        if figures is not None:
            self._figures = figures
            self.now = max(self.now, figures.now)
        if look is not None:
            look()

    def so_far(self) -> SoFar:
        """What the server has told last."""
        return self._figures or SoFar(now=self.now)

    def observed(self, name: str, value: float, moment: int) -> None:
        """A mark of the run."""
        self.now = max(self.now, moment)
        self._watcher.mark(name, value)


def emulate_scenario(
    scenario: Scenario,
    *,
    output: Output | None = None,
    watcher: Watcher | None = None,
    objects: Mapping[str, Any] | None = None,
    targets: Sequence[float] = (),
    ray: str | None = None,
) -> Run:
    """Run a checked scenario on the wall clock, a Ray actor a node.

    Args:
        scenario: with `mode: emulate`.
        output: without one, nothing is written.
        watcher: follows the run.
        objects: what names of the form `module:Class` stand for; each has to be importable by that name.
        targets: accuracies whose time the summary has, beside the one that ends the run.
        ray: address of a Ray cluster that is there, `auto` on one of its nodes; None: a session on this host.

    Raises:
        UserError: this host cannot carry the run, with the reason and the smallest dilation that would do; or there is
            no such cluster.
        RunError: the run could not be finished.
    """
    from fedsim.emulation.fleet import emulate
    from fedsim.runtime.cluster import check_cluster

    if ray is not None:
        check_cluster(ray)
    for name in objects or ():
        raise UserError(
            f"{name} was given as an object, but the nodes of an emulation are processes of their own; put it into a "
            "module and give it as module:Class"
        )

    def play(study: Study, dilation: float, works: Sequence[Timed], folder: Path | None, going: Going) -> Outcome:
        return emulate(plan(study, dilation, works, folder, ray), going)

    return _emulated(scenario, output, watcher, targets, play, alone=False)


def serve_scenario(
    scenario: Scenario,
    listen: str,
    *,
    output: Output | None = None,
    watcher: Watcher | None = None,
    owners: Owners | None = None,
    credentials: Any = None,
    listening: Callable[[int], None] | None = None,
    waiting: Callable[[Sequence[int]], None] | None = None,
) -> Run:
    """Be the server of a checked scenario whose devices are processes of their own, wherever they run.

    Args:
        scenario: with `mode: emulate`.
        listen: address and port.
        output: without one, nothing is written.
        watcher: follows the run.
        owners: who has which token; None: everybody may join.
        credentials: of gRPC; None: no TLS.
        listening: told of the port, as soon as devices may come.
        waiting: told of the devices that are not there, again and again until they are.

    Raises:
        UserError: this host cannot carry the server, or the address cannot be listened on.
        RunError: the run could not be finished.
    """

    def play(study: Study, dilation: float, works: Sequence[Timed], folder: Path | None, going: Going) -> Outcome:
        notes = _notes(folder)
        node = server_node(
            study, listen, dilation, notes, owners=owners, credentials=credentials, longest=_longest(works)
        )
        try:
            if listening is not None:
                listening(node.port)
            while not node.gather(POLL):
                if going.stopping:
                    raise KeyboardInterrupt
                if waiting is not None:
                    waiting(node.missing())
            ended = threading.Event()
            follower = threading.Thread(target=_follow, args=(node, going, ended), name="follower", daemon=True)
            follower.start()
            try:
                return node.run()
            finally:
                ended.set()
                follower.join()
        finally:
            node.close()

    return _emulated(scenario, output, watcher, (), play, alone=True)


def _follow(node: ServerNode, going: Going, ended: threading.Event) -> None:
    """Tell of a run that goes on, and stop it where that is wanted."""
    while not ended.wait(POLL):
        for mark in node.observed():
            going.observed(*mark)
        if going.asked:
            going.told(node.so_far())
        if going.stopping:
            node.stop()
            return


def _emulated(
    scenario: Scenario,
    output: Output | None,
    watcher: Watcher | None,
    targets: Sequence[float],
    play: Callable[[Study, float, Sequence[Timed], Path | None, Going], Outcome],
    *,
    alone: bool,
) -> Run:
    """A run from end to end; `play` does what is between the claim of its folder and the outcome."""
    began = time.monotonic()
    watch = watcher or Watcher()
    if output is not None:
        output.check()
    study = build(scenario)
    refuse_shortage(study)
    dilation, works = fitting(study, alone=alone)
    folder = None if output is None else output.claim(study.scenario)
    for text in study.warnings():
        watch.warn(text)
    going = Going(watch)
    watch.begin(study, going)
    try:
        try:
            outcome = play(study, dilation, works, folder, going)
        finally:
            watch.end()
        return finished(study, outcome, folder, time.monotonic() - began, targets)
    except BaseException as error:
        note_failure(error, folder, partial(_noted, study, folder), time.monotonic() - began)
        raise


def fitting(study: Study, *, alone: bool = False) -> tuple[float, list[Timed]]:
    """The dilation at which this host can carry a run, and what its works take here.

    Args:
        study: the run.
        alone: whether only the server is on this host; an `auto` dilation is found as if all nodes were.

    Raises:
        UserError: it cannot, at the one that is asked for, or within the time that is allowed.
    """
    from fedsim.emulation.loopback import STREAMED, throughput
    from fedsim.learning.threads import intra_op_threads

    scenario, assembly = study.scenario, study.assembly
    threads = scenario.workers.threads
    with intra_op_threads(threads):
        works = timed(assembly, study.host(), threads=threads)
    auto = scenario.emulation.dilation == "auto"
    here = [one for one in works if auto or not alone or one.node == SERVER]
    needs: list[Need] = [host_need(here, os.cpu_count() or 1), pace_need(here)]
    if scenario.emulation.shaping:
        network = assembly.flows()
        rates = [
            network.route(*ends).rate(device, 0)
            for device in range(assembly.fleet.devices)
            for ends in ((device, SERVER), (SERVER, device))
        ]
        needs.append(network_need([rate for rate in rates if math.isfinite(rate)], throughput() * STREAMED))
    found = chosen(scenario.emulation.dilation, needs)
    projected(_length(assembly, scenario.emulation.limit / found), found, scenario.emulation.limit)
    return found, works


def _length(assembly: Assembly, most: float) -> float:
    """Seconds of a run as a simulation has it, followed to a little beyond the most that it may be.

    Where only a quality ends the run, nobody knows beforehand: 0.
    """
    limits = assembly.limits
    cap = 1.01 * most
    if limits.time is not None and limits.time <= cap:
        cap = limits.time
    simulation = replace(assembly, limits=replace(limits, time=cap)).simulation(None)
    ending = simulation.run()
    unknown = ending is Ending.TIME and limits.reached is not None and limits.time is None
    return 0.0 if unknown else simulation.now / 1e9


def plan(study: Study, dilation: float, works: Sequence[Timed], folder: Path | None, ray: str | None) -> Any:
    """What is to be started."""
    from fedsim.emulation.fleet import Plan

    scenario = study.scenario
    notes = _notes(folder)
    return Plan(
        serve=partial(serve, dump(scenario), dilation=dilation, notes=notes, longest=_longest(works)),
        participate=partial(participate, threads=scenario.workers.threads),
        devices=study.assembly.fleet.devices,
        loads={node: load / dilation for node, load in loads(works).items()},
        threads=scenario.workers.threads,
        restarts=scenario.emulation.restarts,
        address=ray,
        logs=notes,
    )


def _notes(folder: Path | None) -> Path | None:
    """The folder for what nodes note and log."""
    if folder is None:
        return None
    notes = folder.resolve() / NOTES
    notes.mkdir()
    return notes


def finished(
    study: Study, outcome: Outcome, folder: Path | None, wall_seconds: float, targets: Sequence[float] = ()
) -> Run:
    """What a run has come to, and its folder.

    Raises:
        RunError: it was not faithful, and the scenario is strict about that; or the folder cannot be written.
    """
    assembly, scenario = study.assembly, study.scenario
    trace = _recorded(assembly, outcome.rows, outcome.end, outcome.points)
    fidelity = fidelity_of(outcome) | {"memory_disagreement": memory_of(trace)}
    doubts = check_emulated(trace)
    weights = None if outcome.weights is None else dict(outcome.weights)
    run = concluded(study, outcome.ending, trace, weights, folder, wall_seconds, targets, fidelity)
    if scenario.strict and (doubts or not fidelity["faithful"]):
        raise RunError(
            f"the emulation is not faithful: {unfaithful(fidelity) or doubts[0]} (strict: on); give a higher "
            "emulation.dilation, a less busy host, or strict: off"
        )
    return run


def _longest(works: Sequence[Timed]) -> float:
    """Seconds of the scenario that the longest work takes."""
    return max((one.target for one in works), default=0.0)


def _noted(study: Study, folder: Path | None) -> Trace:
    """What the nodes of a run had noted before it failed."""
    assert folder is not None
    rows = [row for path in sorted((folder / NOTES).glob("*.jsonl")) for row in read(path)]
    end = max((value for row in rows for value in _moments(row)), default=0)
    return _recorded(study.assembly, rows, end)


def _recorded(assembly: Assembly, rows: Any, end: int, points: Any = ()) -> Trace:
    """The trace of what nodes have noted, behind what was made and installed before the run."""
    trace = trace_of(rows, assembly.fleet.table(assembly.samples), assembly.scenario, end, points)
    noted, trace.marks = trace.marks, []
    assembly.mark_deployment(trace)
    trace.marks += noted
    return trace


def _moments(row: Sequence[Any]) -> list[int]:
    """Moments of a note that say how long the run went on."""
    kind = row[0]
    return {"span": [row[5]], "wait": [row[3]], "mark": [row[2]]}.get(kind, []) if len(row) > 5 else []
