"""What both ends of a connection agree on with gRPC: names, options, the metadata of calls."""

from __future__ import annotations

import importlib.metadata
from typing import Any, Final

PROTOCOL: Final = 1
"""Version of protos/fedsim/wire/protocol.proto; both ends need the same."""

SERVICE: Final = "fedsim.wire.Emulation"
SESSION: Final = "session-bin"
TOKEN: Final = "authorization"
BEARER: Final = "Bearer "

LARGEST: Final = 8 * 2**20
"""Bytes of one gRPC message at most: a frame, a notice, the scenario."""

OPTIONS: Final[tuple[tuple[str, Any], ...]] = (
    ("grpc.max_send_message_length", LARGEST),
    ("grpc.max_receive_message_length", LARGEST),
    ("grpc.enable_http_proxy", 0),
    ("grpc.http2.bdp_probe", 0),  # else the receiver's window grows to tens of megabytes
    ("grpc.http2.lookahead_bytes", 2 * 2**20),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)
"""Of either end."""


def version() -> str:
    """Of the package."""
    try:
        return importlib.metadata.version("fedsim-edge")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
