"""Processors: what computes in a machine, as its profile describes it for the roofline cost model.

Knows clocks, rates and shares of them; not how they become seconds (`roofline`) or how a mode changes them (`modes`).
"""

from __future__ import annotations

from typing import Annotated, Final, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from fedsim.costs import OpClass
from fedsim.documents.translate import rule
from fedsim.errors import shown
from fedsim.hardware.sparse import SparseKernels
from fedsim.quantities import Delay, Fraction, Frequency, Rate, Speed
from fedsim.units import human_count

_STRICT = ConfigDict(frozen=True, extra="forbid")

MATRIX: Final = frozenset({OpClass.LINEAR, OpClass.ATTENTION, OpClass.CONV, OpClass.POINTWISE})
"""Classes that multiply and are priced by MACs and bytes; all others by their bytes alone."""

OF_GEMM: Final = 1.5  # convolutions by Winograd's or Fourier transforms multiply less than is counted
OF_BANDWIDTH: Final = 10.0  # what stays in a cache is read at several times the rate of memory


def _share(largest: float, of: str) -> AfterValidator:
    def check(share: float) -> float:
        if not 0 < share <= largest:
            wanted = f"a share of {of} is more than 0 and at most {largest:g}"
            raise ValueError(f"{shown(share)} does not fit; {wanted}; write it like 60 % or 0.6")
        return share

    return AfterValidator(check)


OfGemm = Annotated[Fraction, _share(OF_GEMM, "gemm")]
OfBandwidth = Annotated[Fraction, _share(OF_BANDWIDTH, "bandwidth")]


class Efficiency(BaseModel):
    """What the classes of operators reach of `gemm` or, those that do not multiply, of `bandwidth`.

    The defaults of the former are starting values: training steps at 32x32 pixels, batch 16 to 32, on one thread of
    an x86-64 machine with AVX-512 and torch 2.13, as a share of its own large matrix product.
    """

    model_config = _STRICT

    linear: OfGemm = 0.60
    attention: OfGemm = 0.60
    conv: OfGemm = 0.35
    """Kernels larger than 1x1."""
    pointwise: OfGemm = 0.30
    """Convolutions of 1x1."""
    depthwise: OfBandwidth = 1.0
    elementwise: OfBandwidth = 1.0
    optimizer: OfBandwidth = 1.0
    copy_: OfBandwidth = Field(default=1.0, alias="copy")

    def of(self, kind: OpClass) -> float:
        """The share of a class."""
        share: float = getattr(self, "copy_" if kind is OpClass.COPY else kind.value)
        return share


class Overheads(BaseModel):
    """Seconds an operator takes before it computes, for classes that differ from the rest, as convolutions may."""

    model_config = _STRICT

    linear: Delay | None = None
    attention: Delay | None = None
    conv: Delay | None = None
    pointwise: Delay | None = None
    depthwise: Delay | None = None
    elementwise: Delay | None = None
    optimizer: Delay | None = None
    copy_: Delay | None = Field(default=None, alias="copy")

    def of(self, kind: OpClass) -> float | None:
        """What is said of a class."""
        said: float | None = getattr(self, "copy_" if kind is OpClass.COPY else kind.value)
        return said

    def scaled(self, factor: float) -> Self:
        """All of them longer or shorter."""
        said = {name: getattr(self, name) for name in type(self).model_fields}
        return self.model_copy(update={name: one * factor for name, one in said.items() if one is not None})


class Processor(BaseModel):
    """A CPU, or a GPU. Immutable."""

    model_config = _STRICT

    cores: Annotated[int, Field(ge=1, strict=True)] | None = None
    """All that compute; a power mode may switch some off."""
    clock: Frequency | None = None
    """Hz; what a power mode or a fleet group's `clock` is compared with."""
    peak: Speed | None = None
    """MAC/s of its arithmetic units, all busy."""
    gemm: Speed = Field(examples=["28 GFLOP/s"])
    """MAC/s of a large product of FP32 matrices, sustained."""
    bandwidth: Rate = Field(examples=["4.8 GB/s"])
    """Bytes per second of memory that are read and written, achieved."""
    overhead: Delay = Field(examples=["60 us"])
    """Seconds an operator takes before it computes."""
    overheads: Overheads = Overheads()
    """By class, where `overhead` does not fit all."""
    overlap: Annotated[bool, Field(strict=True)] = True
    """Whether operators compute and move data at the same time; else one after the other."""
    foreach: Annotated[bool, Field(strict=True)] = False
    """Whether one kernel of an optimizer takes all tensors, and its overhead once; else once a tensor."""
    efficiency: Efficiency = Efficiency()
    sparse: SparseKernels = SparseKernels()
    """Measured kernels that skip zeros in weights; without any, zeros are multiplied like other numbers."""
    half_batch: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Samples at which the classes that multiply reach half of their efficiency; None: they reach all of it at one."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        check_gemm(self)
        return self


class Gpu(Processor):
    """A GPU. Immutable."""

    foreach: Annotated[bool, Field(strict=True)] = True


def check_gemm(processor: Processor, *path: str) -> None:
    """Refuse a sustained speed above the peak.

    Raises:
        PydanticCustomError: at `path` in the section, by default at `gemm`.
    """
    if processor.peak is not None and processor.gemm > processor.peak:
        gemm, peak = human_count(processor.gemm, "MAC/s"), human_count(processor.peak, "MAC/s")
        raise rule(
            f"{gemm}, but peak is only {peak}; gemm must not exceed peak; correct one of them", *(path or ("gemm",))
        )


class Processors(BaseModel):
    """The processors of a machine."""

    model_config = _STRICT

    cpu: Processor | None = Field(default=None, examples=["{gemm: 28 GFLOP/s, bandwidth: 4.8 GB/s, overhead: 60 us}"])
    gpu: Gpu | None = None

    @model_validator(mode="after")
    def _some(self) -> Self:
        if not self.named():
            raise rule("there are none; describe cpu, gpu or both")
        return self

    def named(self) -> dict[str, Processor]:
        """Those that there are, by name."""
        both = {"cpu": self.cpu, "gpu": self.gpu}
        return {name: processor for name, processor in both.items() if processor is not None}
