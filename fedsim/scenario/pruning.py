"""How models are pruned before they are deployed, as scenarios say it. Knows no method: its options come with it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from fedsim.documents.translate import rule
from fedsim.scenario.section import Name, Options, Section, Whole, written_out


class Calibration(Section):
    """Public text that a method looks at, in the place of the devices' own data. Short form: its path."""

    path: Path = Field(examples=["wikitext2-valid.txt"])
    """The file, relative to the scenario's."""
    windows: Whole = Field(default=32, ge=1)
    """How many pieces are drawn from it."""
    length: Whole = Field(default=256, ge=2)
    """Tokens of a piece."""


class Pruned(Section):
    """What one variant is made by: a method with its options, or a manifest that `fedsim prune` has written.

    Neither means that nothing is pruned; `off` is short for that.
    """

    method: Name | None = None
    """A method of `fedsim prune`, such as `reconvene` or `mosaic`, or `module:Class`."""
    manifest: Path | None = None
    """The folder of a pruned model, or its manifest.json; relative to the scenario file."""
    fit: Literal["memory"] | None = None
    """`memory` takes the largest model that the device has the memory to train; null goes by the method's options."""
    calibration: Annotated[Calibration, BeforeValidator(written_out)] | None = None
    """What a method looks at that needs data; null takes training data, so that what is cut tells of these."""
    options: Options = None
    """What the method takes, each a key of this section."""

    @property
    def prunes(self) -> bool:
        """Whether anything is asked for."""
        return self.method is not None or self.manifest is not None

    @model_validator(mode="after")
    def _one_of_both(self) -> Pruned:
        """`method` or `manifest`, not both; `fit` and `calibration` are for a method."""
        if self.method is not None and self.manifest is not None:
            raise rule(
                "a method, and a manifest that says what another one has done; leave one of them out", "manifest"
            )
        if self.method is None:
            for key in ("fit", "calibration"):
                if getattr(self, key) is not None:
                    raise rule("it is for a method; add method, or leave it out", key)
        return self


class Pruning(Pruned):
    """How the model of devices is made smaller before it is deployed. Short form: the method.

    Groups of the fleet may say otherwise. Each distinct way is one variant.
    """

    scope: Literal["auto", "device-block", "model"] = "auto"
    """What may shrink: the device block alone, whose activations keep their width, or the whole model; auto is the
    device block where the scheduler cuts the model."""
    aggregation: Literal["index-map", "per-variant"] = "index-map"
    """How variants are put together: by the coordinates that each has of one model; or not at all, each variant being
    a model of its own that only its own devices train."""
    windows: Literal["fixed", "rolling"] = "fixed"
    """Which channels of the common model a variant has: those that the method chooses, for the whole run; or, of each
    layer, as many as the method leaves it, from the t-th on in round t (FedRolex, arXiv 2212.01548)."""
    window_step: Whole = Field(default=1, ge=1)
    """By how many channels rolling windows move on each round."""

    @model_validator(mode="after")
    def _moving(self) -> Pruning:
        """Windows move over one model alone, and a step is of windows that move."""
        if self.windows == "rolling" and self.aggregation == "per-variant":
            raise rule(
                "windows move over one model that all variants are parts of; set aggregation: index-map, or windows: "
                "fixed",
                "windows",
            )
        if self.windows == "fixed" and self.window_step != 1:
            raise rule("windows are fixed; set windows: rolling, or leave it out", "window_step")
        return self
