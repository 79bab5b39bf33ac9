"""The procedure: look at the load, warm up, measure rates and networks, fit, and fit again without each network."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fedsim.calibration import surroundings
from fedsim.calibration.accuracy import Accuracy, accuracy
from fedsim.calibration.fitting import fitted, predicted
from fedsim.calibration.networks import BATCHES, LEAST, TYPICAL, Network
from fedsim.calibration.observations import Observation
from fedsim.calibration.rates import Rates, measure_rates, warm_up
from fedsim.calibration.stepping import observations
from fedsim.calibration.surroundings import BUSY, check_load, watched
from fedsim.calibration.targets import target
from fedsim.calibration.timing import USUAL, Clock, Patience
from fedsim.errors import RunError
from fedsim.hardware.processors import Processor
from fedsim.learning.threads import intra_op_threads

IN_SAMPLE: Final = 0.10
"""Mean error of the fitted networks above which a calibration warns."""

LEFT_OUT: Final = 0.25
"""The same of networks that were left out of the fit."""

SCATTER: Final = 0.10
"""Median scatter of the repeats above which a calibration warns."""

Heard = Callable[[str, float], None]
"""Told what is being done, and the share of the whole that was done before."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure, and how."""

    networks: Sequence[Network]
    threads: int
    processor: str = "cpu"
    batches: Sequence[int] = BATCHES
    patience: Patience = USUAL
    allow_load: bool = False


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was measured."""

    plan: Plan
    rates: Rates
    observations: Sequence[Observation]
    load: float = 0.0
    """Share of the machine that other processes took: before or meanwhile, whichever is larger."""
    memory: int = 0
    """Bytes that a process takes once PyTorch is loaded."""

    @property
    def networks(self) -> list[str]:
        """Those that were timed, in order."""
        return list(dict.fromkeys(observation.network for observation in self.observations))

    @property
    def scatter(self) -> float:
        """Median of the observations' scatter."""
        return float(np.median([observation.scatter for observation in self.observations]))


@dataclass(frozen=True, slots=True)
class Outcome:
    """A fit, and what its prices are worth."""

    evidence: Evidence
    processor: Processor
    priced: NDArray[np.float64]
    """Seconds of each observation at the fitted processor's prices."""
    left_out: NDArray[np.float64]
    """The same at the prices of a processor that was fitted without the observation's network."""

    def accuracy(self, *, left_out: bool = False, **which: object) -> Accuracy:
        """How far prices are off, over the observations whose attributes are `which`: a value, or a list of some."""
        chosen = np.array([_matches(observation, which) for observation in self.evidence.observations])
        measured = np.array([observation.seconds for observation in self.evidence.observations])
        return accuracy(measured[chosen], (self.left_out if left_out else self.priced)[chosen])

    @property
    def typical(self) -> Accuracy:
        """Of networks that were left out, at the batch sizes that devices train at."""
        return self.accuracy(left_out=True, batch=TYPICAL)

    def remarks(self) -> Iterator[str]:
        """What to beware of."""
        inside, outside = self.accuracy().mape, self.accuracy(left_out=True).mape
        if inside > IN_SAMPLE:
            yield (
                f"prices of the measured networks are off by {inside:.0%} on average, more than {IN_SAMPLE:.0%}: six "
                "figures cannot say more; the profile has each one"
            )
        if outside > LEFT_OUT:
            yield (
                f"networks that were left out of the fit are off by {outside:.0%} on average, more than "
                f"{LEFT_OUT:.0%}; expect that of your own, and add a table of times where it matters"
            )
        if self.evidence.scatter > SCATTER:
            yield (
                f"repeats scatter by {self.evidence.scatter:.0%}, more than {SCATTER:.0%}; measure again on a "
                "machine that has nothing else to do and holds its clock"
            )
        if self.evidence.load > BUSY:
            yield f"other processes took {self.evidence.load:.0%} of the machine while it was measured"


def _matches(observation: Observation, which: dict[str, object]) -> bool:
    return all(
        getattr(observation, name) in wanted
        if isinstance(wanted, list | tuple)
        else getattr(observation, name) == wanted
        for name, wanted in which.items()
    )


def calibrate(plan: Plan, heard: Heard = lambda _what, _share: None, clock: Clock = time.perf_counter) -> Outcome:
    """Measure this machine and fit a processor to it.

    Raises:
        UserError: the machine is busy, or has no such processor.
        RunError: too few networks could be timed.
    """
    return fit(measure(plan, heard, clock))


def measure(plan: Plan, heard: Heard, clock: Clock) -> Evidence:
    """What `fit` needs. Takes two to three minutes on a machine of 40 GMAC/s."""
    chosen = target(plan.processor)
    with intra_op_threads(plan.threads):
        heard("looking at the load", 0.0)
        with watched() as before:
            time.sleep(surroundings.WINDOW)
        check_load(before.share, allowed=plan.allow_load)
        memory = surroundings.own_memory()
        with watched() as meanwhile:
            heard("plain rates", 0.0)
            warm_up(chosen, clock)
            rates = measure_rates(chosen, plan.patience, clock)
            found: list[Observation] = []
            for index, network in enumerate(plan.networks):
                heard(network.name, index / len(plan.networks))
                found += observations(network, plan.batches, chosen, plan.patience, clock)
    return Evidence(plan, rates, found, max(before.share, meanwhile.share), memory)


def fit(evidence: Evidence) -> Outcome:
    """The processor that prices the observations best, and the prices of each network without its own help.

    Raises:
        RunError: there are too few networks to leave one out.
    """
    found, rates, processor = evidence.observations, evidence.rates, evidence.plan.processor
    names = evidence.networks
    if len(names) < LEAST:
        raise RunError(
            f"only {len(names)} of {len(evidence.plan.networks)} networks could be timed in "
            f"{evidence.plan.patience.longest:g} s each, and a fit needs {LEAST}; this machine is too slow for them: "
            "describe it by a profile of cost model table or scalar"
        )
    best = fitted(found, rates, processor)
    left_out = np.empty(len(found))
    for name in names:
        mine = np.array([observation.network == name for observation in found])
        others = fitted([observation for observation in found if observation.network != name], rates, processor)
        left_out[mine] = predicted(others, [observation for observation in found if observation.network == name])
    return Outcome(evidence, best, predicted(best, found), left_out)
