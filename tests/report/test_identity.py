"""The accounting identity: what passes, and what each violation says."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from operator import itemgetter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.errors import AccountingError
from fedsim.report.columns import tabulate
from fedsim.report.identity import check_emulated, check_identity
from fedsim.report.idle import CAUSES, account, pieces
from fedsim.script import SERVER
from fedsim.trace import Trace, Transfer
from tests.report.hand_made_traces import Tape, fedavg

END = 60
AWAITED = ("model", "gradient", "credit", "sleep", "load", "control", "model|gradient", "contribution|activations")


@st.composite
def consistent(draw: st.DrawFn) -> Trace:
    """A trace whose nodes compute or wait at every instant of their horizons; all else is arbitrary."""
    devices = draw(st.integers(1, 4))
    tape = Tape(devices, END, lanes=2)
    moments = st.integers(0, END)
    cuts = sorted(draw(st.lists(moments, max_size=8)))
    for number, (start, end) in enumerate(zip(cuts[::2], cuts[1::2], strict=False)):
        chosen = draw(st.lists(st.integers(0, devices - 1), unique=True))
        closes = end if draw(st.booleans()) or number + 1 < len(cuts) // 2 else None
        tape.round(number, start, closes, chosen, draw(st.integers(0, devices)))
    for device in draw(st.lists(st.integers(0, devices - 1), max_size=8)):
        queued, arrived = sorted(draw(st.tuples(moments, moments)))
        outcome = draw(st.sampled_from(["delivered", "delivered", "in flight", "left"]))
        tape.send(device, SERVER, "contribution", queued, arrived, weights=9, outcome=outcome)
    for node in range(-1, devices):
        _live(draw, tape, node, moments)
    for device in draw(st.lists(st.integers(0, devices - 1), max_size=8)):
        tape.trace.mark(SERVER, draw(moments), draw(st.sampled_from(["benched", "benched", "called"])), device)
    return tape.trace


def _live(draw: st.DrawFn, tape: Tape, node: int, moments: st.SearchStrategy[int]) -> None:
    """Fill one node's horizon with spans and waits."""
    start, away, back, end = sorted(draw(st.tuples(moments, moments, moments, moments)))
    stretches = [(start, away), (back, end)]
    for name, time in (("join", start), ("leave", away), ("return", back), ("end", end)):
        tape.trace.mark(node, time, name)
    for begin, finish in stretches:
        cuts = sorted({begin, finish, *draw(st.lists(st.integers(begin, finish), max_size=6))})
        for low, high in pairwise(cuts):
            if draw(st.booleans()):
                tape.span(node, low, high, draw(st.sampled_from(["step", "load"])))
                inner = sorted(draw(st.tuples(st.integers(low, high), st.integers(low, high))))
                tape.span(node, inner[0], inner[1], lane=1)
                continue
            message = -1
            if node != SERVER and draw(st.booleans()):
                message = tape.send(SERVER, node, draw(st.sampled_from(["model", "gradient", "credit"])), low, high)
            tape.wait(node, low, high, draw(st.sampled_from(AWAITED)), message)


@pytest.mark.slow
@settings(deadline=None)
@given(consistent())
def test_busy_and_causes_fill_every_horizon_exactly(trace: Trace) -> None:
    """In integers, for any roles, rounds, contributions, absences and turns; summing and cutting agree."""
    check_identity(trace)
    columns = tabulate(trace)
    accounts = account(columns)
    assert not accounts.missing.any()
    found = pieces(columns)
    sums = np.zeros_like(accounts.idle)
    np.add.at(sums, (found.cause, found.node), found.end - found.start)
    load = CAUSES.index("load")
    spans = accounts.idle - sums
    assert not np.delete(spans, load, axis=0).any(), "only spans of kind load are idle without a wait"
    assert (spans[load] >= 0).all()


@pytest.mark.slow
@settings(deadline=None)
@given(consistent())
def test_every_instant_has_the_cause_that_a_plain_reading_of_the_rules_gives(trace: Trace) -> None:
    """An oracle that looks at one nanosecond at a time, without intervals."""
    columns = tabulate(trace)
    found = pieces(columns)
    causes = {
        (int(node), now): CAUSES[int(cause)]
        for node, start, end, cause in zip(found.node, found.start, found.end, found.cause, strict=True)
        for now in range(int(start), int(end))
    }
    for node, start, end, awaited, _, message in trace.waits:
        role = awaited.split("|")[0]
        if "|" in awaited and message >= 0:
            role = trace.transfers[message][4]
        for now in range(start, end):
            assert causes[node + 1, now] == plain_reading(trace, node, role, now), (node, now)


