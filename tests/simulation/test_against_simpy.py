"""SimPy as oracle of queues, and queueing theory as oracle of both."""

from __future__ import annotations

import random
from collections.abc import Generator
from typing import Any

import pytest
import simpy
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.script import SERVER, Port, Work, broadcast, compute, recv, send, sleep
from tests.simulation.toys import Delay, Done, Go, S, World, work

Served = list[tuple[int, int, int]]  # producer, number, end of service in ns


def on_fedsim(pauses: list[list[int]], service: int, delay: int) -> Served:
    """Producers that pause and send, and one server that serves in order of arrival."""
    served: Served = []

    async def device(me: Port) -> None:
        await recv(Go)
        for number, pause in enumerate(pauses[me.node]):
            await sleep(pause / S)
            await send(SERVER, Done(number))

    async def server(me: Port) -> None:
        await broadcast(range(len(pauses)), Go())
        for _ in range(sum(map(len, pauses))):
            message = await recv(Done)
            await compute(work(me, service / S))
            served.append((message.sender, message.number, round(me.now * S)))

    class UpOnly(Delay):
        def submit(self, now: int, source: int, target: int, nbytes: int, number: int) -> tuple[int, int]:
            return now, now + (delay if target == SERVER else 0)

    World(server, device, devices=len(pauses), network=UpOnly()).run()
    return served


def on_simpy(pauses: list[list[int]], service: int, delay: int) -> Served:
    """The same with a Store, whose messages are put there after the delay."""
    env = simpy.Environment()
    inbox = simpy.Store(env)
    served: Served = []

    def carry(message: tuple[int, int]) -> Generator[Any, Any, None]:
        yield env.timeout(delay)
        yield inbox.put(message)

    def device(k: int) -> Generator[Any, Any, None]:
        for number, pause in enumerate(pauses[k]):
            yield env.timeout(pause)
            env.process(carry((k, number)))

    def server() -> Generator[Any, Any, None]:
        for _ in range(sum(map(len, pauses))):
            k, number = yield inbox.get()
            yield env.timeout(service)
            served.append((k, number, int(env.now)))

    for k in range(len(pauses)):
        env.process(device(k))
    env.process(server())
    env.run()
    return served


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.lists(st.integers(1, 40), max_size=8), min_size=1, max_size=5),
    st.integers(1, 30),
    st.integers(0, 25),
)
def test_a_queue_of_several_producers_is_served_as_simpy_serves_it(
    pauses: list[list[int]], service: int, delay: int
) -> None:
    """The same order and the same times; arrivals of one instant count as one, since SimPy orders them otherwise."""
    ours, theirs = on_fedsim(pauses, service, delay), on_simpy(pauses, service, delay)
    assert [end for *_, end in ours] == [end for *_, end in theirs]
    moments = {(k, n): sum(row[: n + 1]) + delay for k, row in enumerate(pauses) for n in range(len(row))}
    order = [(moments[k, n], k, n) for k, n, _ in ours]
    assert [m for m, *_ in order] == sorted(moments.values())
    if len(set(moments.values())) == len(moments):
        assert ours == theirs


@pytest.mark.slow
def test_the_mean_wait_of_random_arrivals_is_that_of_theory() -> None:
    """M/D/1 at load 0.6: Pollaczek and Khinchine give ρ·D / (2·(1 − ρ)) = 0.75 service times, met within 2 %."""
    load, arrivals, rng = 0.6, 60_000, random.Random(2)
    waited = 0.0

    async def device(me: Port) -> None:
        await recv(Go)
        for number in range(arrivals):
            await sleep(rng.expovariate(load))
            sent.append(me.now)
            await send(SERVER, Done(number))

    async def server(me: Port) -> None:
        nonlocal waited
        service: Work[None] = work(me, 1)
        await send(0, Go())
        for number in range(arrivals):
            await recv(Done)
            waited += me.now - sent[number]
            await compute(service)

    sent: list[float] = []
    World(server, device).run()
    assert waited / arrivals == pytest.approx(load / (2 * (1 - load)), rel=0.02)
