"""What devices give, counted by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fedsim.errors import AccountingError
from fedsim.report.contributions import contributions, jain
from fedsim.report.measures import measure
from fedsim.report.summary import summarise
from fedsim.report.tables import NODES, node_rows
from fedsim.script import SERVER
from tests.report.hand_made_traces import Tape


def fedoptima() -> Tape:
    """Two devices of an asynchronous split system: four batches and one update of device 0, three batches of device 1.

    Device 0 offers 4 and sends 3: two are consumed, one is rejected. Device 1 offers 3 and sends 2: one is consumed,
    one is under way at the end. Its last step was lost with it.
    """
    tape = Tape(2, 100)
    for device, steps in ((0, 4), (1, 3)):
        for step in range(steps):
            tape.span(device, 10 * step, 10 * step + 10, samples=8, wasted=(device, step) == (1, 2))
        tape.trace.mark(device, 10 * steps, "skipped")
    for device, arrived, outcome in (
        *((0, 20, "delivered"), (0, 30, "delivered"), (0, 40, "delivered")),
        *((1, 20, "delivered"), (1, 100, "in flight")),
    ):
        tape.send(device, SERVER, "activations", 10, arrived, activations=64, outcome=outcome)
    tape.send(0, SERVER, "contribution", 40, 50, weights=10)
    tape.send(SERVER, 0, "activations", 50, 60)  # none of a device's
    for device, name in ((0, "consumed"), (0, "consumed"), (1, "consumed"), (0, "rejected")):
        tape.trace.mark(SERVER, 60, name, device)
    return tape


def test_each_step_of_a_batch_is_counted_for_its_device() -> None:
    """Offered is sent and skipped; wasted steps train nothing; what is in flight was sent."""
    found = contributions(fedoptima().columns)
    counts = {
        name: getattr(found, name).tolist()
        for name in ("trained", "offered", "sent", "skipped", "rejected", "consumed", "delivered")
    }
    assert counts == {
        "trained": [0, 4, 2],
        "offered": [0, 4, 3],
        "sent": [0, 3, 2],
        "skipped": [0, 1, 1],
        "rejected": [0, 1, 0],
        "consumed": [0, 2, 1],
        "delivered": [0, 1, 0],
    }
    assert found.kind == "consumed"


def test_contributions_are_batches_consumed_where_the_server_counts_them() -> None:
    """Else updates delivered; the totals are those of all devices."""
    tape = fedoptima()
    found = summarise(tape.trace, status="done", wall_seconds=1.0)["contributions"]
    assert found == {
        **{"min": 1, "max": 2, "jain": pytest.approx(3**2 / (2 * (2**2 + 1))), "kind": "consumed"},
        **{"trained": 6, "offered": 7, "sent": 5, "skipped": 2, "rejected": 1, "consumed": 3, "delivered": 1},
        **{"dropped_samples": None, "coverage": None},
    }
    tape.trace.marks = [mark for mark in tape.trace.marks if mark[2] != "consumed"]
    found = summarise(tape.trace, status="done", wall_seconds=1.0)["contributions"]
    assert (found["kind"], found["min"], found["max"], found["jain"], found["consumed"]) == (
        "delivered",
        0,
        1,
        0.5,
        None,
    )


def test_what_was_left_out_is_said_where_a_system_says_so() -> None:
    """Samples of micro-batches that nobody took, added up; the share of the data that a pool had in the end."""
    tape = fedoptima()
    tape.trace.mark(0, 10, "dropped", 2)
    tape.trace.mark(1, 20, "dropped", 3)
    tape.trace.mark(SERVER, 30, "coverage", 0.75)
    found = summarise(tape.trace, status="done", wall_seconds=1.0)["contributions"]
    assert (found["dropped_samples"], found["coverage"]) == (5, 0.75)


def test_every_device_has_its_counts_in_the_table() -> None:
    """The server has none."""
    rows: list[dict[str, Any]] = [dict(zip(NODES, row, strict=True)) for row in node_rows(measure(fedoptima().trace))]
    names = ("contributions", "trained", "offered", "sent", "skipped", "rejected", "consumed", "delivered")
    assert [[row[name] for name in names] for row in rows] == [
        [None] * 8,
        [2, 4, 4, 3, 1, 1, 2, 1],
        [1, 2, 3, 2, 1, 0, 1, 0],
    ]


def test_a_device_that_only_skips_has_offered_all_the_same() -> None:
    """Nothing was ever sent, and the system is a split one."""
    tape = Tape(1, 100)
    tape.trace.mark(0, 10, "skipped")
    found = contributions(tape.columns)
    assert found.offered is not None
    assert found.offered.tolist() == [0, 1]


def test_fairness_is_the_share_of_devices_that_carry_the_run() -> None:
    """(Σc)²/(KΣc²), also where squares do not fit 64 bits; nobody gives anything: no figure."""
    assert jain(np.array([5, 5, 5, 5])) == 1.0
    assert jain(np.array([7, 0, 0, 0])) == 0.25
    assert jain(np.array([1, 2, 3])) == pytest.approx(36 / 42)
    assert jain(np.array([2**40, 2**40])) == 1.0
    assert jain(np.array([0, 0])) is None
    assert jain(np.array([], np.int64)) is None


def test_a_mark_for_a_device_that_does_not_exist_is_our_mistake() -> None:
    """The message names the number."""
    tape = Tape(1, 10)
    tape.trace.mark(SERVER, 5, "consumed", 7)
    with pytest.raises(AccountingError, match="node 7 has records but is not in the node table"):
        contributions(tape.columns)
