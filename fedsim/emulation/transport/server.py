"""The server's end of all connections."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final, NoReturn

import grpc

from fedsim.emulation.ingress import Ingress
from fedsim.emulation.shaping import Grant
from fedsim.emulation.transport.channels import (
    PROTOCOL,
    SAID,
    SERVICE,
    SESSION,
    TOKEN,
    listening,
    until_broken,
    version,
)
from fedsim.emulation.transport.notices import Stream
from fedsim.emulation.transport.seam import Door, Node, Pace, Refused, Shaping, Traffic
from fedsim.emulation.transport.session import UNSEEN, Counter, Hooks, Session
from fedsim.emulation.transport.threads import Threads
from fedsim.errors import shown
from fedsim.script import SERVER
from fedsim.wire import protocol_pb2 as pb
from fedsim.wire.refusals import WireError

CLOSED: Final = "the server is closed"

AHEAD: Final = 8192
"""Messages that a device may announce before the first of them is there: its shaper queues fewer."""

_JOINS: Final = 16  # calls of Join at a time
_BURIED: Final = 4096  # sessions that are over and still known
_LAST: Final = 1.0  # s; for a stream to take in why it ends
_RATHER: Final = 0.5  # of a heartbeat, by which one may be late

_log = logging.getLogger(__name__)


class _Member(Session[pb.Down]):
    """A device's life; what it announces is guarded here."""

    def __init__(self, server: Server, peer: int) -> None:
        super().__init__(peer, server._node, server._pace, server._counter, pb.Down, server._hooks, UNSEEN)
        self.token = secrets.token_bytes(16)
        self.ways = threading.Lock()  # of what the ingress is told; after it, nothing is
        self.left = False
        self.announced = 0
        self.came = 0
        self.shares = False


