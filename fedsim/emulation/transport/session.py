"""One life of a peer, as both ends see it: messages both ways, each once and in order, over streams that may break.

A message is kept until the other end has acknowledged it. A stream of frames begins, both ways, with what its sender
has of the other's messages, and goes on from there. Without shaping, frames are made as the stream asks for them; with
it, a thread feeds them to a shaper, and the stream takes what that lets go. Knows neither how streams come about nor
when a life is to end, apart from rules that are broken.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, NamedTuple, TypeVar

from google.protobuf.message import DecodeError

from fedsim.emulation.line import frame_size
from fedsim.emulation.shaper import Shaper
from fedsim.emulation.shaping import Grant
from fedsim.emulation.transport.notices import Notices, Stream
from fedsim.emulation.transport.seam import Node, Pace, Shaping, Traffic
from fedsim.wire import protocol_pb2 as pb
from fedsim.wire.frames import Assembly, FrameKind, Position, Room, count, parsed, resume, split
from fedsim.wire.refusals import WireError

N = TypeVar("N", pb.Up, pb.Down)

UNSEEN: Final = 50_000
"""Notices that a peer may leave unseen."""

_log = logging.getLogger(__name__)

_QUEUED: Final = 4  # frames that a shaper has let go and gRPC has not asked for
_SETTLING: Final = 1.0  # s; for a callback that is under way when a life ends


class Counter:
    """Traffic that several threads count."""

    def __init__(self) -> None:
        self.traffic = Traffic()
        self.came = 0
        """Frames of the other ends."""
        self._lock = threading.Lock()

    def message(self) -> None:
        """One more message."""
        with self._lock:
            self.traffic.messages += 1

    def frame(self, nbytes: int) -> None:
        """One more frame."""
        with self._lock:
            self.traffic.frames += 1
            self.traffic.nbytes += nbytes

    def heard(self) -> None:
        """A frame has come."""
        with self._lock:
            self.came += 1


@dataclass(slots=True)
class _Outgoing:
    """A message that is kept; the number of the connection is its key."""

    number: int
    header: bytes
    body: Sequence[memoryview]
    size: int
    nbytes: int
    queued: int
    begun: bool = False
    """Whether it has begun to flow."""


class DataStream(Stream):
    """A stream of frames."""

    def __init__(self, changed: threading.Condition) -> None:
        super().__init__(changed)
        self.mine = Position()
        """What this end had when it began."""
        self.theirs = False
        """Whether the other end has said what it has."""
        self.epoch = 0
        """Of the shaper."""
        self.queue: deque[bytes] = deque()
        """Frames that the shaper has let go."""


class _Next(NamedTuple):
    """What a stream carries next: a message from an offset of its body on."""

    stream: DataStream
    message: int
    outgoing: _Outgoing
    offset: int


class Hooks(Generic[N]):
    """What else an end does where something happens in a session; by default nothing."""

    def handle(self, session: Session[N], what: str, notice: Any) -> None:
        """A notice that is not the session's own business."""

    def resumed(self, session: Session[N]) -> None:
        """Frames come, and go, from now on."""

    def ready(self, session: Session[N], message: int, moment: int) -> None:
        """A message of this end could flow from a moment on, but shares its way."""

    def passed(self, session: Session[N], message: int) -> None:
        """A message of this end has flowed."""

    def came(self, session: Session[N], message: int) -> None:
        """A message of the other end is there."""

    def broke(self, session: Session[N], reason: str) -> None:
        """The other end has broken a rule."""


