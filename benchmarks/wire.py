"""How fast activations go from one process to another, compared with bytes that mean nothing; and in how much memory.

    python benchmarks/wire.py [speed] [memory] [--repeats 15] [--quick] [--json]

A sender (this process) and a receiver (another one), gRPC on 127.0.0.1, one intra-op thread each, frames of 1 MiB.

speed    64 and 512 samples of 64 x 16 x 16 float32 (4 and 32 MiB) and their labels, SplitFed's message, so many that
         they take about a fifth of a second, in turns:
         raw        its frames, made beforehand, through one stream, copied into memory that is there
         framed     the message encoded, framed, put together and decoded around the same stream: what the wire format
                    costs without a transport
         transport  the message through the emulation's own transport: encoded, sent by its Client, received by its
                    Server, decoded and acknowledged, without a checksum
         checked    the same with CRC-32
         unary      Flower's way: unary calls with chunks of 5 MiB as protobuf `bytes`, joined by the receiver
         The median of the turns must be at least 80 % of that of raw bytes for the transport, and 50 % with a
         checksum; shares within one turn are printed as a range. Also printed: what both processes take of the
         processors, which says more than the clock where others are at work.
memory   one message of 1 GB (64 MiB with --quick) through the transport, with a checksum. How far the resident memory
         of sender and receiver grows at its highest from just before the join: beyond the payload itself at most 24
         frames each.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any, Final

import grpc
import numpy as np
import psutil
import torch
from google.protobuf.wrappers_pb2 import BytesValue

from fedsim.emulation.transport.channels import LARGEST
from fedsim.emulation.transport.client import Client
from fedsim.emulation.transport.server import Server
from fedsim.payload.coding import Value
from fedsim.payload.meta import Shape, TensorMeta
from fedsim.payload.tensors import Layout
from fedsim.schedulers.splitfed import Activations, SplitFed
from fedsim.script import Payload, Purpose
from fedsim.wire import protocol_pb2 as pb
from fedsim.wire.codec import Decoder, Encoder, Incoming, load
from fedsim.wire.frames import Assembly, split
from fedsim.wire.refusals import Bounds
from fedsim.wire.registry import Registry

MIB: Final = 1 << 20
FRAME: Final = MIB
CHUNK: Final = 5 * MIB
SAMPLES: Final = (64, 512)
SHAPE: Final = (64, 16, 16)  # of a sample, float32: 64 KiB
SAMPLE: Final = 64 << 10
TURN: Final = 256 * MIB
GIGABYTE: Final = 10**9

UNCHECKED, CHECKED, FRAMES = 0.8, 0.5, 24  # the claims
OPTIONS: Final = [("grpc.max_receive_message_length", LARGEST), ("grpc.max_send_message_length", LARGEST)]
REGISTRY: Final = Registry(SplitFed.messages)
Way = Callable[[int], float]
"""Sends so many batches; answers with seconds."""
Row = dict[str, Any]


def resident() -> int:
    """Bytes of this process in memory."""
    return int(psutil.Process().memory_info().rss)


def most() -> int:
    """The most bytes that this process ever had in memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# -------------------------------------------------------------------------------------------------- receiver


def decoder() -> Decoder:
    """For messages of `batch`, with a checksum or without."""
    bounds = Bounds(body=2 * GIGABYTE, memory=2 * GIGABYTE)
    layouts: dict[TensorMeta, Layout] = {}  # nothing here is weights
    return Decoder(REGISTRY, 0, layouts.__getitem__, count(), bounds, checksum=False)


