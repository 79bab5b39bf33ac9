"""Strangers at the port, and devices that do what they like: no crash, no hang, bounded memory, all others go on."""

from __future__ import annotations

import random
import resource
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest

from fedsim.emulation.access.security import channel_credentials, make_certificates, server_credentials
from fedsim.emulation.transport.client import Client
from fedsim.emulation.transport.seam import Pace
from fedsim.emulation.transport.server import Server
from fedsim.errors import UserError
from fedsim.wire import protocol_pb2 as pb
from fedsim.wire.frames import Position, resume, split
from tests.emulation.transports import MIB, PACE, Ends, FakeDoor, FakeNode, Raw, ends, header, message, until

pytestmark = pytest.mark.slow


def goes_on(both: Ends, device: Client, node: FakeNode, tag: int) -> None:
    """A device that has joined is served as ever."""
    before = len(node.of("landed"))
    assert device.send(tag, *message(tag, 100_000))
    until(lambda: len(node.of("landed")) > before, 5)
    assert not node.of("disconnected")


def frames(draw: random.Random) -> list[bytes]:
    """Two messages, damaged in a few places."""
    right = [resume(Position())]
    for number in (1, 2):
        right += split(number, header(number, 700), [memoryview(message(number, 700)[1][1])[:700]], 300)
    for _ in range(draw.randint(1, 3)):
        at = draw.randrange(len(right))
        match draw.randrange(6):
            case 0:
                spoilt = bytearray(right[at])
                spoilt[draw.randrange(len(spoilt))] ^= 1 << draw.randrange(8)
                right[at] = bytes(spoilt)
            case 1:
                right[at] = right[at][: draw.randrange(len(right[at]))]
            case 2:
                right.insert(at, draw.choice(right))
            case 3:
                right[at] += draw.randbytes(draw.randrange(1, 2000))
            case 4:
                right[at] = draw.randbytes(draw.randrange(60))
            case _:
                del right[at]
                right = right or [b""]
    return right


def notice(draw: random.Random) -> bytes:
    """Something on the control stream."""
    number = draw.choice((0, 1, 2, 7, 2**63, 2**64 - 1))
    far = draw.choice((0, -1, 2**63 - 1, -(2**63)))
    what: list[dict[str, Any]] = [
        {"heartbeat": pb.Heartbeat(seen=number)},
        {"acknowledgement": pb.Acknowledgement(message=number, arrived=far)},
        {"announcement": pb.Announcement(message=number, ready=far)},
        {"probe": pb.ClockProbe(asked=number)},
        {"records": pb.Records(lines=["x" * draw.randrange(100_000)])},
        {"leave": pb.Leave(reason="\u00e4" * draw.randrange(5000))},
        {},
    ]
    said = pb.Up(sequence=draw.choice((0, 1, 2, number)), **draw.choice(what)).SerializeToString()
    return said if draw.random() < 0.8 else draw.randbytes(draw.randrange(200))


def test_frames_and_notices_at_random() -> None:
    """Forty devices that say anything: their lives end, or they are heard; one that behaves goes on."""
    with ends(check=False, pace=Pace(heartbeat=0.5, first=0.02)) as both:
        device, node = both.device(1000)
        for seed in range(40):
            draw = random.Random(seed)
            with closing(Raw(both.server.port)) as raw:
                raw.join(node=seed)
                raw.stream("Data", *frames(draw))
                raw.stream("Control", *(notice(draw) for _ in range(draw.randint(1, 5))))
                if seed % 8 == 0:
                    goes_on(both, device, node, seed)
                time.sleep(0.01)
        until(lambda: len(both.node.of("disconnected")) == 40)
        assert sorted({one[1] for one in both.node.events if one[0] == "disconnected"}) == list(range(40))
        goes_on(both, device, node, 999)


