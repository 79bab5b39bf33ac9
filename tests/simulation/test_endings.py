"""However a run ends, every script is closed, its `finally` blocks have run and its trace is complete."""

from __future__ import annotations

import gc
from collections.abc import Coroutine
from typing import Any

import pytest

from fedsim.errors import Deadlock, ScriptError
from fedsim.script import SERVER, Port, broadcast, compute, recv, send, sleep
from fedsim.simulation import Ending, Limits
from tests.simulation.toys import Ask, Delay, Diary, Done, Go, S, World, payload, work


class Crew:
    """Three devices: one waits, one computes, one sleeps, each with a `finally`; device 3 is never spoken to."""

    def __init__(self) -> None:
        self.finished: list[int] = []

    async def device(self, me: Port) -> None:
        """Do one thing for long."""
        try:
            await recv(Go)
            if me.node == 0:
                await recv(Ask)
            elif me.node == 1:
                await compute(work(me, 1, 100, samples=3))
            else:
                await sleep(100)
        finally:
            self.finished.append(me.node)
            me.mark("finally")

    def world(self, server: Any, **more: Any) -> World:
        """Their world."""
        return World(server, self.device, devices=4, **more)

    def check(self, world: World, end: float) -> None:
        """All three have been closed, and what they did until the end is recorded."""
        assert sorted(self.finished) == [0, 1, 2]
        assert world.end == end
        assert world.waits(0) == [(0, end, "credit")]
        assert world.waits(2) == [(0, end, "sleep")]
        assert [(s.start / S, s.end / S, s.samples, s.wasted) for s in world.all_spans(1)] == [
            (0, 1, 3, True),
            (1, end, 0, True),
        ]
        assert world.marks("finally") == [("finally", k, end) for k in range(3)]


async def begin(me: Port) -> None:
    """Speak to three devices."""
    await broadcast(range(3), Go())
    await sleep(4)


def test_the_servers_return_ends_the_run() -> None:
    """Work under way is cut off: its MACs so far are counted, its samples are not."""
    crew = Crew()
    world = crew.world(begin)
    assert world.run() is Ending.SERVER
    crew.check(world, 4)
    assert world.all_spans(1)[1].macs == 3 * S


def test_the_time_limit_ends_the_run() -> None:
    """At the limit, although nothing happens there; what happens at the limit itself still happens."""
    crew = Crew()

    async def server(me: Port) -> None:
        await begin(me)
        me.mark("still")
        await sleep(50)

    world = crew.world(server, limits=Limits(time=4))
    assert world.run() is Ending.TIME
    crew.check(world, 4)
    assert world.marks("still") == [("still", SERVER, 4)]

    crew = Crew()
    world = crew.world(server, limits=Limits(time=4.5))
    assert world.run() is Ending.TIME
    crew.check(world, 4.5)


def test_an_error_in_a_script_ends_the_run_and_passes_through() -> None:
    """With the script's own traceback, and the trace as far as it got."""
    crew = Crew()

    async def server(me: Port) -> None:
        await begin(me)
        raise ValueError("mine")

    world = crew.world(server)
    with pytest.raises(ValueError, match="mine") as caught:
        world.run()
    assert caught.traceback[-1].name == "server"
    crew.check(world, 4)


def test_a_deadlock_ends_the_run() -> None:
    """Nodes that wait have waited until then."""

    async def device(me: Port) -> None:
        await recv(Go)
        await sleep(2)
        await recv(Go)

    async def server(me: Port) -> None:
        await send(0, Go())
        await recv(Done)

    world = World(server, device, devices=2)
    world.fail(Deadlock)
    assert world.waits(SERVER) == [(0, 2, "contribution")]


def test_an_interruption_ends_the_run_before_the_next_event() -> None:
    """`stopping` may be set at any moment, by an observer or a signal."""
    crew = Crew()

    async def server(me: Port) -> None:
        await begin(me)
        world.simulation.stopping = True
        await sleep(0)
        raise AssertionError("it went on")

    world = crew.world(server)
    assert world.run() is Ending.INTERRUPTED
    crew.check(world, 4)


def test_an_interruption_comes_before_a_deadlock() -> None:
    """Whoever stops a run wants no complaint about what did not happen any more."""

    async def server(me: Port) -> None:
        world.simulation.stopping = True
        await recv(Done)

    world = World(server)
    assert world.run() is Ending.INTERRUPTED


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_exception_that_is_no_error_ends_the_run_too(error: type[BaseException]) -> None:
    """Ctrl-C while a worker is busy."""
    crew = Crew()

    class Interrupted(Diary):
        def finish(self, node: int) -> None:
            raise error

    async def server(me: Port) -> None:
        await begin(me)
        await compute(work(me, 1))

    world = crew.world(server, workers=Interrupted())
    with pytest.raises(error):
        world.run()
    crew.check(world, 5)


