"""A fleet in threads of one process: drivers on the wall clock, messages as on the wire, but without any network."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Mapping
from heapq import heappop, heappush
from typing import Any

import torch

from fedsim.emulation.clock import WallClock
from fedsim.emulation.driver import Driver
from fedsim.emulation.exchange import Exchange, Terms
from fedsim.emulation.pacing import Pacer
from fedsim.emulation.records.journal import Journal
from fedsim.emulation.records.recording import Notes, merged
from fedsim.experiment.assembly import Assembly
from fedsim.learning.host import Host
from fedsim.script import SERVER, Connected, Disconnected
from fedsim.trace import Trace
from fedsim.wire.codec import Encoded, joined
from fedsim.wire.refusals import Bounds


class Wire:
    """Brings every message to its node after a while, in order."""

    def __init__(self, clock: WallClock, delay: int) -> None:
        self._clock = clock
        self._delay = delay
        self._exchanges: dict[int, Exchange] = {}
        self._waiting: list[tuple[int, int, Any]] = []
        self._count = itertools.count()
        self._changed = threading.Condition()
        self._over = False
        self._thread = threading.Thread(target=self._run)
        self._gone: set[int] = set()

    def join(self, node: int, exchange: Exchange) -> Wire._End:
        """A node is there."""
        self._exchanges[node] = exchange
        return Wire._End(self, node)

    def start(self) -> None:
        """Connect all with the server."""
        for node, exchange in self._exchanges.items():
            for peer in self._exchanges if node == SERVER else (SERVER,):
                if peer != node:
                    exchange.connected(peer)
        self._thread.start()

    def stop(self) -> None:
        """Bring nothing any more."""
        with self._changed:
            self._over = True
            self._changed.notify_all()
        self._thread.join()

    def leave(self, device: int) -> None:
        """What is under way from or to a device is lost."""
        with self._changed:
            self._gone.add(device)
            lost = [each for each in self._waiting if device in each[2][:2]]
            self._waiting = sorted(each for each in self._waiting if device not in each[2][:2])
            for _, _, (source, _, number, *_) in lost:
                self._landed(source, number, self._clock.now())
            self._exchanges[device].disconnected(SERVER)
            self._exchanges[SERVER].disconnected(device)

    def back(self, device: int) -> None:
        """A device is there again."""
        with self._changed:
            self._gone.discard(device)
            self._exchanges[device].connected(SERVER)
            self._exchanges[SERVER].connected(device)

    def _landed(self, source: int, number: int, moment: int) -> None:
        sender = self._exchanges[source].receiver
        assert sender is not None
        sender.landed(number, moment)

    def put(self, source: int, target: int, number: int, encoded: Encoded) -> bool:
        """Take a message."""
        body = joined(encoded.body)
        with self._changed:
            if self._gone.intersection((source, target)):
                return False
            when = self._clock.now() + self._delay
            heappush(self._waiting, (when, next(self._count), (source, target, number, encoded, body)))
            self._changed.notify_all()
            return True

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._over and (not self._waiting or self._waiting[0][0] > self._clock.now()):
                    self._clock.wait(self._changed, self._waiting[0][0] if self._waiting else None)
                if self._over:
                    return
                _, _, (source, target, number, encoded, body) = heappop(self._waiting)
                receiver = self._exchanges[target]
                incoming = receiver.begin(source, encoded.header + encoded.definitions)
                incoming.buffer[:] = body
                arrived = self._clock.now()
                receiver.finish(source, incoming, arrived)
                self._landed(source, number, arrived)

    class _End:
        def __init__(self, wire: Wire, node: int) -> None:
            self._wire = wire
            self._node = node

        def carry(self, target: int, number: int, encoded: Encoded, nbytes: int, queued: int) -> bool:
            return self._wire.put(self._node, target, number, encoded)


class Emulated:
    """What came of a run."""

    def __init__(
        self,
        trace: Trace,
        models: list[dict[str, torch.Tensor]],
        pacers: dict[int, Pacer],
        rows: list[list[Any]],
        terms: Terms,
    ) -> None:
        self.trace = trace
        self.models = models
        """Weights of every model that was published."""
        self.weights = models[-1]
        self.pacers = pacers
        self.rows = rows
        """The notes of all nodes, with their journals."""
        self.terms = terms


def emulate(
    assembly: Assembly,
    host_of: Any,
    *,
    dilation: float = 1.0,
    delay: float = 1e-3,
    absences: Mapping[int, tuple[int, int]] | None = None,
) -> Emulated:
    """Run an assembly in threads.

    Args:
        assembly: the run.
        host_of: makes a node's host.
        dilation: wall seconds a second of the scenario.
        delay: what every message takes.
        absences: of a device, the models at whose publication it leaves, and is back.
    """
    devices = assembly.fleet.devices
    clock = WallClock(time.monotonic_ns() + 50_000_000, dilation)
    wire = Wire(clock, int(delay * 1e9))
    server, device = assembly.scripts()
    bounds = Bounds(body=1 << 30, memory=1 << 30)
    terms = Terms(assembly.scheduler.messages, bounds, assembly.training.channels_last, checksum=True)
    published: list[Any] = []
    drivers: dict[int, Driver] = {}
    hosts: dict[int, Host] = {}
    exchanges: dict[int, Exchange] = {}
    notes: dict[int, Notes] = {}
    pacers: dict[int, Pacer] = {}
    lives: Counter[int] = Counter()
    errors: list[BaseException] = []
    threads: dict[int, threading.Thread] = {}

    def born(node: int) -> Driver:
        lives[node] += 1
        pacers[node] = Pacer(dilation)
        driver = Driver(
            node,
            trace=notes[node].trace,
            clock=clock,
            pacer=pacers[node],
            price=assembly.fleet.clockwork(assembly.seed).price,
            lanes=assembly.fleet.lanes().get(node, 1),
            host=hosts[node],
            post=exchanges[node],
            publish=publish,
            since=max(clock.now(), 0),
            journal=Journal(notes[node].given, node, lives[node]),
        )
        drivers[node] = exchanges[node].receiver = driver
        return driver

    def live(node: int) -> None:
        try:
            drivers[node].run(device)
        except BaseException as error:
            errors.append(error)
            drivers[SERVER].stop()

    def begin(node: int) -> None:
        threads[node] = threading.Thread(target=live, args=(node,))
        threads[node].start()

    def publish(version: int, model: Any, moment: int) -> None:
        published.append(model)
        for node, (leaves, returns) in (absences or {}).items():
            if version == leaves:
                drivers[node].stop()
                threads[node].join()
                wire.leave(node)
                for each in (node, SERVER):
                    hosts[each].forget(node)
                notes[node].trace.mark(node, clock.now(), "leave")
                drivers[SERVER].deliver(Disconnected(node, sender=node), -1, clock.now())
            elif version == returns:
                born(node)
                wire.back(node)
                notes[node].trace.mark(node, clock.now(), "return")
                begin(node)
                drivers[SERVER].deliver(Connected(node, sender=node), -1, clock.now())

    for node in range(SERVER, devices):
        hosts[node], notes[node] = host_of(node), Notes()
        exchanges[node] = Exchange(node, devices + 1, terms, hosts[node], notes[node], clock.now)
        born(node)
        exchanges[node].carrier = wire.join(node, exchanges[node])
        notes[node].trace.mark(node, 0, "join")
    wire.start()
    for node in range(devices):
        begin(node)
    with drivers[SERVER]._changed:
        while clock.now() < 0:
            clock.wait(drivers[SERVER]._changed, 0)
    drivers[SERVER].run(server, at_once=True)
    end = clock.now()
    for node in range(devices):
        drivers[node].stop()
    for thread in threads.values():
        thread.join()
    wire.stop()
    if errors:
        raise errors[0]
    rows = [row for each in notes.values() for row in each.rows()]
    trace = merged(rows, assembly.fleet.table(assembly.samples), assembly.scenario, end)
    return Emulated(trace, [hosts[SERVER].model_tensors(model) for model in published], pacers, rows, terms)
