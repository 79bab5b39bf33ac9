"""Links: the bytes per second up and down between a node and the network, and the delay on the way.

A link is a YAML file of the catalogue or of the user, or is written out where it is used. Up is away from the node,
on a server's link too.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from fedsim import catalogue
from fedsim.errors import UserError
from fedsim.hardware import documents, sources
from fedsim.hardware.sources import Identifier, Source
from fedsim.quantities import Delay, Rate

LINE_EFFICIENCY: Final = 0.97
"""Payload over line rate: TCP, IP and Ethernet headers take 66 of 1514 bytes; SimGrid's LV08 model uses 0.97."""


class Link(BaseModel):
    """A node's connection to the network. Immutable."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Identifier = "inline"
    up: Rate
    """Bytes per second away from the node."""
    down: Rate
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
            raise ValueError("rtt and latency are both given; keep one (latency is one way, half of rtt)")
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
        UserError: there is no such link, or it breaks a rule. For a link written out, file and line are the
            caller's to add.
    """
    if isinstance(link, str):
        document = documents.read(catalogue.find("link", link, relative_to))
        found = documents.checked(Link, document)
        documents.named_by_file(found.id, document)
        return found
    try:
        return Link.model_validate(link)
    except ValidationError as error:
        raise UserError("\n".join(f"link: {text}" for _, text in documents.explain(error, Link))) from error
