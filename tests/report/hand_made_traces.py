"""Traces written by hand, in nanoseconds small enough to work results out on paper."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fedsim.report.columns import Columns, tabulate
from fedsim.report.idle import CAUSES, account, pieces
from fedsim.script import SERVER
from fedsim.trace import Mark, Node, Span, Trace, Transfer, Wait

SCENARIO = {
    "name": "by-hand",
    "seed": 7,
    "scheduler": {"name": "fedavg", "local_steps": 2},
    "mode": "simulate",
    "until": {"accuracy": 0.5, "rounds": 2},
}


@dataclass
class Tape:
    """Records a trace of `devices` devices and a server that all join at 0."""

    devices: int
    end: int
    scenario: Mapping[str, Any] = field(default_factory=lambda: dict(SCENARIO))
    lanes: int = 1
    trace: Trace = field(init=False)

    def __post_init__(self) -> None:
        server = Node(SERVER, "server", "a6000", -1, self.lanes, 0, 100.0, 300.0, 48e9)
        boards = [Node(k, f"device-{k}", "pi", k % 2, 1, 50, 2.0, 6.0, 4e9) for k in range(self.devices)]
        self.trace = Trace((server, *boards), self.scenario, end=self.end)

    def span(self, node: int, start: int, end: int, kind: str = "step", **more: Any) -> None:
        """Computing; macs, forward_macs, head_macs, samples, lane and wasted by name."""
        known = {"lane": 0, "macs": 0, "forward_macs": 0, "samples": 0, "wasted": False, "head_macs": 0} | more
        self.trace.spans.append(tuple(Span(node=node, kind=kind, start=start, end=end, **known)))

    def send(self, source: int, target: int, role: str, queued: int, arrived: int, **more: Any) -> int:
        """A transfer; bytes by purpose, message and outcome by name. Returns its number."""
        number = len(self.trace.transfers)
        known: dict[str, Any] = dict.fromkeys(("weights", "activations", "gradients", "labels", "control"), 0)
        known |= {"message": role.capitalize(), "outcome": "delivered", "started": queued} | more
        ends: dict[str, Any] = {"number": number, "source": source, "target": target, "role": role}
        self.trace.transfers.append(tuple(Transfer(**ends, queued=queued, arrived=arrived, **known)))
        return number

    def wait(self, node: int, start: int, end: int, awaited: str, message: int = -1) -> None:
        """A wait, ended by a message or by nothing."""
        self.trace.waits.append(tuple(Wait(node, start, end, awaited, SERVER, message)))

    def round(
        self,
        number: int,
        start: int,
        end: int | None,
        nodes: Iterable[int],
        need: int | None = None,
        until: int | None = None,
    ) -> None:
        """A barrier; one without an end is still open when the run ends. Its time is up at `until`."""
        chosen = list(nodes)
        detail: dict[str, Any] = {"nodes": chosen, "need": len(chosen) if need is None else need}
        detail |= {} if until is None else {"until": until}
        self.trace.mark(SERVER, start, "round.open", number, detail)
        if end is not None:
            self.trace.mark(SERVER, end, "round.close", number)

    def evaluate(self, time: int, accuracy: float, loss: float, trained: int, version: int = 0) -> None:
        """An evaluation of the published model."""
        detail = {"loss": loss, "samples": 10, "version": version, "trained": trained}
        self.trace.marks.append(tuple(Mark(SERVER, time, "evaluate", accuracy, json.dumps(detail))))

    @property
    def columns(self) -> Columns:
        """The trace in columns."""
        return tabulate(self.trace)


def idle_of(trace: Trace, node: int) -> dict[str, int]:
    """Nanoseconds by cause of one node, without the causes it does not have."""
    columns = tabulate(trace)
    row = [one.number for one in trace.nodes].index(node)
    amounts = account(columns).idle[:, row].tolist()
    return {cause: ns for cause, ns in zip(CAUSES, amounts, strict=True) if ns}


def pieces_of(trace: Trace, node: int) -> list[tuple[int, int, str]]:
    """The pieces of one node: start, end, cause."""
    columns = tabulate(trace)
    row = [one.number for one in trace.nodes].index(node)
    found = pieces(columns)
    here = np.flatnonzero(found.node == row).tolist()
    return [(int(found.start[i]), int(found.end[i]), CAUSES[int(found.cause[i])]) for i in here]


def fedavg() -> Tape:
    """One round of two devices, the second one slower; the server aggregates from 60 to 70 and the run ends at 80.

    Down 0-10, computing 10-20 and 10-40, up 20-30 and 40-60.
    """
    tape = Tape(2, 80)
    tape.round(1, 0, 60, [0, 1])
    for device, ready, arrived in ((0, 20, 30), (1, 40, 60)):
        model = tape.send(SERVER, device, "model", 0, 10, weights=100, control=4)
        tape.wait(device, 0, 10, "model", model)
        tape.span(device, 10, ready, macs=30, forward_macs=10, samples=8)
        update = tape.send(device, SERVER, "contribution", ready, arrived, weights=100, control=4)
        tape.wait(device, ready, 80, "model")
        tape.wait(SERVER, 0 if device == 0 else 30, arrived, "contribution|control", update)
    tape.span(SERVER, 60, 70, "aggregate", macs=5)
    tape.evaluate(70, 0.6, 1.5, 16, version=1)
    tape.wait(SERVER, 70, 80, "control")
    return tape