class Session(Generic[N]):
    """A life.

    Args:
        peer: whose.
        node: receives what comes.
        pace: of the connection.
        counter: counts what goes.
        kind: of what this end says on its control stream.
        hooks: of this end.
        limit: notices that the other end may leave unseen; None: any number.
    """

    def __init__(
        self,
        peer: int,
        node: Node,
        pace: Pace,
        counter: Counter,
        kind: type[N],
        hooks: Hooks[N],
        limit: int | None = None,
    ) -> None:
        self.peer = peer
        self.over: str | None = None
        """Why the life has ended, once it has."""
        self.notices = Notices(kind, pace.heartbeat, limit)
        self.heard = self.began = time.monotonic()
        """The last sign of life."""
        self._node = node
        self._pace = pace
        self._counter = counter
        self._kind: type[N] = kind
        self._heard_kind: Any = pb.Down if kind is pb.Up else pb.Up
        self._hooks: Hooks[N] = hooks
        self._changed = threading.Condition()  # guards what follows
        self._data: DataStream | None = None
        self._control: Stream | None = None
        self._data_lost: float = self.began
        self._control_lost: float = self.began
        self._kept: dict[int, _Outgoing] = {}  # in order
        self._held = 0  # bytes of these
        self._count = 0
        self._cursor = Position()  # what is to go next
        self._shaper: Shaper[tuple[DataStream, bytes]] | None = None
        self._size = pace.frame
        self._taking = threading.RLock()  # while a frame is looked at; before `_changed`
        self._hearing = threading.RLock()  # while a notice is looked at
        self._assembly: Assembly[Room] = Assembly(lambda header: node.begin(peer, header))
        self._feeder: threading.Thread | None = None

    # ------------------------------------------------------------------------------------- streams

    def attach_control(self) -> Stream:
        """A new stream of notices takes the place of the one before."""
        stream = Stream(self.notices.changed)
        with self._changed:
            before, self._control = self._control, stream
            self.heard = time.monotonic()
        if before is not None:
            before.abandon()
        if self.over is not None:
            stream.close()
        return stream

    def attach_data(self) -> DataStream:
        """A new stream of frames takes the place of the one before."""
        stream = DataStream(self._changed)
        with self._changed:
            before, self._data = self._data, stream
            self.heard = time.monotonic()
            self._changed.notify_all()
        if before is not None:
            before.abandon()
        with self._taking:  # nothing of the stream before is being looked at any more
            stream.mine = self._assembly.broken()
        shaper = self._shaper
        if shaper is not None:
            shaper.reset()
            stream.epoch = shaper.epoch
        if self.over is not None:
            stream.close()
        return stream

    def lost(self, stream: Stream) -> None:
        """A stream has broken, or was closed."""
        stream.close()
        with self._changed:
            shaper = None
            if stream is self._data:
                self._data, self._data_lost, shaper = None, time.monotonic(), self._shaper
            elif stream is self._control:
                self._control, self._control_lost = None, time.monotonic()
        if shaper is not None:
            shaper.reset()

    def missed(self, now: float) -> float:
        """Seconds for which there was no sign of life, or a stream has been broken."""
        with self._changed:
            since = [self._data_lost] if self._data is None else []
            since += [self._control_lost] if self._control is None else []
            return now - min(since, default=self.heard)

    def excuse(self, seconds: float) -> None:
        """This end did not listen for so long."""
        with self._changed:
            self.heard += seconds
            self._data_lost += seconds
            self._control_lost += seconds

    def abandon(self) -> None:
        """Close all streams at both ends."""
        with self._changed:
            streams = [stream for stream in (self._data, self._control) if stream is not None]
        for stream in streams:
            stream.abandon()

    # ------------------------------------------------------------------------------------- messages go

    def send(self, number: int, header: bytes, body: Sequence[memoryview], nbytes: int, queued: int) -> bool:
        """Keep a message until it is there; wait while too many bytes are kept. False where the life is over."""
        size = sum(piece.nbytes for piece in body)
        outgoing = _Outgoing(number, header, [piece.cast("B") for piece in body if piece.nbytes], size, nbytes, queued)
        weight = size + len(header)
        with self._changed:
            while self.over is None and self._crowded(weight):
                self._changed.wait()
            if self.over is not None:
                return False
            self._count += 1
            self._kept[self._count] = outgoing
            self._held += weight
            self._changed.notify_all()
        self._counter.message()
        return True

    def _crowded(self, weight: int) -> bool:
        if not self._kept:
            return False
        first = next(iter(self._kept.values()))
        return self._held - first.size - len(first.header) + weight > self._pace.inbox

    def frames(self, stream: DataStream) -> Iterator[bytes]:
        """What goes on a stream of frames, until it is closed."""
        yield resume(stream.mine)
        while True:
            with self._changed:
                while not (stream.closed or stream.queue or self._due(stream)):
                    self._changed.wait()
                if stream.closed:
                    return
                if stream.queue:
                    ready: Iterator[bytes] = iter((stream.queue.popleft(),))
                    self._changed.notify_all()
                else:
                    following = self._taken(stream)
                    outgoing = following.outgoing
                    ready = split(following.message, outgoing.header, outgoing.body, self._size, following.offset)
                    del following, outgoing
            for frame in ready:
                if stream.closed:
                    return
                self._counter.frame(len(frame))
                yield frame
            del ready, frame  # what is acknowledged is not to be kept

    def _due(self, stream: DataStream | None) -> bool:
        """Whether an unshaped stream has something to carry."""
        return self._shaper is None and stream is not None and stream.theirs and self._cursor.message in self._kept

    def _taken(self, stream: DataStream) -> _Next:
        message, offset = self._cursor
        self._cursor = Position(message + 1)
        return _Next(stream, message, self._kept[message], offset)

    def _resume(self, stream: DataStream, frame: bytes) -> None:
        """The first frame of a stream: from where on it goes."""
        kind, message, offset, data = parsed(frame)
        if kind is not FrameKind.RESUME or len(data):
            raise WireError("a stream that does not begin with what is there")
        with self._changed:
            first = next(iter(self._kept), self._count + 1)
            there = self._kept.get(message)
            if there is None and (message != self._count + 1 or offset):
                raise WireError(f"it has all before byte {offset} of message {message}, of {first} to {self._count}")
            if there is not None and offset and offset >= there.size:
                raise WireError(f"it has {offset} bytes of message {message}, which has {there.size}")
            self._cursor = Position(message, offset)
            stream.theirs = True
            self._changed.notify_all()

    def _acknowledged(self, message: int, arrived: int) -> None:
        with self._changed:
            first = next(iter(self._kept), None)
            if message != first or message >= self._cursor.message:
                raise WireError(f"it acknowledges message {message}, where {first} is the first that is under way")
            outgoing = self._kept.pop(message)
            self._held -= outgoing.size + len(outgoing.header)
            self._changed.notify_all()
        self._node.landed(self.peer, outgoing.number, arrived)

    # ------------------------------------------------------------------------------------- messages come

    def take(self, stream: DataStream, frame: bytes) -> None:
        """A frame has come.

        Raises:
            WireError: it breaks a rule.
        """
        with self._taking:
            if stream is not self._data or self.over is not None:
                return
            self.heard = time.monotonic()
            self._counter.heard()
            if not stream.theirs:
                self._resume(stream, frame)
                self._hooks.resumed(self)
                return
            due = self._assembly.position.message
            room = self._assembly.add(frame)
            if room is not None:
                self._hooks.came(self, due)
                arrived = self._node.received(self.peer, room)
                acknowledgement = pb.Acknowledgement(message=due, arrived=arrived)
                self.tell(self._kind(acknowledgement=acknowledgement))

    # ------------------------------------------------------------------------------------- notices

    def tell(self, notice: N) -> None:
        """Say something on the control stream."""
        if not self.notices.tell(notice):
            self._hooks.broke(self, f"it leaves more than {UNSEEN} notices unseen")

    def hear(self, stream: Stream, data: bytes) -> None:
        """A notice has come.

        Raises:
            WireError: it breaks a rule.
        """
        with self._hearing:
            if stream is not self._control or self.over is not None:
                return
            try:
                notice = self._heard_kind.FromString(data)
            except DecodeError as error:
                raise WireError("something on the control stream that is no notice") from error
            self.heard = time.monotonic()
            if not self.notices.heard(notice):
                return
            match notice.WhichOneof("what"):
                case None | "heartbeat":
                    pass
                case "acknowledgement":
                    self._acknowledged(notice.acknowledgement.message, notice.acknowledgement.arrived)
                case what:
                    self._hooks.handle(self, what, notice)

    def run(self, stream: Stream, take: Callable[[Any, bytes], None], incoming: Iterator[bytes]) -> None:
        """Take in all that comes on a stream; broken rules, and errors of this end, end the life."""
        try:
            for data in incoming:
                if stream.closed:
                    return
                take(stream, data)
                del data  # not to be kept while the next one is awaited
        except WireError as error:
            self._hooks.broke(self, f"it breaks the rules: {error}")
        except Exception as error:
            if self.over is None:
                _log.exception("while taking in what node %d has sent", self.peer)
                self._hooks.broke(self, f"{type(error).__name__} at the other end: {error}")

    # ------------------------------------------------------------------------------------- shaping

    def shape(self, shaping: Shaping) -> None:
        """Let messages flow as a link does, from now on; before the first of them."""
        connection = shaping.connection(self.peer)
        self._size = frame_size(connection.own_rate(0), shaping.dilation)
        shaper: Shaper[tuple[DataStream, bytes]] = Shaper(
            connection, shaping.clock, self._deliver, announce=self._announce, began=self._begun, ended=self._ended
        )
        with self._changed:
            assert not self._count, "a link is to be shaped from its first message on"
            self._shaper = shaper
            if self._data is not None:
                self._data.epoch = shaper.epoch
            self._feeder = threading.Thread(
                target=self._feed, args=(shaper,), name=f"feeder of {self.peer}", daemon=True
            )
            self._feeder.start()

    def granted(self, grant: Grant) -> None:
        """What messages of this end may take."""
        if self._shaper is not None:
            self._shaper.grant(grant)

    def _feed(self, shaper: Shaper[tuple[DataStream, bytes]]) -> None:
        try:
            while (following := self._await()) is not None:
                self._put(shaper, following)
                del following
        except Exception as error:
            if self.over is None:
                _log.exception("while sending to node %d", self.peer)
                self._hooks.broke(self, f"{type(error).__name__} at the other end: {error}")
        finally:
            shaper.reset()
            shaper.close()

    def _await(self) -> _Next | None:
        """The next message for the shaper, as soon as there is one; None once the life is over."""
        with self._changed:
            while self.over is None:
                stream = self._data
                if stream is not None and stream.theirs and not stream.closed and self._cursor.message in self._kept:
                    return self._taken(stream)
                self._changed.wait()
            return None

    def _put(self, shaper: Shaper[tuple[DataStream, bytes]], following: _Next) -> None:
        stream, message, outgoing, offset = following
        head = 0 if offset else max(0, outgoing.nbytes - outgoing.size)
        rest = outgoing.size - offset
        if not shaper.open(message, head + rest, outgoing.queued, again=outgoing.begun, epoch=stream.epoch):
            return
        last = count(rest, self._size) - 1
        for index, frame in enumerate(split(message, outgoing.header, outgoing.body, self._size, offset)):
            nbytes = min(self._size, rest - (index - 1) * self._size) if index else head
            if not shaper.put((stream, frame), nbytes, last=index == last, epoch=stream.epoch):
                return

    def _deliver(self, piece: tuple[DataStream, bytes]) -> None:
        """Hand a frame to its stream, as soon as that has room; one of a stream that is gone is sent again anyway."""
        stream, frame = piece
        with self._changed:
            while len(stream.queue) >= _QUEUED and not stream.closed:
                self._changed.wait()
            if not stream.closed:
                stream.queue.append(frame)
                self._changed.notify_all()

    def _announce(self, message: int, ready: int) -> None:
        if self.over is None:
            self._hooks.ready(self, message, ready)

    def _begun(self, message: int, moment: int) -> None:
        with self._changed:
            outgoing = self._kept.get(message)
            if outgoing is None or outgoing.begun:
                return
            outgoing.begun = True
        if self.over is None:
            self._node.started(self.peer, outgoing.number, moment)

    def _ended(self, message: int, started: int, ended: int) -> None:
        if self.over is None:
            self._hooks.passed(self, message)

    # ------------------------------------------------------------------------------------- the end

    def finish(self, reason: str, farewell: N | None = None) -> bool:
        """End the life, with a last word to the other end; answers False where it had ended already."""
        with self._changed:
            if self.over is not None:
                return False
            self.over = reason
            self._kept.clear()
            self._held = 0
            data, control = self._data, self._control
            self._changed.notify_all()
        self.notices.close(farewell)
        if data is not None:
            data.close()
        if control is not None and farewell is None:
            control.close()
        return True

    def settle(self) -> None:
        """Wait, not for long, until nothing of this life is being looked at by another thread."""
        for lock in (self._taking, self._hearing):
            if lock.acquire(timeout=_SETTLING):
                lock.release()

    def join(self, deadline: float) -> None:
        """Wait for the end of its threads, up to a reading of `time.monotonic`."""
        if self._feeder is not None and self._feeder is not threading.current_thread():
            self._feeder.join(max(0.0, deadline - time.monotonic()))
