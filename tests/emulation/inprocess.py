"""A fleet in threads of one process: drivers on the wall clock, messages as on the wire, but without any network."""

from __future__ import annotations

import itertools
import threading
import time
from heapq import heappop, heappush
from typing import Any

import torch

from fedsim.emulation.clock import WallClock
from fedsim.emulation.driver import Driver, Life
from fedsim.emulation.exchange import Exchange, Terms
from fedsim.emulation.pacing import Pacer
from fedsim.emulation.recording import Notes, merged
from fedsim.experiment.assembly import Assembly
from fedsim.learning.context import Device, Server
from fedsim.learning.host import Host
from fedsim.script import SERVER
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

    def put(self, source: int, target: int, number: int, encoded: Encoded, queued: int) -> None:
        """Take a message."""
        body = joined(encoded.body)
        with self._changed:
            when = self._clock.now() + self._delay
            heappush(self._waiting, (when, next(self._count), (source, target, number, encoded, body, queued)))
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._over and (not self._waiting or self._waiting[0][0] > self._clock.now()):
                    self._clock.wait(self._changed, self._waiting[0][0] if self._waiting else None)
                if self._over:
                    return
                _, _, (source, target, number, encoded, body, queued) = heappop(self._waiting)
            receiver = self._exchanges[target]
            incoming = receiver.begin(source, encoded.header + encoded.definitions)
            incoming.buffer[:] = body
            arrived = self._clock.now()
            receiver.finish(source, incoming, arrived)
            sender = self._exchanges[source].receiver
            assert sender is not None
            sender.landed(number, arrived)

    class _End:
        def __init__(self, wire: Wire, node: int) -> None:
            self._wire = wire
            self._node = node

        def carry(self, target: int, number: int, encoded: Encoded, nbytes: int, queued: int) -> bool:
            self._wire.put(self._node, target, number, encoded, queued)
            return True


class Emulated:
    """What came of a run."""

    def __init__(self, trace: Trace, weights: dict[str, torch.Tensor], pacers: dict[int, Pacer]) -> None:
        self.trace = trace
        self.weights = weights
        self.pacers = pacers


def emulate(assembly: Assembly, host_of: Any, *, dilation: float = 1.0, delay: float = 1e-3) -> Emulated:
    """Run an assembly in threads; `host_of(node)` makes a node's host, `delay` is what every message takes."""
    devices = assembly.fleet.devices
    clock = WallClock(time.monotonic_ns() + 50_000_000, dilation)
    wire = Wire(clock, int(delay * 1e9))
    job = assembly.job()
    bounds = Bounds(body=1 << 30, memory=1 << 30)
    terms = Terms(assembly.scheduler.messages, bounds, assembly.training.channels_last, checksum=True)
    published: list[Any] = []
    drivers: dict[int, Driver] = {}
    hosts: dict[int, Host] = {}
    notes, pacers = {}, {}
    for node in range(SERVER, devices):
        hosts[node] = host = host_of(node)
        notes[node], pacers[node] = Notes(), Pacer(dilation)
        exchange = Exchange(node, devices + 1, terms, host, notes[node], clock.now)
        drivers[node] = exchange.receiver = Driver(
            node,
            trace=notes[node].trace,
            clock=clock,
            pacer=pacers[node],
            price=assembly.fleet.clockwork(assembly.seed).price,
            lanes=assembly.fleet.lanes().get(node, 1),
            host=host,
            post=exchange,
            publish=lambda version, model, moment: published.append(model),
        )
        exchange.carrier = wire.join(node, exchange)
        notes[node].trace.mark(node, 0, "join")
    wire.start()
    errors: list[BaseException] = []

    def live(node: int) -> None:
        try:
            if drivers[node].run(lambda port: assembly.scheduler.device(Device(port, job))) is Life.RETURNED:
                pass
        except BaseException as error:
            errors.append(error)
            drivers[SERVER].stop()

    threads = [threading.Thread(target=live, args=(node,)) for node in range(devices)]
    for thread in threads:
        thread.start()
    with drivers[SERVER]._changed:
        while clock.now() < 0:
            clock.wait(drivers[SERVER]._changed, 0)
    drivers[SERVER].run(lambda port: assembly.scheduler.server(Server(port, job, devices)), at_once=True)
    end = clock.now()
    for node in range(devices):
        drivers[node].stop()
    for thread in threads:
        thread.join()
    wire.stop()
    if errors:
        raise errors[0]
    rows = [row for each in notes.values() for row in each.rows()]
    trace = merged(rows, assembly.fleet.table(assembly.samples), assembly.scenario, end)
    return Emulated(trace, hosts[SERVER].model_tensors(published[-1]), pacers)