def test_a_script_that_awaits_while_it_is_closed_is_an_error() -> None:
    """It is named with its line, and all the others are closed nevertheless."""
    crew = Crew()

    async def server(me: Port) -> None:
        try:
            await begin(me)
            await sleep(50)
        finally:
            await sleep(1)

    world = crew.world(server, limits=Limits(time=4))
    said = world.fail(ScriptError, "the script of the server awaited again after it was closed")
    assert "in server" in said
    crew.check(world, 4)


def test_a_coroutine_inside_a_script_that_awaits_while_it_is_closed_is_an_error() -> None:
    """The outer script is over by then, so it is named by the line on which it begins."""

    async def stubborn() -> None:
        try:
            await sleep(50)
        finally:
            await sleep(1)

    async def server(me: Port) -> None:
        await stubborn()

    said = World(server, limits=Limits(time=4)).fail(ScriptError, "the script of the server awaited again")
    assert "in server" in said


def test_a_script_that_will_not_be_closed_is_given_up() -> None:
    """`except BaseException: continue` would keep it for ever."""
    rounds = 0

    async def server(me: Port) -> None:
        nonlocal rounds
        while rounds < 9:
            try:
                await sleep(10)
            except GeneratorExit:
                rounds += 1

    World(server, limits=Limits(time=4)).fail(ScriptError, "let GeneratorExit pass")
    assert rounds == 9


@pytest.mark.parametrize("error", [RuntimeError, ValueError])
def test_an_error_in_a_finally_block_passes_through(error: type[Exception]) -> None:
    """Also a RuntimeError, which is what Python itself raises for a coroutine that goes on."""
    crew = Crew()

    async def server(me: Port) -> None:
        try:
            await begin(me)
            await sleep(50)
        finally:
            raise error("on the way out")

    world = crew.world(server, limits=Limits(time=4))
    world.fail(error, "on the way out")
    crew.check(world, 4)


def test_what_goes_wrong_while_closing_does_not_hide_the_first_error() -> None:
    """It is noted at the error that ended the run."""

    async def device(me: Port) -> None:
        try:
            await recv(Go)
            await recv(Go)
        finally:
            await sleep(1)

    async def server(me: Port) -> None:
        await send(0, Go())
        await sleep(1)
        raise ValueError("the first")

    assert "awaited again" in World(server, device).fail(ValueError, "the first")


def test_an_error_of_a_device_ends_the_run() -> None:
    """Not only the server's."""

    async def device(me: Port) -> None:
        await recv(Go)
        raise ZeroDivisionError

    async def server(me: Port) -> None:
        await send(0, Go())
        await recv(Done)

    World(server, device, network=Delay(1)).fail(ZeroDivisionError)


def test_a_script_that_fails_before_its_first_step_leaves_nothing_open() -> None:
    """The maker of a device's script may raise, as when a context cannot be built."""

    def device(me: Port) -> Coroutine[Any, Any, None]:
        raise LookupError("no data")

    async def server(me: Port) -> None:
        await send(0, Go())
        await recv(Done)

    World(server, device, network=Delay(3)).fail(LookupError, "no data")


def test_stop_iteration_of_a_network_does_not_end_a_script() -> None:
    """Only a script's own return does."""

    class Exhausted(Delay):
        def submit(self, now: int, source: int, target: int, nbytes: int, number: int) -> tuple[int, int]:
            return next(iter(()))

    async def server(me: Port) -> None:
        await send(0, Go())

    World(server, network=Exhausted()).fail(StopIteration)


def test_messages_under_way_at_the_end_are_in_flight() -> None:
    """They are recorded up to the end, whether their flow has begun or not."""

    async def server(me: Port) -> None:
        await broadcast(range(2), Go())
        await sleep(1)

    class Slow(Delay):
        def submit(self, now: int, source: int, target: int, nbytes: int, number: int) -> tuple[int, int]:
            return now + target * 2 * S, now + 5 * S

    world = World(server, devices=2, network=Slow())
    world.run()
    assert [(t.queued, t.started, t.arrived, t.outcome) for t in world.all_transfers()] == [
        (0, 0, S, "in flight"),
        (0, S, S, "in flight"),
    ]


def test_a_device_that_was_sent_its_first_message_in_vain_has_waited_for_it() -> None:
    """It never started, but somebody had chosen it."""

    async def server(me: Port) -> None:
        await send(0, Go())
        await sleep(1)

    world = World(server, network=Delay(9))
    world.run()
    assert world.waits(0) == [(0, 1, "model")]


def test_a_run_of_no_length() -> None:
    """`until.time: 0` lets the scripts begin and ends at once."""

    async def server(me: Port) -> None:
        await sleep(0)
        await sleep(1)

    world = World(server, limits=Limits(time=0))
    assert world.run() is Ending.TIME
    assert world.end == 0


