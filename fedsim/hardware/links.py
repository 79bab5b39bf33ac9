"""Links: what a node's connection to the network carries, how late, how reliably, and what its radio draws.

A link is a YAML file of the catalogue or of the user, or is written out where it is used. Up is away from the node,
on a server's link too. What flows over a link is for the network model to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from fedsim import catalogue
from fedsim.documents.files import copied
from fedsim.documents.problems import DocumentKind, Places
from fedsim.documents.translate import rule
from fedsim.errors import UserError
from fedsim.hardware import entries, populations, sources
from fedsim.hardware.entries import Identifier
from fedsim.hardware.populations import Population
from fedsim.hardware.sources import Source, Text
from fedsim.hardware.traces.files import located
from fedsim.hardware.traces.loading import load_rates
from fedsim.hardware.traces.rates import RateTrace
from fedsim.quantities import Delay, Duration, EnergyPerByte, Fraction, Power, Rate

LINK: Final = DocumentKind("link", "up: 10 Mbit/s")

LINE_EFFICIENCY: Final = 0.97
"""Payload over line rate: TCP, IP and Ethernet headers take 66 of 1514 bytes; SimGrid's LV08 model uses 0.97."""

_STRICT: Final = ConfigDict(frozen=True, extra="forbid")


class Radio(BaseModel):
    """What sending and receiving costs: the linear model of Huang et al., MobiSys 2012."""

    model_config = _STRICT

    active: Power = Field(examples=["0.133 W"])
    """Watts while anything flows, whatever the rate."""
    up: EnergyPerByte = Field(examples=["283 nJ/bit"])
    """Joules a byte away from the node, beside that."""
    down: EnergyPerByte = Field(examples=["137 nJ/bit"])
    """Joules a byte towards the node, beside that."""


class Recording(BaseModel):
    """A file that says how a link's rates change with time."""

    model_config = _STRICT

    path: Path = Field(examples=["drive.csv"])
    """The file; of a format with one direction a file, the downlink, or an uplink that its name tells."""
    up_path: Path | None = None
    """The uplink, in a format with one direction a file."""
    reader: Text | None = None
    """How both are written; guessed unless given."""
    wrap: bool = True
    """Whether the recording begins again when it ends; otherwise its last rates stay."""
    unit: Text | None = None
    """Which device of a file with several."""
    step: Duration | None = None
    """Time over which single packets are counted together; 500 ms unless given."""
    up_over_down: Annotated[Fraction, Field(gt=0)] | None = None
    """The uplink as a multiple of the recorded downlink; otherwise, where none is recorded, it is the link's `up`."""


class Link(BaseModel):
    """A node's connection to the network. Immutable."""

    model_config = _STRICT

    id: Identifier = "inline"
    up: Rate = Field(examples=["10 Mbit/s"])
    """Bytes per second away from the node."""
    down: Rate = Field(examples=["26 Mbit/s"])
    """Bytes per second towards the node."""
    rate: Literal["goodput", "line"] = "line"
    """Whether `up` and `down` were measured above TCP or are rates on the wire."""
    rtt: Delay | None = None
    """Seconds there and back; instead of `latency`."""
    latency: Delay | None = None
    """Seconds one way; instead of `rtt`."""
    jitter: Delay = 0.0
    """Seconds; standard deviation of the delay one way."""
    loss: Fraction = 0.0
    """Share of the packets that is lost."""
    duplex: Literal["full", "half"] = "full"
    """Half: both directions share the greater of the two rates."""
    radio: Radio | None = None
    """What the node draws for it; None where nothing is known."""
    population: Population | None = None
    """The rates that users of such links have, for fleet groups whose devices draw their own."""
    trace: Recording | None = None
    """How the rates change with time; None: they do not."""
    sources: tuple[Source, ...] = ()

    @field_validator("loss", mode="after")
    @classmethod
    def _something_arrives(cls, loss: float) -> float:
        if loss >= 1:
            raise rule(f"{loss:.0%} of the packets are lost, so nothing would arrive; give less than 100 %")
        return loss

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

    def goodput_up(self, efficiency: float = LINE_EFFICIENCY) -> float:
        """Bytes of messages per second away from the node; line rates are multiplied by `efficiency`."""
        return self.up * (efficiency if self.rate == "line" else 1.0)

    def goodput_down(self, efficiency: float = LINE_EFFICIENCY) -> float:
        """Bytes of messages per second towards the node; line rates are multiplied by `efficiency`."""
        return self.down * (efficiency if self.rate == "line" else 1.0)

    def rate_trace(self, efficiency: float = LINE_EFFICIENCY) -> RateTrace | None:
        """How the goodput changes with time, read from the link's recording; None where there is none.

        Raises:
            UserError: the recording cannot be read, or breaks a rule; with file, line and the way out.
        """
        if self.trace is None:
            return None
        return load_rates(
            **{name: getattr(self.trace, name) for name in Recording.model_fields},
            up=self.goodput_up(efficiency),
            down=self.goodput_down(efficiency),
            rate=self.rate,
            efficiency=efficiency,
        )

    def drawn_rates(self, seed: int, nodes: NDArray[np.int64]) -> NDArray[np.float64]:
        """(nodes, 2) bytes/s; goodput up and down of each device, drawn from the link's population by (seed, node).

        Raises:
            UserError: the link has no population, or the population's file cannot be read.
        """
        if self.population is None:
            raise UserError(
                f"link {self.id} has no population to draw rates from; take lte, 5g-good, wifi4, wifi5 or wifi6, "
                "or give the link a population"
            )
        return populations.draw(self.population, seed, nodes)


def load_link(link: str | Mapping[str, Any], relative_to: Path | None = None) -> Link:
    """The link of a name in the catalogue, of a path (relative to the folder `relative_to`), or written out.

    Files that a link names are relative to its own file, or to `relative_to` where it is written out. They are not
    opened yet.

    Raises:
        UserError: there is no such link, or it breaks a rule; with file, line and the way out.
    """
    if isinstance(link, str):
        folder = catalogue.find(LINK.name, link, relative_to).parent
        return _anchored(entries.load(Link, LINK, link, relative_to), folder)
    return _anchored(entries.valid(Link, copied(link, LINK), Places(LINK), []), relative_to or Path.cwd())


def _anchored(link: Link, folder: Path) -> Link:
    """The link with the files that it names found from anywhere."""
    trace, population = link.trace, link.population
    if trace is not None:
        given = {key: getattr(trace, key) for key in ("path", "up_path")}
        moved = {key: located(path, folder) for key, path in given.items() if path is not None}
        link = link.model_copy(update={"trace": trace.model_copy(update=moved)})
    if population is not None and population.path is not None:
        moved = {"path": located(population.path, folder)}
        link = link.model_copy(update={"population": population.model_copy(update=moved)})
    return link
