"""Idle time by cause, worked out by hand."""

from __future__ import annotations

import pytest

from fedsim.errors import AccountingError
from fedsim.report.columns import tabulate
from fedsim.report.identity import check_identity
from fedsim.report.idle import account
from fedsim.script import SERVER
from tests.report.hand_made_traces import Tape, fedavg, idle_of, pieces_of


def test_the_faster_device_of_a_round_waits_for_the_straggler() -> None:
    """Own upload, aggregation and download are `model`; between the two deliveries the fast device waits."""
    tape = fedavg()
    check_identity(tape.trace)
    assert pieces_of(tape.trace, 0) == [(0, 10, "model"), (20, 30, "model"), (30, 60, "straggler"), (60, 80, "model")]
    assert pieces_of(tape.trace, 1) == [(0, 10, "model"), (40, 80, "model")]
    assert idle_of(tape.trace, 0) == {"straggler": 30, "model": 40}
    assert idle_of(tape.trace, 1) == {"model": 50}


def test_the_server_waits_for_stragglers_while_a_barrier_is_partly_filled() -> None:
    """Before the first contribution, and outside barriers, the server waits for devices: dependency."""
    tape = fedavg()
    assert pieces_of(tape.trace, SERVER) == [(0, 30, "dependency"), (30, 60, "straggler"), (70, 80, "dependency")]
    assert idle_of(tape.trace, SERVER) == {"dependency": 40, "straggler": 30}


