"""Windows of channels that move over a network, as wide as a variant of it is. Knows nothing of rounds' devices."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from fedsim.errors import UserError
from fedsim.payload.supports import Support
from fedsim.payload.windows import Windows
from fedsim.pruning.reconvene.coupling import couple


def windows(
    network: nn.Module,
    support: Support,
    example: Tensor,
    *,
    scope: Sequence[str] = (),
    protected: Sequence[str] = (),
    step: int = 1,
) -> Windows:
    """The windows of a variant: of every layer as many channels as it keeps, whichever these are.

    Args:
        network: the parent.
        support: what the variant keeps of it.
        example: inputs; at least two samples.
        scope: modules outside of which nothing is smaller.
        protected: modules whose outputs are whole.
        step: channels that windows move on by each round.

    Raises:
        UserError: what the variant keeps is not channels alone; or a window is narrower than a step.
    """
    if support.masks:
        raise UserError("windows: rolling moves channels, but this method sets weights to zero; leave windows out")
    if not example.is_floating_point():
        raise UserError(
            "windows: rolling is for networks on images or vectors, and this one takes tokens; leave windows out"
        )
    coupling = couple(network, example, scope=scope, protected=protected)
    kept = [coupling.outputs(support, each.name) for each in coupling.sets]
    named = {each.name: outputs.tolist() for each, outputs in zip(coupling.sets, kept, strict=True)}
    try:
        counts = [len(units) for units in coupling.chosen(named)]
    except ValueError as error:
        raise UserError(f"windows: rolling moves whole channels, but {error}; leave windows out") from error
    made = coupling.windows(counts, step)
    first, shapes = made.support(0), {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    for name, shape in shapes.items():
        if first.shape(name, shape) != support.shape(name, shape):
            raise UserError(f"windows: rolling moves channels, but what {name} keeps is not these; leave windows out")
    for each in made.channels:
        if each.kept < step:
            (name, _), *_ = each.places
            raise UserError(
                f"window_step {step} is more than the {each.kept} channels that {name.rpartition('.')[0]} keeps, so "
                f"some would never be trained; set window_step to {each.kept} or less"
            )
    return made
