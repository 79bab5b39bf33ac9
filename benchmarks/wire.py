"""How fast activations go from one process to another, compared with bytes that mean nothing; and in how much memory.

    python benchmarks/wire.py [speed] [memory] [--repeats 15] [--quick] [--json]

A sender (this process) and a receiver (another one), gRPC on 127.0.0.1, one intra-op thread each, frames of 1 MiB.

speed    batches of 8 MiB and their labels, so many that they take about a fifth of a second, in turns:
         raw        frames that were made beforehand, through one stream, copied into memory that is there
         unchecked  SplitFed's message with both tensors, encoded, framed, put together and decoded, without a checksum
         checked    the same with CRC-32
         unary      Flower's way: unary calls with chunks of 5 MiB as protobuf `bytes`, joined by the receiver
         The median of the turns must be at least 80 % of that of raw bytes without a checksum, and 50 % with one;
         shares within one turn are printed as a range.
memory   one message of 1 GB (64 MiB with --quick), checked: sender and receiver, each beyond the payload itself, need
         at most 24 frames.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from typing import Any, Final

import grpc
import numpy as np
import psutil
import torch
from google.protobuf.wrappers_pb2 import BytesValue

from fedsim.payload.coding import Value
from fedsim.payload.meta import Shape, TensorMeta
from fedsim.payload.tensors import Layout
from fedsim.schedulers.splitfed import Activations, SplitFed
from fedsim.script import Payload, Purpose
from fedsim.wire.codec import Decoder, Encoder, Incoming
from fedsim.wire.frames import Assembly, split
from fedsim.wire.refusals import Bounds
from fedsim.wire.registry import Registry

MIB: Final = 1 << 20
FRAME: Final = MIB
CHUNK: Final = 5 * MIB
BATCH: Final = (32, 64, 32, 32)  # of float32: 8 MiB
BATCH_BYTES: Final = 8 * MIB
GIGABYTE: Final = 10**9

UNCHECKED, CHECKED, FRAMES = 0.8, 0.5, 24  # the claims
REGISTRY: Final = Registry(SplitFed.messages)
OPTIONS: Final = [
    ("grpc.max_receive_message_length", 8 * MIB),
    ("grpc.max_send_message_length", 8 * MIB),
    # By itself gRPC lets the window grow, to tens of MiB at the receiver on loopback, without being faster for it.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 4 * MIB),
]
Way = Callable[[int], float]
"""Sends so many batches; answers with seconds."""
Row = dict[str, Any]

_REPORT: Final = struct.Struct("<QQQ")  # bytes of bodies that have come, resident before, most resident


def resident() -> int:
    """Bytes of this process in memory."""
    return int(psutil.Process().memory_info().rss)


def most() -> int:
    """The most bytes that this process ever had in memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# -------------------------------------------------------------------------------------------------- receiver


class Receiver(grpc.GenericRpcHandler):  # type: ignore[misc]
    """What takes each kind of stream in."""

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self._left = 0

    def service(self, call: Any) -> Any:
        """The handler of a method."""
        match call.method.rpartition("/")[2]:
            case "raw":
                return grpc.stream_stream_rpc_method_handler(self._raw)
            case "unchecked":
                return grpc.stream_stream_rpc_method_handler(lambda frames, _: self._decoded(frames, checksum=False))
            case "checked":
                return grpc.stream_stream_rpc_method_handler(lambda frames, _: self._decoded(frames, checksum=True))
            case "unary":
                return grpc.unary_unary_rpc_method_handler(self._chunk, BytesValue.FromString, bytes)
            case _:
                return None

    def _raw(self, frames: Iterator[bytes], _: Any) -> Iterator[bytes]:
        room, at, total = memoryview(bytearray(BATCH_BYTES)), 0, 0
        for frame in frames:
            end = at + len(frame)
            room[at:end] = frame
            at = end % BATCH_BYTES
            total += len(frame)
        yield _REPORT.pack(total, 0, 0)

    def _decoded(self, frames: Iterator[bytes], *, checksum: bool) -> Iterator[bytes]:
        before, total = resident(), 0
        bounds = Bounds(body=2 * GIGABYTE, memory=2 * GIGABYTE)
        layouts: dict[TensorMeta, Layout] = {}  # nothing here is weights
        decoder = Decoder(REGISTRY, 0, layouts.__getitem__, count(), bounds, checksum=checksum)
        assembly: Assembly[Incoming] = Assembly(decoder.begin)
        for frame in frames:
            complete = assembly.add(frame)
            if complete is not None:
                message, values = decoder.finish(complete)
                assert isinstance(message, Activations)
                assert message.values in values
                total += complete.nbytes
                del complete, message, values
        yield _REPORT.pack(total, before, most())

    def _chunk(self, request: BytesValue, _: Any) -> bytes:
        self._chunks.append(request.value)
        self._left += len(request.value)
        if self._left == BATCH_BYTES:
            torch.from_numpy(np.frombuffer(bytearray().join(self._chunks), np.float32)).reshape(BATCH)
            self._chunks, self._left = [], 0
        return b"!"


