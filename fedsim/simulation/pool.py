"""Many processes that do the real work of a simulation, each for a share of the nodes.

The kernel never waits for a work: what it hands on are names, so it runs ahead of the processes, until somebody asks
how good a model is or too much is under way. A node's commands run where the node is, in the order in which they were
given. A value that another share needs goes there directly, once, and never comes by here. Means are summed up where
their members are, by runs that are the same for any number of processes, so the bits are, too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final
from weakref import ref

from fedsim.learning.learners import meta_of
from fedsim.learning.sums import run_of
from fedsim.runtime.encoding import Forget, Give, GiveSums, Join, Key, Leave, Run, Settle, Take, key_of
from fedsim.script import SERVER, Command, Payload, Quality
from fedsim.simulation.calls import Due, Lane, Way

LARGE: Final = 2**22
"""Bytes of a sum that is sent while others are still made; smaller ones go together."""
FEW: Final = 16
"""Values that may wait to be let go of while a call comes together."""
WINDOW: Final = 64
"""Calls that may be under way in one process."""


@dataclass(slots=True)
class _Value:
    """What is known of a value, wherever it is."""

    alive: ref[Payload]
    """Tells when nobody can name it any more."""
    maker: tuple[bool, str]
    """Whether the server made it, and by which method."""
    where: list[int]
    """The lanes that have it, its maker's first."""
    due: Due | None = None
    """Where a call of its maker's lane answers with it."""


@dataclass(slots=True)
class _Sum:
    """A mean that is under way: which runs are summed up where."""

    opening: Command
    run_of: Mapping[int, int]
    waiting: Counter[int]
    """By run, how many of its members have not come."""
    place: dict[int, int] = field(default_factory=dict)
    """By run, the lane that sums it up."""
    rest: dict[int, dict[int, int]] = field(default_factory=dict)
    """By lane other than the mean's own, the runs whose sums it has not given yet, with their bytes."""
    given: list[Due] = field(default_factory=list)
    """Sums of runs of other lanes."""


