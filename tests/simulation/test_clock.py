"""Time on the virtual clock: order of events, sleeping, computing on lanes, transfers beside computing."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.errors import RunError, ScriptError, UserError
from fedsim.runtime.conditions import LONGEST, in_order, nanoseconds
from fedsim.script import SERVER, Port, broadcast, compute, recv, send, sleep
from fedsim.simulation import Ending, Fault, Limits
from tests.simulation.toys import Ask, Delay, Diary, Done, Go, S, World, payload, work


def test_a_script_that_awaits_nothing_ends_at_zero() -> None:
    """No time passes outside awaits, and nothing of no length is recorded."""

    async def server(me: Port) -> None:
        assert (me.now, me.node) == (0.0, SERVER)

    world = World(server)
    assert world.run() is Ending.SERVER
    assert (world.end, world.spans(SERVER), world.waits(SERVER)) == (0, [], [])
    assert world.marks() == [("join", SERVER, 0), ("end", SERVER, 0)]


def test_sleep_lets_time_pass_and_is_recorded() -> None:
    """`sleep(3)` from 0 ends at 3; `sleep(0)` leaves no record."""

    async def server(me: Port) -> None:
        await sleep(0)
        await sleep(3)
        assert me.now == 3
        await sleep(0.5)

    world = World(server)
    world.run()
    assert world.waits(SERVER) == [(0, 3, "sleep"), (3, 3.5, "sleep")]


@pytest.mark.parametrize("seconds", [-1, -1e-12, math.nan, math.inf, 1e300])
def test_a_sleep_that_is_no_duration_is_an_error_with_its_line(seconds: float) -> None:
    """Negative, not a number, endless: refused where the script says it."""

    async def server(me: Port) -> None:
        await sleep(seconds)

    assert "test_clock.py:" in World(server).fail(ScriptError, r"sleep for .* s; a duration is from 0")


def test_the_clock_has_an_end() -> None:
    """What lasts beyond 292 years is an error, not a number too large for the trace."""

    async def server(me: Port) -> None:
        await sleep(LONGEST)
        await sleep(LONGEST)

    World(server).fail(RunError, "beyond the end of the clock")


def test_durations_round_up_but_sums_of_seconds_stay_whole() -> None:
    """A third of a nanosecond takes one; 0.1 s + 0.2 s takes 300,000,000."""
    assert nanoseconds(1e-10) == 1
    assert nanoseconds(0.1 + 0.2) == 300_000_000


def test_sleeping_until_a_moment_read_from_the_clock_ends_there() -> None:
    """`me.now` comes back as the same nanosecond, although it is a float."""

    async def server(me: Port) -> None:
        await sleep(0.123456789)
        before = me.now
        await recv(Go, until=me.now)
        assert me.now == before

    world = World(server)
    world.run()
    assert world.trace.end == 123_456_789


def test_events_of_one_instant_happen_in_the_order_in_which_they_were_begun() -> None:
    """(time, sequence): device 2 was spoken to first, so it answers first."""
    order = []

    async def device(me: Port) -> None:
        await recv(Go)
        await sleep(1)
        await send(SERVER, Done())

    async def server(me: Port) -> None:
        await broadcast((2, 0, 1), Go())
        for _ in range(3):
            order.append((await recv(Done)).sender)

    World(server, device, devices=3).run()
    assert order == [2, 0, 1]


def test_works_of_one_effect_take_the_lane_that_is_free_first() -> None:
    """List scheduling by hand: 3, 1, 2, 2 on two lanes gives 0-3 | 0-1, 1-3, then lane 0 (tie) 3-5."""

    async def server(me: Port) -> None:
        answers = await compute(*(work(me, s, result=s) for s in (3, 1, 2, 2)))
        assert answers == (3, 1, 2, 2)
        assert me.now == 5

    world = World(server, lanes={SERVER: 2})
    world.run()
    assert [(s.lane, s.start // S, s.end // S) for s in world.all_spans(SERVER)] == [
        (0, 0, 3),
        (1, 0, 1),
        (1, 1, 3),
        (0, 3, 5),
    ]


def test_more_lanes_than_works_leave_lanes_free() -> None:
    """Three works on eight lanes take as long as the longest."""

    async def server(me: Port) -> None:
        await compute(work(me, 1), work(me, 4), work(me, 2))

    world = World(server, lanes={SERVER: 8})
    world.run()
    assert world.end == 4


def test_one_lane_runs_works_one_after_the_other() -> None:
    """Nodes that are not named have one lane."""

    async def server(me: Port) -> None:
        await compute(work(me, 1), work(me, 2))

    world = World(server)
    world.run()
    assert world.spans(SERVER) == [(0, 1), (1, 3)]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(1, 5))
def test_lanes_are_never_idle_while_a_work_is_left(durations: list[int], lanes: int) -> None:
    """Spans of a lane join without gap or overlap, and list scheduling stays within its bound of Graham (1966)."""

    async def server(me: Port) -> None:
        await compute(work(me, 0.5), *(work(me, s) for s in durations))

    world = World(server, lanes={SERVER: lanes})
    world.run()
    used = world.all_spans(SERVER)
    for lane in range(lanes):
        mine = [s for s in used if s.lane == lane]
        assert [s.start for s in mine] == [0, *(s.end for s in mine)][: len(mine)]
    every = [0.5, *durations]
    assert world.end <= sum(every) / lanes + max(every) * (1 - 1 / lanes) + 1e-9


def test_the_parts_of_a_work_are_spans_in_a_row() -> None:
    """Kind, MACs and samples go with each part."""

    async def server(me: Port) -> None:
        assert await compute(work(me, 1, 2, result="w", samples=7)) == "w"

    world = World(server)
    world.run()
    assert [(s.kind, s.start // S, s.end // S, s.macs // S, s.samples) for s in world.all_spans(SERVER)] == [
        ("step", 0, 1, 1, 7),
        ("step", 1, 3, 2, 7),
    ]


def test_a_transfer_overlaps_what_the_sender_does_next() -> None:
    """`send` returns at once; two messages of 2 s each are there at 2 and 3, while the sender computes."""
    arrivals = []

    async def device(me: Port) -> None:
        await recv(Go)
        for _ in range(2):
            await send(SERVER, Done())
            await compute(work(me, 1))

    async def server(me: Port) -> None:
        await send(0, Go())
        for _ in range(2):
            await recv(Done)
            arrivals.append(me.now)

    world = World(server, device, network=Delay(seconds=2))
    world.run()
    assert arrivals == [4, 5]
    assert world.spans(0) == [(2, 3), (3, 4)]


def test_a_device_starts_at_its_first_message_and_has_waited_for_it_since_the_beginning() -> None:
    """Devices that nobody speaks to have no script and no records."""
    started = []

    async def device(me: Port) -> None:
        started.append((me.node, me.now))
        await recv(Go)
        assert me.now == 5

    async def server(me: Port) -> None:
        await sleep(3)
        await send(1, Go())
        await sleep(4)

    world = World(server, device, devices=3, network=Delay(seconds=2))
    world.run()
    assert started == [(1, 5)]
    assert world.waits(1) == [(0, 5, "model")]
    assert world.all_waits(1)[0].message == 1
    assert ("join", 1, 0) in world.marks()
    assert world.waits(0) == []
    assert len(world.marks("join")) == 2


def test_the_real_work_begins_when_the_virtual_one_does_and_is_waited_for_at_its_end() -> None:
    """Commands without time go in between, in the order in which the script gave them."""

    async def server(me: Port) -> None:
        me.command(work(me, method="load").command)
        await compute(work(me, 1, method="train"), work(me, 1, method="mix"))
        me.command(work(me, method="weights").command)

    world = World(server)
    world.run()
    assert world.workers.told == [
        ("queue", SERVER, "load"),
        ("start", SERVER, ("train", "mix")),
        ("finish", SERVER),
        ("queue", SERVER, "weights"),
    ]


def busy_world(seed: int = 0) -> World:
    """Devices that compute, ask, wait with time limits, sleep and leave."""

    async def device(me: Port) -> None:
        while True:
            go = await recv(Go)
            await compute(work(me, 1 + (me.node + go.number + seed) % 3, samples=2))
            await send(SERVER, Ask(go.number))
            await recv(Ask, until=me.now + 1.5)
            await sleep(0.25 * me.node)
            await send(SERVER, Done(go.number))

    async def server(me: Port) -> None:
        for t in range(6):
            me.publish(t + 1, (payload(8),))
            await broadcast(range(4), Go(t))
            deadline = me.now + 4
            while not isinstance(message := await recv(Ask, Done, by=lambda m: m.sender, until=deadline), type(None)):
                if me.now >= deadline:
                    break
                if isinstance(message, Ask) and message.sender % 2:
                    await send(message.sender, Ask())
                await compute(work(me, 0.125), work(me, 0.25))

    faults = [Fault(device=2, leave=3.5, back=9), Fault(device=0, leave=11)]
    network = Delay(seconds=0.125, per_byte=0.001)
    return World(
        server,
        device,
        devices=4,
        network=network,
        faults=faults,
        lanes={SERVER: 2},
        workers=Diary([0.1, 0.2, 0.3]),
        limits=Limits(time=30),
    )


def test_the_same_inputs_give_the_same_trace() -> None:
    """Record for record, with timeouts, ranking, faults, lanes and evaluations."""
    first, second = busy_world(), busy_world()
    assert first.run() is second.run()
    assert first.lists() == second.lists()
    assert len(first.trace.spans) > 30


def test_time_never_goes_back() -> None:
    """Records are written in the order of their ends, in whole nanoseconds."""
    world = busy_world()
    world.run()
    for ends in ([w.end for node in world.nodes for w in world.all_waits(node)], [m[2] for m in world.marks()]):
        assert ends
    arrivals = [t.arrived for t in world.all_transfers()]
    assert all(a <= b for a, b in pairwise(arrivals))
    ends = [row[2] for row in world.trace.waits]
    assert all(a <= b for a, b in pairwise(ends))
    assert all(type(row[i]) is int for row in world.trace.spans for i in (3, 4))
    assert all(row[2] > row[1] for row in world.trace.waits)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 5),
    st.floats(0, 2),
    st.floats(0, 30),
    st.lists(st.tuples(st.integers(0, 12_000), st.integers(1, 5_000)), max_size=3),
)
def test_every_trace_adds_up(seed: int, delay: float, limit: float, gone: list[tuple[int, int]]) -> None:
    """Busy + waiting = horizon for every node, whatever the delays, faults and the end of the run (`World.run`)."""
    plain = busy_world(seed)
    faults, free = [], 0  # milliseconds
    for there, away in gone:
        leave, free = free + there, free + there + away
        faults.append(Fault(device=1, leave=leave / 1000, back=free / 1000))
    world = World(
        plain.server,
        plain.device,
        devices=4,
        network=Delay(delay, 0.01),
        faults=faults,
        lanes={SERVER: 2, 1: 2},
        limits=Limits(time=limit),
    )
    world.run()
    assert world.end <= limit + 1e-9


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Fault(device=3, leave=1), "there are devices 0 to 2"),
        (Fault(device=SERVER, leave=1), "there are devices 0 to 2"),
        (Fault(device=0, leave=-1), "times go from 0"),
        (Fault(device=0, leave=math.nan), "times go from 0"),
        (Fault(device=0, leave=2, back=2), "leaves before it is back"),
        (Fault(device=1, leave=7), "has left already"),
        (Fault(device=2, leave=9), "has left already"),
    ],
)
def test_faults_that_cannot_happen_are_refused(fault: Fault, said: str) -> None:
    """No such device, no such time, or a device that is not there to leave."""
    others = [Fault(device=1, leave=5, back=8), Fault(device=2, leave=8)]
    with pytest.raises(UserError, match=said):
        in_order([fault, *others], 3)


def test_a_device_may_leave_at_the_moment_of_its_return() -> None:
    """Faults of one device may touch, in whatever order they are listed."""
    faults = [Fault(device=0, leave=2, back=3), Fault(device=0, leave=1, back=2)]
    assert in_order(faults, 1) == faults[::-1]


@pytest.mark.parametrize("limits", [{"time": -1}, {"time": math.nan}, {"every": 0}, {"every": math.inf}])
def test_limits_that_are_no_times_are_refused(limits: dict[str, Any]) -> None:
    """A negative end, or an evaluation every 0 s, which would never let the clock go on."""
    with pytest.raises(UserError, match="give"):
        Limits(**limits)