def test_what_is_announced_takes_no_memory() -> None:
    """A body of many gigabytes is refused before anything is made for it, and so are frames beyond the limit."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with ends(check=False) as both:
        device, node = both.device(1000)
        for seed, said in enumerate(([header(1, 2**40)], [bytes(9 * MIB)], [header(1, 5), bytes(9 * MIB)])):
            with closing(Raw(both.server.port)) as raw:
                raw.join(node=seed)
                one, *rest = said
                call = raw.frames(b"\x01" + (1).to_bytes(8, "little") + bytes(8) + one, *rest)
                assert raw.ended(call) in ("NOT_FOUND", "RESOURCE_EXHAUSTED", "CANCELLED")
        goes_on(both, device, node, 1)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024


def test_who_does_not_listen_is_cut_off() -> None:
    """Small messages without end, and no acknowledgement of theirs is ever taken in: what is kept for it is bounded."""
    with ends(check=False, pace=Pace(heartbeat=60.0)) as both:
        device, node = both.device(1000)
        with pytest.MonkeyPatch.context() as patch, closing(Raw(both.server.port)) as raw:
            patch.setattr("fedsim.emulation.transport.session.KEPT", 500)
            raw.join(node=2)
            raw.frames(*(piece for number in range(1, 2000) for piece in split(number, header(number, 0), [], 100)))
            until(lambda: both.node.of("disconnected", 2))
        goes_on(both, device, node, 1)


def test_calls_of_nobody_take_no_threads() -> None:
    """Hundreds of streams without a session, and calls of Join that never say what they want."""
    with ends(check=False) as both:
        device, node = both.device(1000)
        channels = [
            grpc.insecure_channel(f"127.0.0.1:{both.server.port}", options=[("grpc.use_local_subchannel_pool", 1)])
            for _ in range(8)
        ]
        over = threading.Event()

        def silent() -> Iterator[bytes]:
            over.wait(20)
            yield from ()

        calls = [
            one.stream_stream(f"/fedsim.wire.Emulation/{method}")(silent())
            for one in channels
            for method in ("Join", "Data", "Control", "Nothing")
            for _ in range(12)
        ]
        try:
            time.sleep(0.2)
            assert sum(thread.name.startswith(("stream", "join")) for thread in threading.enumerate()) < 64
            goes_on(both, device, node, 1)
        finally:
            over.set()
            for call in calls:
                call.cancel()
            for one in channels:
                one.close()
        other, behaving = both.device(1001)
        goes_on(both, other, behaving, 2)


def test_bytes_at_a_plain_port() -> None:
    """Noise, the beginning of HTTP/2 and noise, and nothing at all."""
    with ends(check=False) as both:
        device, node = both.device(1)
        noise(both.server.port)
        goes_on(both, device, node, 1)


def noise(port: int) -> None:
    """Say anything to a port."""
    draw = random.Random(11)
    said = [b"", b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + draw.randbytes(3000)]
    said += [draw.randbytes(size) for size in (1, 9, 100, 10_000)]
    with ExitStack() as stack:
        for text in said * 3:
            line = stack.enter_context(socket.create_connection(("127.0.0.1", port), 2))
            with suppress(OSError):
                line.sendall(text)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates for this machine, and another authority's."""
    folder: Path = tmp_path_factory.mktemp("keys")
    make_certificates(folder / "ours", ["localhost", "127.0.0.1"])
    make_certificates(folder / "others", ["localhost", "127.0.0.1"])
    return folder


def secured(keys: Path, node: FakeNode) -> Server:
    """A server with TLS."""
    ours = keys / "ours"
    credentials = server_credentials(ours / "server.pem", ours / "server-key.pem")
    return Server("127.0.0.1:0", node, FakeDoor(), pace=PACE, credentials=credentials)


def test_with_tls(keys: Path) -> None:
    """Messages pass; noise and plain gRPC at the port do not bother those who are there."""
    with closing(secured(keys, FakeNode())) as server:
        node = FakeNode()
        trusted = channel_credentials(keys / "ours" / "authority.pem")
        with closing(Client(f"127.0.0.1:{server.port}", node, pace=PACE, credentials=trusted)) as client:
            client.join(pb.JoinRequest(node=1))
            noise(server.port)
            with closing(Raw(server.port)) as raw, pytest.raises(grpc.RpcError):
                raw.channel.unary_unary("/fedsim.wire.Emulation/Join")(b"", timeout=0.5)
            assert client.send(1, *message(1, 2 * MIB))
            until(lambda: node.of("landed"))
            assert not node.of("disconnected")


def test_tls_at_one_end_only(keys: Path) -> None:
    """Or of another authority: the device is told which, and soon."""
    trusted, distrusted = (channel_credentials(keys / whose / "authority.pem") for whose in ("ours", "others"))
    with closing(secured(keys, FakeNode())) as server, ends() as plain:
        for port, credentials, said in (
            (server.port, None, "it wants TLS"),
            (server.port, distrusted, "this authority's TLS"),
            (plain.server.port, trusted, "this authority's TLS"),
        ):
            began = time.monotonic()
            client = Client(f"127.0.0.1:{port}", FakeNode(), pace=Pace(patience=1.0), credentials=credentials)
            with pytest.raises(UserError, match=said):
                client.join(pb.JoinRequest(node=1))
            assert time.monotonic() - began < 5
