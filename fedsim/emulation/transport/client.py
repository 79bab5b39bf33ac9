"""A device's end of its connection."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import grpc

from fedsim.emulation.shaping import Grant
from fedsim.emulation.transport.backoff import Backoff
from fedsim.emulation.transport.channels import (
    PROTOCOL,
    SERVICE,
    SESSION,
    TOKEN,
    channel,
    mismatch,
    split_address,
    until_broken,
    version,
)
from fedsim.emulation.transport.notices import Stream
from fedsim.emulation.transport.seam import Node, Pace, Shaping, Traffic
from fedsim.emulation.transport.session import Counter, Hooks, Session
from fedsim.errors import RunError, UserError
from fedsim.script import SERVER
from fedsim.wire import protocol_pb2 as pb

WAIT: Final = 30.0
"""Seconds for which a device that joins waits for somebody to listen."""

_LOOK: Final = 1.0  # s; between two looks at why nobody answers
_LAST: Final = 1.0  # s; for the other end to hear the last word
_ATTEMPT: Final = 10.0  # s; for a stream to be answered
_RATHER: Final = 0.5  # of a heartbeat, by which one may be late

_FINAL: Final = frozenset({"NOT_FOUND", "UNAUTHENTICATED", "FAILED_PRECONDITION", "PERMISSION_DENIED", "UNIMPLEMENTED"})
_REFUSED: Final = frozenset({"UNAUTHENTICATED", "FAILED_PRECONDITION", "RESOURCE_EXHAUSTED", "PERMISSION_DENIED"})


class Client:
    """Connects when it joins, and comes back by itself where the connection breaks.

    Args:
        address: `HOST:PORT` of the server.
        node: is told what comes, as of peer `SERVER`.
        pace: of the connection.
        credentials: `grpc.ChannelCredentials`; None: without TLS.
        token: of this device.

    Raises:
        UserError: the address is malformed.
    """

    def __init__(
        self,
        address: str,
        node: Node,
        *,
        pace: Pace | None = None,
        credentials: Any = None,
        token: str | None = None,
    ) -> None:
        split_address(address)
        self.session = b""
        """Of the life that is on."""
        self._address = address
        self._node = node
        self._pace = pace or Pace()
        self._credentials = credentials
        self._bearer = () if token is None else ((TOKEN, f"Bearer {token}"),)
        self._counter = Counter()
        self._shaping: Shaping | None = None
        self._life: _Life | None = None

    @property
    def traffic(self) -> Traffic:
        """What has been sent so far, in all lives."""
        return self._counter.traffic

    def join(self, request: pb.JoinRequest) -> pb.JoinResponse:
        """Begin a life; waits a while for somebody to listen: 30 s, or the patience if that is less.

        Args:
            request: without versions, which are filled in.

        Raises:
            UserError: nobody listens there, only one end has TLS, or this device may not join.
            RunError: the server fails.
        """
        if self._life is not None:
            self._life.close("it joins anew")
        filled = pb.JoinRequest()
        filled.CopyFrom(request)
        filled.protocol, filled.version = PROTOCOL, version()
        timeout = min(WAIT, self._pace.patience)
        line = channel(self._address, self._credentials)
        try:
            response = self._asked(line, filled, timeout)
        except BaseException:
            line.close()
            raise
        metadata = ((SESSION, response.session), *self._bearer)
        life = _Life(self, line, metadata, response.node)
        if self._shaping is not None:
            life.shape(self._shaping)
        self.session, self._life = response.session, life
        self._node.connected(SERVER)
        life.start()
        return response

    def _asked(self, line: Any, request: pb.JoinRequest, timeout: float) -> pb.JoinResponse:
        call = line.unary_unary(f"/{SERVICE}/Join", pb.JoinRequest.SerializeToString, pb.JoinResponse.FromString)
        asked = call.future(request, timeout=timeout, wait_for_ready=True, metadata=self._bearer)
        while True:
            try:
                response: pb.JoinResponse = asked.result(_LOOK)
                return response
            except grpc.FutureTimeoutError:
                wrong = mismatch(self._address, self._credentials is not None)
                if wrong is not None and wrong[1]:
                    asked.cancel()
                    raise UserError(f"cannot join the server at {self._address}: {wrong[0]}") from None
            except grpc.RpcError as error:
                raise self._error(error, timeout) from None

    def _error(self, error: Any, timeout: float) -> UserError | RunError:
        code, details = error.code().name, error.details()
        if code in _REFUSED:
            return UserError(f"{self._address} does not let this device in: {details}")
        if code == "DEADLINE_EXCEEDED":
            wrong = mismatch(self._address, self._credentials is not None)
            cure = "start the server (fedsim serve), or check the address" if wrong is None else wrong[0]
            return UserError(f"no answer from {self._address} within {timeout:g} s; {cure}")
        return RunError(f"the server at {self._address} fails when this device joins: {code}: {details}")

    def shape(self, shaping: Shaping) -> None:
        """Keep to the link from now on, in later lives too; before the first message."""
        self._shaping = shaping
        if self._life is not None:
            self._life.shape(shaping)

    def send(self, number: int, header: bytes, body: Sequence[memoryview], nbytes: int, queued: int) -> bool:
        """Send a message to the server; blocks while too many bytes wait.

        Args:
            number: of the message in the run, by which the node hears of it.
            header: with its definitions.
            body: not to be changed until it is acknowledged.
            nbytes: what it weighs where the link is shaped.
            queued: the moment of the send (ns).

        Returns:
            False where no life is on.
        """
        life = self._life
        return life is not None and life.send(number, header, body, nbytes, queued)

    def tell(self, notice: pb.Up) -> None:
        """Say something to the server; nothing where no life is on."""
        life = self._life
        if life is not None:
            life.tell(notice)

    def leave(self, reason: str) -> None:
        """End the life at both ends; the node of this end is not told of it, that of the server is, with the reason."""
        life, self._life = self._life, None
        if life is not None:
            life.close(reason)

    def flush(self, timeout: float) -> bool:
        """Wait, for seconds at most, until all that was told is known to be there; answers whether it is."""
        life = self._life
        return life is None or life.notices.flush(time.monotonic() + timeout)

    def close(self) -> None:
        """End the life, if one is on, and all threads."""
        self.leave("it has closed its connection")


class _Life(Session[pb.Up]):
    """A life, and the thread that keeps its streams going."""

    def __init__(self, client: Client, line: Any, metadata: Any, number: int) -> None:
        super().__init__(SERVER, client._node, client._pace, client._counter, pb.Up, _ClientHooks())
        self.number = number
        self.node = client._node
        self._client = client
        self._line = line
        self._metadata = metadata
        self._backoff = Backoff(client._pace)
        self._wake = threading.Event()
        self._code, self._details = "", ""  # of what has ended this attempt
        self._calls_ended: list[float] = []  # when its calls have
        self._readers: list[threading.Thread] = []
        self._thread = threading.Thread(target=self._connecting, name="connection", daemon=True)

    def start(self) -> None:
        """Open the streams."""
        self._thread.start()

    def gone(self, reason: str, farewell: pb.Up | None = None) -> None:
        """The life is over, and not by the node's wish."""
        if self.finish(reason, farewell):
            self._wake.set()
            self.settle()
            self.node.disconnected(SERVER, reason)

    def close(self, reason: str) -> None:
        """End the life by the node's wish, and its threads."""
        self.finish(reason, pb.Up(leave=pb.Leave(reason=reason)))
        self._wake.set()
        deadline = time.monotonic() + 2 * _LAST
        if threading.current_thread() is not self._thread and self._thread.ident is not None:
            self._thread.join(max(0.0, deadline - time.monotonic()))
        self.join(deadline)

    # ------------------------------------------------------------------------------------- the thread

    def _connecting(self) -> None:
        try:
            while True:
                control = self._attempt()
                if self.over is not None:
                    self._farewell(control)
                    return
                self.abandon()
                if self._code in _FINAL:
                    self.gone(self._details)
                    return
                wait = self._backoff.wait()
                if wait is None:
                    patience = self._client._pace.patience
                    self.gone(f"the server cannot be reached for {patience:g} s: {self._details or 'it is silent'}")
                    return
                self._wake.clear()
                if self.over is None:
                    self._wake.wait(wait)
                if self.over is not None:
                    return
                self._line.close()
                self._line = channel(self._client._address, self._client._credentials)
        finally:
            self.abandon()
            self._line.close()
            deadline = time.monotonic() + _LAST
            for reader in self._readers:
                if reader is not threading.current_thread():
                    reader.join(max(0.0, deadline - time.monotonic()))

    def _attempt(self) -> Stream:
        """Open both streams, and wait until one of them has broken, is silent for too long, or the life is over."""
        pace = self._client._pace
        limit = (pace.missed + _RATHER) * pace.heartbeat
        self._wake.clear()
        self._code = self._details = ""
        self._calls_ended = []
        control = self.attach_control()
        data = self.attach_data()
        opened = self.heard
        self._open("Control", control, self.notices.outgoing(control), self.hear)
        self._open("Data", data, self.frames(data), self.take)
        answered = False
        while self.over is None and not control.closed and not data.closed:
            self._wake.wait(min(limit, _ATTEMPT, _LAST) / 4)
            self._wake.clear()
            now = time.monotonic()
            if not answered and data.theirs and self.heard > opened:
                answered = True
                self._backoff.reset()
            if now - self.heard > (limit if answered else min(limit, _ATTEMPT)):
                break
            if (
                self._calls_ended and now - self._calls_ended[0] > _LAST
            ):  # a reader has still to do with what had come before
                break
        return control

    def _farewell(self, control: Stream) -> None:
        """Let the last word pass; the server ends the stream when it has heard it."""
        deadline = time.monotonic() + _LAST
        while not control.closed and (left := deadline - time.monotonic()) > 0:
            self._wake.wait(left)
            self._wake.clear()

    def _open(self, method: str, stream: Any, outgoing: Iterator[bytes], take: Callable[[Any, bytes], None]) -> None:
        call = self._line.stream_stream(f"/{SERVICE}/{method}")(outgoing, metadata=self._metadata)
        stream.cancel = call.cancel

        def ended() -> None:
            code = call.code().name
            if self._code not in _FINAL and code not in ("OK", "CANCELLED") and not stream.closed:
                self._code, self._details = code, call.details() or code
            self._calls_ended.append(time.monotonic())
            self._wake.set()

        if not call.add_callback(ended):
            ended()
        reader = threading.Thread(target=self._read, args=(call, stream, take), name=f"reader of {method}", daemon=True)
        self._readers = [one for one in self._readers if one.is_alive()] + [reader]
        reader.start()

    def _read(self, call: Any, stream: Stream, take: Callable[[Any, bytes], None]) -> None:
        self.run(stream, take, until_broken(call))
        self.lost(stream)
        self._wake.set()


class _ClientHooks(Hooks[pb.Up]):
    """The device's part of what happens in a session."""

    def handle(self, session: Session[pb.Up], what: str, notice: pb.Down) -> None:
        assert isinstance(session, _Life)
        match what:
            case "grant":
                grant = notice.grant
                session.granted(Grant(session.number, True, grant.message, grant.rate, grant.since))
            case "refusal":
                session.gone(notice.refusal.reason)
            case _:
                session.node.told(SERVER, notice)

    def ready(self, session: Session[pb.Up], message: int, moment: int) -> None:
        session.tell(pb.Up(announcement=pb.Announcement(message=message, ready=moment)))

    def broke(self, session: Session[pb.Up], reason: str) -> None:
        assert isinstance(session, _Life)
        if session.over is None:
            reason = f"the server is left: {reason}"
            session.gone(reason, pb.Up(leave=pb.Leave(reason=reason)))
