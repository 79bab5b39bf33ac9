"""Machines that are made up: known rates, and networks whose times follow from them exactly."""

from __future__ import annotations

from collections.abc import Sequence

from fedsim.calibration.fitting import fitted, predicted
from fedsim.calibration.networks import NETWORKS
from fedsim.calibration.observations import Observation, Part
from fedsim.calibration.rates import Rates
from fedsim.calibration.running import Evidence, Outcome, Plan, fit
from fedsim.costs import Cost, OpClass, Operator, Phase
from fedsim.hardware.processors import Gpu, Processor
from fedsim.hardware.roofline import by_operator

RATES = Rates({512: 40e9, 1024: 50e9}, copy=16e9, overhead=4e-6)
TRUE = {
    "gemm": "50 GMAC/s",
    "bandwidth": "12.5 GB/s",
    "overhead": "5 us",
    "overheads": {"conv": "120 us", "pointwise": "120 us", "depthwise": "120 us"},
    "overlap": False,
    "efficiency": {
        "linear": 0.9,
        "attention": 0.9,
        "conv": 0.8,
        "pointwise": 0.8,
        "optimizer": 2.4,
        "copy": 1.28,
    },
}
"""What is to be found: a copy of 16 GB/s is 1.28 of the bandwidth."""

MIXES: dict[str, dict[OpClass, tuple[int, int, int]]] = {  # operators a step: how many, MACs and bytes a sample
    "dense": {OpClass.LINEAR: (4, 3_000_000, 40_000), OpClass.ELEMENTWISE: (6, 0, 30_000)},
    "plain": {OpClass.CONV: (5, 9_000_000, 90_000), OpClass.ELEMENTWISE: (11, 0, 160_000)},
    "mobile": {
        OpClass.POINTWISE: (8, 700_000, 60_000),
        OpClass.DEPTHWISE: (8, 90_000, 50_000),
        OpClass.ELEMENTWISE: (30, 0, 45_000),
    },
    "words": {
        OpClass.LINEAR: (9, 5_000_000, 70_000),
        OpClass.ATTENTION: (6, 400_000, 90_000),
        OpClass.ELEMENTWISE: (40, 0, 20_000),
    },
}
TENSORS = {"dense": 8, "plain": 20, "mobile": 70, "words": 33}


def true(processor: str = "cpu") -> Processor:
    """The made-up processor."""
    return (Gpu if processor == "gpu" else Processor).model_validate(TRUE)


def observed(
    machine: Processor, mixes: Sequence[str] = tuple(MIXES), batches: Sequence[int] = (1, 8, 32)
) -> list[Observation]:
    """Times of the made-up networks on a processor, to the last digit."""
    return [
        Observation(name, batch, part, "sgd", cost, sum(by_operator(machine, cost)), 0.01, 20)
        for name in mixes
        for batch in batches
        for part, cost in costs(name, batch).items()
    ]


def costs(name: str, batch: int) -> dict[Part, Cost]:
    """What the parts of a training step of a made-up network cost."""
    forward = tuple(
        Operator(kind, Phase.FORWARD, macs * batch, 5_000 + moved * batch, count)
        for kind, (count, macs, moved) in MIXES[name].items()
    )
    backward = tuple(Operator(op.kind, Phase.BACKWARD, 2 * op.macs, 2 * op.bytes, op.count, op.macs) for op in forward)
    tensors = TENSORS[name]
    step = (Operator(OpClass.OPTIMIZER, Phase.OPTIMIZER, 0, 300_000 * tensors, tensors=tensors),)
    return {
        Part.FORWARD: Cost(forward, batch),
        Part.GRADIENTS: Cost(forward + backward, batch),
        Part.OPTIMIZER: Cost(step, batch),
    }


def evidence(observations: Sequence[Observation], *, load: float = 0.02, processor: str = "cpu") -> Evidence:
    """Observations as if they had been measured."""
    plan = Plan(list(NETWORKS.values())[:4], threads=1, processor=processor)
    return Evidence(plan, RATES, observations, load, memory=230_000_000)


def outcome(observations: Sequence[Observation] | None = None, *, load: float = 0.02) -> Outcome:
    """A fit to the made-up machine, or to other observations."""
    return fit(evidence(observed(true()) if observations is None else observations, load=load))


def refitted(observations: Sequence[Observation], processor: str = "cpu") -> Processor:
    """The processor that is found."""
    return fitted(observations, RATES, processor)


def worst(processor: Processor, observations: Sequence[Observation]) -> float:
    """The largest relative error of its prices."""
    pairs = zip(predicted(processor, observations), observations, strict=True)
    return max(abs(float(price) / observation.seconds - 1) for price, observation in pairs)
