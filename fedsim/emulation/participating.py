"""A device of an emulation: joins, gets ready, lives its script from start to end, and tells what it has noted.

A life of the script ends when the script returns, the device leaves (a fault of the scenario, memory that does not
suffice), or the run ends. One that is back begins anew, in the same process.
"""

from __future__ import annotations

import io
import json
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

from fedsim.emulation.clock import WallClock
from fedsim.emulation.desk import DONE, FAULT, SHORT, Desk, Reception
from fedsim.emulation.driver import Driver, Life
from fedsim.emulation.holdings import Holdings
from fedsim.emulation.links.shaping import Connection
from fedsim.emulation.pacing import Fidelity, Pacer, pace_row
from fedsim.emulation.parts import OneAtATime, Parts
from fedsim.emulation.probing import Prober
from fedsim.emulation.records.journal import Journal
from fedsim.emulation.records.recording import CLOCK, PACE, TRAFFIC, Notes
from fedsim.emulation.transport.client import Client
from fedsim.emulation.transport.seam import Pace, Shaping
from fedsim.emulation.watchdog import MemoryWatch
from fedsim.errors import RunError, UserError
from fedsim.runtime.conditions import nanoseconds
from fedsim.script import SERVER
from fedsim.wire import protocol_pb2 as pb
from fedsim.wire.frames import Room
from fedsim.wire.registry import Registry

SHIPPING: Final = 1.0
"""Seconds between two consignments of notes."""

LINES: Final = 1000
"""Notes in one notice."""

PATIENCE: Final = 0.05
"""Seconds for which a device that leaves waits for the work that it is at, to tell of it."""

FLUSHING: Final = 10.0
"""Seconds that the last notes may take."""

HASTE: Final = 30.0
"""Seconds that a message waits for a device to be ready for it."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Built:
    """What a device makes of the scenario that the server has told it."""

    parts: Parts
    labels: bytes
    """A digest of the labels of the samples that it holds."""
    watch: Callable[[Callable[[int], None]], MemoryWatch]
    """Makes what watches the memory of this process, from whoever is told of a shortage."""


class Shipment(io.StringIO):
    """Lines that wait to be shipped."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: list[str] = []

    def write(self, text: str, /) -> int:
        """Add a line."""
        self._lines.append(text)
        return len(text)

    def taken(self) -> list[str]:
        """The lines since this was last asked."""
        lines, self._lines = self._lines, []
        return lines