def plain_reading(trace: Trace, node: int, role: str, now: int) -> str:
    """The cause of waiting for `role` during the nanosecond that starts at `now`."""
    named = {"sleep": "sleep", "load": "load"}
    if node != SERVER:
        named |= {"gradient": "dependency", "credit": "flow"}
    if role in named:
        return named[role]
    if plain_bench(trace, node, now):
        return "unselected"
    for chosen, start, end, need, arrivals in plain_rounds(trace):
        if start <= now < end:
            times = sorted(arrivals.values())
            full = need <= 0 or (len(times) >= need and times[need - 1] <= now)
            if node == SERVER:
                return "straggler" if not full and times and times[0] <= now else "dependency"
            if node not in chosen:
                return "unselected"
            return "straggler" if arrivals.get(node, END) <= now and not full else "model"
    return "dependency" if node == SERVER else "model"


def plain_bench(trace: Trace, node: int, now: int) -> bool:
    """Whether a device sits out: the last that happened to it up to then was being benched."""
    happened = [
        (time, name)
        for owner, time, name, value, _ in trace.marks
        if time <= now and ((name in ("benched", "called") and value == node) or (name == "leave" and owner == node))
    ]
    return bool(happened) and sorted(happened, key=itemgetter(0))[-1][1] == "benched"


def plain_rounds(trace: Trace) -> list[tuple[list[int], int, int, int, dict[int, int]]]:
    """Members, start, end, need and the last delivery of each member, for each round."""
    opened = [mark for mark in trace.marks if mark[2] == "round.open"]
    closed = {mark[3]: mark[1] for mark in trace.marks if mark[2] == "round.close"}
    found: list[tuple[list[int], int, int, int, dict[int, int]]] = []
    for index, (_, start, _, number, detail) in enumerate(opened):
        after = opened[index + 1][1] if index + 1 < len(opened) else END
        read = json.loads(detail)
        found.append((read["nodes"], start, min(closed.get(number, END), after), read["need"], {}))
    for transfer in trace.transfers:
        _, source, _, _, role, *_, queued, _, arrived, outcome = transfer
        if role != "contribution" or outcome != "delivered":
            continue
        for moment, strict in ((queued, True), (arrived, True), (arrived, False)):
            fitting = [
                index for index, (_, start, *_) in enumerate(found) if (start < moment if strict else start <= moment)
            ]
            if fitting:
                last = fitting[-1]
                shut = closed.get(opened[last][3], END)
                if moment <= shut and source in found[last][0]:
                    arrivals = found[last][4]
                    arrivals[source] = max(arrivals.get(source, -1), arrived)
                    break
    return found


def _gap(tape: Tape) -> None:
    tape.trace.waits[0] = (*tape.trace.waits[0][:2], 7, *tape.trace.waits[0][3:])


def _outcome(tape: Tape) -> None:
    row = Transfer(*tape.trace.transfers[0])
    tape.trace.transfers[0] = row._replace(outcome="")


def _order(tape: Tape) -> None:
    row = Transfer(*tape.trace.transfers[0])
    tape.trace.transfers[0] = row._replace(arrived=99)


def _number(tape: Tape) -> None:
    tape.trace.transfers.append(tape.trace.transfers[0])


def _ghost(tape: Tape) -> None:
    tape.trace.waits[0] = (*tape.trace.waits[0][:5], 1)


def _negative(tape: Tape) -> None:
    row = tape.trace.transfers[0]
    tape.trace.transfers[0] = (*row[:5], -1, *row[6:])


def _backwards(tape: Tape) -> None:
    tape.trace.spans[0] = (0, 0, "step", 20, 10, 0, 0, 0, False, 0)


def _stranger(tape: Tape) -> None:
    tape.span(9, 0, 10)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_gap, r"node 0 \(device-0\): busy 10 ns \+ waiting 67 ns .* its horizon of 80 ns by -3 ns"),
        (_outcome, "transfer 0 to node 0 .* has no outcome: 104 bytes are neither delivered, lost nor in flight"),
        (_order, "transfer 0 to node 0 .* sent 0, started 0, arrived 99 ns"),
        (_number, "transfer 0 is recorded 2 times"),
        (_ghost, r"node 0 \(device-0\): a wait was ended by transfer 1, which was never delivered to it"),
        (_negative, "transfer 0 to node 0 .* has a negative number of bytes"),
        (_backwards, r"node 0 \(device-0\): a record ends at 10 ns, 10 ns before it starts"),
        (_stranger, "node 9 has records but is not in the node table"),
    ],
)
def test_each_violation_names_its_place(spoil: Callable[[Tape], None], message: str) -> None:
    """What is wrong, where, and by how much."""
    tape = fedavg()
    spoil(tape)
    with pytest.raises(AccountingError, match=message):
        check_identity(tape.trace)