class Receiver(grpc.GenericRpcHandler):  # type: ignore[misc]
    """What takes in all that does not come by the transport."""

    def __init__(self) -> None:
        self._chunks: list[bytes] = []

    def service(self, call: Any) -> Any:
        """The handler of a method."""
        match call.method.rpartition("/")[2]:
            case "raw":
                return grpc.stream_stream_rpc_method_handler(self._raw)
            case "framed":
                return grpc.stream_stream_rpc_method_handler(self._framed)
            case "unary":
                return grpc.unary_unary_rpc_method_handler(self._chunk, BytesValue.FromString, bytes)
            case "joined":
                return grpc.unary_unary_rpc_method_handler(self._joined)
            case _:
                return None

    def _raw(self, frames: Iterator[bytes], _: Any) -> Iterator[bytes]:
        room, at, total = memoryview(bytearray(32 * FRAME)), 0, 0
        for frame in frames:
            end = at + len(frame)
            room[at:end] = frame
            at = end % len(room)
            total += len(frame)
        yield str(total).encode()

    def _framed(self, frames: Iterator[bytes], _: Any) -> Iterator[bytes]:
        total, decoding = 0, decoder()
        assembly: Assembly[Incoming] = Assembly(decoding.begin)
        for frame in frames:
            complete = assembly.add(frame)
            if complete is not None:
                decoding.finish(complete)
                total += complete.nbytes
                del complete
        yield str(total).encode()

    def _chunk(self, request: BytesValue, _: Any) -> bytes:
        self._chunks.append(request.value)
        return b"!"

    def _joined(self, _: bytes, __: Any) -> bytes:
        x = torch.from_numpy(np.frombuffer(bytearray().join(self._chunks), np.float32)).reshape(-1, *SHAPE)
        self._chunks = []
        return str(x.nbytes).encode()


class Sink:
    """A node whose messages go nowhere; anyone may join it, as device 0."""

    def __init__(self) -> None:
        self.total = 0
        """Bytes of bodies that have come."""
        self.there = threading.Semaphore(0)
        """Released for each message that the other side has."""
        self._decoder = decoder()

    def device_of(self, token: str | None) -> int | None:
        """There are no tokens."""
        return None

    def admit(self, request: pb.JoinRequest, owner: int | None) -> pb.JoinResponse:
        """Come in."""
        return pb.JoinResponse(node=0)

    def connected(self, peer: int) -> None:
        """Nothing has been described."""
        self._decoder = decoder()

    def begin(self, peer: int, header: bytes) -> Incoming:
        """A message comes."""
        return self._decoder.begin(header)

    def received(self, peer: int, room: Incoming) -> int:
        """It is there."""
        message, values = self._decoder.finish(room)
        assert isinstance(message, Activations)
        assert message.values in values
        self.total += room.nbytes
        return 0

    def started(self, peer: int, number: int, moment: int) -> None:
        """Nothing is shaped."""

    def landed(self, peer: int, number: int, arrived: int) -> None:
        """Another one."""
        self.there.release()

    def disconnected(self, peer: int, reason: str) -> None:
        """At the end of a part; before it, what was sent does not arrive, which is an error anyway."""

    def told(self, peer: int, notice: pb.Up | pb.Down) -> None:
        """Nobody says anything."""


