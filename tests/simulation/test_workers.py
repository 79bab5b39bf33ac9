"""Who does the real work: order of commands, and what is forgotten."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from fedsim.script import Command, Payload, Quality
from fedsim.simulation import Inline, TimingOnly, Workers
from tests.simulation.toys import payload


class Notes:
    """A host that writes down what it is told; method `fail` fails."""

    def __init__(self) -> None:
        self.done: list[tuple[int, str]] = []

    def run(self, command: Command) -> None:
        """Write it down."""
        if command.method == "fail":
            raise ValueError("the work failed")
        self.done.append((command.node, command.method))

    def forget(self, node: int) -> None:
        """Write it down."""
        self.done.append((node, "forget"))

    def evaluate(self, model: Sequence[Payload], split: str) -> Quality:
        """Half right."""
        return Quality(0.5, len(model), len(split))


def command(method: str, node: int = 0) -> Command:
    """A command."""
    return Command(node, 1, method)


def test_works_run_when_their_end_is_due() -> None:
    """Those of another node stay where they are."""
    host = Notes()
    workers = Inline(host)
    workers.start(0, [command("train"), command("mix")])
    workers.start(1, [command("train", 1)])
    assert host.done == []
    workers.finish(0)
    assert host.done == [(0, "train"), (0, "mix")]
    workers.finish(1)
    workers.finish(1)
    assert host.done[2:] == [(1, "train")]


def test_a_command_without_time_runs_at_once_or_behind_what_has_begun() -> None:
    """Commands of a node run in the order in which they were given."""
    host = Notes()
    workers = Inline(host)
    workers.queue(command("load"))
    workers.start(0, [command("train")])
    workers.queue(command("weights"))
    workers.queue(command("load", 1))
    assert host.done == [(0, "load"), (1, "load")]
    workers.finish(0)
    assert host.done[2:] == [(0, "train"), (0, "weights")]


def test_what_a_node_was_told_is_dropped_when_it_leaves() -> None:
    """Work that has begun never runs."""
    host = Notes()
    workers = Inline(host)
    workers.start(0, [command("train")])
    workers.forget(0)
    workers.finish(0)
    assert host.done == [(0, "forget")]


def test_an_error_of_the_work_passes_through() -> None:
    """Nothing is swallowed, and what came after it is not run by a later call."""
    host = Notes()
    workers = Inline(host)
    workers.start(0, [command("fail"), command("train")])
    with pytest.raises(ValueError, match="the work failed"):
        workers.finish(0)
    workers.finish(0)
    assert host.done == []


def test_inline_measures_at_once() -> None:
    """The host's answer is passed on."""
    assert Inline(Notes()).evaluate((payload(1),), "test") == Quality(0.5, 1, 4)


def test_timing_only_does_nothing_and_knows_no_quality() -> None:
    """It takes every call that the engine makes."""
    workers: Workers = TimingOnly()
    workers.start(0, [command("train")])
    workers.queue(command("load"))
    workers.finish(0)
    workers.forget(0)
    assert workers.evaluate((payload(1),), "test") is None
