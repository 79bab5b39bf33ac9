"""How fast the virtual clock turns: effects a second of the simulation's engine against SimPy, tracing on.

    python benchmarks/kernel.py [--pairs 7] [--messages 20000] [--json]

One scenario, written for both: every device computes and sends a message, over and over; the server takes the
messages in order and computes on each. One effect is one await (one `yield` in SimPy): four a message. Both make the
same message objects and must end at the same virtual time. The two alternate, so that the machine's drift cancels
out; the ratio is the median over pairs. Our engine also does what SimPy does not: it records every span, transfer
and wait, prices works and passes messages through a network.
Must show: at least 0.5 of SimPy's rate; exit status 1 otherwise. Also printed: 10,000 and 100,000 devices
against 100, where 0.4 is expected of the latter.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, ClassVar

import simpy

from fedsim.costs import Cost
from fedsim.script import SERVER, Command, Message, Part, Port, Role, Work, broadcast, compute, recv, send
from fedsim.simulation import Simulation, TimingOnly
from fedsim.simulation.engine import Limits
from fedsim.trace import Node, Trace

FLOOR = 0.5
STEP = 1_000_000  # ns that a device computes, and one ns more with each device
LOAD = 0.8  # how much of its time the server computes


@dataclass(frozen=True, slots=True)
class Go(Message):
    """Server to device: begin."""

    role: ClassVar[Role] = Role.MODEL


@dataclass(frozen=True, slots=True)
class Result(Message):
    """Device to server: a step is done."""

    role: ClassVar[Role] = Role.CONTRIBUTION
    step: int


class Instantly:
    """A network on which messages arrive when they are sent, as they do in a SimPy store."""

    def submit(self, now: int, source: int, target: int, nbytes: int, number: int) -> tuple[int, int]:
        """At once."""
        return now, now

    def next(self) -> int | None:
        """Nothing is ever announced."""
        return None

    def step(self, now: int) -> list[tuple[int, int, int]]:
        """Nothing to announce."""
        return []

    def reset(self, now: int, node: int) -> list[tuple[int, int | None]]:
        """Nothing to close."""
        return []

    def under_way(self) -> list[tuple[int, int | None]]:
        """Nothing without times."""
        return []


def fedsim_run(devices: int, messages: int) -> int:
    """The scenario on our engine; answers with the virtual time of its end."""
    step, serve = Cost(()), Cost(())
    prices = [STEP + k for k in range(devices)] + [int(LOAD * STEP / devices)]  # the server is the last: prices[-1]

    async def device(me: Port) -> None:
        work = Work(Command(me.node, 1, "train"), (Part("step", step, samples=32),), None)
        number = 0
        await recv(Go)
        while True:
            await compute(work)
            await send(SERVER, Result(number))
            number += 1

    async def server(me: Port) -> None:
        work = Work(Command(me.node, 1, "mix"), (Part("aggregate", serve),), None)
        await broadcast(range(devices), Go())
        for _ in range(messages):
            await recv(Result)
            await compute(work)

    table = [Node(k, f"node {k}", "toy", 0, 1, 0, 0.0, 0.0, 0.0) for k in range(SERVER, devices)]
    simulation = Simulation(
        trace=Trace(table, {}),
        server=server,
        device=device,
        devices=devices,
        price=lambda node, _cost, _start: prices[node],
        network=Instantly(),
        workers=TimingOnly(),
        limits=Limits(),
    )
    simulation.run()
    return simulation.now


def simpy_run(devices: int, messages: int) -> int:
    """The same scenario on SimPy."""
    env = simpy.Environment()
    inbox = simpy.Store(env)
    serve = int(LOAD * STEP / devices)

    def device(k: int) -> Generator[simpy.Event, Any, None]:
        step, number = STEP + k, 0
        while True:
            yield env.timeout(step)
            yield inbox.put(Result(number))
            number += 1

    def server() -> Generator[simpy.Event, Any, None]:
        for _ in range(messages):
            yield inbox.get()
            yield env.timeout(serve)

    for k in range(devices):
        env.process(device(k))
    env.run(until=env.process(server()))
    return int(env.now)


def rate(run: Callable[[int, int], int], devices: int, messages: int) -> tuple[float, int]:
    """Effects a second of one run, and the virtual time at which it ended."""
    gc.collect()
    began = time.perf_counter()
    ended = run(devices, messages)
    return 4 * messages / (time.perf_counter() - began), ended


def compare(devices: int, messages: int, pairs: int) -> dict[str, Any]:
    """Rates of both, alternating."""
    ours, theirs = [], []
    for _ in range(pairs):
        mine, ended = rate(fedsim_run, devices, messages)
        other, expected = rate(simpy_run, devices, messages)
        assert ended == expected, f"the two disagree: {ended} and {expected} ns"
        ours.append(mine)
        theirs.append(other)
    return {
        "devices": devices,
        "messages": messages,
        "fedsim": statistics.median(ours),
        "simpy": statistics.median(theirs),
        "ratio": statistics.median(a / b for a, b in zip(ours, theirs, strict=True)),
    }


def main() -> int:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    rate(fedsim_run, 100, 1_000)  # warm up
    few = compare(100, options.messages, options.pairs)
    many = compare(10_000, 5 * options.messages, max(1, options.pairs // 2))
    huge = statistics.median(rate(fedsim_run, 100_000, 10 * options.messages)[0] for _ in range(3))
    passed = few["ratio"] >= FLOOR
    scaling = {"10000": many["fedsim"] / few["fedsim"], "100000": huge / few["fedsim"]}
    found = {"few": few, "many": many, "scaling": scaling, "floor": FLOOR, "passed": passed}
    if options.json:
        print(json.dumps(found))
    else:
        for one in (few, many):
            print(
                f"{one['devices']:>6} devices: fedsim {one['fedsim'] / 1e3:.0f} k effects/s with tracing, "
                f"SimPy {one['simpy'] / 1e3:.0f} k; ratio {one['ratio']:.2f}"
            )
        for devices, share in scaling.items():
            print(f"{devices:>6} devices: {share:.2f} of the rate of 100")
        print(f"{'passed' if passed else 'FAILED'}: the ratio at 100 devices must be at least {FLOOR}")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
