"""The cells of a comparison run one after the other in this process, or shared by several; none costs the others.

Knows nothing of what is made of their results.
"""

from __future__ import annotations

import multiprocessing
import pickle
import shutil
import signal
import traceback
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Thread
from typing import Any, Final, Literal

from fedsim.errors import FedsimError, UserError
from fedsim.experiment.building import Study
from fedsim.experiment.contest import Cell
from fedsim.experiment.dealing import data_kept
from fedsim.experiment.output import Output
from fedsim.experiment.running import Clocked, Watcher, run_scenario
from fedsim.report import Outcome

_LOOK: Final = 0.2  # seconds between looks at whether somebody wants to stop


class Follower(Watcher):
    """Follows the cells; override what is of interest. As a watcher it follows the runs of this process only."""

    def __init__(self) -> None:
        self.stopped = False
        self._simulation: Clocked | None = None

    def stop(self) -> None:
        """End it all: runs that are under way end where they are, and no other one begins."""
        self.stopped = True
        if self._simulation is not None:
            self._simulation.stopping = True

    def begin(self, study: Study, simulation: Clocked) -> None:
        """Remember what to stop."""
        self._simulation = simulation
        simulation.stopping = self.stopped

    def end(self) -> None:
        """There is nothing to stop any more."""
        self._simulation = None

    def ready(self, cells: Sequence[Cell], left: Sequence[Cell]) -> None:
        """All cells are checked; those that are left will run."""

    def cell(self, cell: Cell) -> None:
        """A cell is about to run in this process."""

    def outcome(self, outcome: Outcome) -> None:
        """A cell has run, wherever."""


@dataclass(frozen=True)
class Ran:
    """What became of a cell, and what there is to say of it."""

    outcome: Outcome
    remarks: tuple[str, ...] = ()
    """What a reader of the figures should know."""
    trace: str = ""
    """Where a mistake in somebody's code was made, as Python shows it."""


@dataclass(frozen=True)
class Orders:
    """How cells are run: `folder` holds their run folders, without one nothing is written."""

    folder: Path | None
    targets: Sequence[float]
    objects: Mapping[str, Any]


def run_cells(cells: Sequence[Cell], orders: Orders, jobs: int, follower: Follower) -> Iterator[Ran]:
    """Run the cells; results come as they are there. Those that nobody began when it was stopped have none.

    Raises:
        UserError: they cannot be sent to other processes.
    """
    if jobs > 1 and len(cells) > 1:
        return _in_parallel(cells, orders, min(jobs, len(cells)), follower)
    return _one_by_one(cells, orders, follower)


def failure(cell: Cell, error: Exception) -> Ran:
    """What an error makes of a cell."""
    status: Literal["refused", "failed"] = "refused" if isinstance(error, UserError) else "failed"
    reason, trace = str(error), ""
    if not isinstance(error, FedsimError):
        last = traceback.extract_tb(error.__traceback__)[-1:]
        reason = f"{type(error).__name__}: {error}" + "".join(f" ({one.filename}, line {one.lineno})" for one in last)
        trace = "".join(traceback.format_exception(error))
    line = "; ".join(part.strip() for part in reason.splitlines())
    return Ran(Outcome(cell.label, cell.seed, status, reason=line, at=cell.at), trace=trace)


def _one_by_one(cells: Sequence[Cell], orders: Orders, follower: Follower) -> Iterator[Ran]:
    for cell in cells:
        if follower.stopped:
            return
        follower.cell(cell)
        yield _run(cell, orders, follower)


def _run(cell: Cell, orders: Orders, watcher: Watcher) -> Ran:
    output = None if orders.folder is None else Output(orders.folder / cell.name)
    try:
        done = run_scenario(
            cell.scenario, output=output, watcher=watcher, objects=orders.objects, targets=orders.targets
        )
    except Exception as error:  # a script may raise anything
        return failure(cell, error)
    status: Literal["stopped", "done"] = "stopped" if done.interrupted else "done"
    return Ran(Outcome(cell.label, cell.seed, status, done.summary, at=cell.at), tuple(done.remarks()))


