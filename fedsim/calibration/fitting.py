"""From times of networks to the processor that prices them best.

Six figures are fitted: what convolutions and what other matrix products reach of `gemm`, the bandwidth of memory, what
optimizers reach of it, and the overhead of an operator, of convolutions by itself. An operator takes

    t = macs / (efficiency x gemm) + bytes / bandwidth + overhead

with the first term for the classes that multiply only: a roofline whose terms do not overlap, so times are linear in
what is fitted (its inverses). The figures minimise the mean absolute relative error, a linear program: unlike least
squares, it is not bent by the few operators that a library serves many times slower than their class.

Knows nothing of how the times were measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fedsim.calibration.observations import Observation
from fedsim.calibration.rates import Rates
from fedsim.costs import OpClass, Operator
from fedsim.hardware import roofline
from fedsim.hardware.processors import OF_BANDWIDTH, OF_GEMM, Gpu, Processor
from fedsim.units import human_count, human_seconds

CONVOLUTIONS: Final = (OpClass.CONV, OpClass.POINTWISE, OpClass.DEPTHWISE)
"""Classes whose operators a library prepares before it computes: they have an overhead of their own."""

_RATE: Final = {  # the figure that an operator's MACs are divided by
    OpClass.CONV: "convolutions",
    OpClass.POINTWISE: "convolutions",
    OpClass.LINEAR: "products",
    OpClass.ATTENTION: "products",
}
_FIGURES: Final = ("convolutions", "products", "memory", "optimizer", "overhead", "convolution overhead")
_OVERHEAD_SCALE: Final = 1e-5  # seconds: brings all coefficients near 1


def fitted(observations: Sequence[Observation], rates: Rates, processor: str) -> Processor:
    """The processor whose prices are nearest to the times; `processor` is `cpu` or `gpu`.

    A figure that no observation tells anything about is left to its default.
    """
    foreach = processor == "gpu"
    matrix = np.array([_terms(observation, rates, foreach) / observation.seconds for observation in observations])
    told = np.asarray(matrix.any(axis=0))
    figures = dict(zip(_FIGURES, _least_absolute(matrix, told), strict=True))
    known = {name for name, there in zip(_FIGURES, told, strict=True) if there}
    return _processor(figures, known, rates, processor)


def predicted(processor: Processor, observations: Sequence[Observation]) -> NDArray[np.float64]:
    """Seconds of each observation at the prices of a processor."""
    return np.array([sum(roofline.by_operator(processor, observation.cost)) for observation in observations])


def _terms(observation: Observation, rates: Rates, foreach: bool) -> NDArray[np.float64]:
    """Seconds that an observation would take by each figure at the plain rates."""
    terms = dict.fromkeys(_FIGURES, 0.0)
    for operator in observation.cost.operators:
        if operator.kind in _RATE:
            terms[_RATE[operator.kind]] += operator.macs * operator.count / rates.gemm
        memory = "optimizer" if operator.kind is OpClass.OPTIMIZER else "memory"
        terms[memory] += operator.bytes * operator.count / rates.copy
        overhead = "convolution overhead" if operator.kind in CONVOLUTIONS else "overhead"
        terms[overhead] += _starts(operator, foreach) * _OVERHEAD_SCALE
    return np.array([terms[name] for name in _FIGURES])


def _starts(operator: Operator, foreach: bool) -> int:
    """How often an operator pays its overhead."""
    return operator.count * (1 if foreach else operator.tensors)


def _least_absolute(matrix: NDArray[np.float64], told: NDArray[np.bool_]) -> list[float]:
    """x >= its bounds with the least sum of |matrix @ x - 1|, by a linear program."""
    from scipy.optimize import linprog

    rows, columns = matrix.shape
    least = [1 / OF_GEMM, 1 / OF_GEMM, 1 / OF_BANDWIDTH, 1 / OF_BANDWIDTH, 0.0, 0.0]
    errors = np.eye(rows)
    done = linprog(
        np.concatenate([np.zeros(columns), np.ones(rows)]),
        A_ub=np.block([[matrix, -errors], [-matrix, -errors]]),
        b_ub=np.concatenate([np.ones(rows), -np.ones(rows)]),
        bounds=[(low if there else 0.0, None) for low, there in zip(least, told, strict=True)] + [(0, None)] * rows,
        method="highs",
    )
    assert done.success, done.message
    return [float(x) for x in done.x[:columns]]


def _processor(figures: dict[str, float], known: set[str], rates: Rates, name: str) -> Processor:
    """The figures as a profile writes them: rounded, so that the file prices exactly as was judged here."""
    gemm, bandwidth = _rounded(rates.gemm), _rounded(rates.copy / figures["memory"])
    shares = {kind.value: rates.gemm / figures[rate] / gemm for kind, rate in _RATE.items() if rate in known}
    shares |= {"optimizer": rates.copy / figures["optimizer"] / bandwidth, "copy": rates.copy / bandwidth}
    most = {kind.value: OF_GEMM for kind in _RATE}
    plain: dict[str, Any] = {
        "gemm": human_count(gemm, "MAC/s"),
        "bandwidth": human_count(bandwidth, "B/s"),
        "overhead": _duration(figures["overhead"]),
        "overlap": False,
        "efficiency": {key: min(_rounded(share), most.get(key, OF_BANDWIDTH)) for key, share in shares.items()},
    }
    if "convolution overhead" in known:
        plain["overheads"] = {kind.value: _duration(figures["convolution overhead"]) for kind in CONVOLUTIONS}
    return (Gpu if name == "gpu" else Processor).model_validate(plain)


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")


def _duration(figure: float) -> str:
    return human_seconds(_rounded(figure * _OVERHEAD_SCALE)).replace("µ", "u")
