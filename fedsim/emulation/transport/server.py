"""The server's end of all connections, over gRPC."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import grpc

from fedsim.emulation.links.ingress import Ingress
from fedsim.emulation.links.shaping import Grant
from fedsim.emulation.transport.channels import BEARER, OPTIONS, PROTOCOL, SERVICE, SESSION, TOKEN, version
from fedsim.emulation.transport.seam import Door, Node, Pace, Refused, Shaping, Traffic
from fedsim.emulation.transport.session import Session
from fedsim.emulation.transport.threads import Threads
from fedsim.errors import UserError
from fedsim.wire import protocol_pb2 as pb
from fedsim.wire.refusals import WireError

_OPTIONS: Final = (
    *OPTIONS,
    ("grpc.so_reuseport", 0),  # a port that is taken is an error
    ("grpc.http2.min_ping_interval_without_data_ms", 20_000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 20_000),
)
_JOINING: Final = 16  # threads beside those of streams
_EVER: Final = 4096  # lives that are remembered, to tell a device of one that its own is over

_log = logging.getLogger(__name__)


class Server:
    """Listens from its making on.

    Args:
        address: host and port, as in `127.0.0.1:0`; port 0: any.
        node: told of all that comes.
        door: says who may join.
        pace: of the connections.
        credentials: `grpc.ServerCredentials`; None: no TLS.
        devices: that may be there at a time.

    Raises:
        UserError: the address cannot be listened on.
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
        self._lock = threading.Lock()
        self._sessions: dict[bytes, Session] = {}
        self._by_peer: dict[int, Session] = {}
        self._spent = Traffic()  # of lives that are over
        self._shaping: Shaping | None = None
        self._ingress: Ingress | None = None
        self._closed = threading.Event()
        self._pool = Threads("grpc", 4 * devices + _JOINING)
        self._server = grpc.server(self._pool, options=_OPTIONS)
        self._server.add_generic_rpc_handlers((self._handlers(),))
        self.port = self._bound(address, credentials)
        """Where it listens."""
        self._server.start()
        self._watch = threading.Thread(target=self._watching, name="silence", daemon=True)
        self._watch.start()

    def _handlers(self) -> grpc.GenericRpcHandler:
        join = grpc.unary_unary_rpc_method_handler(
            self._join, pb.JoinRequest.FromString, pb.JoinResponse.SerializeToString
        )
        control = grpc.stream_stream_rpc_method_handler(self._control, pb.Up.FromString, pb.Down.SerializeToString)
        data = grpc.stream_stream_rpc_method_handler(self._data)
        return grpc.method_handlers_generic_handler(SERVICE, {"Join": join, "Control": control, "Data": data})

    def _bound(self, address: str, credentials: Any) -> int:
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal() or int(port) > 65535:
            raise UserError(f"{address!r} is no address to listen on; give host:port, as in 127.0.0.1:9440")
        try:
            if credentials is None:
                bound: int = self._server.add_insecure_port(address)
            else:
                bound = self._server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise UserError(
                f"{address} cannot be listened on; another process may have that port, or the address is not this "
                "host's: give another one"
            ) from error
        return bound

    # ------------------------------------------------------------------------------------- asked for by the node

    @property
    def traffic(self) -> Traffic:
        """What has been sent to all devices."""
        with self._lock:
            return sum((session.traffic for session in self._by_peer.values()), self._spent)

    @property
    def moved(self) -> int:
        """Frames that have been sent to, or have come from, the devices that are there."""
        with self._lock:
            return sum(session.moved for session in self._by_peer.values())

    def shape(self, shaping: Shaping) -> None:
        """Keep to the links from now on; once, before anything is sent."""
        ingress = None
        if shaping.sharing is not None:
            ingress = Ingress(shaping.sharing, shaping.clock, self._give)
        with self._lock:
            self._shaping, self._ingress = shaping, ingress
            sessions = list(self._by_peer.values())
        for session in sessions:
            session.shape(shaping, ingress)

    def send(
        self, peer: int, number: int, header: bytes, body: Sequence[memoryview], nbytes: int, queued: int, /
    ) -> bool:
        """Queue a message; False where no life of the peer is on. Waits while too many bytes do."""
        session = self._by_peer.get(peer)
        return session is not None and session.send(number, header, body, nbytes, queued)

    def tell(self, peer: int, notice: pb.Down) -> None:
        """Queue a notice; of a peer that is not there, it goes nowhere."""
        session = self._by_peer.get(peer)
        if session is not None:
            session.tell(notice)

    def dismiss(self, peer: int, reason: str) -> None:
        """Cut a peer off; the node is told of that as of any other end."""
        session = self._by_peer.get(peer)
        if session is not None:
            session.refuse(reason)

    def flush(self, timeout: float) -> bool:
        """Wait until all notices are known to be there; answers whether they are."""
        with self._lock:
            sessions = list(self._by_peer.values())
        there = [session.flush(timeout) for session in sessions]
        return all(there)

    def close(self) -> None:
        """End all lives, quietly, and listen no more."""
        self._closed.set()
        with self._lock:
            sessions = list(self._by_peer.values())
            ingress = self._ingress
        for session in sessions:
            session.refuse("the server is closed", quietly=True)  # whichever of its streams ends first
        self._server.stop(0.2).wait(2.0)
        if ingress is not None:
            ingress.close()
        self._pool.end(time.monotonic() + 1.0)
        self._watch.join()

    # ------------------------------------------------------------------------------------- lives

    def _ended(self, session: Session, reason: str) -> None:
        with self._lock:
            if self._by_peer.get(session.peer) is session:
                del self._by_peer[session.peer]
            self._spent += session.traffic
            ingress = self._ingress
        if ingress is not None:
            ingress.leave(session.peer)
        self._node.disconnected(session.peer, reason)

    def _give(self, grant: Grant) -> None:
        session = self._by_peer.get(grant.device)
        if session is None:
            return
        if grant.up:
            session.tell(pb.Down(grant=pb.Grant(message=grant.number, rate=grant.rate, since=grant.since)))
        else:
            session.grant(grant)

    def _watching(self) -> None:
        """End lives that have been silent for too long."""
        while not self._closed.wait(self._pace.heartbeat / 4):
            with self._lock:
                sessions = list(self._by_peer.values())
            for session in sessions:
                if session.too_silent:
                    session.end(f"nothing was heard of it for {session.silent:.0f} s")

    # ------------------------------------------------------------------------------------- calls (gRPC's threads)

    def _join(self, request: pb.JoinRequest, context: grpc.ServicerContext) -> pb.JoinResponse:
        try:
            owner = self._door.device_of(_token(context))
            self._same(request)
            response = self._door.admit(request, owner)
        except Refused as refused:
            _log.warning("refused: %s", refused.reason)
            _abort(context, refused)
        session = Session(response.node, self._node, self._pace, self._ended)
        session.device = response.node
        response.protocol, response.version, response.session = PROTOCOL, version(), secrets.token_bytes(16)
        with self._lock:
            if len(self._sessions) >= _EVER:
                self._sessions.pop(next((token for token, one in self._sessions.items() if one.over), b""), None)
            self._sessions[response.session] = session
            self._by_peer[response.node] = session
            shaping, ingress = self._shaping, self._ingress
        if shaping is not None:
            session.shape(shaping, ingress)
        self._node.connected(response.node)
        return response

    @staticmethod
    def _same(request: pb.JoinRequest) -> None:
        """Refuse another protocol, or another version of the package.

        Raises:
            Refused: naming both.
        """
        for what, theirs, ours in (
            ("protocol", request.protocol, PROTOCOL),
            ("fedsim", request.version, version()),
        ):
            if theirs != ours:
                raise Refused(
                    "FAILED_PRECONDITION",
                    f"the device has {what} {theirs!s:.40} and the server {ours}; install the same on both",
                )

    def _session(self, context: grpc.ServicerContext) -> Session:
        """The life that a stream says it belongs to; the call ends here where there is none."""
        named = dict(context.invocation_metadata()).get(SESSION)
        session = self._sessions.get(named) if isinstance(named, bytes) else None
        refused: Refused | None = None
        try:
            owner = self._door.device_of(_token(context))
        except Refused as error:
            refused = error
        else:
            if session is None:
                refused = Refused("NOT_FOUND", "no such session")
            elif session.reason is not None:
                refused = Refused("NOT_FOUND", session.reason)
            elif owner is not None and owner != session.peer:
                refused = Refused("UNAUTHENTICATED", "the session of another device")
        if refused is not None:
            _log.warning("a stream was refused: %s", refused.reason)
            _abort(context, refused)
        assert session is not None
        return session

    def _control(self, heard: Iterator[pb.Up], context: grpc.ServicerContext) -> Iterator[pb.Down]:
        session = self._session(context)
        stream = session.attach_control()
        context.add_callback(session.detached)
        self._listen(session, lambda: session.hear_notices(stream, heard), "notices", context)
        yield from session.notices(stream)

    def _data(self, heard: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        session = self._session(context)
        stream = session.attach_data()
        context.add_callback(session.detached)
        self._listen(session, lambda: session.hear_frames(stream, heard), "frames", context)
        yield from session.frames(stream)
        if session.reason is not None:  # this stream may end before the one with the refusal
            context.abort(grpc.StatusCode.NOT_FOUND, session.reason)

    def _listen(self, session: Session, hear: Callable[[], None], what: str, context: grpc.ServicerContext) -> None:
        """Take a stream in, in a thread of its own; a peer that breaks the rules is cut off."""

        def listen() -> None:
            try:
                hear()
            except WireError as error:
                _log.warning("device %d is cut off: %s", session.peer, error)
                session.refuse(f"it breaks the rules: {error}")
            except grpc.RpcError:
                pass  # broken, and may be attached again
            except Exception as error:  # a mistake of ours: without this life the run has an end, at least
                if context.is_active():
                    _log.exception("device %d", session.peer)
                    session.refuse(f"{type(error).__name__}: {error}")

        threading.Thread(target=listen, name=f"{what} of {session.peer}", daemon=True).start()


def _token(context: grpc.ServicerContext) -> str | None:
    value = dict(context.invocation_metadata()).get(TOKEN)
    if isinstance(value, str) and value.startswith(BEARER):
        return value.removeprefix(BEARER)
    return None


def _abort(context: grpc.ServicerContext, refused: Refused) -> Any:
    context.abort(getattr(grpc.StatusCode, refused.code), refused.reason)