def _in_parallel(cells: Sequence[Cell], orders: Orders, jobs: int, follower: Follower) -> Iterator[Ran]:
    """Fresh processes, so that nothing but the cell decides what comes out.

    A process that is killed takes the others along. What they had not finished runs again, one at a time: if memory is
    short there is more of it then, and a cell that costs its process even so is known.
    """
    try:
        pickle.dumps((cells, orders))
    except Exception as error:  # what cannot be pickled says so in many ways
        text = "a scheduler, model or data set cannot be sent to another process"
        raise UserError(f"{text} ({error}); name it as module:Class, or use one job") from error
    left, note = list(cells), ""
    while left and not follower.stopped:
        lost: set[str] = set()
        for ran in _shared(left, orders, jobs, follower, lost):
            yield replace(ran, remarks=(*ran.remarks, note)) if note else ran
            note = ""
        left = [cell for cell in left if cell.name in lost]
        if left and jobs == 1:  # they went in their order, so it was the first
            guilty = left.pop(0)
            reason = "its process was killed, perhaps for want of memory"
            yield Ran(
                Outcome(guilty.label, guilty.seed, "failed", reason=reason, at=guilty.at),
                remarks=(note,) if note else (),
            )
            note = ""
        elif left:
            note = "a process was killed, perhaps for want of memory, and from here on one ran alone; use fewer jobs"
        for cell in left:
            if orders.folder is not None:
                shutil.rmtree(orders.folder / cell.name, ignore_errors=True)
        jobs = 1


def _shared(cells: Sequence[Cell], orders: Orders, jobs: int, follower: Follower, lost: set[str]) -> Iterator[Ran]:
    """Run the cells in so many processes; the names of those that a killed process took along are added to `lost`."""
    context = multiprocessing.get_context("spawn")
    end, going_on = context.Pipe(duplex=False)  # an event would hang where one of those that wait was killed
    with ExitStack() as stack:
        pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_settle, initargs=(end,))
        stack.callback(end.close)
        stack.callback(pool.shutdown, cancel_futures=True)
        stack.callback(going_on.close)  # first of these, so that whoever leaves does not wait for long runs
        futures: dict[Future[Ran | None], Cell] = {}
        with _interrupts_held():
            for cell in cells:
                try:
                    futures[pool.submit(_work, cell, orders)] = cell
                except BrokenProcessPool:
                    lost.add(cell.name)
        left = set(futures)
        while left:
            done, left = wait(left, timeout=_LOOK, return_when=FIRST_COMPLETED)
            for future in done:
                try:
                    ran = future.result()
                except CancelledError:
                    continue
                except BrokenProcessPool:
                    lost.add(futures[future].name)
                    continue
                if ran is not None:
                    yield ran
            if follower.stopped and not going_on.closed:
                going_on.close()
                pool.shutdown(wait=False, cancel_futures=True)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """What starts here never receives Ctrl-C: the process that looks after it does, and tells it to stop."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_process: tuple[Follower, ExitStack] | None = None  # of a process that works on cells; None in any other


def _settle(end: Connection) -> None:
    """Begin a process of `_shared`, which stops when the other end of the pipe is closed or its owner is gone."""
    global _process  # noqa: PLW0603 - a pool gives its initializer no other place
    stack = ExitStack()
    stack.enter_context(data_kept())
    _process = Follower(), stack
    Thread(target=_obey, args=(end, _process[0]), daemon=True).start()


def _obey(end: Connection, follower: Follower) -> None:
    with suppress(EOFError):
        end.recv()  # nothing is ever sent
    follower.stop()


def _work(cell: Cell, orders: Orders) -> Ran | None:
    assert _process is not None
    return None if _process[0].stopped else _run(cell, orders, _process[0])
