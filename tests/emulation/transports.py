"""The ends of a transport without scripts: a node that keeps what it hears, a door, a wire that can be cut."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import grpc

from fedsim.emulation.transport.client import Client
from fedsim.emulation.transport.seam import Pace, Refused
from fedsim.emulation.transport.server import Server
from fedsim.script import SERVER
from fedsim.wire import protocol_pb2 as pb
from fedsim.wire.frames import Position, resume
from fedsim.wire.refusals import WireError

PACE = Pace(heartbeat=0.4, first=0.02, patience=10.0)
MIB = 2**20
PROTOCOL = 1


def body(tag: int, size: int) -> bytes:
    """The body of a message."""
    return random.Random(tag).randbytes(size)


def header(tag: int, size: int) -> bytes:
    """The header of a message."""
    return b"%d %d" % (tag, size)


class Room:
    """Takes a body."""

    def __init__(self, text: bytes, largest: int) -> None:
        try:
            self.tag, size = map(int, text.split())
        except ValueError:
            raise WireError(f"no header: {text[:20]!r}") from None
        if not 0 <= size <= largest:
            raise WireError(f"a message of {size} bytes")
        self.memory = bytearray(size)

    @property
    def buffer(self) -> memoryview:
        return memoryview(self.memory)


class FakeNode:
    """Keeps what it is told, by peer."""

    def __init__(self, largest: int = 64 * MIB, check: bool = True) -> None:
        self.events: list[tuple[Any, ...]] = []
        self.came: dict[int, list[int]] = {}
        self.moments: dict[int, float] = {}
        self.wrong: list[int] = []
        self.reply: Callable[[int, Any], None] | None = None
        self._largest = largest
        self._check = check

    def connected(self, peer: int) -> None:
        self.events.append(("connected", peer))

    def begin(self, peer: int, header: bytes) -> Room:
        return Room(header, self._largest)

    def received(self, peer: int, room: Room) -> int:
        if self._check and body(room.tag, len(room.memory)) != room.memory:
            self.wrong.append(room.tag)
        self.moments[room.tag] = time.monotonic()
        self.came.setdefault(peer, []).append(room.tag)
        return 1000 + room.tag

    def started(self, peer: int, number: int, moment: int) -> None:
        self.events.append(("started", peer, number, moment))

    def landed(self, peer: int, number: int, arrived: int) -> None:
        self.events.append(("landed", peer, number, arrived))

    def disconnected(self, peer: int, reason: str) -> None:
        self.events.append(("disconnected", peer, reason))

    def told(self, peer: int, notice: pb.Up | pb.Down) -> None:
        self.events.append(("told", peer, notice))
        if self.reply is not None:
            self.reply(peer, notice)

    def of(self, kind: str, peer: int | None = None) -> list[tuple[Any, ...]]:
        """What it was told of this kind."""
        return [one[2:] for one in list(self.events) if one[0] == kind and peer in (None, one[1])]


class FakeDoor:
    """Lets everybody in, as the node that is asked for; with tokens, only who has that of the node."""

    def __init__(self, tokens: dict[str, int] | None = None) -> None:
        self._tokens = tokens

    def device_of(self, token: str | None) -> int | None:
        if self._tokens is None:
            return None
        if token not in self._tokens:
            raise Refused("UNAUTHENTICATED", "no token, or an unknown one")
        return self._tokens[token]

    def admit(self, request: pb.JoinRequest, owner: int | None) -> pb.JoinResponse:
        if request.node == 99:
            raise Refused("RESOURCE_EXHAUSTED", "device 99 is here already")
        return pb.JoinResponse(node=request.node if owner is None else owner)


class Proxy:
    """A wire to a port of this machine, until it is cut; by itself after a number of bytes towards the port."""

    def __init__(self, port: int) -> None:
        self.budgets: list[int] = []
        """Bytes after which the next connections are cut."""
        self.connections = 0
        self._target = port
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._lock = threading.Lock()
        self._up = True
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def cut(self, *, down: bool = False) -> None:
        """Break all connections; `down`: and let none through any more."""
        with self._lock:
            self._up = not down
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            self._close(pair)

    def mend(self) -> None:
        """Let connections through again."""
        self._up = True

    def close(self) -> None:
        """The end."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut(down=True)

    @staticmethod
    def _close(pair: tuple[socket.socket, socket.socket]) -> None:
        for end in pair:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if not self._up:
                near.close()
                continue
            far = socket.create_connection(("127.0.0.1", self._target))
            pair = (near, far)
            with self._lock:
                up = self._up
                if up:
                    self.connections += 1
                    budget = self.budgets.pop(0) if self.budgets else None
                    self._pairs.append(pair)
            if not up:  # it was cut meanwhile
                self._close(pair)
                continue
            for source, sink, left in ((near, far, budget), (far, near, None)):
                threading.Thread(target=self._pump, args=(pair, source, sink, left), daemon=True).start()

    def _pump(
        self, pair: tuple[socket.socket, socket.socket], source: socket.socket, sink: socket.socket, left: int | None
    ) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
                if left is not None and (left := left - len(data)) < 0:
                    break
        with self._lock:
            if pair in self._pairs:
                self._pairs.remove(pair)
        self._close(pair)