def receive() -> None:
    """Be the receiver, until there is no sender; for each line of input says what has come, and in how much memory."""
    server = grpc.server(ThreadPoolExecutor(4), options=OPTIONS)
    server.add_generic_rpc_handlers((Receiver(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    sink = Sink()
    transport = Server("127.0.0.1:0", sink, sink)
    before = resident()
    print(port, transport.port, flush=True)
    for _ in sys.stdin:
        print(sink.total, before, most(), flush=True)
        sink.total = 0
    transport.close()
    server.stop(None).wait()


# ---------------------------------------------------------------------------------------------------- sender


@dataclass(frozen=True)
class Told:
    """What a receiver says."""

    total: int
    """Bytes of bodies that have come by the transport since it was last asked."""
    before: int
    """Resident bytes when it began."""
    most: int
    """And at most."""


@dataclass(frozen=True)
class Connected:
    """To a receiver."""

    channel: Any
    client: Client
    sink: Sink
    processes: tuple[psutil.Process, ...]
    """Sender and receiver."""
    ask: Callable[[], Told]


@contextmanager
def connected() -> Iterator[Connected]:
    """A channel to a new receiver."""
    command = [sys.executable, __file__, "--receive"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        told, asked = process.stdout, process.stdin
        port, transport = map(int, told.readline().split())

        def ask() -> Told:
            asked.write("\n")
            asked.flush()
            return Told(*map(int, told.readline().split()))

        sink = Sink()
        client = Client(f"127.0.0.1:{transport}", sink)
        with grpc.insecure_channel(f"127.0.0.1:{port}", options=OPTIONS) as channel:
            yield Connected(channel, client, sink, (psutil.Process(), psutil.Process(process.pid)), ask)
        client.close()


def batch(*shape: int) -> tuple[Activations, dict[Payload, Value]]:
    """A message with a batch of activations, and these."""
    x = torch.arange(torch.Size(shape).numel(), dtype=torch.float32).reshape(shape)
    y = torch.arange(shape[0])
    values = Payload(0, 1, TensorMeta(Purpose.ACTIVATIONS, (Shape("x", shape),)))
    labels = Payload(0, 2, TensorMeta(Purpose.LABELS, (Shape("y", (shape[0],), "int64"),)))
    return Activations(values, labels, 1, sender=0), {values: x, labels: y}


class Sending:
    """One life of a client, which sends a message again and again."""

    def __init__(self, to: Connected) -> None:
        self._to = to
        self._encoder = Encoder(REGISTRY)
        self._numbers = count(1)
        to.client.join(pb.JoinRequest())

    def send(self, message: Activations, values: dict[Payload, Value], copies: int, *, checksum: bool) -> float:
        """Seconds until all copies are acknowledged."""
        began = time.monotonic()
        for number in (next(self._numbers) for _ in range(copies)):
            made = self._encoder.address(load(REGISTRY, message, values.__getitem__, checksum=checksum), number)
            assert self._to.client.send(number, made.header + made.definitions, made.body, made.nbytes, 0)
        for _ in range(copies):
            assert self._to.sink.there.acquire(timeout=60)
        seconds = time.monotonic() - began
        total, expected = self._to.ask().total, copies * sum(payload.nbytes for payload in values)
        assert total == expected, f"{total} of {expected} bytes"
        return seconds


def ways(to: Connected, sending: Sending, samples: int) -> dict[str, Way]:
    """All that are compared, the reference first."""
    message, values = batch(samples, *SHAPE)
    x, nbytes = values[message.values], sum(payload.nbytes for payload in values)
    assert isinstance(x, torch.Tensor)
    whole = x.numpy().tobytes()  # not zeros: a page of them would be all that is ever read
    frames = [whole[at : at + FRAME] for at in range(0, x.nbytes, FRAME)]
    unary_call = to.channel.unary_unary("/benchmark/unary", BytesValue.SerializeToString)
    joined_call = to.channel.unary_unary("/benchmark/joined")

    def streamed(method: str, frames: Iterator[bytes], expected: int) -> float:
        began = time.monotonic()
        (report,) = to.channel.stream_stream(f"/benchmark/{method}")(frames)
        seconds = time.monotonic() - began
        assert int(report) == expected, f"{method}: {int(report)} of {expected} bytes"
        return seconds

    def encoded(batches: int) -> Iterator[bytes]:
        encoder = Encoder(REGISTRY, checksum=False)
        for number in range(1, batches + 1):
            made = encoder.encode(message, values.__getitem__, number)
            yield from split(number, made.header + made.definitions, made.body, FRAME)

    def unary(batches: int) -> float:
        began = time.monotonic()
        for _ in range(batches):
            data = x.numpy().tobytes()
            for at in range(0, len(data), CHUNK):
                assert unary_call(BytesValue(value=data[at : at + CHUNK])) == b"!"
            assert int(joined_call(b"")) == len(data)
        return time.monotonic() - began

    return {
        "raw": lambda n: streamed("raw", (frame for _ in range(n) for frame in frames), n * x.nbytes),
        "framed": lambda n: streamed("framed", encoded(n), n * nbytes),
        "transport": lambda n: sending.send(message, values, n, checksum=False),
        "checked": lambda n: sending.send(message, values, n, checksum=True),
        "unary": unary,
    }


def timed(to: Connected, way: Way, batches: int) -> tuple[float, float]:
    """Seconds of the clock, and of the processors at both ends."""

    def spent() -> float:
        return sum(sum(process.cpu_times()[:2]) for process in to.processes)

    before = spent()
    seconds = way(batches)
    return seconds, spent() - before


def speed(samples: int, repeats: int, nbytes: int) -> list[Row]:
    """Each way's throughput, the median of all turns, and what share it is of that of raw bytes."""
    batches = nbytes // (samples * SAMPLE)
    with connected() as to:
        compared = ways(to, Sending(to), samples)
        for way in compared.values():
            way(batches)
        timings = [{name: timed(to, way, batches) for name, way in compared.items()} for _ in range(repeats)]
    turns = [{name: seconds for name, (seconds, _) in turn.items()} for turn in timings]
    rows = []
    medians = {name: statistics.median(turn[name] for turn in turns) for name in compared}
    for name, seconds in medians.items():
        shares = [turn["raw"] / turn[name] for turn in turns]
        least = {"transport": UNCHECKED, "checked": CHECKED}.get(name)
        share = medians["raw"] / seconds
        rows.append(
            {
                "way": name,
                "message": samples * SAMPLE,
                "bytes_per_second": batches * samples * SAMPLE / seconds,
                "cpu_seconds_per_gigabyte": sum(turn[name][1] for turn in timings)
                / (repeats * batches * samples * SAMPLE / GIGABYTE),
                "share": share,
                "lowest": min(shares),
                "highest": max(shares),
                "least": least,
                "passed": least is None or share >= least,
            }
        )
    return rows


def memory(nbytes: int) -> Row:
    """What sender and receiver need beyond one message; this process must not have had more than it before."""
    with connected() as to:  # before the payload is there: a child's peak begins with what its parent has
        message, values = batch(32, nbytes // 128)
        payload = sum(payload.nbytes for payload in values)
        before = resident()
        Sending(to).send(message, values, 1, checksum=True)
        sender = most() - before
        told = to.ask()
    receiver = told.most - told.before - payload
    return {
        "payload": payload,
        "sender": sender,
        "receiver": receiver,
        "least": FRAMES * FRAME,
        "passed": max(sender, receiver) <= FRAMES * FRAME,
    }


# ------------------------------------------------------------------------------------------------------ main


def main() -> int:
    """Measure and print; exit status 1 where a claim does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help="speed or memory; both unless given", metavar="part")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="fewer and smaller: whether it runs, not how fast")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--receive", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.receive:
        receive()
        return 0
    unknown = set(given.parts) - {"speed", "memory"}
    if unknown:
        parser.error(f"there is no part {', '.join(unknown)}; there are: speed, memory")
    parts = given.parts or ["speed", "memory"]
    found: dict[str, Any] = {}
    if "memory" in parts:  # first: a peak cannot be taken back
        found["memory"] = memory(64 * MIB if given.quick else GIGABYTE)
    if "speed" in parts:
        repeats, nbytes = (3, TURN // 4) if given.quick else (given.repeats, TURN)
        found["speed"] = [row for samples in SAMPLES for row in speed(samples, repeats, nbytes)]
    passed = all(row["passed"] for row in (*found.get("speed", ()), *filter(None, [found.get("memory")])))
    if given.json:
        print(json.dumps({**found, "passed": passed}))
        return 0 if passed else 1
    for row in found.get("speed", ()):
        claim = "" if row["least"] is None else f"; at least {row['least']:.0%}" + ("" if row["passed"] else ": FAILED")
        print(
            f"{row['message'] // MIB:3} MiB  {row['way']:10} {row['bytes_per_second'] / 1e9:5.2f} GB/s  "
            f"{row['cpu_seconds_per_gigabyte']:5.2f} CPU s/GB  "
            f"{row['share']:4.0%} of raw (in a turn {row['lowest']:.0%} to {row['highest']:.0%}){claim}"
        )
    if "memory" in found:
        row = found["memory"]
        print(
            f"a message of {row['payload'] / 1e6:,.0f} MB: beyond it the sender took {row['sender'] / MIB:.1f} MiB, "
            f"the receiver {row['receiver'] / MIB:.1f} MiB; at most {row['least'] / MIB:.0f} MiB"
            + ("" if row["passed"] else ": FAILED")
        )
    print("passed" if passed else "FAILED")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
