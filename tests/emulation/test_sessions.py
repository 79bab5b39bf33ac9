"""Connections that live on: each message once and in order, whatever breaks; who may be there, and who is cut off."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Iterator

import grpc
import pytest

from fedsim.emulation.transport.channels import PROTOCOL, SERVICE, SESSION, TOKEN, version
from fedsim.emulation.transport.client import Client
from fedsim.emulation.transport.seam import Pace
from fedsim.emulation.transport.server import Server
from fedsim.errors import UserError
from fedsim.script import SERVER
from fedsim.wire import protocol_pb2 as pb
from fedsim.wire.frames import Position, resume, split
from tests.emulation.ends import Door, End, Pair, Proxy, message


@pytest.fixture
def pair() -> Iterator[Pair]:
    """A server, and whoever joins."""
    with Pair() as found:
        yield found


def test_messages_of_any_size_both_ways_at_once(pair: Pair) -> None:
    """Nothing, one byte, ten mebibytes: each once, in order, acknowledged by its number in the run."""
    client, node = pair.join(3)
    bodies = [b"", b"x", random.Random(1).randbytes(10 << 20), b"", random.Random(2).randbytes(12_345)]
    for number, body in enumerate(bodies):
        header, pieces = message(f"m{number}", body)
        assert client.send(100 + number, header, pieces, len(body) + 64, 0)
        assert pair.server.send(3, 200 + number, header, pieces, len(body) + 64, 0)
    wanted = [(f"m{number}", body) for number, body in enumerate(bodies)]
    assert pair.node.wait(lambda: len(pair.node.landed_.get(3, ())) == 5)
    assert node.wait(lambda: len(node.landed_.get(SERVER, ())) == 5)
    assert pair.node.came[3] == node.came[SERVER] == wanted
    assert node.landed_[SERVER] == [100, 101, 102, 103, 104]
    assert pair.node.landed_[3] == [200, 201, 202, 203, 204]
    assert client.traffic.messages == pair.server.traffic.messages == 5
    assert not node.gone
    assert not pair.node.gone


def test_a_connection_that_is_cut_in_the_middle_again_and_again() -> None:
    """Each message once, in order, and notices too; bytes that were there are not sent again."""
    with Pair() as pair:
        proxy = Proxy(pair.server.port, limit=3 << 20)
        client, node = pair.join(0, address=f"127.0.0.1:{proxy.port}")
        bodies = [random.Random(n).randbytes(5 << 20) for n in range(6)]
        for number, body in enumerate(bodies):
            header, pieces = message(str(number), body)
            client.send(number, header, pieces, len(body) + 64, 0)
            pair.server.send(0, number, header, pieces, len(body) + 64, 0)
            client.tell(pb.Up(records=pb.Records(lines=[str(number)])))
            pair.server.tell(0, pb.Down(end=pb.End(moment=number)))
        wanted = [(str(number), body) for number, body in enumerate(bodies)]
        assert pair.node.wait(lambda: len(pair.node.landed_.get(0, ())) == 6, 30)
        assert node.wait(lambda: len(node.landed_.get(SERVER, ())) == 6, 30)
        proxy.close()
        assert pair.node.came[0] == wanted
        assert node.came[SERVER] == wanted
        assert [notice.records.lines[0] for _, notice in pair.node.notices] == list("012345")
        assert [notice.end.moment for _, notice in node.notices] == list(range(6))
        assert proxy.cuts >= 10
        assert not node.gone
        assert not pair.node.gone
        lost = proxy.cuts * (5 << 20)  # what gRPC and the kernel hold when a connection is cut
        assert client.traffic.nbytes < sum(map(len, bodies)) + lost


def test_away_for_a_while_and_back() -> None:
    """For less than three heartbeats: nobody is told, nothing is lost."""
    with Pair(pace=Pace(heartbeat=0.5, patience=5.0, first=0.02)) as pair:
        proxy = Proxy(pair.server.port)
        client, node = pair.join(0, address=f"127.0.0.1:{proxy.port}")
        other, _ = pair.join(1)
        for number in range(6):
            client.send(number, *message(str(number), b"abc"), 67, 0)
            pair.server.send(0, number, *message(str(number), b"abc"), 67, 0)
            if number == 2:
                proxy.cut(1.0)
            other.send(number, *message(str(number), b"abc"), 67, 0)
        for end, peer in ((pair.node, 0), (node, SERVER), (pair.node, 1)):
            assert end.wait(lambda end=end, peer=peer: len(end.came.get(peer, ())) == 6)
            assert [name for name, _ in end.came[peer]] == list("012345")
        proxy.close()
        assert not pair.node.gone
        assert not node.gone


def test_away_for_too_long() -> None:
    """Both ends are told, once; what is sent then goes nowhere; to join again is a new life."""
    with Pair(pace=Pace(heartbeat=0.1, patience=0.5, first=0.02)) as pair:
        proxy = Proxy(pair.server.port)
        client, node = pair.join(0, address=f"127.0.0.1:{proxy.port}")
        proxy.cut(1.5)
        assert pair.node.wait(lambda: bool(pair.node.gone))
        assert node.wait(lambda: bool(node.gone))
        time.sleep(0.3)
        assert [peer for peer, _ in pair.node.gone] == [0]
        assert [peer for peer, _ in node.gone] == [SERVER]
        assert not client.send(1, *message("x", b""), 64, 0)
        assert not pair.server.send(0, 1, *message("x", b""), 64, 0)
        client.close()
        client.join(pb.JoinRequest(node=0))
        assert client.send(2, *message("y", b""), 64, 0)
        assert pair.node.wait(lambda: pair.node.came.get(0) == [("y", b"")])
        proxy.close()


def test_leaving_and_being_dismissed(pair: Pair) -> None:
    """A device that leaves hears nothing of it; one that is dismissed is told why; the server is told of both."""
    one, node_one = pair.join(1)
    two, node_two = pair.join(2)
    one.leave("enough")
    pair.server.dismiss(2, "it is not wanted")
    assert pair.node.wait(lambda: len(pair.node.gone) == 2)
    assert sorted(pair.node.gone) == [(1, "enough"), (2, "it is not wanted")]
    assert node_two.wait(lambda: bool(node_two.gone))
    assert node_two.gone == [(SERVER, "it is not wanted")]
    assert not node_one.gone
    assert not two.send(1, *message("x", b""), 64, 0)


def test_whoever_sends_too_much_waits() -> None:
    """Until what waits is less than the inbox; a message of any size goes alone."""
    with Pair(pace=Pace(heartbeat=0.2, inbox=1 << 20, first=0.02)) as pair:
        client, _ = pair.join(0)
        gate = threading.Event()
        received = pair.node.received

        def slow(peer: int, room: object) -> int:
            gate.wait(5)
            return received(peer, room)  # type: ignore[arg-type]

        pair.node.received = slow  # type: ignore[method-assign]
        client.send(1, *message("large", bytes(3 << 20)), 3 << 20, 0)
        sent = threading.Event()

        def more() -> None:
            client.send(2, *message("next", bytes(1 << 20)), 1 << 20, 0)
            sent.set()

        threading.Thread(target=more, daemon=True).start()
        assert not sent.wait(0.5)
        gate.set()
        assert sent.wait(5)


def test_tokens() -> None:
    """None, an unknown one, another device's: refused with a sentence; the right one is let in."""
    with Pair(tokens=True) as pair:
        for token in (None, "nonsense", "token-4"):
            with pytest.raises(UserError, match=r"does not let this device in: (no token|the token is another's)"):
                pair.join(3, token=token)
        pair.join(3, token="token-3")
        assert pair.node.here == [3]


