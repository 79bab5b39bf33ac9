"""What is refused of a peer: the error, and the bounds of what it may ask for."""

from __future__ import annotations

from dataclasses import dataclass

from fedsim.errors import RunError


class WireError(RunError):
    """A peer sent something that breaks the rules; its connection is of no more use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """The most that one connection may make its receiver hold."""

    body: int
    """Bytes of a message's tensors on the wire, in the largest message of the run."""
    memory: int
    """Bytes of a message's tensors once they are decoded: a few bytes of top-k may stand for any number of zeros."""
    header: int = 1 << 20
    """Bytes of a header with definitions. A tensor takes about 50 bytes of them, its name included."""
    payloads: int = 4096
    """Payloads of one message."""
    structures: int = 256
    """Structures that are known at a time."""
    tensors: int = 1 << 16
    """Tensors of all these together."""
