"""The server of an emulation: lets devices in, starts the clock, runs its script, and collects what all have noted."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from functools import partial
from pathlib import Path
from typing import Any, Final

from fedsim.emulation.clock import WallClock
from fedsim.emulation.conducting import Conductor
from fedsim.emulation.desk import LEAVES, Desk, Reception
from fedsim.emulation.driver import Driver, Life
from fedsim.emulation.holdings import Holdings
from fedsim.emulation.links.shaping import Connection
from fedsim.emulation.links.sharing import Sharing
from fedsim.emulation.membership import Membership, Owners
from fedsim.emulation.outcome import Outcome
from fedsim.emulation.pacing import Pacer, pace_row
from fedsim.emulation.parts import OneAtATime, Parts
from fedsim.emulation.publications import Publications
from fedsim.emulation.records.collecting import Collection
from fedsim.emulation.records.journal import Journal
from fedsim.emulation.records.reading import Reading
from fedsim.emulation.records.recording import PACE, TRAFFIC, Notes
from fedsim.emulation.standstill import Standstill
from fedsim.emulation.supervising import Supervisor
from fedsim.emulation.transport.seam import Pace, Shaping
from fedsim.emulation.transport.server import Server
from fedsim.errors import RunError
from fedsim.runtime.conditions import Ending
from fedsim.runtime.sofar import SoFar
from fedsim.script import SERVER, Connected, Disconnected, Payload, Quality
from fedsim.wire import protocol_pb2 as pb
from fedsim.wire.registry import Registry

LEAD: Final = 300_000_000
"""Wall nanoseconds from the release of the barrier to the start of the clock, for all to hear of it."""

FAREWELL: Final = 30.0
"""Seconds that devices have at the end for the work that they are at and their last notes."""

_log = logging.getLogger(__name__)


class ServerNode(Reception):
    """The server's process of a run.

    Args:
        parts: of the run.
        address: to listen on, as in `127.0.0.1:0`.
        dilation: wall seconds a second of the scenario.
        owners: who has which token; None: everybody may join.
        credentials: of the transport.
        pace: of the connections.
        host_id: of this host and its clock, where that is known.
        longest: seconds of the scenario that the longest work of any node takes, for telling that a run is stuck.
        folder: receives the notes of all nodes while the run goes on; None: they are kept in memory only.
    """

    def __init__(
        self,
        parts: Parts,
        address: str,
        *,
        dilation: float = 1.0,
        owners: Owners | None = None,
        credentials: Any = None,
        pace: Pace | None = None,
        host_id: bytes = b"",
        longest: float = 0.0,
        folder: Path | None = None,
    ) -> None:
        self._parts = parts
        self._dilation = dilation
        self._host_id = host_id
        self._folder = folder
        self._observed: deque[tuple[str, float, int]] = deque(maxlen=1000)
        self._looking = threading.Lock()
        self._reading = Reading(parts.devices, parts.lanes)
        self._host = OneAtATime(parts.host)
        self._collection = Collection(folder)
        self._digest = Registry(parts.terms.messages).digest
        self._members = Membership(parts.profiles, self._welcome, owners)
        self._changed = threading.Condition()  # guards what follows
        self._ready: set[int] = set()
        self._seen: set[int] = set()  # devices that have been ready in this run
        self._finished: set[int] = set()
        self._crashed: list[int] = []
        self._start: pb.Down | None = None
        self._over = False
        self._failure: RunError | None = None
        self._interrupted = False
        self._supervisor = Supervisor(dilation, longest)
        self._clock: WallClock | None = None
        self._notes: Notes | None = None
        self._driver: Driver | None = None
        self._conductor: Conductor | None = None
        self._publications = Publications(each=parts.limits.every is None)
        pace = pace or Pace(inbox=parts.inbox)
        self._transport = Server(
            address, self, self._members, pace=pace, credentials=credentials, devices=parts.devices
        )

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._transport.port

    # ------------------------------------------------------------------------------------- before the start

    def missing(self) -> list[int]:
        """The devices that are not ready yet."""
        with self._changed:
            return [device for device in range(self._parts.devices) if device not in self._ready]

    def gather(self, timeout: float | None = None) -> bool:
        """Wait until all devices are ready, for seconds at most; answers whether they are.

        Raises:
            RunError: one of them has failed, or the run was interrupted.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: len(self._ready) == self._parts.devices or self._failure is not None or self._interrupted,
                timeout,
            )
            if self._failure is not None:
                raise self._failure
            return len(self._ready) == self._parts.devices

    def _welcome(self, device: int, life: int) -> pb.JoinResponse:
        return pb.JoinResponse(
            node=device,
            life=life,
            scenario=self._parts.scenario.encode(),
            messages_digest=self._digest,
            labels_digest=self._parts.labels(device),
            support=self._parts.supports(device),
            host=self._host_id,
        )

    # ------------------------------------------------------------------------------------- the run

    def run(self) -> Outcome:
        """Run to the end, once, when all devices are there; they are told of the end, too.

        Raises:
            RunError: the run could not be finished, here or on a device.
        """
        parts = self._parts
        clock = WallClock(time.monotonic_ns() + LEAD, self._dilation)
        notes = Notes(None if self._folder is None else self._folder / "server.jsonl")
        transport = self._transport
        desk = Desk(SERVER, parts.devices + 1, parts.terms, self._host, notes, clock, transport.send)
        pacer = Pacer(self._dilation)
        memory = Holdings(SERVER, parts.ledger(), parts.shortage, partial(self._mark, SERVER))
        standstill = Standstill(clock, self._tell_all)
        driver = Driver(
            SERVER,
            trace=notes.trace,
            clock=clock,
            pacer=pacer,
            price=parts.price,
            lanes=parts.lanes.get(SERVER, 1),
            host=_Still(self._host, standstill),
            post=desk.exchange,
            memory=memory,
            publish=self._publish,
            journal=Journal(notes.given, SERVER),
        )
        desk.employ(driver)
        if parts.shaped:
            network = parts.network
            transport.shape(
                Shaping(
                    clock,
                    self._dilation,
                    lambda device: Connection(network(), SERVER, device, dilation=self._dilation),
                    Sharing(network(), dilation=self._dilation),
                )
            )
        self._supervisor.watch(driver, clock, lambda: transport.moved, self.fail)
        conductor = Conductor(parts.limits, clock, standstill, self._publications, self._measure, driver.stop)
        for node in range(SERVER, parts.devices):
            notes.trace.mark(node, 0, "join")
        with self._changed:
            self._clock, self._notes, self._desk, self._driver = clock, notes, desk, driver
            self._conductor = conductor
            self._start = pb.Down(start=pb.Start(origin=clock.origin, dilation=self._dilation))
            for device in sorted(self._ready):
                self._open(device)
            gone = [device for device in range(parts.devices) if device not in self._ready]
        for device in gone:
            self._mark(device, "leave")
            driver.deliver(Disconnected(device, sender=device), -1, 0)
        try:
            clock.sleep(0)
            conductor.start()
            life = driver.run(parts.server, at_once=True)
            ending, end = self._ended(life, clock.now())
        finally:
            self._supervisor.close()
            conductor.close()
            self._dismiss(clock.now())
        for peak in memory.peaks():
            notes.trace.mark(SERVER, min(peak.time, end), "memory.peak", peak.nbytes)
        fidelity, traffic = pacer.fidelity, transport.traffic
        own = [
            *notes.rows(),
            [PACE, SERVER, *pace_row(fidelity)],
            [TRAFFIC, SERVER, traffic.messages, traffic.frames, traffic.nbytes],
        ]
        current = self._publications.current
        points = self._publications.points(lambda model: self._host.evaluate(model, "test"), end)
        return Outcome(
            ending=ending,
            end=end,
            rows=[*own, *self._collection.rows],
            points=points,
            weights=None if current is None else self._host.model_tensors(current.model),
            dilation=self._dilation,
            paused=clock.paused_for,
            crashed=list(self._crashed),
        )

    def _ended(self, life: Life, now: int) -> tuple[Ending, int]:
        """Why the run has ended, and when."""
        assert self._conductor is not None
        with self._changed:
            if self._failure is not None:
                raise self._failure
            if life is Life.RETURNED:
                return Ending.SERVER, now
            if self._conductor.ending is not None:
                return self._conductor.ending
            return Ending.INTERRUPTED, now

    def stop(self) -> None:
        """End the run here and now (from any thread)."""
        with self._changed:
            self._interrupted = True
            driver = self._driver
            self._changed.notify_all()
        if driver is not None:
            driver.stop()

    def fail(self, reason: str) -> None:
        """The run cannot be finished (from any thread)."""
        with self._changed:
            if self._failure is None:
                self._failure = RunError(reason)
            driver = self._driver
            self._changed.notify_all()
        if driver is not None:
            driver.stop()

    def gone(self, device: int, reason: str) -> None:
        """It is known that a device's process has died (from any thread)."""
        self._transport.dismiss(device, reason)

    def observed(self) -> list[tuple[str, float, int]]:
        """What has happened since this was last asked (from any thread): name, value, moment (ns)."""
        return [self._observed.popleft() for _ in range(len(self._observed))]

    def so_far(self) -> SoFar | None:
        """The run up to now as far as records have come here (from any thread); None before it has begun."""
        with self._changed:
            clock, notes, reading = self._clock, self._notes, self._reading
        if clock is None or notes is None or clock.now() <= 0:
            return None
        with self._looking:
            return reading.look(notes, self._collection, clock.now())

    def close(self) -> None:
        """Let go of everything."""
        self._transport.close()
        self._collection.close()
        if self._notes is not None:
            self._notes.close()

    def _dismiss(self, now: int) -> None:
        """Tell all devices that it is over, and wait for their last notes."""
        with self._changed:
            self._over = True
        self._members.close("the run is over")
        self._tell_all(pb.Down(end=pb.End(moment=now)))
        with self._changed:
            self._changed.wait_for(lambda: self._ready <= self._finished, FAREWELL)
            late = sorted(self._ready - self._finished)
        if late:
            _log.warning("no last notes from devices %s within %g s", late, FAREWELL)
        self._transport.flush(1.0)

    def _publish(self, version: int, model: tuple[Payload, ...], moment: int) -> None:
        self._publications.publish(version, model, moment)
        assert self._conductor is not None
        self._conductor.published()
        self._observed.append(("publish", version, moment))

    def _measure(self, model: tuple[Payload, ...]) -> Quality:
        quality = self._host.evaluate(model, "test")
        if self._clock is not None:
            self._observed.append(("evaluate", quality.accuracy, self._clock.now()))
            self._reading.measured(quality)
        return quality

    def _mark(self, node: int, name: str, value: float = 0.0, detail: dict[str, int] | None = None) -> None:
        assert self._notes is not None
        assert self._clock is not None
        self._notes.trace.mark(node, max(0, self._clock.now()), name, value, detail)

    def _tell_all(self, notice: pb.Down) -> None:
        with self._changed:
            there = sorted(self._ready)
        for device in there:
            self._transport.tell(device, notice)

    # ------------------------------------------------------------------------------------- from the transport

    def connected(self, peer: int) -> None:
        """A device has joined; it counts once it is ready."""

    def disconnected(self, peer: int, reason: str) -> None:
        """A device is gone."""
        with self._changed:
            self._ready.discard(peer)
            self._members.left(peer)
            running = self._start is not None and peer in self._seen and not self._over
            if running and reason not in LEAVES:
                self._crashed.append(peer)
            self._changed.notify_all()
        if reason not in LEAVES:
            _log.warning("device %d is gone: %s", peer, reason)
        if not running:
            return
        assert self._desk is not None
        assert self._driver is not None
        assert self._clock is not None
        self._supervisor.left(peer)
        self._mark(peer, "leave")
        self._desk.shut(peer)
        self._host.forget(peer)
        self._driver.deliver(Disconnected(peer, sender=peer), -1, self._clock.now())

    def told(self, peer: int, notice: pb.Up | pb.Down) -> None:
        """A device says something."""
        assert isinstance(notice, pb.Up)
        match notice.WhichOneof("what"):
            case "ready":
                self._is_ready(peer)
            case "records":
                self._record(peer, notice.records)
            case "probe":
                received = time.monotonic_ns()
                answer = pb.ClockAnswer(asked=notice.probe.asked, received=received, answered=time.monotonic_ns())
                self._transport.tell(peer, pb.Down(answer=answer))
            case "finished":
                if notice.finished.reason:
                    self.fail(f"device {peer}: {notice.finished.reason}")
                with self._changed:
                    self._finished.add(peer)
                    self._changed.notify_all()
            case _:
                pass

    def _is_ready(self, peer: int) -> None:
        with self._changed:
            if self._over:
                return
            self._ready.add(peer)
            self._finished.discard(peer)
            self._changed.notify_all()
            if self._start is None:
                return
            again = peer in self._seen
            self._open(peer)
        if again:
            assert self._driver is not None
            assert self._clock is not None
            self._mark(peer, "return")
            self._driver.deliver(Connected(peer, sender=peer), -1, self._clock.now())

    def _open(self, peer: int) -> None:
        """A device takes part from now on; the state is locked."""
        assert self._desk is not None
        assert self._start is not None
        self._seen.add(peer)
        self._desk.open(peer)
        self._transport.tell(peer, self._start)
        assert self._clock is not None
        if self._clock.paused_for:  # that it has not been there for
            self._transport.tell(peer, pb.Down(thaw=pb.Thaw(paused_for=self._clock.paused_for)))

    def _record(self, peer: int, records: pb.Records) -> None:
        """Take in what a device has noted."""
        lines = records.lines
        if not lines:
            self._supervisor.at(peer, records)
            return
        try:
            self._collection.add(peer, lines)
        except ValueError as error:
            self._transport.dismiss(peer, f"it sends {error}")
            return
        self._supervisor.beat(peer)


class _Still:
    """The host of the server's script: while a model is measured for that, time stands still."""

    def __init__(self, host: OneAtATime, standstill: Standstill) -> None:
        self.run = host.run
        self._host = host
        self._standstill = standstill

    def evaluate(self, model: tuple[Payload, ...], split: str) -> Quality:
        """Measure a model."""
        with self._standstill():
            return self._host.evaluate(model, split)
