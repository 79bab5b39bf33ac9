"""How gRPC is set up at both ends, where it listens, and why a server cannot be reached."""

from __future__ import annotations

import importlib.metadata
import re
import socket
import ssl
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final

import grpc

from fedsim.errors import UserError, shown

PROTOCOL: Final = 1
"""Of protos/fedsim/wire/protocol.proto and of frames; both ends need the same."""

SERVICE: Final = "fedsim.wire.Emulation"

LARGEST: Final = 8 * 2**20
"""Bytes of one message of gRPC, either way."""

SESSION: Final = "session-bin"
"""The metadata of a stream that says whose it is."""

TOKEN: Final = "authorization"

SAID: Final = 1000
"""Characters of a reason that go into a status."""

_BOTH: Final = [
    ("grpc.max_send_message_length", LARGEST),
    ("grpc.max_receive_message_length", LARGEST),
    ("grpc.enable_http_proxy", 0),
    ("grpc.keepalive_permit_without_calls", 1),
]
_SERVER: Final = [
    *_BOTH,
    ("grpc.so_reuseport", 0),  # a port that is taken is an error
    ("grpc.http2.min_ping_interval_without_data_ms", 20_000),
    ("grpc.max_concurrent_streams", 16),  # of one device's connection, which needs three
]
_CLIENT: Final = [
    *_BOTH,
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.use_local_subchannel_pool", 1),  # a new channel is a new connection
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
]

_ADDRESS: Final = re.compile(r"(?:\[(?P<v6>[0-9a-fA-F:.]+)\]|(?P<host>[^:\[\]/\s]+)):(?P<port>[0-9]{1,5})")


def version() -> str:
    """Of the package."""
    try:
        return importlib.metadata.version("fedsim-edge")
    except importlib.metadata.PackageNotFoundError:  # a checkout that is not installed
        return "unknown"


def split_address(address: str, use: str = "of a server") -> tuple[str, int] | None:
    """Host and port; None for a Unix socket.

    Raises:
        UserError: it is no address.
    """
    if address.startswith(("unix:", "unix-abstract:")):
        return None
    found = _ADDRESS.fullmatch(address)
    if found is None or int(found["port"]) > 65_535:
        raise UserError(f"{shown(address)} is no address {use}; give host:port, as in 127.0.0.1:9440 or [::1]:9440")
    return found["v6"] or found["host"], int(found["port"])


def listening(threads: Any, address: str, credentials: Any) -> tuple[Any, int]:
    """A server that has its port but is not started, and the port (0 for a Unix socket).

    Raises:
        UserError: the address is malformed, taken, or not this machine's.
    """
    split_address(address, "to listen on")
    server = grpc.server(threads, options=_SERVER)
    try:
        if credentials is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, credentials)
    except RuntimeError:
        port = 0
    if not port:
        server.stop(None)
        raise UserError(
            f"{address} cannot be listened on; another process may have that port, or the address is not this host's: "
            "give another one"
        )
    return server, port


def channel(address: str, credentials: Any) -> Any:
    """A channel to a server, which connects when it is used."""
    if credentials is None:
        return grpc.insecure_channel(address, options=_CLIENT)
    return grpc.secure_channel(address, credentials, options=_CLIENT)


def until_broken(incoming: Iterator[bytes]) -> Iterator[bytes]:
    """What comes on a stream, to its end, whatever that is."""
    with suppress(grpc.RpcError):
        yield from incoming


def mismatch(address: str, secure: bool) -> tuple[str, bool] | None:
    """What is wrong with who listens there: TLS at one end only, or, if nothing else, its certificate.

    Args:
        address: of the server.
        secure: whether this end uses TLS.

    Returns:
        That, and whether it is certain; None: nothing, or nobody listens.
    """
    place = split_address(address)
    if place is None:
        return None
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # whether it talks TLS is all that is asked
    context.set_alpn_protocols(["h2"])
    spoken = False
    try:
        with (
            socket.create_connection(place, 2.0) as line,
            suppress(ssl.SSLError, ConnectionError, TimeoutError),
            context.wrap_socket(line, server_hostname=place[0]),
        ):
            spoken = True
    except OSError:
        return None
    match spoken, secure:
        case True, False:
            return "it asks for TLS; give the certificate of its authority (--authority FILE)", True
        case False, True:
            return "it does not talk TLS; start it with a certificate and a key, or leave out the authority here", True
        case True, True:
            return (
                "where somebody talks TLS, but perhaps with a certificate that is not from the authority given or not "
                "for this address, or asks for one of this device; give the authority that has signed it "
                "(--authority FILE), and an address that stands in it"
            ), False
        case _:
            return None
