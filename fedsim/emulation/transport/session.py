"""One life of a connection, at either end: what goes into its two streams, what comes out, and when it is over.

A stream is attached anew whenever it has broken; what was sent before and has not arrived is sent again, and what has
arrived is not taken twice. Knows gRPC no more than that streams are iterators: `notices` and `frames` are what this end
sends, `hear_notices` and `hear_frames` take in what the other does.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, Final

from fedsim.emulation.links.ingress import Ingress
from fedsim.emulation.links.line import frame_size
from fedsim.emulation.links.shaper import Shaper
from fedsim.emulation.links.shaping import Grant
from fedsim.emulation.transport.outbox import Notices, Outbox, Outgoing
from fedsim.emulation.transport.seam import Node, Pace, Shaping, Traffic
from fedsim.script import SERVER
from fedsim.wire import protocol_pb2 as pb
from fedsim.wire.frames import Assembly, FrameKind, Position, Room, parsed, resume, split
from fedsim.wire.refusals import WireError

UNSEEN: Final = 64
"""Notices after which the other side is told that they have been seen."""

KEPT: Final = 20_000
"""Notices that the other side may leave unseen: one that does not listen must not fill this side's memory."""

AHEAD: Final = 8192
"""Messages that a device may announce before the first of them is there: its shaper takes fewer."""

LATEST: Final = 1 << 60
"""The last moment (ns) at which something may be ready to flow."""

LINE: Final = 2
"""Frames between a shaper and a stream."""