def test_another_version(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are named."""
    monkeypatch.setattr("fedsim.emulation.transport.client.version", lambda: "9.9")
    with pytest.raises(UserError, match=r"the device has fedsim 9\.9 and the server [^;]*; install the same on both"):
        pair.join(0)


def test_nobody_listens() -> None:
    """Within the patience, with what may be the matter."""
    client = Client("127.0.0.1:9", End(), pace=Pace(patience=0.5))
    with pytest.raises(UserError, match=r"no answer from 127\.0\.0\.1:9 within 0\.5 s; start the server"):
        client.join(pb.JoinRequest(node=0))


@pytest.mark.parametrize("address", ["nowhere", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:70000", ":5"])
def test_no_address(address: str) -> None:
    """What cannot be listened on is told at once."""
    with pytest.raises(UserError, match="is no address to listen on"):
        Server(address, End(), Door())


def test_a_port_that_is_taken(pair: Pair) -> None:
    """Is not shared."""
    with pytest.raises(UserError, match="cannot be listened on; another process may have that port"):
        Server(pair.address, End(), Door())


# ------------------------------------------------------------------------------------------------------- strangers


class Raw:
    """Whoever knows the protocol, and does not keep to it."""

    def __init__(self, address: str) -> None:
        self.channel = grpc.insecure_channel(address)

    def join(self, device: int) -> bytes:
        call = self.channel.unary_unary(
            f"/{SERVICE}/Join", pb.JoinRequest.SerializeToString, pb.JoinResponse.FromString
        )
        request = pb.JoinRequest(node=device, protocol=PROTOCOL, version=version())
        response: pb.JoinResponse = call(request, timeout=5)
        return response.session

    def data(self, frames: list[bytes], session: bytes) -> str:
        """What becomes of a stream of frames."""
        return self._call("Data", iter(frames), session, None)

    def control(self, notices: list[bytes], session: bytes, token: str | None = None) -> str:
        """What becomes of a stream of notices."""
        return self._call("Control", iter(notices), session, token)

    def _call(self, method: str, what: Iterator[bytes], session: bytes, token: str | None) -> str:
        metadata: list[tuple[str, str | bytes]] = [(SESSION, session)]
        if token is not None:
            metadata.append((TOKEN, f"Bearer {token}"))
        try:
            for _ in self.channel.stream_stream(f"/{SERVICE}/{method}")(what, metadata=metadata, timeout=5):
                pass
        except grpc.RpcError as error:
            return str(error.code().name)
        return "ended"


def framed(number: int, header: bytes, body: bytes) -> list[bytes]:
    """A message in frames."""
    return list(split(number, header, [memoryview(body)], 1000))


BAD: dict[str, list[bytes]] = {
    "nothing but noise": [b"noise"],
    "noise after a beginning": [resume(Position()), random.Random(3).randbytes(500)],
    "no beginning": framed(1, b"x:3", b"abc"),
    "a beginning in the middle": [resume(Position()), resume(Position())],
    "a beginning beyond what was sent": [resume(Position(9, 0))],
    "a number twice": [resume(Position()), *framed(1, b"x:3", b"abc"), *framed(1, b"x:3", b"abc")],
    "a number left out": [resume(Position()), *framed(2, b"x:3", b"abc")],
    "a body without a header": [resume(Position()), framed(1, b"x:3", b"abc")[1]],
    "too much body": [resume(Position()), framed(1, b"x:3", b"abc")[0], framed(1, b"x:9", b"abcdefghi")[1]],
    "a huge announcement": [resume(Position()), *framed(1, b"x:99999999999", b"")],
    "a truncated frame": [resume(Position()), framed(1, b"x:3", b"abc")[0][:9]],
    "an unknown kind": [resume(Position()), b"\x09" + bytes(16)],
}


@pytest.mark.parametrize("frames", BAD.values(), ids=BAD)
def test_whoever_sends_garbage_is_cut_off(pair: Pair, frames: list[bytes]) -> None:
    """Once, with a reason; all others go on."""
    client, node = pair.join(1)
    raw = Raw(pair.address)
    session = raw.join(0)
    raw.data(frames, session)
    assert pair.node.wait(lambda: bool(pair.node.gone))
    ((peer, reason),) = pair.node.gone
    assert (peer, reason.startswith("it breaks the rules: ")) == (0, True)
    assert raw.data([resume(Position())], session) == "NOT_FOUND"
    client.send(1, *message("fine", b"abc"), 67, 0)
    assert pair.node.wait(lambda: bool(pair.node.came.get(1)))
    assert not node.gone
    raw.channel.close()


NOTICES: dict[str, list[bytes]] = {
    "noise": [b"\xff\xff\xff"],
    "nothing": [pb.Up(sequence=1).SerializeToString()],
    "a number left out": [pb.Up(sequence=2, ready=pb.Ready()).SerializeToString()],
    "seen what was not sent": [pb.Up(heartbeat=pb.Heartbeat(seen=77)).SerializeToString()],
    "acknowledged what was not sent": [
        pb.Up(sequence=1, acknowledgement=pb.Acknowledgement(message=5)).SerializeToString()
    ],
}


@pytest.mark.parametrize("notices", NOTICES.values(), ids=NOTICES)
def test_notices_that_break_the_rules(pair: Pair, notices: list[bytes]) -> None:
    """As with frames; noise ends the stream, and with it, if nothing better comes, the life."""
    client, _ = pair.join(1)
    raw = Raw(pair.address)
    raw.control(notices, raw.join(0))
    assert pair.node.wait(lambda: bool(pair.node.gone), 5)
    assert [peer for peer, _ in pair.node.gone] == [0]
    client.send(1, *message("fine", b"abc"), 67, 0)
    assert pair.node.wait(lambda: bool(pair.node.came.get(1)))
    raw.channel.close()


def test_sessions_that_are_nobodys_or_anothers() -> None:
    """Refused at once, without a thread that waits for more."""
    with Pair(tokens=True) as pair:
        client, node = pair.join(0, token="token-0")
        raw = Raw(pair.address)
        assert raw.control([], b"", "token-0") == "NOT_FOUND"
        assert raw.control([], bytes(16), "token-0") == "NOT_FOUND"
        assert raw.control([], client.session) == "UNAUTHENTICATED"
        assert raw.control([], client.session, "token-1") == "UNAUTHENTICATED"
        for _ in range(400):  # more than there are threads
            raw.channel.stream_stream(f"/{SERVICE}/Data")(iter(()), metadata=[(SESSION, b"x")])
        client.send(1, *message("fine", b"abc"), 67, 0)
        assert pair.node.wait(lambda: bool(pair.node.came.get(0)), 5)
        assert not node.gone
        raw.channel.close()


def test_bytes_that_are_no_grpc(pair: Pair) -> None:
    """Whatever comes to the port: who is there goes on."""
    client, node = pair.join(0)
    draw = random.Random(5)
    host, port = pair.address.split(":")
    for size in (1, 24, 1000, 100_000):
        with socket.create_connection((host, int(port))) as line:
            line.settimeout(1)
            line.sendall(draw.randbytes(size))
    with socket.create_connection((host, int(port))) as line:
        line.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + draw.randbytes(5000))
    client.send(1, *message("fine", b"abc"), 67, 0)
    assert pair.node.wait(lambda: bool(pair.node.came.get(0)))
    assert not node.gone


def test_random_frames_end_lives_and_nothing_else(pair: Pair) -> None:
    """Frames that are right but for a byte, cut off, swapped or repeated: no crash, no hang, others go on."""
    client, node = pair.join(50)
    draw = random.Random(7)
    right = [resume(Position()), *framed(1, b"a:2500", bytes(2500)), *framed(2, b"b:3", b"abc")]
    raw = Raw(pair.address)
    for device in range(30):
        frames = list(right)
        for _ in range(draw.randint(1, 3)):
            at = draw.randrange(len(frames))
            match draw.randrange(4):
                case 0:
                    spoilt = bytearray(frames[at])
                    spoilt[draw.randrange(min(17, len(spoilt)))] ^= 1 << draw.randrange(8)
                    frames[at] = bytes(spoilt)
                case 1:
                    frames[at] = frames[at][: draw.randrange(len(frames[at]))]
                case 2:
                    frames.insert(at, draw.choice(frames))
                case _:
                    other = draw.randrange(len(frames))
                    frames[at], frames[other] = frames[other], frames[at]
        raw.data(frames, raw.join(device))
    client.send(1, *message("fine", b"abc"), 67, 0)
    assert pair.node.wait(lambda: bool(pair.node.came.get(50)))
    assert not node.gone
    assert 50 not in [peer for peer, _ in pair.node.gone]
    raw.channel.close()
