"""The processes of a pool as Ray actors, rebuilt when they die.

Every call is kept until what it did is in a snapshot. When a process dies, a fresh one loads the last snapshot and is
told everything since then once more, from the same arguments, so that it does what the first one did. Calls of other
processes that waited for an answer of the dead one are lost, too; those behind them are refused, since calls are
numbered, and all of them are made again.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from fedsim.errors import RunError, UserError
from fedsim.runtime.cluster import session

RETRIES: Final = 3
"""How often the process of a share is replaced before the run gives up."""
PATIENCE: Final = 10.0
"""Seconds after which a process that does not begin is looked after; PyTorch alone takes two or three."""
EVERY: Final = 100
"""Calls after which a process is asked for a snapshot."""
KEPT: Final = 1 / 8
"""Of the object store, what answers of calls may hold before that; memory that is used again is faster, too."""

_PARTS: Final = 10_000  # of a resource, in which Ray counts

_log = logging.getLogger(__name__)


class OutOfTurn(Exception):
    """A call came before one that was lost."""


class Share:
    """A process: carries calls out, in their order or not at all.

    Args:
        make: makes what carries them out.
        turn: the number of the first one.
        snapshot: what is held before it; None: nothing.
    """

    def __init__(self, make: Callable[[], Any], turn: int, snapshot: bytes | None = None) -> None:
        self._keeper = make()
        self._turn = turn
        if snapshot is not None:
            self._keeper.restore(snapshot)

    def carry(self, turn: int, method: str, *args: Any) -> Any:
        """Carry a call out."""
        self._check(turn)
        found = getattr(self._keeper, method)(*args)
        self._turn += 1
        return found

    def snapshot(self, turn: int) -> tuple[bool, bytes | None]:
        """All that is held before a call; and whether that can be had now."""
        self._check(turn)
        found = self._keeper.snapshot()
        return found is not None, found

    def _check(self, turn: int) -> None:
        if turn != self._turn:
            raise OutOfTurn


@dataclass(slots=True, eq=False)
class Token:
    """A call with its answers, wherever they are; others once the call is made again."""

    number: int
    """Of the call, among those of all lanes."""
    lane: RayLane
    turn: int
    method: str
    args: tuple[Any, ...]
    answers: int
    references: list[Any] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Answer:
    """One of the answers of a call."""

    token: Token
    index: int

    @property
    def reference(self) -> Any:
        """Where it is, or will be."""
        return self.token.references[self.index]


class RayLane:
    """One process of a crew, and what is to be done again if it dies."""

    def __init__(self, crew: RayCrew, name: int) -> None:
        self._crew = crew
        self.name = name
        self.deaths = 0
        self.log: deque[Token] = deque()
        """Calls that are not in the snapshot."""
        self._turn = 0
        self._since = 0, 0
        """Calls, and bytes of their answers, since a snapshot was asked for."""
        self._base: tuple[int, Any] = (0, None)
        self._asked: tuple[int, Any, Any] | None = None  # a snapshot that is under way
        self._actor = crew.actor(0)

    def call(self, method: str, *args: Any, answers: int = 1, nbytes: int = 0) -> Sequence[Answer]:
        """Call it behind all calls before."""
        calls, held = self._since
        if calls >= EVERY or held > self._crew.room:
            asked = self._ask()
            calls, held = (0, 0) if asked else self._since
        self._since = calls + 1, held + nbytes
        token = Token(self._crew.number(), self, self._turn, method, args, answers)
        self._turn += 1
        self.log.append(token)
        self.issue(token)
        return [Answer(token, index) for index in range(answers)]

    def issue(self, token: Token) -> None:
        """Make a call, maybe again."""
        args = (arg.reference if isinstance(arg, Answer) else arg for arg in token.args)
        carry = self._actor.carry.options(num_returns=token.answers)
        made = carry.remote(token.turn, token.method, *args)
        token.references = [made] if token.answers == 1 else made

    def answer(self, token: Answer) -> Any:
        """Wait for an answer.

        Raises:
            RunError: the process has died too often.
            Exception: what the call has raised.
        """
        self._look()
        return self._crew.answer(token)

    def ask(self, question: Callable[[Any], Any]) -> Any:
        """What a function of the process's `Share` finds, behind all calls; beside the run, for measurements."""
        return self._crew.ask(self._actor, question)

    def wait(self) -> None:
        """Wait until the process is there."""
        self.ask(lambda _: None)

    @property
    def ready(self) -> Any:
        """What is there as long as the process lives."""
        return self._actor.__ray_ready__.remote()

    def rebuild(self) -> None:
        """Begin anew behind the last snapshot."""
        self._asked = None
        self._actor = self._crew.actor(*self._base)

    def kill(self) -> None:
        """End the process."""
        self._crew.kill(self._actor)

    def _ask(self) -> bool:
        """Ask for a snapshot, unless one is under way; whether it was."""
        self._look()
        if self._asked is not None:
            return False
        there, data = self._actor.snapshot.options(num_returns=2).remote(self._turn)
        self._asked = self._turn, there, data
        return True

    def _look(self) -> None:
        """Once a snapshot is there, nothing before it has to be done again."""
        if self._asked is None:
            return
        turn, there, data = self._asked
        done = self._crew.done(there)
        if done is None:
            return
        self._asked = None
        if done:
            self._base = turn, data
            while self.log and self.log[0].turn < turn:
                self.log.popleft()