class Pool:
    """Workers of a simulation in other processes; the same trace and weights as `Inline`, for any number of them.

    Args:
        lanes: the processes.
        loads: what each node's work is about, in any unit; devices are put where least is to do.
    """

    def __init__(self, lanes: Sequence[Lane], loads: Mapping[int, float]) -> None:
        self._ways = [Way(lane) for lane in lanes]
        self._loads = loads
        self._home = {SERVER: 0}
        self._held: Counter[int] = Counter()
        self._values: dict[Key, _Value] = {}
        self._travels = {(True, "mean.result")}
        """Makers of values that other shares are likely to ask for."""
        self._sums: dict[tuple[int, int], _Sum] = {}
        self._spread(sorted(node for node in loads if node != SERVER))

    # ------------------------------------------------------------------------------------- as `Workers`

    def start(self, node: int, commands: Sequence[Command]) -> None:
        """Order the commands of a work."""
        for command in commands:
            self._order(command, work=True)

    def finish(self, node: int) -> None:
        """Nothing: its results are names, and whoever uses them waits where the work is."""

    def queue(self, command: Command) -> None:
        """Order the command."""
        self._order(command, work=False)

    def forget(self, node: int) -> None:
        """Drop what it holds."""
        del self._held[node]
        home = self._home.get(node)
        if home is not None:
            self._ways[home].orders.append(Forget(node))

    def evaluate(self, model: Sequence[Payload], split: str) -> Quality | None:
        """Measure where the server is, when all that came before is done there."""
        quality: Quality = self._asked("evaluate", model, split)
        return quality

    # ---------------------------------------------------------------------------------------- to the end

    def model_tensors(self, model: Sequence[Payload]) -> Any:
        """A published model's tensors, by name."""
        return self._asked("model_tensors", model)

    def close(self) -> None:
        """Wait until everything is done.

        Raises:
            Exception: what a work has raised.
        """
        self._flush()
        for way in self._ways:
            way.settle(0)

    def _asked(self, method: str, model: Sequence[Payload], *args: Any) -> Any:
        home = self._home[SERVER]
        for payload in model:
            self._bring(payload, home)
        way = self._ways[home]
        named = way.encoder.payloads(tuple(model))
        self._flush()
        way.settle(0)  # an error of a work before comes first
        (token,) = way.lane.call(method, named, *args)
        return way.lane.answer(token)

    def _flush(self) -> None:
        for way in self._ways:
            way.hand_over()

    # ------------------------------------------------------------------------------------------ commands

    def _order(self, command: Command, *, work: bool) -> None:
        node = command.node
        if command.holds:
            self._held[node] += command.holds
        match command.method:
            case "mean.open":
                self._open(command)
            case "mean.add":
                self._add(command)
            case "mean.result":
                self._result(command)
            case _:
                self._send(command, self._home[node], work=work)

    def _send(self, command: Command, to: int, *, work: bool = False) -> None:
        """Order a command of a lane, behind the values that it needs."""
        way = self._ways[to]
        if work and way.urgent:
            way.hand_over()
        encoded, named = way.encoder.encode(command)
        for payload in named:
            if payload is not command.output:
                self._bring(payload, to)
        way.let_go(FEW)
        way.orders.append(Run(encoded))
        if command.output is not None:
            self._made(command, command.output, to)
        if way.full:
            self._hand_over(way)

    def _hand_over(self, way: Way) -> None:
        """Make a call, and wait where too much is under way; others are not to wait meanwhile for what is theirs."""
        way.hand_over()
        if len(way.running) > WINDOW:
            for other in self._ways:
                if not other.running:
                    other.hand_over()
            way.settle(WINDOW)

    def _made(self, command: Command, payload: Payload, at: int) -> None:
        """A value will be there; one of a kind that has travelled before is given at once."""
        key, maker = key_of(payload), (command.node == SERVER, command.method)
        value = self._values[key] = _Value(ref(payload, partial(self._drop, key)), maker, [at])
        if maker in self._travels and (command.node == SERVER or at != self._home[SERVER]):
            value.due = self._give(payload, at, urgent=command.node == SERVER)  # many may wait for it

    def _give(self, payload: Payload, lane: int, *, urgent: bool = False) -> Due:
        way = self._ways[lane]
        return way.give(Give(way.encoder.payloads((payload,))), meta_of(payload).memory_bytes, urgent=urgent)

    def _drop(self, key: Key, _: object = None) -> None:
        """Nobody can name it any more."""
        for lane in self._values.pop(key).where:
            self._ways[lane].dropped.append(key)

    def _bring(self, payload: Payload, to: int) -> None:
        """See to it that a lane has a value before its next order."""
        value = self._values[key_of(payload)]
        if to in value.where:
            return
        way = self._ways[to]
        if value.due is None:
            self._travels.add(value.maker)
            value.due = self._give(payload, value.where[0])
        if value.due.token is None:
            value.due.way.hand_over()
        way.take(value.due, partial(Take, way.encoder.payloads((payload,))))
        value.where.append(to)

    # --------------------------------------------------------------------------------------------- means

    def _open(self, command: Command) -> None:
        expected = command.args[2]
        assert isinstance(expected, tuple)
        command = replace(command, args=(*command.args, len(self._ways) == 1))
        numbers = run_of(expected)
        self._sums[command.node, command.learner] = _Sum(command, numbers, Counter(numbers.values()))
        self._send(command, self._home[command.node])
        if command.node == SERVER:
            self._spread(expected)

    def _add(self, command: Command) -> None:
        """Add a member where its run is summed up: where the first one of the run is."""
        member, weights, _ = command.args
        assert isinstance(member, int) and isinstance(weights, Payload)
        made = self._sums[command.node, command.learner]
        home = self._home[command.node]
        run = made.run_of[member]
        if run not in made.place:
            where = self._values[key_of(weights)].where
            lane = home if home in where else where[0]
            if lane != home and lane not in made.place.values():
                names, part, expected, *_ = made.opening.args
                opening = Command(command.node, command.learner, "mean.open", (names, part, expected, None, False))
                self._send(opening, lane)
            made.place[run] = lane
        lane = made.place[run]
        self._send(command, lane)
        made.waiting[run] -= 1
        if lane == home:
            return
        rest = made.rest.setdefault(lane, {})
        rest[run] = max(rest.get(run, 0), meta_of(weights).memory_bytes)
        if made.waiting[run]:
            return
        complete = [run for run in rest if not made.waiting[run]]
        if sum(rest[run] for run in complete) >= LARGE:
            self._give_sums(command, lane, complete)
            self._hand_over(self._ways[lane])

    def _result(self, command: Command) -> None:
        home = self._home[command.node]
        for lane in self._sums[command.node, command.learner].rest:
            self._give_sums(command, lane)
        made = self._sums.pop((command.node, command.learner))
        for due in made.given:
            self._ways[home].take(due, partial(Join, command.node, command.learner))
        self._send(command, home, work=True)

    def _give_sums(self, command: Command, lane: int, runs: Sequence[int] | None = None) -> None:
        """Let a lane give the sums of runs, or, the last time, of all that are left."""
        made = self._sums[command.node, command.learner]
        rest = made.rest[lane]
        nbytes = sum(rest.pop(run) for run in (tuple(rest) if runs is None else runs))
        order = GiveSums(command.node, command.learner, runs)
        made.given.append(self._ways[lane].give(order, nbytes, urgent=True))

    # ------------------------------------------------------------------------------------------ placing

    def _spread(self, nodes: Sequence[int]) -> None:
        """Put nodes where their runs are to be summed up; those that hold something stay where they are."""
        loads = [0.0] * len(self._ways)
        loads[self._home[SERVER]] = self._loads.get(SERVER, 0.0)
        movable = [node for node in nodes if self._held[node] == 0]
        for node in nodes:
            if self._held[node]:
                loads[self._home[node]] += self._loads[node]
        runs: dict[int, list[int]] = {}
        numbers = run_of(nodes)
        for node in movable:
            runs.setdefault(numbers[node], []).append(node)
        moves: dict[tuple[int, int], list[int]] = {}
        weigh = {run: sum(self._loads[node] for node in members) for run, members in runs.items()}
        for run in sorted(runs, key=lambda run: (-weigh[run], run)):
            lane = min(range(len(loads)), key=lambda lane: (loads[lane], lane))
            loads[lane] += weigh[run]
            for node in runs[run]:
                before = self._home.get(node)
                self._home[node] = lane
                if before not in (None, lane):
                    moves.setdefault((before, lane), []).append(node)
        left = {move: self._ways[move[0]].give(Leave(nodes), 0, urgent=True) for move, nodes in moves.items()}
        for (_, lane), due in left.items():
            self._ways[lane].take(due, Settle)