class Server:
    """Listens at once, lets devices join, and keeps the connection with each until its life is over.

    Args:
        address: `HOST:PORT`; port 0: any that is free.
        node: is told what comes.
        door: says who may join.
        pace: of the connections.
        credentials: `grpc.ServerCredentials`; None: without TLS.
        devices: for how many at a time there are threads.

    Raises:
        UserError: the address is malformed or taken.
    """

    def __init__(
        self,
        address: str,
        node: Node,
        door: Door,
        *,
        pace: Pace | None = None,
        credentials: Any = None,
        devices: int = 64,
    ) -> None:
        self._node = node
        self._door = door
        self._pace = pace or Pace()
        self._counter = Counter()
        self._hooks = _ServerHooks(self)
        self._lock = threading.Lock()  # guards what follows
        self._members: dict[int, _Member] = {}
        self._sessions: dict[bytes, _Member] = {}
        self._buried: OrderedDict[bytes, str] = OrderedDict()
        self._doomed: list[tuple[float, _Member]] = []
        self._readers: set[threading.Thread] = set()
        self._shaping: Shaping | None = None
        self._ingress: Ingress | None = None
        self._closing = threading.Event()
        self._joins = Threads("join", _JOINS)
        self._streams = Threads("stream", 4 * devices + 16)
        self._grpc, self.port = listening(self._streams, address, credentials)
        self._grpc.add_generic_rpc_handlers((_Service(self),))
        self._grpc.start()
        self._watch = threading.Thread(target=self._watching, name="watch", daemon=True)
        self._watch.start()

    @property
    def traffic(self) -> Traffic:
        """What has been sent so far."""
        return self._counter.traffic

    @property
    def moved(self) -> int:
        """Frames that have been sent and that have come so far."""
        return self._counter.traffic.frames + self._counter.came

    # ------------------------------------------------------------------------------------- what the node asks for

    def shape(self, shaping: Shaping) -> None:
        """Keep to links from now on; once, before the first message."""
        ingress = None
        if shaping.sharing is not None:
            ingress = Ingress(shaping.sharing, shaping.clock, self._give)
        with self._lock:
            assert self._shaping is None, "links are shaped once"
            self._shaping, self._ingress = shaping, ingress
            members = list(self._members.values())
        for member in members:
            self._shape(member, shaping)

    def _shape(self, member: _Member, shaping: Shaping) -> None:
        if shaping.sharing is not None:
            member.shares = shaping.sharing.shares(member.peer, SERVER)
        member.shape(shaping)

    def send(self, peer: int, number: int, header: bytes, body: Sequence[memoryview], nbytes: int, queued: int) -> bool:
        """Send a message; blocks while too many bytes wait.

        Args:
            peer: to whom.
            number: of the message in the run, by which the node hears of it.
            header: with its definitions.
            body: not to be changed until it is acknowledged.
            nbytes: what it weighs where links are shaped.
            queued: the moment of the send (ns).

        Returns:
            False where no life of the peer is on.
        """
        with self._lock:
            member = self._members.get(peer)
        return member is not None and member.send(number, header, body, nbytes, queued)

    def tell(self, peer: int, notice: pb.Down) -> None:
        """Say something to a peer; nothing where no life of it is on."""
        with self._lock:
            member = self._members.get(peer)
        if member is not None:
            member.tell(notice)

    def dismiss(self, peer: int, reason: str) -> None:
        """End a peer's life here and now, and tell it why; the node hears of it, too."""
        with self._lock:
            member = self._members.get(peer)
        if member is not None:
            self._end(member, reason)

    def flush(self, timeout: float) -> bool:
        """Wait, for seconds at most, until all that was told is known to be there; answers whether it is."""
        deadline = time.monotonic() + timeout
        with self._lock:
            members = list(self._members.values())
        return all(member.notices.flush(deadline) for member in members)

    def close(self) -> None:
        """End all lives without a word to the node, and all threads."""
        if self._closing.is_set():
            return
        self._closing.set()
        with self._lock:
            members = list(self._members.values())
        for member in members:
            member.finish(CLOSED, pb.Down(refusal=pb.Refusal(reason=CLOSED)))
        self._grpc.stop(_LAST / 2).wait(2 * _LAST)
        if self._ingress is not None:
            self._ingress.close()
        deadline = time.monotonic() + _LAST
        for member in members:
            member.join(deadline)
        for thread in [self._watch, *self._readers]:
            if thread is not threading.current_thread():
                thread.join(max(0.0, deadline - time.monotonic()))
        self._joins.end(deadline)
        self._streams.end(deadline)

    # ------------------------------------------------------------------------------------- joining

    def join(self, request: pb.JoinRequest, context: Any) -> pb.JoinResponse:
        """The method Join."""
        try:
            owner = self._door.device_of(_token(context))
            _same(request)
            response = self._door.admit(request, owner)
        except Refused as refused:
            _abort(context, refused.code, refused.reason)
        member = _Member(self, response.node)
        response.session = member.token
        response.protocol, response.version = PROTOCOL, version()
        self._node.connected(member.peer)
        with self._lock:
            closing = self._closing.is_set()
            if not closing:
                self._members[member.peer] = self._sessions[member.token] = member
            shaping = self._shaping
        if closing:
            _abort(context, "UNAVAILABLE", CLOSED)
        if shaping is not None:
            self._shape(member, shaping)
        return response

    def refusal(self, metadata: Any) -> Refused | None:
        """Why a call of Join is not even looked at."""
        try:
            self._door.device_of(_token_in(metadata))
        except Refused as refused:
            return refused
        if self._joins.pending >= _JOINS:
            return Refused("RESOURCE_EXHAUSTED", "too many devices join at this moment")
        return None

    # ------------------------------------------------------------------------------------- streams

    def control(self, incoming: Iterator[bytes], context: Any) -> Iterator[bytes]:
        """The method Control."""
        member = self._member(context)
        stream = member.attach_control()
        self.share(member, lambda ingress: ingress.repeat(member.peer))  # the last ones may have been lost
        self._listen(member, stream, member.hear, incoming, context)
        yield from member.notices.outgoing(stream)

    def data(self, incoming: Iterator[bytes], context: Any) -> Iterator[bytes]:
        """The method Data."""
        member = self._member(context)
        stream = member.attach_data()
        self._listen(member, stream, member.take, incoming, context)
        yield from member.frames(stream)
        if member.over is not None:
            _abort(context, "NOT_FOUND", member.over)

    def _listen(
        self,
        member: _Member,
        stream: Stream,
        take: Callable[[Any, bytes], None],
        incoming: Iterator[bytes],
        context: Any,
    ) -> None:
        stream.cancel = context.cancel
        if not context.add_callback(partial(member.lost, stream)):
            member.lost(stream)
            return

        def read() -> None:
            try:
                member.run(stream, take, until_broken(incoming))
            finally:
                member.lost(stream)
                with self._lock:
                    self._readers.discard(threading.current_thread())

        reader = threading.Thread(target=read, name=f"reader of {member.peer}", daemon=True)
        with self._lock:
            self._readers.add(reader)
        reader.start()

    def _member(self, context: Any) -> _Member:
        """Whose stream it is; it ends here if it is nobody's."""
        token = dict(context.invocation_metadata()).get(SESSION)
        try:
            owner = self._door.device_of(_token(context))
        except Refused as refused:
            _abort(context, refused.code, refused.reason)
        with self._lock:
            member = self._sessions.get(token) if isinstance(token, bytes) else None
            reason = self._buried.get(token) if isinstance(token, bytes) else None
        if member is None:
            _abort(context, "NOT_FOUND", reason or "unknown session; the device has to join again")
        if owner is not None and owner != member.peer:
            _abort(context, "UNAUTHENTICATED", "the token is not that of the session's device")
        return member

    # ------------------------------------------------------------------------------------- what is shared

    def _give(self, grant: Grant) -> None:
        with self._lock:
            member = self._members.get(grant.device)
        if member is None:
            return
        if grant.up:
            member.notices.tell(pb.Down(grant=pb.Grant(message=grant.number, rate=grant.rate, since=grant.since)))
        else:
            member.granted(grant)

    def share(self, member: _Member, change: Callable[[Ingress], None]) -> None:
        """Tell the ingress something of a device, unless it has left."""
        ingress = self._ingress
        if ingress is not None:
            with member.ways:
                if not member.left:
                    change(ingress)

    # ------------------------------------------------------------------------------------- ends

    def _end(self, member: _Member, reason: str) -> None:
        """A life is over."""
        if not member.finish(reason, pb.Down(refusal=pb.Refusal(reason=reason))):
            return
        with self._lock:
            self._members.pop(member.peer, None)
            self._sessions.pop(member.token, None)
            self._buried[member.token] = reason[:SAID]
            while len(self._buried) > _BURIED:
                self._buried.popitem(last=False)
            self._doomed.append((time.monotonic() + _LAST, member))
        with member.ways:
            member.left = True
            if self._ingress is not None:
                self._ingress.leave(member.peer)
        member.settle()
        if not self._closing.is_set():
            self._node.disconnected(member.peer, reason)

    def cut(self, member: _Member, reason: str) -> None:
        """A device has broken a rule."""
        if member.over is None:
            _log.warning("device %d is cut off: %s", member.peer, reason)
            self._end(member, reason)

    def _watching(self) -> None:
        """End the lives of those who are silent for too long, and the streams of those whose lives are over."""
        pace = self._pace
        limit = (pace.missed + _RATHER) * pace.heartbeat
        step = min(pace.heartbeat / 4, _LAST)
        before = time.monotonic()
        while not self._closing.wait(step):
            now = time.monotonic()
            held_up, before = now - before - step, now
            with self._lock:
                members = list(self._members.values())
                gone = [member for moment, member in self._doomed if moment <= now]
                self._doomed = [one for one in self._doomed if one[0] > now]
            for member in gone:
                member.abandon()
            for member in members:
                if held_up > step:  # who did not listen has not missed anything
                    member.excuse(held_up)
                if member.missed(now) > limit:
                    self._end(member, f"no sign of life for {limit:g} s")


