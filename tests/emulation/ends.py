"""Ends of connections without scripts behind them, and a proxy between them that can be cut."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import Any

from fedsim.emulation.transport.client import Client
from fedsim.emulation.transport.seam import Pace, Refused
from fedsim.emulation.transport.server import Server
from fedsim.wire import protocol_pb2 as pb
from fedsim.wire.refusals import WireError

QUICK = Pace(heartbeat=0.2, patience=5.0, first=0.02)
LARGEST = 1 << 26


class Body:
    """Room for a message: its header says how large it is, and what it is called."""

    def __init__(self, header: bytes) -> None:
        name, _, size = header.partition(b":")
        if not size.isdigit() or int(size) > LARGEST:
            raise WireError(f"a header that is none: {header[:20]!r}")
        self.name = name.decode()
        self.buffer = memoryview(bytearray(int(size)))


class End:
    """Notes what a transport tells it."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.came: dict[int, list[tuple[str, bytes]]] = {}
        self.landed_: dict[int, list[int]] = {}
        self.gone: list[tuple[int, str]] = []
        self.here: list[int] = []
        self.notices: list[tuple[int, Any]] = []
        self.flowed: list[tuple[int, int]] = []

    def _note(self, where: list[Any], what: Any) -> None:
        with self.changed:
            where.append(what)
            self.changed.notify_all()

    def connected(self, peer: int) -> None:
        self._note(self.here, peer)

    def begin(self, peer: int, header: bytes) -> Body:
        return Body(header)

    def received(self, peer: int, room: Body) -> int:
        self._note(self.came.setdefault(peer, []), (room.name, bytes(room.buffer)))
        return len(self.came[peer])

    def started(self, peer: int, number: int, moment: int) -> None:
        self._note(self.flowed, (number, moment))

    def landed(self, peer: int, number: int, arrived: int) -> None:
        self._note(self.landed_.setdefault(peer, []), number)

    def disconnected(self, peer: int, reason: str) -> None:
        self._note(self.gone, (peer, reason))

    def told(self, peer: int, notice: Any) -> None:
        self._note(self.notices, (peer, notice))

    def wait(self, ready: Any, timeout: float = 10.0) -> bool:
        with self.changed:
            return bool(self.changed.wait_for(ready, timeout))


class Door:
    """Lets everybody in as the device that they ask for, with the token `token-N` where there are tokens."""

    def __init__(self, *, tokens: bool = False) -> None:
        self._tokens = tokens

    def device_of(self, token: str | None) -> int | None:
        if not self._tokens:
            return None
        if token is None or not token.startswith("token-"):
            raise Refused("UNAUTHENTICATED", "no token, or an unknown one")
        return int(token.removeprefix("token-"))

    def admit(self, request: pb.JoinRequest, owner: int | None) -> pb.JoinResponse:
        if owner is not None and owner != request.node:
            raise Refused("UNAUTHENTICATED", "the token is another's")
        return pb.JoinResponse(node=request.node)


class Pair:
    """A server, and clients that join it; closes what it has made."""

    def __init__(self, *, tokens: bool = False, pace: Pace = QUICK, port: int | None = None) -> None:
        self.node = End()
        self.pace = pace
        self.server = Server("127.0.0.1:0", self.node, Door(tokens=tokens), pace=pace)
        self.address = f"127.0.0.1:{self.server.port if port is None else port}"
        self._clients: list[Client] = []

    def join(self, device: int, *, address: str | None = None, token: str | None = None) -> tuple[Client, End]:
        """A device that has joined."""
        node = End()
        client = Client(address or self.address, node, pace=self.pace, token=token)
        self._clients.append(client)
        client.join(pb.JoinRequest(node=device))
        return client, node

    def __enter__(self) -> Pair:
        return self

    def __exit__(self, *error: object) -> None:
        for client in self._clients:
            client.close()
        self.server.close()


def message(name: str, body: bytes) -> tuple[bytes, list[memoryview]]:
    """Header and body, in pieces of odd sizes."""
    view = memoryview(body)
    pieces = [view[:7], view[7:1000], view[1000:]]
    return f"{name}:{len(body)}".encode(), [piece for piece in pieces if len(piece)]


class Proxy:
    """Passes bytes on between connections and a server's port, unless it is cut.

    Args:
        port: of the server.
        limit: bytes of a connection after which it is cut by itself, in either direction.
    """

    def __init__(self, port: int, limit: int | None = None) -> None:
        self._target = port
        self.limit = limit
        self.cuts = 0
        self._open: set[socket.socket] = set()
        self._blocked = threading.Event()
        self._lock = threading.Lock()
        self._closed = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while not self._closed:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if self._blocked.is_set():
                near.close()
                continue
            far = socket.create_connection(("127.0.0.1", self._target))
            with self._lock:
                self._open |= {near, far}
            if self._blocked.is_set():  # it was cut meanwhile
                near.close()
                far.close()
                continue
            count = [0]
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=self._pass, args=(one, other, count), daemon=True).start()

    def _pass(self, one: socket.socket, other: socket.socket, count: list[int]) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                count[0] += len(data)
                other.sendall(data)
                if self.limit is not None and count[0] > self.limit:
                    with self._lock:
                        self.cuts += one in self._open
                    break
        with self._lock:
            self._open -= {one, other}
        for each in (one, other):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def cut(self, seconds: float = 0.0) -> None:
        """Drop all connections, and let nobody in for a while."""
        self._blocked.set()
        with self._lock:
            there = list(self._open)
        for each in there:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        time.sleep(seconds)
        self._blocked.clear()

    def close(self) -> None:
        """Pass nothing any more."""
        self._closed = True
        self._listener.close()
        self.cut()
