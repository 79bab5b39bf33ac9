"""The rectifier: new initial values for the layers that a cut has touched. Knows nothing of why they were cut."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from time import process_time

from torch import nn

from fedsim.models.initial import drawn, reinitialise
from fedsim.payload.supports import Support
from fedsim.pruning.pruned import Pruned


def rectify(pruned: Pruned, seed: int) -> Pruned:
    """The same with new initial values in every layer whose own inputs or outputs were cut, and in its norm.

    All other layers keep theirs. Each layer is drawn by its type's own initialiser from a stream named by the seed and
    the layer, so that two models that cut the same layers draw the rest alike. Trained weights are kept, with a
    warning; the plan's option `reinitialise` may say `all` or `none`.
    """
    start = process_time()
    options = pruned.plan.options
    chosen = options.get("reinitialise", "changed")
    if chosen != "none" and (options.get("pretrained") or trained(pruned.module)):
        warnings.warn(
            "the weights are trained, so they are kept: this is structured pruning, not pruning at initialisation",
            stacklevel=2,
        )
        chosen = "none"
    if chosen == "none":
        return pruned
    module = deepcopy(pruned.module)
    touched = set(pruned.realised.get("touched", ()))
    layers = tuple(n for n, p in module.named_modules() if drawn(p) and (chosen == "all" or n in touched))
    reinitialise(module, layers, seed)
    timings = {**pruned.timings, "rectify": process_time() - start}
    return replace(pruned, module=module, reinitialised=layers, timings=timings)


def touched(support: Support, norms: Mapping[str, str]) -> tuple[str, ...]:
    """The layers whose own inputs or outputs a support cuts, and the norms behind them.

    Args:
        norms: by layer, the norm that reads its output.
    """
    cut = {name.rpartition(".")[0] for name, axes in support.axes.items() if any(kept is not None for kept in axes)}
    return tuple(sorted(cut | {norms[name] for name in cut if name in norms}))


def trained(module: nn.Module) -> bool:
    """Whether a model shows that it was trained: batch norm counts the batches that it has seen."""
    return any(bool(b.any()) for name, b in module.named_buffers() if name.endswith("num_batches_tracked"))
