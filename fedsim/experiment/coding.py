"""From the codecs that a scenario names to those that payloads know."""

from __future__ import annotations

from typing import Literal

from fedsim.payload.codecs import PLAIN, Codec, Codecs, Half, Int8, Plain, TopK
from fedsim.scenario import Scenario
from fedsim.scenario import TopK as Largest


def codecs(scenario: Scenario) -> Codecs:
    """The codec of each purpose in a scenario."""
    given = scenario.codec
    return Codecs(
        activations=_values(given.activations), gradients=_values(given.gradients), weights=_named(given.weights)
    )


def _values(given: Literal["fp32", "fp16", "int8"] | Largest) -> Codec:
    if isinstance(given, Largest):
        return TopK(fraction=given.fraction, feedback=given.feedback)
    return _named(given)


def _named(name: Literal["fp32", "fp16", "int8"]) -> Plain | Half | Int8:
    match name:
        case "fp32":
            return PLAIN
        case "fp16":
            return Half()
        case "int8":
            return Int8()