class Ends:
    """A server, and devices that have joined it."""

    def __init__(self, stack: ExitStack, *, pace: Pace = PACE, door: FakeDoor | None = None, **more: Any) -> None:
        self.stack = stack
        self.pace = pace
        self.node = FakeNode(**more)
        self.server = Server("127.0.0.1:0", self.node, door or FakeDoor(), pace=pace)
        stack.callback(self.server.close)
        self._more = more

    def device(self, number: int, *, port: int | None = None, token: str | None = None) -> tuple[Client, FakeNode]:
        """A device that has joined."""
        node = FakeNode(**self._more)
        client = Client(f"127.0.0.1:{port or self.server.port}", node, pace=self.pace, token=token)
        self.stack.callback(client.close)
        client.join(pb.JoinRequest(node=number))
        return client, node

    def proxy(self) -> Proxy:
        """A wire to the server."""
        proxy = Proxy(self.server.port)
        self.stack.callback(proxy.close)
        return proxy

    def down(self, peer: int, tag: int, size: int, **more: int) -> bool:
        """Send a message to a device."""
        return self.server.send(peer, tag, *message(tag, size, **more))


def message(
    tag: int, size: int, *, nbytes: int | None = None, queued: int = 0
) -> tuple[bytes, list[memoryview], int, int]:
    """What `send` takes, after the number."""
    whole = memoryview(body(tag, size))
    pieces = [whole[: size // 3], whole[size // 3 :]] if size > 2 else [whole]
    return header(tag, size), pieces, size + 64 if nbytes is None else nbytes, queued


@contextmanager
def ends(**more: Any) -> Iterator[Ends]:
    """A server, until the end; no thread of it, or of its devices, is left then."""
    before = set(threading.enumerate())
    with ExitStack() as stack:
        yield Ends(stack, **more)
    end = time.monotonic() + 5
    while left := [one for one in set(threading.enumerate()) - before if "Proxy" not in str(one)]:
        assert time.monotonic() < end, left
        time.sleep(0.005)


def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Wait for something that another thread does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.002)


class Raw:
    """A peer that speaks gRPC, and may say whatever it likes."""

    def __init__(self, port: int, metadata: tuple[tuple[str, Any], ...] = ()) -> None:
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.use_local_subchannel_pool", 1)])
        self.metadata = metadata
        self.calls: list[Any] = []

    def join(self, **fields: Any) -> pb.JoinResponse:
        """Begin a life."""
        from importlib.metadata import version

        fields = {"protocol": PROTOCOL, "version": version("fedsim-edge"), **fields}
        call = self.channel.unary_unary(
            "/fedsim.wire.Emulation/Join", pb.JoinRequest.SerializeToString, pb.JoinResponse.FromString
        )
        response: pb.JoinResponse = call(
            pb.JoinRequest(**fields), timeout=5, metadata=self.metadata, wait_for_ready=True
        )
        self.metadata = (*self.metadata, ("session-bin", response.session))
        return response

    def stream(self, method: str, *said: bytes) -> Any:
        """Open a stream, say something, and wait for what comes."""
        over = threading.Event()

        def saying() -> Iterator[bytes]:
            yield from said
            over.wait(20)

        call = self.channel.stream_stream(f"/fedsim.wire.Emulation/{method}")(saying(), metadata=self.metadata)
        if not call.add_callback(over.set):
            over.set()
        self.calls.append(call)
        return call

    def frames(self, *said: bytes) -> Any:
        """A stream of frames that begins as it should."""
        return self.stream("Data", resume(Position()), *said)

    def ended(self, call: Any) -> str:
        """The status of a call, once it has ended."""
        with suppress(grpc.RpcError):
            for _ in call:
                pass
        return str(call.code().name)

    def close(self) -> None:
        """The end."""
        for call in self.calls:
            call.cancel()
        self.channel.close()


__all__ = ["SERVER", "Ends", "FakeDoor", "FakeNode", "Proxy", "Raw", "body", "ends", "header", "message", "until"]
