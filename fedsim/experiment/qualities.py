"""How good each pruned variant of a trained model is: what devices of a group could do with it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fedsim.experiment.building import Study
from fedsim.script import SERVER
from fedsim.trace import Trace

if TYPE_CHECKING:
    from torch import Tensor


def mark_variants(study: Study, trace: Trace, weights: Mapping[str, Tensor] | None) -> None:
    """Evaluate what each variant has of the published model on the test data, and record it at the end of the trace.

    Nothing, where there are no variants, or the model that was published last is not whole.
    """
    family = study.family
    if family is None or weights is None:
        return
    for network, smaller in zip(family.networks, family.smaller, strict=True):
        if not network.state_dict().keys() <= weights.keys():
            return
        quality = _quality(study, network, smaller.support, weights)
        detail = {"groups": sorted(smaller.groups), "loss": quality.loss, "samples": quality.samples}
        trace.mark(SERVER, trace.end, "evaluate.variant", quality.accuracy, detail)


def _quality(study: Study, network: Any, support: Any, weights: Mapping[str, Tensor]) -> Any:
    from copy import deepcopy

    import torch

    from fedsim.learning.measuring import quality

    part = deepcopy(network).eval()
    with torch.no_grad():
        for name, tensor in part.state_dict().items():
            tensor.copy_(weights[name][support.index(name, tuple(weights[name].shape))])
            if name in support.masks:
                tensor.masked_fill_(torch.from_numpy(~support.masks[name]), 0)
    outputs = math.prod(study.assembly.model.units[-1].output)
    return quality(part, part.loss, study.samples(), "test", outputs)
