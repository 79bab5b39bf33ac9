"""A device's end of its connection, over gRPC: joins, and comes back where streams break."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import grpc

from fedsim.emulation.transport.channels import (
    BEARER,
    OPTIONS,
    PROTOCOL,
    SERVICE,
    SESSION,
    TOKEN,
    version,
)
from fedsim.emulation.transport.seam import Node, Pace, Shaping, Traffic
from fedsim.emulation.transport.session import Session
from fedsim.errors import RunError, UserError
from fedsim.script import SERVER
from fedsim.wire import protocol_pb2 as pb
from fedsim.wire.refusals import WireError

JOINING: Final = 30.0
"""Seconds in which a server has to answer."""

LONGEST: Final = 10.0
"""Seconds between two tries to come back at most."""

CLOSED: Final = "it has closed its connection"

_FINAL: Final = (
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.UNIMPLEMENTED,
)
_OPTIONS: Final = (*OPTIONS, ("grpc.use_local_subchannel_pool", 1))

_log = logging.getLogger(__name__)


class Client:
    """One connection, with one life after the other.

    Args:
        address: of the server.
        node: told of all that comes.
        pace: of the connection.
        credentials: `grpc.ChannelCredentials`; None: no TLS.
        token: of this device.
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
        self.session = b""
        """Names the life that is on."""
        self._address = address
        self._node = node
        self._pace = pace or Pace()
        self._credentials = credentials
        self._metadata: tuple[tuple[str, str | bytes], ...] = () if token is None else ((TOKEN, BEARER + token),)
        self._life: _Life | None = None
        self._shaping: Shaping | None = None
        self._spent = Traffic()

    def join(self, request: pb.JoinRequest) -> pb.JoinResponse:
        """Begin a life.

        Raises:
            UserError: the server does not let this device in, or nobody answers.
        """
        request.protocol, request.version = PROTOCOL, version()
        with self._channel() as channel:
            call = channel.unary_unary(f"/{SERVICE}/Join", pb.JoinRequest.SerializeToString, pb.JoinResponse.FromString)
            try:
                response: pb.JoinResponse = call(
                    request, timeout=min(JOINING, self._pace.patience), metadata=self._metadata, wait_for_ready=True
                )
            except grpc.RpcError as error:
                raise self._refused(error) from None
        self.session = response.session
        session = Session(SERVER, self._node, self._pace, self._ended)
        session.device = response.node
        if self._shaping is not None:
            session.shape(self._shaping, None)
        self._life = _Life(session, self._channel, (*self._metadata, (SESSION, response.session)), self._pace)
        self._node.connected(SERVER)
        self._life.start()
        return response

    def _channel(self) -> grpc.Channel:
        if self._credentials is None:
            return grpc.insecure_channel(self._address, options=_OPTIONS)
        return grpc.secure_channel(self._address, self._credentials, options=_OPTIONS)

    def _refused(self, error: grpc.RpcError) -> UserError:
        code, details = error.code(), error.details()
        if code is grpc.StatusCode.DEADLINE_EXCEEDED or code is grpc.StatusCode.UNAVAILABLE:
            tls = "TLS (--authority)" if self._credentials is None else "this authority's TLS"
            return UserError(
                f"no answer from {self._address} within {min(JOINING, self._pace.patience):g} s; start the server "
                f"(fedsim serve), check the address, and whether it wants {tls}"
            )
        return UserError(f"{self._address} does not let this device in: {details}")

    # ------------------------------------------------------------------------------------- asked for by the node

    @property
    def traffic(self) -> Traffic:
        """What has been sent."""
        return self._spent if self._life is None else self._spent + self._life.session.traffic

    def shape(self, shaping: Shaping) -> None:
        """Keep to the link from now on; once, before anything is sent."""
        self._shaping = shaping
        if self._life is not None:
            self._life.session.shape(shaping, None)

    def send(self, number: int, header: bytes, body: Sequence[memoryview], nbytes: int, queued: int) -> bool:
        """Queue a message; False where no life is on. Waits while too many bytes do."""
        return self._life is not None and self._life.session.send(number, header, body, nbytes, queued)

    def tell(self, notice: pb.Up) -> None:
        """Queue a notice; where no life is on, it goes nowhere."""
        if self._life is not None:
            self._life.session.tell(notice)

    def leave(self, reason: str) -> None:
        """End this life, at both ends; the node here is not told."""
        life = self._life
        if life is None:
            return
        life.closing()
        self.tell(pb.Up(leave=pb.Leave(reason=reason)))
        self.flush(1.0)
        life.session.end("it has left", quietly=True)
        self.close()

    def flush(self, timeout: float) -> bool:
        """Wait until all notices are known to be there; answers whether they are."""
        return self._life is None or self._life.session.flush(timeout)

    def close(self) -> None:
        """End the connection; the server is told, the node here is not."""
        if self._life is None:
            return
        self._life.closing()
        if not self._life.session.over:
            self.tell(pb.Up(leave=pb.Leave(reason=CLOSED)))
            self.flush(0.5)
        life, self._life = self._life, None
        self._spent += life.session.traffic
        life.close()

    def _ended(self, session: Session, reason: str) -> None:
        self._node.disconnected(SERVER, reason)


