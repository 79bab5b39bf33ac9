"""Energy by the linear model, worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from fedsim.report.energy import energy_label
from fedsim.report.measures import measure
from fedsim.script import SERVER
from fedsim.trace import Node, Trace
from tests.report.hand_made_traces import Tape

NS = 1e-9


def taped(**radio: Any) -> Tape:
    """A device (2 W idle, 6 W busy) that computes 10 of 100 ns, and a server; the device's link as given."""
    tape = Tape(1, 100)
    tape.span(0, 0, 10)
    tape.trace.nodes = (tape.trace.nodes[0], replace(tape.trace.nodes[1], **radio))
    return tape


def joules(trace: Trace) -> list[float]:
    """Of the server and of the device."""
    found: list[float] = measure(trace).joules.tolist()
    return found


def test_idle_for_the_horizon_and_the_difference_while_busy() -> None:
    """E = P_idle·T + (P_busy - P_idle)·busy."""
    assert joules(taped().trace) == pytest.approx([100 * 100 * NS, (2 * 100 + 4 * 10) * NS])


def test_a_machine_that_is_ready_draws_that_in_the_place_of_idle() -> None:
    """With everything loaded, between two works: E = P_ready·T + (P_busy - P_ready)·busy."""
    assert joules(taped(ready_watts=3.0).trace)[1] == pytest.approx((3 * 100 + 3 * 10) * NS)


def test_a_machine_draws_power_as_long_as_it_takes_part() -> None:
    """Nothing before it joins, nor after its end; lost work has drawn power, while it waits or loads it is idle."""
    tape = Tape(1, 100)
    tape.trace.mark(0, 20, "join")
    tape.span(0, 20, 30, wasted=True)
    tape.span(0, 30, 40, "load")
    tape.wait(0, 40, 80, "model")
    tape.trace.mark(0, 80, "end")
    assert joules(tape.trace)[1] == pytest.approx((2 * 60 + 4 * 10) * NS)


def test_two_lanes_at_once_draw_power_once() -> None:
    """A server (100 W idle, 300 W busy) is busy while any of its lanes is: from 0 to 30."""
    tape = Tape(1, 100, lanes=2)
    tape.span(SERVER, 0, 20)
    tape.span(SERVER, 10, 30, lane=1)
    assert joules(tape.trace)[0] == pytest.approx((100 * 100 + 200 * 30) * NS)


def test_the_radio_draws_power_once_in_a_direction_and_energy_for_each_byte() -> None:
    """Two uploads that overlap from 10 to 50 ns count once; a download beside them counts apart."""
    tape = taped(radio_watts=5.0, radio_up=0.25, radio_down=0.125)
    tape.send(0, SERVER, "activations", 0, 30, started=10, activations=8)
    tape.send(0, SERVER, "activations", 0, 50, started=20, activations=4, labels=4)
    tape.send(SERVER, 0, "model", 0, 40, started=20, weights=16)
    assert joules(tape.trace)[1] == pytest.approx(240 * NS + 5 * (40 + 20) * NS + 0.25 * 16 + 0.125 * 16)
    assert joules(tape.trace)[0] == pytest.approx(100 * 100 * NS), "the server's own link takes nothing"


def test_a_lost_transfer_has_drawn_power_and_moved_nothing() -> None:
    """Its bytes are not charged; nor does one that never began to flow draw anything."""
    tape = taped(radio_watts=5.0, radio_up=0.25)
    tape.send(0, SERVER, "activations", 0, 30, started=10, activations=8, outcome="sender left")
    tape.send(0, SERVER, "activations", 0, 60, started=60, activations=8, outcome="in flight")
    assert joules(tape.trace)[1] == pytest.approx(240 * NS + 5 * 20 * NS)


def test_the_label_names_the_input_that_is_known_least() -> None:
    """Joules come from a linear model; whoever reads them is told, with the weakest field."""
    server = Node(SERVER, "server", "a6000", -1, 1, 0, 1.0, 2.0, 1e9, "measured", "power.idle")
    device = Node(0, "device 0", "pi", 0, 1, 5, 1.0, 2.0, 1e9, "unverified", "power.busy")
    label = "linear energy model, no power was measured; weakest input: power.busy of pi (unverified)"
    assert energy_label([server, device]) == label
    assert energy_label([device, server]) == label
