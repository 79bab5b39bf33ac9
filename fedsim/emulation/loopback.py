"""What this host passes on to itself through TCP: the ceiling that the rates of an emulation's links are held against.

Knows nothing of links, and imports nothing that takes time.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from typing import Final

FRAME: Final = 256 * 1024
"""Bytes that are passed on at once: the largest frame of a shaped link."""

STREAMED: Final = 1 / 3
"""Of it, what Python's gRPC carries as one stream of frames of 256 KiB: measured 1.1 to 1.3 of 3.3 to 3.5 GB/s."""

_TIMEOUT: Final = 10.0  # s; for the other process to start, and for each step afterwards
_WARM: Final = 16  # frames before the clock is started

# Takes bytes off a connection that it inherits, into memory that it has, and says when there are no more.
_SINK: Final = f"""
import socket, sys
line = socket.socket(fileno=int(sys.argv[1]))
line.send(b"!")
room = memoryview(bytearray({FRAME}))
while line.recv_into(room):
    pass
line.send(b"!")
"""


def throughput(seconds: float = 0.2) -> float:
    """Bytes per second that this process passes on to another one through TCP on 127.0.0.1; about `seconds` long.

    Both are plain Python with frames of 256 KiB, so two cores are busy meanwhile, as with a server and its devices.
    gRPC's streams of such frames carry a third of it (`STREAMED`), of 64 KiB frames a fifth. The same between two
    threads of one process is as fast, since the interpreter is not held while bytes are copied.

    Raises:
        OSError: this host does not let it.
    """
    with _listening() as listener, socket.create_connection(listener.getsockname(), _TIMEOUT) as near:
        far = _accepted(listener, near)
        command = [sys.executable, "-I", "-S", "-c", _SINK, str(far.fileno())]
        with far, subprocess.Popen(command, pass_fds=[far.fileno()], stdin=subprocess.DEVNULL) as sink:
            far.close()
            try:
                _expect(near)
                return _measured(near, seconds)
            finally:
                near.close()
                sink.wait(_TIMEOUT)


def _measured(line: socket.socket, seconds: float) -> float:
    frame = bytes(FRAME)
    for _ in range(_WARM):
        line.sendall(frame)
    count, began = 0, time.monotonic()
    while time.monotonic() - began < seconds:
        line.sendall(frame)
        count += 1
    line.shutdown(socket.SHUT_WR)
    _expect(line)
    return count * FRAME / (time.monotonic() - began)


def _listening() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0), backlog=1)


def _accepted(listener: socket.socket, near: socket.socket) -> socket.socket:
    """The other end of a connection, and nobody else's."""
    listener.settimeout(_TIMEOUT)
    while True:
        far, address = listener.accept()
        if address == near.getsockname():
            far.setblocking(True)
            return far
        far.close()


def _expect(line: socket.socket) -> None:
    if line.recv(1) != b"!":
        raise ConnectionError("the other process of the loopback measurement has ended too early")