class _Life:
    """The streams of one life, attached again where they break."""

    def __init__(
        self,
        session: Session,
        channel: Callable[[], grpc.Channel],
        metadata: tuple[tuple[str, str | bytes], ...],
        pace: Pace,
    ) -> None:
        self.session = session
        self._make = channel
        self._metadata = metadata
        self._pace = pace
        self._random = random.Random()  # so that devices that have lost a server do not come back at the same moment
        self._broken = threading.Event()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="connection", daemon=True)

    def start(self) -> None:
        """Attach the streams."""
        self._thread.start()

    def closing(self) -> None:
        """From now on streams that break are not attached again."""
        self._closed.set()

    def close(self) -> None:
        """Detach them, and end the life quietly."""
        self._closed.set()
        self.session.end("closed here", quietly=True)
        self._broken.set()
        if self._thread is not threading.current_thread():
            self._thread.join(2.0)

    def _run(self) -> None:
        wait = self._pace.first
        while not self.session.over:
            began = time.monotonic()
            self._attached()
            if self._closed.is_set():
                self.session.end("closed here", quietly=True)
            if self.session.over:
                return
            if self.session.silent > self._pace.patience:
                self.session.end(f"nothing was heard of the server for {self.session.silent:.0f} s")
                return
            if self.session.silent < time.monotonic() - began:  # it was there
                wait = self._pace.first
            self._closed.wait(wait * self._random.uniform(0.8, 1.2))
            wait = min(2 * wait, LONGEST, self._pace.heartbeat / 4)  # the server waits for three heartbeats

    def _attached(self) -> None:
        """Both streams, until one of them breaks."""
        session = self.session
        self._broken.clear()
        channel = self._make()
        try:
            control = channel.stream_stream(f"/{SERVICE}/Control", pb.Up.SerializeToString, pb.Down.FromString)
            data = channel.stream_stream(f"/{SERVICE}/Data")
            notices, frames = session.attach_control(), session.attach_data()
            heard_notices = control(session.notices(notices), metadata=self._metadata, wait_for_ready=False)
            heard_frames = data(session.frames(frames), metadata=self._metadata, wait_for_ready=False)
            readers = [
                self._listen(lambda: session.hear_notices(notices, heard_notices), "notices"),
                self._listen(lambda: session.hear_frames(frames, heard_frames), "frames"),
            ]
            while not self._broken.wait(self._pace.heartbeat):
                if session.too_silent:
                    break
            session.attach_control()  # what the old streams still bring is nobody's
            session.attach_data()
            heard_notices.cancel()
            heard_frames.cancel()
            for reader in readers:
                reader.join(2.0)
        finally:
            channel.close()

    def _listen(self, hear: Callable[[], None], what: str) -> threading.Thread:
        thread = threading.Thread(target=self._listening, args=(hear,), name=what, daemon=True)
        thread.start()
        return thread

    def _listening(self, hear: Callable[[], None]) -> None:
        try:
            hear()
        except WireError as error:
            self.session.end(f"the server breaks the rules: {error}")
        except grpc.RpcError as error:
            if error.code() in _FINAL and not self._closed.is_set():
                self.session.end(f"{error.details()}")
        except RunError as error:
            self.session.end(str(error))
        except Exception as error:  # a mistake of ours
            if not self._closed.is_set():
                _log.exception("connection")
                self.session.end(f"{type(error).__name__}: {error}")
        finally:
            self._broken.set()
