"""The figures of an emulation so far, from notes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fedsim.emulation.records.collecting import Collection
from fedsim.emulation.records.reading import Reading
from fedsim.emulation.records.recording import CAME, Notes
from fedsim.report.summary import summarise
from fedsim.runtime.sofar import SoFar
from fedsim.schedulers.pipar import PiPar
from fedsim.script import SERVER, Quality
from fedsim.simulation import Fault
from fedsim.testing import simulate, toy
from fedsim.trace import Trace


def rows(trace: Trace) -> list[tuple[int, list[Any]]]:
    """What the nodes of a run would have noted, in the order of time: whose it is, and the note."""
    found: list[tuple[int, int, list[Any]]] = []
    for span in trace.spans:
        found.append((span[4], span[0], ["span", *span]))
    for mark in trace.marks:
        whose = mark[0] if mark[2] == "end" else SERVER  # the server notes who is there
        found.append((mark[1], whose, ["mark", *mark]))
    for sent in trace.transfers:
        if sent[13] == "delivered":
            found.append((sent[12], sent[2], [CAME, *sent[:10], sent[14], sent[12]]))
    return [(whose, row) for _, whose, row in sorted(found, key=lambda one: one[0])]


@pytest.mark.slow
def test_figures_of_notes_become_those_of_the_trace() -> None:
    """However often somebody looks: bytes by direction, idle times with a device that leaves, rounds and models."""
    outcome = simulate(toy(PiPar(micro_batches=3), devices=3, faults=[Fault(device=1, leave=0.006)]), learning=False)
    trace = outcome.simulation.trace
    summary = summarise(trace, status="done", wall_seconds=1.0)
    reading, notes, collection = Reading(3, {}), Notes(), Collection(None)
    seen: list[SoFar] = []
    for count, (whose, row) in enumerate(rows(trace)):
        if whose == SERVER:
            {"span": notes.trace.spans, "mark": notes.trace.marks, CAME: notes._came}[row[0]].append(tuple(row[1:]))
        else:
            collection.add(whose, [json.dumps(row)])
        if count % 7 == 0:
            seen.append(reading.look(notes, collection, trace.end))
    reading.measured(Quality(0.5, 1.5, 10))
    last = reading.look(notes, collection, trace.end)
    assert last == reading.look(notes, collection, trace.end), "nothing counts twice"
    assert last.up == sum(summary["bytes"]["up"].values()) > 0
    assert last.down == sum(summary["bytes"]["down"].values()) > 0
    assert last.server_idle == pytest.approx(summary["server"]["idle"], rel=1e-12)
    assert last.devices_idle == pytest.approx(summary["devices"]["idle"], rel=1e-12)
    assert (last.present, last.devices, last.accuracy, last.best_loss) == (2, 3, 0.5, 1.5)
    assert last.rounds == [mark[2] for mark in trace.marks].count("round.close")
    assert [one.up for one in seen] == sorted(one.up for one in seen)
    assert seen[0].accuracy is None
