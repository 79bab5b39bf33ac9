"""The section about codecs: how payloads are written for the link, by what they are.

Knows names and defaults; what a codec does to values and bytes is for `payload` to say.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from fedsim.documents.translate import rule, wanted
from fedsim.quantities import Fraction
from fedsim.scenario.section import Section, Switch


class TopK(Section):
    """The entries of largest magnitude of a tensor, each with its position. Short form: topk."""

    kind: Literal["topk"] = "topk"
    """Top-k."""
    fraction: Fraction = Field(default=0.1, gt=0, le=0.5)
    """The part of the entries that is sent; of more than half, the positions would weigh more than what is left out."""
    feedback: Switch = False
    """For gradients: whether what is not sent is added to the next of the same shape to the same receiver."""


_NAMES = ("fp32", "fp16", "int8")


def _written_out(value: object) -> object:
    if isinstance(value, dict) and set(value) == {"kind"}:
        value = value["kind"]
    return {"kind": value} if value == "topk" else value


def _form(value: object) -> str:
    return "<topk>" if isinstance(value, dict | TopK) else "<name>"


def _name(value: object) -> object:
    if value not in _NAMES:
        raise wanted("fp32, fp16, int8 or topk")
    return value


def _weights(value: object) -> object:
    value = _written_out(value)
    if _form(value) == "<topk>":
        raise rule("top-k would set most of a model's weights to zero; give fp16 or int8")
    if value not in _NAMES:
        raise wanted("fp32, fp16 or int8")
    return value


Values = Annotated[
    Annotated[Literal["fp32", "fp16", "int8"], BeforeValidator(_name), Tag("<name>")] | Annotated[TopK, Tag("<topk>")],
    Discriminator(_form),
    BeforeValidator(_written_out),
]


class Codec(Section):
    """How payloads are written for the link; labels always travel as they are.

    fp32: as they are in memory; fp16: half precision; int8: 256 steps between a tensor's least and greatest value;
    topk: the entries of largest magnitude only.
    """

    activations: Values = "fp32"
    """Of the device block, to the server."""
    gradients: Values = "fp32"
    """At activations, from the server."""
    weights: Annotated[Literal["fp32", "fp16", "int8"], BeforeValidator(_weights)] = "fp32"
    """Of what devices train, both ways; topk is refused. Whole numbers among weights travel as they are."""

    @model_validator(mode="after")
    def _feedback_is_for_gradients(self) -> Codec:
        """`feedback` is for gradients only."""
        if isinstance(self.activations, TopK) and self.activations.feedback:
            sentence = "what was not sent of some samples would be added to others; remove it, or give it to gradients"
            raise rule(sentence, "activations", "feedback")
        return self
