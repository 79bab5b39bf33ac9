"""`fedsim validate`: a scenario on both clocks, and how far they are apart."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedsim.cli import INTERRUPTED
from fedsim.cli.app import FAILED, complain
from fedsim.cli.printing import wide_console
from fedsim.cli.watching import Bar, Interruptible, interrupts
from fedsim.experiment.building import Study
from fedsim.experiment.loading import load_scenario
from fedsim.experiment.running import Clocked, Watcher
from fedsim.experiment.validating import Validation, validate
from fedsim.report.agreement import SHARE_WITHIN, TOTAL_WITHIN, Agreement, Pair
from fedsim.report.show import percent
from fedsim.units import human_count, human_seconds

_SLIGHT: Final = 0.001
"""Of a node's time: a cause that takes less is not listed."""


class Follower(Watcher):
    """Hands on what a run says, and knows whether it has begun."""

    def __init__(self, inner: Interruptible) -> None:
        self.inner = inner
        self.begun = False

    def warn(self, text: str) -> None:
        """Something to know."""
        self.inner.warn(text)

    def begin(self, study: Study, simulation: Clocked) -> None:
        """The clock is about to start."""
        self.begun = True
        self.inner.begin(study, simulation)

    def mark(self, name: str, value: float) -> None:
        """A moment."""
        self.inner.mark(name, value)

    def end(self) -> None:
        """The clock has stopped."""
        self.inner.end()


class Followers:
    """What follows the runs one after another, and answers Ctrl-C for the one that goes on.

    A simulation is stopped or left as by `fedsim run`. An emulation has processes to end: whoever cannot wait for it to
    begin, or to stop, gets an exception, not an exit.
    """

    def __init__(self, name: str, *, looked_at: bool) -> None:
        self._name = name
        self._looked_at = looked_at
        self._current: Follower | None = None
        self._emulating = False

    def __call__(self, what: str) -> Watcher:
        """What follows the next run; none begins after Ctrl-C."""
        if self.pressed:
            raise KeyboardInterrupt
        self._emulating = what.startswith("emulation")
        bar = Bar(Console(stderr=True), f"{self._name} · {what}") if self._looked_at else Interruptible()
        self._current = Follower(bar)
        return self._current

    @property
    def pressed(self) -> bool:
        """Whether somebody has pressed Ctrl-C."""
        return self._current is not None and self._current.inner.pressed

    def interrupt(self, signal: int, frame: FrameType | None) -> None:
        """Handle SIGINT."""
        current = self._current
        if current is None or (self._emulating and (self.pressed or not current.begun)):
            raise KeyboardInterrupt
        current.inner.interrupt(signal, frame)


def validate_command(source: str, overrides: Sequence[str], *, repeat: int, out: Path | None, as_json: bool) -> int:
    """Validate from the command line; returns the exit status."""
    scenario = load_scenario(source, overrides=overrides)
    looked_at = sys.stderr.isatty() and not as_json
    followers = Followers(f"{scenario.name} · {scenario.scheduler.name}", looked_at=looked_at)
    with interrupts(followers.interrupt):
        done = validate(scenario, repeat=repeat, out=out, watch=followers)
    if done.verdict is None:
        kept = f"; {out} holds what was run up to there" if out is not None else ""
        complain(f"interrupted{kept}")
        return INTERRUPTED
    if as_json:
        print(json.dumps(done.document(), indent=1))
    else:
        show(done, wide_console())
        if out is not None:
            print(f"\n{out}")
    for remark in done.remarks():
        print(f"note: {remark}", file=sys.stderr)
    if followers.pressed:
        return INTERRUPTED
    return 0 if done.verdict.holds else FAILED


def show(done: Validation, console: Console) -> None:
    """Print length, phases, nodes, bytes, the first difference and the verdict."""
    decided = done.verdict
    assert decided is not None
    one = done.agreements[done.typical]
    count = len(done.agreements)
    console.print(Text(f"{done.scenario.name} · {done.scenario.scheduler.name}", "bold"))
    if count > 1:
        console.print(Text(f"{count} emulations; shown: emulation {done.typical + 1}; off: the median of all", "dim"))
    for table in (_lengths(one, decided.total), _nodes(done, one), _causes(one), _bytes(one)):
        console.print(table)
        console.print()
    _differences(one, console)
    if one.weights is not None:
        console.print(Text(f"final weights: {'the same to the bit' if one.weights else 'differ'}"))
    rule = f"length within {TOTAL_WITHIN:.0%}, busy and idle within {SHARE_WITHIN * 100:.0f} points, bytes equal"
    if decided.holds:
        console.print(Text(f"agrees: {rule}", "bold green"), soft_wrap=True)
        return
    console.print(Text(f"does not agree ({rule}):", "bold red"), soft_wrap=True)
    for miss in decided.misses:
        console.print(Text(f"  {miss}"), soft_wrap=True)


