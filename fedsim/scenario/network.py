"""The sections about the network: links written out, access points, and how flows share them.

Knows keys, types and defaults; what they do is for the network model to say.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from fedsim.documents.translate import rule, wanted
from fedsim.quantities import Delay, Duration, Fraction, Rate, Size
from fedsim.scenario.section import Name, Section, Switch, written_out


class RatesFile(Section):
    """A recording of a link's rates. Short form: its path."""

    path: Path = Field(examples=["drive.csv"])
    """The file, relative to the scenario's; of a format with one direction a file, the downlink."""
    up_path: Path | None = None
    """The uplink, in a format with one direction a file."""
    reader: Name | None = None
    """How it is written; null guesses from the file."""
    wrap: Switch = True
    """Whether it begins again when it ends; otherwise the last rates stay."""
    unit: Name | None = None
    """Which device of a file with several."""
    step: Duration | None = None
    """Time over which single packets are counted together; null: 500 ms."""
    up_over_down: Fraction | None = Field(default=None, gt=0)
    """The uplink as a multiple of the recorded downlink; null: where none is recorded, the link's `up`."""


class InlineLink(Section):
    """A link written out in the scenario."""

    up: Rate = Field(examples=["10 Mbit/s"])
    """Away from the node."""
    down: Rate = Field(examples=["26 Mbit/s"])
    """Towards the node."""
    rate: Literal["goodput", "line"] = "line"
    """Measured above TCP, or on the wire, of which messages get `network.efficiency`."""
    latency: Delay | None = None
    """One way, for each message; null: none, or half of rtt."""
    rtt: Delay | None = None
    """There and back, in the place of latency."""
    jitter: Delay = 0.0
    """Standard deviation of the delay one way."""
    loss: Fraction = Field(default=0.0, lt=1)
    """Share of the packets that is lost."""
    duplex: Literal["full", "half"] = "full"
    """Half: both directions share the greater of the two rates."""
    trace: Annotated[RatesFile, BeforeValidator(written_out)] | None = None
    """A recording of how the rates change with time."""

    @model_validator(mode="after")
    def _one_delay(self) -> InlineLink:
        """`latency` or `rtt`, not both."""
        if self.latency is not None and self.rtt is not None:
            raise rule("rtt is given, too; keep one (latency is one way, half of rtt)", "latency")
        return self


def _link_name(value: object) -> object:
    if not isinstance(value, str):
        raise wanted("the name of a link, or its rates, {up: 10 Mbit/s, down: 20 Mbit/s}")
    return value


def _link_form(value: object) -> str:
    return "<inline>" if isinstance(value, dict | InlineLink) else "<name>"


Link = Annotated[
    Annotated[Name, BeforeValidator(_link_name), Tag("<name>")] | Annotated[InlineLink, Tag("<inline>")],
    Discriminator(_link_form),
]


class AccessPoint(Section):
    """A capacity that the devices of some groups share, such as a radio cell."""

    up: Rate = Field(examples=["300 Mbit/s"])
    """Towards the server."""
    down: Rate = Field(examples=["300 Mbit/s"])
    """Towards the devices."""
    duplex: Literal["full", "half"] = "full"
    """Half: both directions share the greater of the two rates, as on a Wi-Fi channel."""
    rate: Literal["goodput", "line"] = "line"
    """Whether the rates are above TCP or on the wire."""


Window = Annotated[
    Annotated[Literal["off"], BeforeValidator(lambda _: "off"), Tag("<off>")] | Annotated[Size, Tag("<size>")],
    Discriminator(lambda value: "<off>" if value in ("off", False) else "<size>"),
]


class Network(Section):
    """How messages flow; every key has a default."""

    efficiency: Fraction = Field(default=0.97, gt=0, le=1)
    """What messages get of rates on the wire; the rest are headers."""
    latency: Switch = True
    """Whether messages are delayed by their links' latency."""
    jitter: Switch = True
    """Whether that delay varies."""
    loss: Literal["delay", "mathis", "off"] = "delay"
    """What lost packets do: delay some messages, or cap the rate (Mathis et al. 1997)."""
    window: Window = 4 * 2.0**20
    """Bytes under way on a connection at most: the rate is at most this over the round trip."""
    slow_start: Switch = False
    """Whether a connection's first message, and one after a second of silence, takes longer to start."""
    discipline: Literal["fifo", "fair"] = "fifo"
    """Whether the messages of a connection go one after the other, or share it."""
    rtt_bias: Switch = False
    """Whether flows with a shorter delay get more."""
    ack_traffic: Switch = False
    """Whether acknowledgements take 5 % of a flow's rate on the way back."""
