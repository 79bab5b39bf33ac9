"""Sends that block: a script goes on when what it sends has arrived, or cannot arrive any more."""

from __future__ import annotations

import pytest

from fedsim.report import summarise
from fedsim.script import SERVER, Port, Send, compute, recv, send
from fedsim.simulation import Fault
from tests.simulation.toys import Delay, Done, Go, World, work

BLOCKING = pytest.mark.parametrize("blocking", [True, False])


@BLOCKING
def test_a_blocking_send_returns_at_its_arrival(blocking: bool) -> None:
    """Three seconds on the way; the next work starts then, or at once."""

    async def device(me: Port) -> None:
        await send(SERVER, Done(1), blocking=blocking)
        await compute(work(me, 2))
        await send(SERVER, Done(2))

    async def server(me: Port) -> None:
        await send(0, Go())
        for number in (1, 2):
            assert (await recv(Done)).number == number

    world = World(server, device, network=Delay(3))
    world.run()
    assert world.spans(0) == [(6, 8) if blocking else (3, 5)]
    waits = [(w[3], w[4], w[1] / 1e9, w[2] / 1e9) for w in world.trace.waits if w[0] == 0 and w[3] == "send"]
    assert waits == ([("send", SERVER, 3, 6)] if blocking else [])
    idle = summarise(world.trace, status="done", wall_seconds=1.0)["devices"]["idle_by_cause"]
    assert idle["flow"] == (3 / 8 if blocking else 0), "of the device's own eight or five seconds"


def test_the_last_of_several_copies_ends_it() -> None:
    """Whoever it goes to; the server may block as devices do."""
    times = []

    async def server(me: Port) -> None:
        await Send((0, 1), Go(), blocking=True)
        times.append(me.now)

    class Far(Delay):
        def submit(self, now: int, source: int, target: int, nbytes: int, number: int) -> tuple[int, int]:
            return now, now + (1 + target) * 10**9

    World(server, devices=2, network=Far()).run()
    assert times == [2]


@pytest.mark.parametrize(("leave", "returns"), [(0.5, 2.0), (3.0, 5.0), (9.0, 5.0)])
def test_what_is_lost_blocks_nobody(leave: float, returns: float) -> None:
    """The receiver is away already: at once. It leaves while the message is on its way, or later: when it is due."""
    times = []

    async def server(me: Port) -> None:
        await compute(work(me, 2))
        await send(0, Go(), blocking=True)
        times.append(me.now)
        await compute(work(me, 10))

    world = World(server, network=Delay(3), faults=[Fault(device=0, leave=leave)])
    world.run()
    assert times == [returns]


@pytest.mark.parametrize("back", [None, 5.0])
def test_a_sender_that_leaves_while_it_blocks_is_closed(back: float | None) -> None:
    """Its script does not go on; when it is back, it starts anew."""
    went_on = []

    async def device(me: Port) -> None:
        await recv(Go)
        await send(SERVER, Done(), blocking=True)
        went_on.append(me.now)

    async def server(me: Port) -> None:
        await send(0, Go())
        await compute(work(me, 6))
        if back is not None:
            await send(0, Go())
            await recv(Done)
            await compute(work(me, 1))

    World(server, device, network=Delay(1), faults=[Fault(device=0, leave=1.5, back=back)]).run()
    assert went_on == ([] if back is None else [8])


def test_a_run_may_end_while_somebody_blocks() -> None:
    """The wait lasts to the end."""

    async def device(me: Port) -> None:
        await send(SERVER, Done(), blocking=True)
        raise AssertionError("it has not arrived")

    async def server(me: Port) -> None:
        await send(0, Go())
        await compute(work(me, 3))

    world = World(server, device, network=Delay(2))
    world.run()
    assert (0, 2, 3, "send") in [(w[0], w[1] / 1e9, w[2] / 1e9, w[3]) for w in world.trace.waits]