class _ServerHooks(Hooks[pb.Down]):
    """The server's part of what happens in a session."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def handle(self, session: Session[pb.Down], what: str, notice: pb.Up) -> None:
        assert isinstance(session, _Member)
        match what:
            case "leave":
                self._server._end(session, notice.leave.reason)
            case "announcement":
                self._announced(session, notice.announcement)
            case _:
                self._server._node.told(session.peer, notice)

    def _announced(self, member: _Member, announcement: pb.Announcement) -> None:
        number = announcement.message
        if not member.shares:
            raise WireError("it announces a message, but shares its way with nobody")
        if number > member.came + AHEAD:
            raise WireError(f"it announces message {number} where message {member.came + 1} is due")
        if number > max(member.announced, member.came):
            member.announced = number
            ready = min(max(announcement.ready, 0), 1 << 60)
            self._server.share(member, lambda ingress: ingress.announce(member.peer, SERVER, number, ready))

    def resumed(self, session: Session[pb.Down]) -> None:
        assert isinstance(session, _Member)
        self._server.share(session, lambda ingress: ingress.repeat(session.peer))

    def ready(self, session: Session[pb.Down], message: int, moment: int) -> None:
        assert isinstance(session, _Member)
        self._server.share(session, lambda ingress: ingress.announce(SERVER, session.peer, message, moment))

    def passed(self, session: Session[pb.Down], message: int) -> None:
        assert isinstance(session, _Member)
        self._server.share(session, lambda ingress: ingress.finish(SERVER, session.peer, message))

    def came(self, session: Session[pb.Down], message: int) -> None:
        assert isinstance(session, _Member)
        session.came = message
        self._server.share(session, lambda ingress: ingress.finish(session.peer, SERVER, message))

    def broke(self, session: Session[pb.Down], reason: str) -> None:
        assert isinstance(session, _Member)
        self._server.cut(session, reason)


class _Service:
    """What gRPC asks for the handler of a call."""

    def __init__(self, server: Server) -> None:
        self._server = server
        join = server.join
        self._join = grpc.unary_unary_rpc_method_handler(
            _Elsewhere(join, server._joins), pb.JoinRequest.FromString, pb.JoinResponse.SerializeToString
        )
        self._streams = {
            f"/{SERVICE}/Control": grpc.stream_stream_rpc_method_handler(server.control),
            f"/{SERVICE}/Data": grpc.stream_stream_rpc_method_handler(server.data),
        }

    def service(self, details: Any) -> Any:
        """The handler; one that refuses at once does not read what the caller has to say, and so cannot wait for it."""
        if details.method != f"/{SERVICE}/Join":
            return self._streams.get(details.method)
        refused = self._server.refusal(details.invocation_metadata)
        if refused is None:
            return self._join

        def refuse(_: Any, context: Any) -> NoReturn:
            _abort(context, refused.code, refused.reason)

        return grpc.stream_stream_rpc_method_handler(refuse)


class _Elsewhere:
    """A method with threads of its own: whoever is slow to say what it wants does not keep streams from theirs."""

    def __init__(self, method: Callable[[Any, Any], Any], threads: Threads) -> None:
        self.experimental_thread_pool = threads
        self._method = method

    def __call__(self, request: Any, context: Any) -> Any:
        return self._method(request, context)


def _abort(context: Any, code: str, reason: str) -> NoReturn:
    context.abort(getattr(grpc.StatusCode, code), reason[:SAID])
    raise AssertionError("abort raises")


def _same(request: pb.JoinRequest) -> None:
    """Refuse another protocol, or another version of the package.

    Raises:
        Refused: naming both.
    """
    for what, theirs, ours in (("protocol", request.protocol, PROTOCOL), ("fedsim", request.version, version())):
        if theirs != ours:
            said = shown(theirs).strip("'\"")
            raise Refused(
                "FAILED_PRECONDITION",
                f"the device has {what} {said} and the server {ours}; install the same on both",
            )


def _token(context: Any) -> str | None:
    return _token_in(context.invocation_metadata())


def _token_in(metadata: Any) -> str | None:
    shown = dict(metadata).get(TOKEN)
    if not isinstance(shown, str) or not shown.startswith("Bearer "):
        return None
    return shown.removeprefix("Bearer ")