class Session:
    """One life.

    Args:
        peer: the other end: a device's number, or the server's.
        node: told of all that comes.
        pace: of the connection.
        ended: called once, when it is over, unless this end closes it: why.
    """

    def __init__(self, peer: int, node: Node, pace: Pace, ended: Callable[[Session, str], None]) -> None:
        self.peer = peer
        self.traffic = Traffic()
        self.device = SERVER  # of the connection: set by whoever makes it
        self._node = node
        self._pace = pace
        self._ended = ended
        self._up = peer == SERVER
        lock = threading.RLock()  # guards what follows
        self._changed = threading.Condition(lock)  # for whoever sends messages
        self._spoken = threading.Condition(lock)  # for whoever sends notices
        self._outbox = Outbox(self._changed, pace.inbox)
        self._notices: Notices = Notices(self._spoken)
        self._assembly: Assembly[Room] = Assembly(lambda header: node.begin(peer, header))
        self.moved = 0
        """Frames that have been sent or have come."""
        self._over: str | None = None
        self._refusal: str | None = None
        self._heard = time.monotonic()
        self._control = 0  # which stream of notices is attached, counted
        self._data = 0
        self._ask = self._answer = False
        self._from: Position | None = None  # what the other side has, of the stream of frames that is attached
        self._line: deque[bytes] = deque()  # frames that a shaper has let go
        self._shaper: Shaper[tuple[int, bytes]] | None = None  # of frames with their streams
        self._ingress: Ingress | None = None
        self._numbers: dict[int, int] = {}  # of messages that a shaper knows: in the run, by their place
        self._begun = 0  # the last message that has begun to flow
        self._fed = 0  # the last message that a shaper was given
        self._announced = 0  # the last message that the other side has announced
        self._taking = threading.RLock()  # while a frame is looked at; before `_changed`, as is the next one
        self._hearing = threading.RLock()  # while a notice is: those of two streams must not overtake one another

    # ------------------------------------------------------------------------------------- asked for by the node

    def send(self, number: int, header: bytes, body: Any, nbytes: int, queued: int) -> bool:
        """Queue a message; False where this life is over."""
        return self._outbox.put(number, header, body, nbytes, queued)

    def tell(self, notice: pb.Up | pb.Down) -> None:
        """Queue a notice; one of a life that is over goes nowhere, and one too many ends it."""
        with self._changed:
            if self._over is not None:
                return
            self._notices.put(notice)
            deaf = len(self._notices) > KEPT
        if deaf:
            self.refuse(f"it has not seen the last {KEPT} notices")

    def shape(self, shaping: Shaping, ingress: Ingress | None) -> None:
        """Keep to the link from now on; nothing has been sent yet."""
        with self._changed:
            if self._over is not None:
                return
            connection = shaping.connection(self.peer)
            self._ingress = ingress if connection.shared else None
            announce = self._announce if connection.shared else None
            self._shaper = Shaper(
                connection, shaping.clock, self._let_go, announce=announce, began=self._began, ended=self._flowed
            )
            self._pace = replace(self._pace, frame=frame_size(connection.own_rate(0), shaping.dilation))
            self._changed.notify_all()

    def grant(self, grant: Grant) -> None:
        """What the link may carry, where others share it."""
        if self._shaper is not None:
            self._shaper.grant(grant)

    def flush(self, timeout: float) -> bool:
        """Wait until all notices are known to be there; answers whether they are."""
        with self._changed:
            self._ask = True
            self._spoken.notify_all()
            self._spoken.wait_for(lambda: self._over is not None or not len(self._notices), timeout)
            return not len(self._notices)

    @property
    def over(self) -> bool:
        """Whether this life is."""
        return self._over is not None

    @property
    def reason(self) -> str | None:
        """Why this life is over; None: it is not."""
        return self._over

    @property
    def silent(self) -> float:
        """Seconds since anything was heard."""
        return time.monotonic() - self._heard

    @property
    def too_silent(self) -> bool:
        """Whether that is too long: so many heartbeats are missing, and the next one is not on its way."""
        return self.silent > self._pace.heartbeat * (self._pace.missed + 0.5)

    def detached(self) -> None:
        """A stream is gone: from now on silence counts, and whoever waits for something to send on it looks again."""
        self._heard = time.monotonic()
        with self._changed:
            self._changed.notify_all()
            self._spoken.notify_all()

    def refuse(self, reason: str, *, quietly: bool = False) -> None:
        """Cut the other side off, and tell it why; `quietly`: the node here is not told."""
        with self._changed:
            self._refusal = reason
        self.end(reason, quietly=quietly)

    def end(self, reason: str, *, quietly: bool = False) -> None:
        """This life is over, now; the node is told, once, unless quietly."""
        with self._changed:
            if self._over is not None:
                return
            self._over = reason
            shaper = self._shaper
            self._outbox.close()
            self._line.clear()
            self._changed.notify_all()
            self._spoken.notify_all()
        if shaper is not None:
            shaper.reset()
            shaper.close()
        if not quietly:
            self._ended(self, reason)

    # ------------------------------------------------------------------------------------- notices

    def attach_control(self) -> int:
        """A stream of notices begins, in the place of any other."""
        with self._changed:
            self._control += 1
            self._spoken.notify_all()
            return self._control

    def notices(self, stream: int) -> Iterator[Any]:
        """What this end says on a stream of notices, until that is over: first whatever may not have been seen yet."""
        kind = pb.Up if self._up else pb.Down
        with self._changed:
            self._ask = True
        told, until = 0, 0.0
        while True:
            with self._changed:
                notice = self._notices.after(told)
                while notice is None and self._runs(stream) and not (self._ask or self._answer):
                    left = until - time.monotonic()
                    if left <= 0:
                        break
                    self._spoken.wait(left)
                    notice = self._notices.after(told)
                if not self._runs(stream):
                    break
                if notice is not None:
                    told = notice.sequence
                else:
                    notice = kind(heartbeat=pb.Heartbeat(seen=self._notices.seen, ask=self._ask))
                    self._ask = self._answer = False
                    until = time.monotonic() + self._pace.heartbeat
            yield notice
        if self._control != stream:
            return
        yield kind(heartbeat=pb.Heartbeat(seen=self._notices.seen))  # whoever leaves waits for that
        if self._refusal is not None:
            yield pb.Down(refusal=pb.Refusal(reason=self._refusal))

    def hear_notices(self, stream: int, notices: Iterable[Any]) -> None:
        """Take in what the other side says on a stream of notices, until that ends.

        Raises:
            WireError: it breaks the rules.
            Exception: whatever the stream raises.
        """
        unseen = 0
        for notice in notices:
            self._heard = time.monotonic()
            with self._hearing:
                with self._changed:
                    if not self._runs(stream):
                        return
                    if notice.WhichOneof("what") == "heartbeat":
                        self._notices.known(notice.heartbeat.seen)
                        self._answer = self._answer or notice.heartbeat.ask
                        self._spoken.notify_all()
                        continue
                    new = notice.WhichOneof("what") == "refusal" or self._notices.comes(notice.sequence)
                    unseen += 1
                    if unseen >= UNSEEN:
                        unseen, self._answer = 0, True
                        self._spoken.notify_all()
                if new:
                    self._take_in(notice)

    def _runs(self, stream: int) -> bool:
        """Whether a stream of notices is attached still; with the state locked."""
        return self._over is None and self._control == stream

    def _take_in(self, notice: Any) -> None:
        match notice.WhichOneof("what"):
            case "acknowledgement":
                said = notice.acknowledgement
                with self._changed:
                    if self._over is not None:
                        return
                    number = self._outbox.acknowledged(said.message)
                    self._numbers.pop(said.message, None)
                self._node.landed(self.peer, number, said.arrived)
            case "announcement":
                self._take_announcement(notice.announcement.message, notice.announcement.ready)
            case "grant":
                said = notice.grant
                self.grant(Grant(self.device, True, said.message, said.rate, said.since))
            case "leave":
                self.end(notice.leave.reason)
            case "refusal":
                self.end(notice.refusal.reason)
            case None:
                raise WireError("a notice that says nothing")
            case _:
                self._node.told(self.peer, notice)

    def _take_announcement(self, place: int, ready: int) -> None:
        due = self._assembly.position.message
        if place > due + AHEAD:
            raise WireError(f"message {place} is announced where message {due} is due")
        if self._ingress is not None and place > self._announced:  # others are announced already
            self._announced = place
            self._ingress.announce(self.peer, SERVER, place, min(max(ready, 0), LATEST))

    # ------------------------------------------------------------------------------------- frames

    def attach_data(self) -> int:
        """A stream of frames begins, in the place of any other."""
        with self._changed:
            self._data += 1
            self._from = None
            self._line.clear()
            shaper, stream = self._shaper, self._data
            self._changed.notify_all()
        if shaper is not None:
            shaper.reset()
        if self._ingress is not None:
            self._ingress.repeat(self.peer)  # a shaper that was reset knows no grants
        return stream

    def frames(self, stream: int) -> Iterator[bytes]:
        """What this end sends on a stream of frames, until that is over."""
        with self._taking:  # nothing of the stream before is looked at any more
            if not self._flows(stream):
                return
            position = self._assembly.broken()
        yield resume(position)
        begin = self._other_has(stream)
        if begin is None:
            return
        with self._changed:
            self._changed.wait_for(lambda: not self._flows(stream) or self._shaper is not None or len(self._outbox) > 0)
            shaper = self._shaper
        if shaper is None:
            for _, frame, _, _ in self._pieces(stream, begin):
                yield frame
            return
        feeder = threading.Thread(
            target=self._feed, args=(shaper, shaper.epoch, stream, begin), name="feeder", daemon=True
        )
        feeder.start()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: not self._flows(stream) or len(self._line) > 0)
                if not self._flows(stream):
                    return
                frame = self._line.popleft()
                self._changed.notify_all()
            yield frame

    def hear_frames(self, stream: int, frames: Iterable[bytes]) -> None:
        """Take in what the other side sends on a stream of frames, until that ends.

        Raises:
            WireError: it breaks the rules.
            Exception: whatever the stream raises.
        """
        heard = iter(frames)
        first = next(heard, None)
        if first is None:
            return
        head = parsed(first)
        if head.kind is not FrameKind.RESUME:
            raise WireError("a stream that does not begin with what is there")
        begin = Position(head.message, head.offset)
        with self._changed:
            if not self._flows(stream):
                return
            self._outbox.check(begin)
            self._from = begin
            self._changed.notify_all()
        for frame in heard:
            self._heard = time.monotonic()
            self.moved += 1
            with self._taking:
                if not self._flows(stream):
                    return
                place = self._assembly.position.message
                room = self._assembly.add(frame)
                if room is not None:
                    self._arrived(place, room)
            del frame, room  # while the next one is awaited, and room made for another message

    def _arrived(self, place: int, room: Room) -> None:
        arrived = self._node.received(self.peer, room)
        if self._ingress is not None and not self._up:
            self._ingress.finish(self.peer, SERVER, place)
        said = pb.Acknowledgement(message=place, arrived=arrived)
        self.tell(pb.Up(acknowledgement=said) if self._up else pb.Down(acknowledgement=said))

    def _flows(self, stream: int) -> bool:
        """Whether a stream of frames is attached still."""
        return self._over is None and self._data == stream

    def _other_has(self, stream: int) -> Position | None:
        """What the other side has when a stream begins; None: the stream is over before it has said so."""
        with self._changed:
            self._changed.wait_for(lambda: not self._flows(stream) or self._from is not None)
            return self._from if self._flows(stream) else None

    def _pieces(self, stream: int, begin: Position) -> Iterator[tuple[Outgoing, bytes, int, bool]]:
        """The frames from a position on, as messages come: message, frame, bytes that are charged, whether it ends."""
        place, start = begin
        traffic = self.traffic
        while True:
            with self._changed:
                while self._flows(stream) and (message := self._outbox.at(place)) is None:
                    self._changed.wait()
                if not self._flows(stream):
                    return
            assert message is not None
            if start == 0:
                traffic.messages += 1
            charged, left = message.nbytes - message.size, message.size - start
            for frame in split(place, message.header, message.body, self._pace.frame, start):
                if not self._flows(stream):
                    return
                self.moved += 1
                traffic.frames += 1
                traffic.nbytes += len(frame)
                yield message, frame, charged, left == 0
                charged = min(self._pace.frame, left)
                left -= charged
            place, start = place + 1, 0

    # ------------------------------------------------------------------------------------- a link that is kept to

    def _feed(self, shaper: Shaper[tuple[int, bytes]], epoch: int, stream: int, begin: Position) -> None:
        """Give a shaper what is to be sent, from a position on."""
        opened = 0
        for message, frame, charged, last in self._pieces(stream, begin):
            place = message.place
            if place != opened:
                opened = place
                rest = message.nbytes - (begin.offset if place == begin.message else 0)
                with self._changed:
                    self._numbers[place] = message.number
                    again, self._fed = place <= self._fed, max(place, self._fed)
                if not shaper.open(place, rest, message.queued, again=again, epoch=epoch):
                    return
            if not shaper.put((stream, frame), charged, last=last, epoch=epoch):
                return

    def _let_go(self, piece: tuple[int, bytes]) -> None:
        """A shaper lets a frame go (its thread); one of a stream that is gone is sent again on the next."""
        stream, frame = piece
        with self._changed:
            self._changed.wait_for(lambda: not self._flows(stream) or len(self._line) < LINE)
            if self._flows(stream):
                self._line.append(frame)
                self._changed.notify_all()

    def _announce(self, place: int, ready: int) -> None:
        """A message needs to be granted its rate."""
        if self._up:
            self.tell(pb.Up(announcement=pb.Announcement(message=place, ready=ready)))
        elif self._ingress is not None:
            self._ingress.announce(SERVER, self.peer, place, ready)

    def _began(self, place: int, moment: int) -> None:
        number = self._numbers.get(place)
        if number is not None and place > self._begun:  # what is sent again has begun before
            self._begun = place
            self._node.started(self.peer, number, moment)

    def _flowed(self, place: int, started: int, ended: int) -> None:
        if self._ingress is not None and not self._up:
            self._ingress.finish(SERVER, self.peer, place)