def _table(*heads: str, left: int = 1) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, head in enumerate(heads):
        table.add_column(Text(head), justify="left" if index < left else "right", no_wrap=index >= left)
    return table


def _lengths(one: Agreement, total: float) -> Table:
    """The length of the run, and seconds by phase."""
    table = _table("seconds", "simulated", "emulated", "off")
    signed = math.copysign(total, one.seconds.error)
    table.add_row(Text("length of the run", "bold"), *map(human_seconds, _both(one.seconds)), _share(signed))
    for phase in one.phases:
        label = Text(f"{phase.phase}, all nodes", "bold") if not phase.kind else Text(f"  {phase.kind}")
        table.add_row(label, *map(human_seconds, _both(phase.seconds)), _share(phase.seconds.error))
    return table


def _nodes(done: Validation, one: Agreement) -> Table:
    """Shares of every node, and when its last work ended."""
    table = _table("node", "busy", "emulated", "off", "idle", "emulated", "off", "last work", "emulated", "off")
    assert done.verdict is not None
    for node, errors in zip(one.nodes, done.verdict.nodes, strict=True):
        table.add_row(
            Text(node.name),
            *(*map(percent, _both(node.busy)), _points(math.copysign(errors.busy, node.busy.difference))),
            *(*map(percent, _both(node.idle)), _points(math.copysign(errors.idle, node.idle.difference))),
            *(*map(human_seconds, _both(node.finish)), _share(node.finish.error)),
        )
    return table


def _causes(one: Agreement) -> Table:
    """Idle time of every node by cause."""
    table = _table("node", "idle by cause", "simulated", "emulated", "off", left=2)
    for node in one.nodes:
        for cause, pair in node.causes.items():
            if max(_both(pair)) >= _SLIGHT:
                table.add_row(Text(node.name), cause, *map(percent, _both(pair)), _points(pair.difference))
    return table


def _bytes(one: Agreement) -> Table:
    """Payload by direction and purpose, messages by type, and what went over the wire."""
    table = _table("sent", "simulated", "emulated", "off")
    for payload in one.payload:
        label = f"{payload.direction}, {payload.purpose}"
        table.add_row(label, *(human_count(n, "B") for n in _both(payload.nbytes)), _amount(payload.nbytes, "B"))
    for messages in one.messages:
        label = f"{messages.direction}, messages {messages.message}"
        table.add_row(Text(label), *(f"{n:g}" for n in _both(messages.count)), _amount(messages.count, ""))
    if one.wire is not None:
        wire = one.wire
        said = f"{human_count(wire.nbytes, 'B')} in {wire.frames} frames"
        most = f"at most {human_count(wire.most, 'B')}"
        table.add_row("on the wire", most, said, "as it should be" if wire.within else "out of bounds")
    return table


def _differences(one: Agreement, console: Console) -> None:
    """The first difference of each kind, in the order in which to look for reasons."""
    if not one.differences:
        console.print(Text("no event differs"))
        return
    table = _table("first difference", "node", "at", "event", "simulated", "emulated", left=4)
    for found in one.differences:
        values = (_value(value) for value in (found.simulated, found.emulated))
        table.add_row(found.what, Text(found.node), human_seconds(found.time), Text(found.event), *values)
    console.print(table)


def _value(value: float | str) -> Text:
    return Text(value if isinstance(value, str) else human_seconds(value))


def _both(pair: Pair) -> Iterator[float]:
    yield pair.simulated
    yield pair.emulated


def _share(error: float) -> str:
    if not error:
        return "0"
    return f"{error * 100:+.2f} %" if math.isfinite(error) else "–"


def _points(difference: float) -> str:
    return f"{difference * 100:+.2f}" if difference else "0"


def _amount(pair: Pair, unit: str) -> str:
    return f"{pair.difference:+g} {unit}".rstrip() if pair.difference else "equal"