def test_gradients_are_dependency_and_the_rest_of_the_round_is_as_without() -> None:
    """SplitFed: waits for gradients count as dependency, own transfer and server's queue included."""
    tape = Tape(2, 100)
    tape.round(0, 0, 60, [0, 1])
    for device, late in ((0, 0), (1, 10)):
        tape.wait(device, 0, 5, "model", tape.send(SERVER, device, "model", 0, 5))
        tape.span(device, 5, 10, "forward")
        tape.send(device, SERVER, "activations", 10, 15)
        gradient = tape.send(SERVER, device, "gradient", 20 + late, 30 + late)
        tape.wait(device, 10, 30 + late, "gradient", gradient)
        tape.span(device, 30 + late, 35 + late, "backward")
        tape.send(device, SERVER, "contribution", 35 + late, 45 + late + late // 2)
        tape.wait(device, 35 + late, 100, "model")
    tape.wait(SERVER, 0, 15, "activations|contribution", 1)
    tape.span(SERVER, 15, 30)
    tape.wait(SERVER, 30, 45, "activations|contribution")
    tape.wait(SERVER, 45, 60, "contribution")
    tape.span(SERVER, 60, 100, "aggregate")
    check_identity(tape.trace)
    assert idle_of(tape.trace, 0) == {"dependency": 20, "model": 5 + 10 + 40, "straggler": 15}
    assert idle_of(tape.trace, 1) == {"dependency": 30, "model": 5 + 15 + 40}
    assert idle_of(tape.trace, SERVER) == {"dependency": 30, "straggler": 15}


def test_devices_that_a_round_leaves_out_are_unselected() -> None:
    """A device outside the round waits as unselected; between rounds everybody waits for the model."""
    tape = Tape(3, 100)
    tape.round(1, 0, 40, [0])
    tape.round(2, 50, 90, [1])
    for device, start in ((0, 0), (1, 50)):
        tape.wait(device, 0, start + 10, "model", tape.send(SERVER, device, "model", start, start + 10))
        tape.span(device, start + 10, start + 30)
        tape.send(device, SERVER, "contribution", start + 30, start + 40)
        tape.wait(device, start + 30, 100, "model")
    tape.wait(SERVER, 0, 100, "contribution")
    check_identity(tape.trace)
    assert pieces_of(tape.trace, 0)[1:] == [(30, 50, "model"), (50, 90, "unselected"), (90, 100, "model")]
    assert pieces_of(tape.trace, 1)[:3] == [(0, 40, "unselected"), (40, 60, "model"), (80, 100, "model")]
    assert idle_of(tape.trace, 2) == {"unselected": 100}, "no message ever reached it, so it has no records"


def test_a_barrier_of_p_devices_is_full_with_the_pth_contribution() -> None:
    """Over-selection: whoever delivers after the barrier is full has waited for nobody."""
    tape = Tape(3, 100)
    tape.round(1, 0, 40, [0, 1, 2], need=2)
    for device, arrived in ((0, 20), (1, 40), (2, 60)):
        tape.span(device, 0, arrived - 10)
        tape.send(device, SERVER, "contribution", arrived - 10, arrived)
        tape.wait(device, arrived - 10, 100, "model")
    tape.wait(SERVER, 0, 100, "contribution")
    check_identity(tape.trace)
    assert idle_of(tape.trace, 0) == {"straggler": 20, "model": 70}
    assert idle_of(tape.trace, 1) == {"model": 70}
    assert idle_of(tape.trace, 2) == {"model": 50}
    assert idle_of(tape.trace, SERVER) == {"dependency": 80, "straggler": 20}


def test_a_barrier_that_never_fills_holds_everyone_until_it_closes() -> None:
    """A device that leaves without delivering is a straggler until the server gives up on it."""
    tape = Tape(2, 100)
    tape.round(1, 0, 50, [0, 1])
    tape.span(0, 0, 10)
    tape.send(0, SERVER, "contribution", 10, 20)
    tape.wait(0, 10, 100, "model")
    tape.span(1, 0, 50, wasted=True)
    tape.trace.mark(1, 50, "leave")
    tape.wait(SERVER, 0, 20, "contribution|control", 0)
    tape.wait(SERVER, 20, 100, "contribution|control")
    check_identity(tape.trace)
    assert idle_of(tape.trace, 0) == {"model": 60, "straggler": 30}
    assert idle_of(tape.trace, SERVER) == {"dependency": 70, "straggler": 30}
    assert account(tape.columns).horizon.tolist() == [100, 100, 50]


def test_a_run_that_ends_within_a_round_ends_the_wait_for_its_stragglers() -> None:
    """An open barrier at the end of the run counts as straggler up to the end."""
    tape = Tape(2, 70)
    tape.round(1, 0, None, [0, 1])
    tape.span(0, 0, 10)
    tape.send(0, SERVER, "contribution", 10, 20)
    tape.wait(0, 10, 70, "model")
    tape.span(1, 0, 70)
    tape.wait(SERVER, 0, 70, "contribution")
    check_identity(tape.trace)
    assert idle_of(tape.trace, 0) == {"model": 10, "straggler": 50}


def test_a_device_that_returns_has_a_second_stretch() -> None:
    """Offline time is in no account; a stretch in which no message came is unselected."""
    tape = Tape(2, 100)
    tape.trace.mark(0, 0, "join")
    tape.span(0, 0, 30)
    tape.trace.mark(0, 30, "leave")
    tape.trace.mark(0, 60, "return")
    tape.wait(0, 60, 90, "model", tape.send(SERVER, 0, "model", 80, 90))
    tape.span(0, 90, 95)
    tape.trace.mark(0, 95, "end")
    tape.trace.mark(1, 10, "leave")
    tape.trace.mark(1, 40, "return")
    tape.wait(SERVER, 0, 100, "contribution")
    check_identity(tape.trace)
    accounts = account(tape.columns)
    assert accounts.horizon.tolist() == [100, 65, 70]
    assert idle_of(tape.trace, 0) == {"model": 30}
    assert idle_of(tape.trace, 1) == {"unselected": 70}


def test_a_device_that_joins_late_or_starts_away_has_no_horizon_before() -> None:
    """A horizon starts at `join`, wherever that is, and marks of one instant count in the order of recording."""
    tape = Tape(2, 50)
    tape.trace.mark(0, 20, "join")
    for name, time in (("join", 0), ("leave", 0), ("return", 30)):
        tape.trace.mark(1, time, name)
    tape.wait(SERVER, 0, 50, "contribution")
    check_identity(tape.trace)
    assert account(tape.columns).horizon.tolist() == [50, 30, 20]


def test_sleep_credit_and_load_are_causes_by_name() -> None:
    """`sleep` and `credit` need no round; a span of kind `load` is load where nothing else runs."""
    tape = Tape(1, 100)
    tape.wait(0, 0, 10, "sleep")
    tape.wait(0, 10, 25, "credit", tape.send(SERVER, 0, "credit", 20, 25))
    tape.span(0, 25, 40, "load")
    tape.span(0, 35, 60, lane=1)
    tape.wait(0, 60, 100, "load")
    tape.wait(SERVER, 0, 60, "contribution")
    tape.wait(SERVER, 60, 100, "sleep")
    check_identity(tape.trace)
    assert idle_of(tape.trace, 0) == {"sleep": 10, "flow": 15, "load": 50}
    assert idle_of(tape.trace, SERVER) == {"dependency": 60, "sleep": 40}
    assert account(tape.columns).busy.tolist() == [0, 25]


def test_a_wait_of_several_roles_counts_as_that_of_its_message() -> None:
    """With a message its role decides, without one the first role."""
    tape = Tape(1, 60)
    tape.wait(0, 0, 10, "model|gradient", tape.send(SERVER, 0, "gradient", 0, 10))
    tape.wait(0, 10, 20, "gradient|model", tape.send(SERVER, 0, "model", 10, 20))
    tape.wait(0, 20, 40, "model|gradient")
    tape.wait(0, 40, 60, "credit|model")
    tape.wait(SERVER, 0, 60, "contribution")
    check_identity(tape.trace)
    assert idle_of(tape.trace, 0) == {"dependency": 10, "model": 30, "flow": 20}


def test_without_rounds_nobody_straggles() -> None:
    """Asynchronous systems open no rounds: their devices wait for the model only, the server for its devices."""
    tape = Tape(2, 60)
    for device in (0, 1):
        tape.span(device, 0, 10 + 10 * device)
        tape.send(device, SERVER, "contribution", 10 + 10 * device, 20 + 10 * device)
        tape.wait(device, 10 + 10 * device, 60, "model")
    tape.wait(SERVER, 0, 60, "contribution")
    check_identity(tape.trace)
    assert idle_of(tape.trace, 0) == {"model": 50}
    assert idle_of(tape.trace, SERVER) == {"dependency": 60}


def test_a_contribution_at_the_seam_of_two_rounds_belongs_to_the_first() -> None:
    """Where a round opens in the instant in which the last one closed, the delivery that closed it stays with it."""
    tape = Tape(2, 80)
    tape.round(1, 0, 40, [0, 1])
    tape.round(2, 40, 80, [0, 1])
    for start, own, other in ((0, 20, 40), (40, 70, 80)):
        for device, arrived in ((0, own), (1, other)):
            tape.span(device, start, arrived - 5)
            tape.send(device, SERVER, "contribution", arrived - 5, arrived)
            tape.wait(device, arrived - 5, start + 40, "model")
    tape.wait(SERVER, 0, 80, "contribution")
    check_identity(tape.trace)
    assert idle_of(tape.trace, 0) == {"straggler": 30, "model": 10}
    assert idle_of(tape.trace, SERVER) == {"dependency": 50, "straggler": 30}


def test_a_round_that_closes_without_being_open_is_our_mistake() -> None:
    """The message names the round and the moment."""
    tape = Tape(1, 10)
    tape.trace.mark(SERVER, 5, "round.close", 3)
    with pytest.raises(AccountingError, match="round 3 was closed at 5 ns but was not open"):
        account(tape.columns)


def test_a_server_that_waits_for_credit_waits_for_its_devices() -> None:
    """`flow` and `dependency` by role are causes of devices; the server's waits go by its barriers."""
    tape = Tape(1, 60)
    tape.wait(SERVER, 0, 60, "credit")
    tape.span(0, 0, 60)
    check_identity(tape.trace)
    assert idle_of(tape.trace, SERVER) == {"dependency": 60}


def test_pieces_that_are_shorter_than_clocks_disagree_are_overhead() -> None:
    """In an emulation: of no cause, and missing."""
    tape = Tape(2, 100)
    tape.round(0, 0, 100, [0, 1])
    first = tape.send(0, SERVER, "contribution", 40, 50, weights=1)
    second = tape.send(1, SERVER, "contribution", 45, 54, weights=1)
    tape.span(0, 0, 40)
    tape.wait(0, 40, 100, "model")
    tape.wait(1, 0, 100, "model")
    tape.wait(SERVER, 0, 50, "contribution", first)
    tape.wait(SERVER, 50, 54, "contribution", second)
    tape.span(SERVER, 54, 100)
    check_identity(tape.trace)
    assert idle_of(tape.trace, SERVER) == {"dependency": 50, "straggler": 4}
    assert idle_of(tape.trace, 0) == {"model": 56, "straggler": 4}
    tape.trace.clock_bound = 4
    assert idle_of(tape.trace, 0) == {"model": 56, "straggler": 4}
    tape.trace.clock_bound = 5
    assert idle_of(tape.trace, SERVER) == {"dependency": 50}
    assert idle_of(tape.trace, 0) == {"model": 56}
    assert account(tape.columns).missing.tolist() == [4, 4, 0]
    assert pieces_of(tape.trace, 0) == [(40, 50, "model"), (50, 54, "straggler"), (54, 100, "model")]


def test_a_record_may_begin_before_its_horizon_by_as_much_as_clocks_disagree() -> None:
    """Its device was not silent then."""
    tape = Tape(1, 100)
    tape.trace.mark(0, 3, "join")
    tape.wait(0, 0, 100, "model")
    assert idle_of(tape.trace, 0) == {"model": 100, "unselected": 97}
    tape.trace.clock_bound = 3
    assert idle_of(tape.trace, 0) == {"model": 100}


def test_a_bound_that_no_piece_is_below_changes_nothing() -> None:
    """Cut or not, the sums are the same."""
    trace = fedavg().trace
    exact = account(tabulate(trace))
    trace.clock_bound = 1
    found = account(tabulate(trace))
    assert (found.idle == exact.idle).all()
    assert not found.missing.any()