def receive() -> None:
    """Be the receiver, until there is no sender."""
    server = grpc.server(ThreadPoolExecutor(4), options=OPTIONS)
    server.add_generic_rpc_handlers((Receiver(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    sys.stdin.read()
    server.stop(None).wait()


@contextmanager
def connected() -> Iterator[Any]:
    """A channel to a new receiver."""
    command = [sys.executable, __file__, "--receive"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        with grpc.insecure_channel(f"127.0.0.1:{int(process.stdout.readline())}", options=OPTIONS) as channel:
            yield channel


# ---------------------------------------------------------------------------------------------------- sender


def batch(*shape: int) -> tuple[Activations, dict[Payload, Value]]:
    """A message with a batch of activations, and these."""
    x = torch.arange(torch.Size(shape).numel(), dtype=torch.float32).reshape(shape)
    y = torch.arange(shape[0])
    values = Payload(0, 1, TensorMeta(Purpose.ACTIVATIONS, (Shape("x", shape),)))
    labels = Payload(0, 2, TensorMeta(Purpose.LABELS, (Shape("y", (shape[0],), "int64"),)))
    return Activations(values, labels, 1, sender=0), {values: x, labels: y}


def encoded(message: Activations, values: dict[Payload, Value], copies: int, *, checksum: bool) -> Iterator[bytes]:
    """The frames of a connection on which a message is sent so many times."""
    encoder = Encoder(REGISTRY, checksum=checksum)
    for number in range(1, copies + 1):
        made = encoder.encode(message, values.__getitem__, number)
        yield from split(number, made.header + made.definitions, made.body, FRAME)


def ways(channel: Any) -> dict[str, Way]:
    """All that are compared, the reference first."""
    message, values = batch(*BATCH)
    x, nbytes = values[message.values], BATCH_BYTES + message.labels.nbytes
    assert isinstance(x, torch.Tensor)
    frames = [bytes(FRAME)] * (BATCH_BYTES // FRAME)
    unary_call = channel.unary_unary("/benchmark/unary", BytesValue.SerializeToString)

    def streamed(method: str, frames: Iterator[bytes], expected: int) -> float:
        began = time.monotonic()
        (report,) = channel.stream_stream(f"/benchmark/{method}")(frames)
        seconds = time.monotonic() - began
        assert _REPORT.unpack(report)[0] == expected, f"{method}: {_REPORT.unpack(report)[0]} of {expected} bytes"
        return seconds

    def raw(batches: int) -> float:
        return streamed("raw", (frame for _ in range(batches) for frame in frames), batches * BATCH_BYTES)

    def unchecked(batches: int) -> float:
        return streamed("unchecked", encoded(message, values, batches, checksum=False), batches * nbytes)

    def checked(batches: int) -> float:
        return streamed("checked", encoded(message, values, batches, checksum=True), batches * nbytes)

    def unary(batches: int) -> float:
        began = time.monotonic()
        for _ in range(batches):
            data = x.numpy().tobytes()
            for at in range(0, len(data), CHUNK):
                assert unary_call(BytesValue(value=data[at : at + CHUNK])) == b"!"
        return time.monotonic() - began

    return {"raw": raw, "unchecked": unchecked, "checked": checked, "unary": unary}


def speed(repeats: int, batches: int) -> list[Row]:
    """Each way's throughput, the median of all turns, and what share it is of that of raw bytes."""
    with connected() as channel:
        compared = ways(channel)
        for way in compared.values():
            way(batches)
        turns = [{name: way(batches) for name, way in compared.items()} for _ in range(repeats)]
    rows = []
    medians = {name: statistics.median(turn[name] for turn in turns) for name in compared}
    for name, seconds in medians.items():
        shares = [turn["raw"] / turn[name] for turn in turns]
        least = {"unchecked": UNCHECKED, "checked": CHECKED}.get(name)
        share = medians["raw"] / seconds
        rows.append(
            {
                "way": name,
                "bytes_per_second": batches * BATCH_BYTES / seconds,
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
    with connected() as channel:  # before the payload is there: a child's peak begins with what its parent has
        message, values = batch(32, nbytes // 128)
        payload = message.values.nbytes + message.labels.nbytes
        before = resident()
        (report,) = channel.stream_stream("/benchmark/checked")(encoded(message, values, 1, checksum=True))
        sender = most() - before
    _, at_first, at_most = _REPORT.unpack(report)
    receiver = at_most - at_first - payload
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
        found["speed"] = speed(3 if given.quick else given.repeats, 8 if given.quick else 32)
    passed = all(row["passed"] for row in (*found.get("speed", ()), *filter(None, [found.get("memory")])))
    if given.json:
        print(json.dumps({**found, "passed": passed}))
        return 0 if passed else 1
    for row in found.get("speed", ()):
        claim = "" if row["least"] is None else f"; at least {row['least']:.0%}" + ("" if row["passed"] else ": FAILED")
        print(
            f"{row['way']:10} {row['bytes_per_second'] / 1e9:5.2f} GB/s  {row['share']:4.0%} of raw "
            f"(in a turn {row['lowest']:.0%} to {row['highest']:.0%}){claim}"
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