class DeviceNode(Reception):
    """A device's process of a run.

    Args:
        address: of the server.
        build: makes the parts from the resolved scenario and the number of this device.
        profile: of its hardware; empty: whatever the number has.
        node: the number that it is to have; None: any that is free and has this profile.
        token: of this device.
        credentials: of the transport.
        pace: of the connection.
        host_id: of this host and its clock, where that is known.
    """

    def __init__(
        self,
        address: str,
        build: Callable[[str, int], Built],
        *,
        profile: str = "",
        node: int | None = None,
        token: str | None = None,
        credentials: Any = None,
        pace: Pace | None = None,
        host_id: bytes = b"",
    ) -> None:
        self._build = build
        self._profile = profile
        self._asked = node
        self._host_id = host_id
        self._changed = threading.Condition()  # guards what follows
        self._start: pb.Start | None = None
        self._end: pb.End | None = None
        self._lost: str | None = None
        self._ended: Life | BaseException | None = None
        self._clock: WallClock | None = None
        self._living = False
        self._left = False
        self._driver: Driver | None = None
        self._told = pb.Records()
        self._shipment = Shipment()
        self._notes = Notes(file=self._shipment)
        self._fidelity: list[Fidelity] = []
        self._closing = threading.Event()
        self._client = Client(address, self, pace=pace or Pace(), credentials=credentials, token=token)
        self._prober = Prober(self._client.tell, self._closing)

    def run(self) -> None:
        """Take part in a run, from joining to its end.

        Raises:
            UserError: it may not join, or has not what the server has: another version, other data.
            RunError: the server is gone, or the script failed here.
        """
        try:
            response = self._client.join(self._request())
            self.node = response.node
            built = self._build(response.scenario.decode(), self.node)
            self._check(response, built)
            shared = bool(self._host_id) and response.host == self._host_id
            self._alignment = self._prober.begin(shared=shared)
            self._built, self._parts = built, built.parts
            self._host = OneAtATime(built.parts.host)
            self._life = response.life
            self._take_part()
        except BaseException as error:
            self._client.tell(pb.Up(finished=pb.Finished(reason=_said(error))))
            self._client.flush(1.0)
            raise
        finally:
            self._closing.set()
            with self._changed:
                self._changed.notify_all()
            self._client.close()

    # ------------------------------------------------------------------------------------- before the start

    def _request(self) -> pb.JoinRequest:
        request = pb.JoinRequest(profile=self._profile, host=self._host_id)
        if self._asked is not None:
            request.node = self._asked
        return request

    def _check(self, response: pb.JoinResponse, built: Built) -> None:
        """Refuse to take part with other message classes or other data than the server has."""
        if Registry(built.parts.terms.messages).digest != response.messages_digest:
            raise UserError(
                "the scheduler's messages are not those that the server has; install the same version of the scheduler "
                "on both"
            )
        if response.labels_digest and response.labels_digest != built.labels:
            raise UserError(
                f"the data of device {response.node} are not those that the server has dealt; give it a copy of the "
                "same data set (--data DIR)"
            )
        if response.support != built.parts.supports(response.node):
            raise UserError(
                f"this host does not prune the model of device {response.node} as the server does: processors may "
                "round differently; prune it once (fedsim prune --out DIR), and let the scenario name that "
                "(pruning: {manifest: DIR}) on both"
            )

    # ------------------------------------------------------------------------------------- the run

    def _take_part(self) -> None:
        parts = self._parts
        self._ready()
        clock = self._clock = self._started()
        self._desk = Desk(
            self.node, parts.devices + 1, parts.terms, self._host, self._notes, clock, self._sent, life=self._life
        )
        threading.Thread(target=self._shipping, name="notes", daemon=True).start()
        memory = Holdings(self.node, parts.ledger(), parts.shortage, self._mark)
        watch = self._built.watch(memory.exceeded)
        watch.start()
        if parts.shaped:
            network, dilation = parts.network, clock.dilation
            self._client.shape(
                Shaping(clock, dilation, lambda peer: Connection(network(), self.node, peer, dilation=dilation))
            )
        try:
            self._lives(memory, watch)
        finally:
            watch.close()

    def _lives(self, memory: Holdings, watch: MemoryWatch) -> None:
        """One life after the other, up to the end of the run or until the device leaves for good."""
        clock, desk = self._clock, self._desk
        assert clock is not None
        assert desk is not None
        since = 0 if self._life == 0 else clock.now()
        for leave, back in chain(self._parts.absences(self.node), [(None, None)]):
            until = None if leave is None else nanoseconds(leave)
            if until is not None and until < since:
                continue  # before the process was started
            reason = self._live(memory, since, until)
            if reason != FAULT or back is None:
                watch.close()
                self._farewell(memory, watch)
            if reason is None:
                self._client.flush(FLUSHING)
                self._client.leave(DONE)
                return
            self._ship()
            self._client.leave(reason)
            desk.shut(SERVER)
            if reason != FAULT or back is None or not self._away(nanoseconds(back)):
                return
            since = clock.now()

    def _live(self, memory: Holdings, since: int, until: int | None) -> str | None:
        """One life; answers why the device leaves, or nothing where the run is over.

        Raises:
            RunError: the server is gone, or the script failed.
        """
        parts, clock = self._parts, self._clock
        assert clock is not None
        assert self._desk is not None
        pacer = Pacer(clock.dilation, since)
        self._fidelity.append(pacer.fidelity)
        driver = self._driver = Driver(
            self.node,
            trace=self._notes.trace,
            clock=clock,
            pacer=pacer,
            price=parts.price,
            lanes=parts.lanes.get(self.node, 1),
            host=self._host,
            post=self._desk.exchange,
            memory=memory,
            since=since,
            journal=Journal(self._notes.given, self.node, self._life + 1),
        )
        self._ended = None
        self._desk.employ(driver)
        self._desk.open(SERVER)
        thread = threading.Thread(target=self._script, args=(driver,), name=f"device {self.node}", daemon=True)
        thread.start()
        with self._changed:
            self._living = True
            self._changed.notify_all()  # messages may come in
            while not self._is_over() and (until is None or clock.now() < until):
                clock.wait(self._changed, until)
            reason = SHORT if self._ended is Life.LEFT else None if self._is_over() else FAULT
        driver.stop()
        thread.join(None if reason is None else PATIENCE)
        with self._changed:
            self._living, self._left = False, reason is not None
            self._changed.notify_all()
        self._desk.employ(None)
        if isinstance(self._ended, BaseException):
            raise self._ended
        if reason is None and self._end is None:
            raise RunError(f"the server is gone: {self._lost}")
        if reason is not None:
            thread.join()
            self._host.forget(self.node)
            memory.empty()
        return reason

    def _is_over(self) -> bool:
        """Whether this life is: nothing more will come, or the script has failed; with the state locked."""
        gone = self._end is not None or self._lost is not None
        return gone or isinstance(self._ended, BaseException) or self._ended is Life.LEFT

    def _script(self, driver: Driver) -> None:
        ended: Life | BaseException
        try:
            ended = driver.run(self._parts.device)
        except BaseException as error:
            ended = error
        with self._changed:
            self._ended = ended
            self._changed.notify_all()

    def _away(self, back: int) -> bool:
        """Be away until a moment, and join again; answers whether the run still goes on."""
        clock = self._clock
        assert clock is not None
        clock.sleep(back)
        request = self._request()
        request.node = self.node
        with self._changed:
            self._lost = self._start = None
            self._left = False
        try:
            self._life = self._client.join(request).life
        except (UserError, RunError) as error:  # the run has ended meanwhile, or the server is gone
            _log.warning("device %d may not come back: %s", self.node, error)
            return False
        self._ready()
        self._started()
        return True

    def _ready(self) -> None:
        self._client.tell(pb.Up(ready=pb.Ready()))

    def _started(self) -> WallClock:
        """Wait for the barrier; the clock of the run."""
        with self._changed:
            self._changed.wait_for(lambda: self._start is not None or self._end is not None or self._lost is not None)
            if self._start is None:
                raise RunError(f"the run did not start: {self._lost or 'it was ended before'}")
            start = self._start
        return self._clock or WallClock(start.origin, start.dilation, source=self._alignment.now)

    def _farewell(self, memory: Holdings, watch: MemoryWatch) -> None:
        """The last notes."""
        mark = self._notes.trace.mark
        for peak in memory.peaks():
            mark(self.node, peak.time, "memory.peak", peak.nbytes)
            mark(self.node, peak.time, "memory.measured", watch.peak[0])
        self._note([PACE, self.node, *pace_row(*self._fidelity)])
        traffic = self._client.traffic
        self._note([TRAFFIC, self.node, traffic.messages, traffic.frames, traffic.nbytes])
        self._note([CLOCK, self.node, self._alignment.offset_at(time.monotonic_ns()), self._alignment.bound])
        self._ship()
        self._client.tell(pb.Up(finished=pb.Finished()))

    def _mark(self, name: str, value: float, detail: dict[str, int]) -> None:
        assert self._clock is not None
        self._notes.trace.mark(self.node, self._clock.now(), name, value, detail)

    def _note(self, row: list[Any]) -> None:
        self._shipment.write(json.dumps(row) + "\n")

    def _shipping(self) -> None:
        while not self._closing.wait(SHIPPING):
            self._ship()

    def _ship(self) -> None:
        """Send what was noted since this was last done, and what the device is at, where that has changed."""
        lines = self._shipment.taken()
        for first in range(0, len(lines), LINES):
            self._client.tell(pb.Up(records=pb.Records(lines=lines[first : first + LINES])))
        driver = self._driver
        if driver is None:
            return
        waiting, due = driver.awaiting, driver.due
        at = pb.Records(due=due)
        if waiting is not None:
            at.awaited, at.since = waiting.awaited, waiting.since
        if at != self._told:
            self._told = at
            self._client.tell(pb.Up(records=at))

    def _sent(self, peer: int, number: int, header: bytes, body: Any, nbytes: int, queued: int, /) -> bool:
        return self._client.send(number, header, body, nbytes, queued)

    # ------------------------------------------------------------------------------------- from the transport

    def connected(self, peer: int) -> None:
        """The server has let this device in."""

    def begin(self, peer: int, header: bytes) -> Room:
        """The header of a message has come.

        Raises:
            WireError: the server breaks the rules.
        """
        with self._changed:  # the server may be ahead of a device that has just been told of the start
            self._changed.wait_for(lambda: self._living or self._left or self._closing.is_set(), HASTE)
        return super().begin(peer, header)

    def disconnected(self, peer: int, reason: str) -> None:
        """The server is gone, or this device was cut off."""
        with self._changed:
            self._lost = reason
            self._changed.notify_all()

    def told(self, peer: int, notice: pb.Up | pb.Down) -> None:
        """The server says something."""
        assert isinstance(notice, pb.Down)
        match notice.WhichOneof("what"):
            case "start":
                with self._changed:
                    self._start = notice.start
                    self._changed.notify_all()
            case "end":
                with self._changed:
                    self._end = notice.end
                    self._changed.notify_all()
            case "freeze":
                if self._clock is not None:
                    self._clock.pause()
            case "thaw":
                if self._clock is not None:
                    self._clock.resume(notice.thaw.paused_for)
            case "answer":
                self._prober.answered(notice.answer)
            case _:
                pass


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