class RayCrew:
    """The processes of a pool.

    Args:
        make: makes what carries out the calls, in each process.
        count: of processes; None: as many as there are cores for, or GPUs.
        threads: intra-op threads of each.
        gpus: whether each has a GPU, or a share of one.
        local: whether Ray is of this host alone.
        store: bytes of its object store.

    Raises:
        UserError: the cluster has not so many cores, or no GPU.
    """

    def __init__(
        self,
        make: Callable[[], Any],
        count: int | None,
        *,
        threads: int,
        local: bool,
        store: int,
        gpus: bool = False,
    ) -> None:
        import ray

        self._ray = ray
        self._make = make
        self._numbers = 0
        resources = ray.cluster_resources()  # type: ignore[no-untyped-call]
        cores, cards = resources.get("CPU", 1.0), int(resources.get("GPU", 0)) if gpus else 0
        if gpus and not cards:
            raise UserError(
                f"workers.processor: cuda, but Ray finds no GPU {'on this host' if local else 'in the cluster'}; give "
                "cpu, or machines with NVIDIA's driver"
            )
        if count is None:
            count = cards or max(1, int(cores // threads))
        if count * threads > cores and not local:
            raise UserError(
                f"{count} workers of {threads} thread{'s' * (threads > 1)} need more than the {cores:g} cores of the "
                "cluster; give a smaller workers.count, or auto"
            )
        self.room = KEPT * store / count
        """What answers of a lane's calls may hold until there is a snapshot."""
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        self._options: dict[str, Any] = {
            "num_cpus": min(threads, cores / count),
            "num_gpus": gpu_share(count, cards) if gpus else 0,
            "max_restarts": 0,
            "max_task_retries": 0,
            "runtime_env": {"env_vars": dict.fromkeys(names, str(threads))},
            "scheduling_strategy": "DEFAULT" if local else "SPREAD",
        }
        self.lanes: Sequence[RayLane] = [RayLane(self, name) for name in range(count)]

    def number(self) -> int:
        """Of a call."""
        self._numbers += 1
        return self._numbers

    def actor(self, turn: int, snapshot: Any = None) -> Any:
        """A process."""
        return self._ray.remote(Share).options(**self._options).remote(self._make, turn, snapshot)

    def ask(self, actor: Any, question: Callable[[Any], Any]) -> Any:
        """See `RayLane.ask`."""
        return self._ray.get(actor.__ray_call__.remote(question))

    def done(self, reference: Any) -> Any:
        """An answer, if it is there; false where it was lost."""
        if not self._ray.wait([reference], timeout=0)[0]:
            return None
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            self._check(error)
            return False

    def answer(self, token: Answer) -> Any:
        """Wait for an answer, whatever has to be done again for it."""
        while True:
            try:
                return self._ray.get(token.reference)
            except self._ray.exceptions.RayError as error:
                self._check(error)
                self._recover(error)

    def _check(self, error: Any) -> None:
        """Pass on what a call itself has raised; others are lost, because of a process that has died.

        Raises:
            Exception: that.
        """
        errors = self._ray.exceptions
        if isinstance(error, errors.RayTaskError) and not isinstance(error.cause, OutOfTurn | errors.RayError):
            raise error.cause from None

    def _recover(self, error: BaseException) -> None:
        """Replace the processes that have died, and make all calls again that they and others have missed."""
        again: list[Token] = []
        dead = 0
        for lane in self.lanes:
            if self._alive(lane):
                again += list(lane.log)[self._carried(lane) :]
                continue
            dead += 1
            lane.deaths += 1
            if lane.deaths > RETRIES:
                raise RunError(
                    f"the process of worker {lane.name} has died {lane.deaths} times ({_first_line(error)}); give it "
                    "more memory, or run with fewer workers"
                ) from None
            _log.warning("the process of worker %d has died; another one does its work again", lane.name)
            lane.rebuild()
            self._see_to_room(lane)
            again += lane.log
        if not dead:
            raise RunError(f"what a worker had made is lost ({_first_line(error)}), so the run cannot go on") from None
        for token in sorted(again, key=lambda token: token.number):
            token.lane.issue(token)

    def _see_to_room(self, lane: RayLane) -> None:
        """Wait for a process that replaces one; where a machine is gone with its cores, it shares one of the others'.

        Raises:
            RunError: there is no GPU left for it.
        """
        while not self._ray.wait([lane.ready], timeout=PATIENCE)[0]:
            there = self._ray.cluster_resources()  # type: ignore[no-untyped-call]
            needed = {"CPU": self._options["num_cpus"], "GPU": self._options["num_gpus"]}
            short = [name for name, each in needed.items() if there.get(name, 0) < each * len(self.lanes)]
            if "GPU" in short:
                raise RunError(
                    f"a machine of the cluster is gone, and no GPU is left for worker {lane.name}; start again with "
                    "fewer workers"
                )
            if short:
                _log.warning("the cluster has fewer cores than workers now; worker %d shares one", lane.name)
                self._options["num_cpus"] = 0
                lane.rebuild()

    def _carried(self, lane: RayLane) -> int:
        """How many calls of its log a lane has carried out.

        Raises:
            Exception: what one of them has raised.
        """
        for carried, token in enumerate(lane.log):
            try:
                self._ray.get(token.references[0])
            except self._ray.exceptions.RayError as error:
                self._check(error)
                return carried
        return len(lane.log)

    def _alive(self, lane: RayLane) -> bool:
        try:
            self._ray.get(lane.ready)
        except self._ray.exceptions.RayActorError:
            return False
        return True

    def kill(self, actor: Any) -> None:
        """End a process."""
        self._ray.kill(actor)


def gpu_share(count: int, cards: int) -> float:
    """How much of a GPU each of so many processes has, so that all of them find room on so many cards.

    Ray counts in ten-thousandths and rounds to the nearest: a seventh would be 0.1429, and the last one would wait for
    ever.
    """
    return _PARTS // -(-count // cards) / _PARTS


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]


@contextmanager
def crew(
    make: Callable[[], Any], count: int | None, *, threads: int, gpus: bool = False, address: str | None, store: int
) -> Iterator[RayCrew]:
    """Processes for the time of a run.

    Raises:
        UserError: there is no such cluster, or it has too few cores, or no GPU.
    """
    with session(address, store=store) as local:
        made = RayCrew(make, count, threads=threads, local=local, store=store, gpus=gpus)
        try:
            yield made
        finally:
            for lane in made.lanes:
                lane.kill()