def test_a_simulation_runs_once() -> None:
    """A second run would write into the same trace."""
    world = World(begin, devices=3)
    world.run()
    with pytest.raises(AssertionError, match="runs once"):
        world.simulation.run()


def test_the_collector_of_garbage_is_left_as_it_was() -> None:
    """A run with many devices lets it wait longer, and only while it lasts."""
    before = gc.get_threshold()
    during = []

    async def server(me: Port) -> None:
        during.append(gc.get_threshold()[0])
        raise ValueError

    World(server, devices=1_000).fail(ValueError)
    assert during == [10_000]
    assert gc.get_threshold() == before


# ------------------------------------------------------------------------------------------ evaluation


def test_each_published_model_is_evaluated_once() -> None:
    """Without `every`: at its own instant, also where two are published at one; the last one not again at the end."""

    async def server(me: Port) -> None:
        me.publish(1, (payload(1),))
        me.publish(2, (payload(2),))
        await sleep(1)
        me.publish(3, (payload(3),))
        await sleep(1)

    world = World(server, workers=Diary([0.1, 0.2, 0.3]))
    world.run()
    assert world.marks("evaluate") == [("evaluate", SERVER, 0), ("evaluate", SERVER, 0), ("evaluate", SERVER, 1)]
    assert [value for name, value in world.observed if name == "evaluate"] == [0.1, 0.2, 0.3]
    assert [split for _, split in world.workers.evaluated] == ["test"] * 3


def test_a_model_published_at_the_very_end_is_evaluated() -> None:
    """There and then, whatever ended the run."""

    async def server(me: Port) -> None:
        await sleep(2)
        me.publish(7, (payload(1),))

    for limits in (Limits(), Limits(every=10)):
        world = World(server, workers=Diary([0.5]), limits=limits)
        world.run()
        assert world.marks("evaluate") == [("evaluate", SERVER, 2)]
        assert '"version": 7' in world.trace.marks[-2][4] or '"version": 7' in world.trace.marks[-1][4]


def test_ticks_evaluate_the_current_model() -> None:
    """Every so many seconds, at no virtual time; a model is measured once but marked at every tick."""

    async def server(me: Port) -> None:
        await sleep(2.5)
        me.publish(1, (payload(1),))
        await sleep(2)
        me.publish(2, (payload(2),))
        await sleep(1)

    world = World(server, workers=Diary([0.1, 0.2]), limits=Limits(every=1))
    world.run()
    assert [t for _, _, t in world.marks("evaluate")] == [3, 4, 5]
    assert len(world.workers.evaluated) == 2


def test_an_evaluation_counts_the_samples_that_devices_have_trained() -> None:
    """Of works that are done; the server's own do not count."""

    async def device(me: Port) -> None:
        await recv(Go)
        await compute(work(me, 1, 1, samples=8))
        await send(SERVER, Done())
        await compute(work(me, 9, samples=8))

    async def server(me: Port) -> None:
        await send(0, Go())
        await recv(Done)
        await compute(work(me, 1, samples=100))
        me.publish(1, (payload(1),))

    world = World(server, device, workers=Diary([0.1]))
    world.run()
    assert '"trained": 16' in next(row[4] for row in world.trace.marks if row[2] == "evaluate")


@pytest.mark.parametrize("every", [None, 1.0])
def test_a_quality_that_is_reached_ends_the_run_at_its_instant(every: float | None) -> None:
    """Before any later event, and with no second evaluation."""

    async def server(me: Port) -> None:
        for version in range(10):
            me.publish(version, (payload(1),))
            await sleep(1)
            await sleep(0)

    world = World(
        server,
        workers=Diary([0.1, 0.4, 0.6, 0.9]),
        limits=Limits(every=every, reached=lambda quality: quality.accuracy > 0.5),
    )
    assert world.run() is Ending.QUALITY
    assert world.end == (2 if every is None else 3)
    assert len(world.workers.evaluated) == 3
    assert len(world.marks("evaluate")) == 3


def test_without_learning_nothing_is_evaluated() -> None:
    """Timing only: models are published and have no quality."""

    async def server(me: Port) -> None:
        me.publish(1, (payload(1),))
        await sleep(3)

    world = World(server, workers=Diary(), limits=Limits(every=1))
    world.run()
    assert world.marks("publish", "evaluate") == [("publish", SERVER, 0)]
    assert world.simulation.published is not None
    assert world.simulation.published.version == 1


def test_marks_are_observed() -> None:
    """Progress bars follow them; the trace keeps their details as JSON."""

    async def server(me: Port) -> None:
        me.mark("depth", 3, {"nodes": [1]})

    world = World(server)
    world.run()
    assert world.observed == [("depth", 3)]
    assert (SERVER, 0, "depth", 3, '{"nodes": [1]}') in world.trace.marks
