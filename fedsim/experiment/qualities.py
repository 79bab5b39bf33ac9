"""How good each pruned variant is: as it was installed, and what it has of the trained model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from fedsim.experiment.building import Study
from fedsim.learning.bundles import of_member
from fedsim.payload.supports import WHOLE, Support
from fedsim.script import SERVER, Quality
from fedsim.trace import Trace

if TYPE_CHECKING:
    from torch import Tensor

    from fedsim.models.units import UnitList


def mark_variants(study: Study, trace: Trace, weights: Mapping[str, Tensor] | None) -> None:
    """Evaluate each variant on the test data, and record that at the start and at the end of the trace.

    At the end nothing, where the model that was published last is not whole; of a variant that is all of it there is
    what the run's own evaluations say.
    """
    family = study.family
    if family is None or not study.scenario.learning:
        return
    everybody = range(len(study.assembly.fleet.groups))
    if not family.networks:
        _mark(trace, 0, everybody, _quality(study, family.network))
    for number, (network, smaller) in enumerate(zip(family.networks, family.smaller, strict=True), 1):
        _mark(trace, 0, smaller.groups, _quality(study, network))
        if weights is None:
            continue
        support, found = smaller.support, weights
        if family.apart:
            support, found = WHOLE, of_member(number, weights)
        if network.state_dict().keys() <= found.keys():
            _mark(trace, trace.end, smaller.groups, _quality(study, _part(network, support, found)))
    trace.marks.sort(key=lambda mark: mark[1])


def _mark(trace: Trace, moment: int, groups: object, quality: Quality) -> None:
    assert isinstance(groups, range | frozenset)
    detail = {"groups": sorted(groups), "loss": quality.loss, "samples": quality.samples}
    trace.mark(SERVER, moment, "evaluate.variant", quality.accuracy, detail)


def _part(network: UnitList, support: Support, weights: Mapping[str, Tensor]) -> UnitList:
    """A network like this one with what a support has of other weights."""
    from copy import deepcopy

    from fedsim.pruning.resizing import fill

    part = deepcopy(network)
    fill(part, weights, support)
    return part


def _quality(study: Study, network: UnitList) -> Quality:
    from fedsim.learning.measuring import quality
    from fedsim.pruning.watching import evaluating

    outputs = math.prod(study.assembly.model.units[-1].output)
    with evaluating(network):
        return quality(network, network.loss, study.samples(), "test", outputs)
