"""Links: the bytes per second up and down between a node and the network, and the delay on the way.

A link is a YAML file of the catalogue or of the user, or is written out where it is used. Up is away from the node,
on a server's link too.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fedsim.documents.files import copied
from fedsim.documents.problems import DocumentKind, Places
from fedsim.documents.translate import rule
from fedsim.hardware import entries, sources
from fedsim.hardware.entries import Identifier
from fedsim.hardware.sources import Source
from fedsim.quantities import Delay, Rate

LINK: Final = DocumentKind("link", "up: 10 Mbit/s")

LINE_EFFICIENCY: Final = 0.97
"""Payload over line rate: TCP, IP and Ethernet headers take 66 of 1514 bytes; SimGrid's LV08 model uses 0.97."""


class Link(BaseModel):
    """A node's connection to the network. Immutable."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Identifier = "inline"
    up: Rate = Field(examples=["10 Mbit/s"])
    """Bytes per second away from the node."""
    down: Rate = Field(examples=["26 Mbit/s"])
    """Bytes per second towards the node."""
    rtt: Delay | None = None
    """Seconds there and back; instead of `latency`."""
    latency: Delay | None = None
    """Seconds one way; instead of `rtt`."""
    rate: Literal["goodput", "line"] = "line"
    """Whether `up` and `down` were measured above TCP or are rates on the wire."""
    sources: tuple[Source, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.rtt is not None and self.latency is not None:
            raise rule("rtt is given, too; keep one (latency is one way, half of rtt)", "latency")
        sources.check_fields(self, self.sources)
        return self

    @property
    def one_way(self) -> float:
        """Seconds of delay one way; 0 where the file gives none."""
        return self.latency if self.latency is not None else (self.rtt or 0.0) / 2

    @property
    def up_goodput(self) -> float:
        """Bytes of messages per second away from the node."""
        return self.up * self._efficiency

    @property
    def down_goodput(self) -> float:
        """Bytes of messages per second towards the node."""
        return self.down * self._efficiency

    @property
    def _efficiency(self) -> float:
        return LINE_EFFICIENCY if self.rate == "line" else 1.0


def load_link(link: str | Mapping[str, Any], relative_to: Path | None = None) -> Link:
    """The link of a name in the catalogue, of a path (relative to the folder `relative_to`), or written out.

    Raises:
        UserError: there is no such link, or it breaks a rule; with file, line and the way out.
    """
    if isinstance(link, str):
        return entries.load(Link, LINK, link, relative_to)
    return entries.valid(Link, copied(link, LINK), Places(LINK), [])