def test_errors_that_cancel_out_are_found_too() -> None:
    """A gap and an overlap of the same length leave the sums right, and are still refused."""
    tape = Tape(1, 30)
    tape.span(0, 0, 10)
    tape.wait(0, 5, 20, "model")
    tape.wait(0, 25, 30, "model")
    tape.wait(SERVER, 0, 30, "contribution")
    with pytest.raises(AccountingError, match=r"node 0 .*: computes while it waits, or waits twice, for 5 ns"):
        check_identity(tape.trace)


def test_a_record_outside_the_horizon_is_refused() -> None:
    """A device that has left cannot wait, even where the sums come out right."""
    tape = Tape(1, 30)
    tape.trace.mark(0, 10, "leave")
    tape.trace.mark(0, 20, "return")
    tape.wait(0, 0, 20, "model")
    tape.wait(SERVER, 0, 30, "contribution")
    with pytest.raises(AccountingError, match=r"node 0 .*: waiting from 0 to 20 ns lies outside its horizon"):
        check_identity(tape.trace)


def emulated(*, gap: int = 0, overlap: int = 0, bound: int = 0) -> Trace:
    """A device that computes for 1,000 ns, is busy with neither, and waits up to 2,000 ns; so does the server."""
    tape = Tape(1, 2000)
    tape.trace.clock_bound = bound
    for node in (0, SERVER):
        tape.span(node, 0, 1000)
        tape.wait(node, 1000 + gap - overlap if node == 0 else 1000, 2000, "model")
    return tape.trace


def test_an_emulation_may_lack_a_little_time() -> None:
    """1 % of a node's horizon: nothing; more: a remark that names the node, and an error only where it is asked for."""
    assert check_emulated(emulated()) == check_emulated(emulated(gap=20), strict=True) == []
    (remark,) = check_emulated(emulated(gap=21))
    assert remark == (
        "node 0 (device-0): busy and waiting differ from its horizon of 2e-06 s by -2.1e-08 s; "
        "more than 1% makes its shares doubtful"
    )
    with pytest.raises(AccountingError, match=r"node 0 \(device-0\): busy and waiting differ"):
        check_emulated(emulated(gap=21), strict=True)
    with pytest.raises(AccountingError):
        check_identity(emulated(gap=1))


def test_an_emulation_may_overlap_by_as_much_as_its_clocks_disagree() -> None:
    """Each pair of records by so much; beyond that, what is there twice counts as what is missing does."""
    assert check_emulated(emulated(overlap=20, bound=20), strict=True) == []
    (remark,) = check_emulated(emulated(overlap=50, bound=20))
    assert remark.startswith(
        "node 0 (device-0): busy and waiting differ from its horizon of 2e-06 s by +5e-08 s, 3e-08 s"
    )
    many = Tape(1, 2000)
    many.trace.clock_bound = 20
    for start in range(0, 2000, 100):
        many.span(0, start, start + 50)
        many.wait(0, start + 40, start + 100, "model")
    many.wait(SERVER, 0, 2000, "contribution")
    (remark,) = check_emulated(many.trace)
    assert "are both" not in remark  # though their sum is too much


def test_transfers_of_an_emulation_are_checked_as_well() -> None:
    """By as much as clocks disagree a message may arrive before it was sent; one that is there twice is an error."""
    trace = emulated(bound=20)
    early = Transfer(0, 0, SERVER, "M", "contribution", 1, 0, 0, 0, 64, 100, 100, 85, "delivered")
    trace.transfers.append(tuple(early))
    assert check_emulated(trace) == []
    trace.transfers[0] = tuple(early._replace(arrived=79))
    with pytest.raises(AccountingError, match="out of order"):
        check_emulated(trace)
    trace.transfers[:] = [tuple(early), tuple(early)]
    with pytest.raises(AccountingError, match="recorded 2 times"):
        check_emulated(trace, strict=False)
