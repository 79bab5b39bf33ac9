"""Recovery: a pruned model is trained on text for a while, and what was zero stays zero.

Either small products are added to the projections (LoRA, arXiv 2106.09685), within the mask, so that they can be merged
without filling zeros again; or all parameters are trained, gradients masked before each step and weights after it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, replace

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import parametrize

from fedsim import seeds
from fedsim.errors import UserError
from fedsim.pruning.mosaic.adapters import PROJECTIONS, Adapter, adapter, evaluate, found, restore, scoped
from fedsim.pruning.mosaic.calibration import Windows, calibrated
from fedsim.pruning.mosaic.evaluating import predicted
from fedsim.pruning.mosaic.options import Recovery
from fedsim.pruning.mosaic.sparsifying import resolved
from fedsim.pruning.pruned import Pruned, PruningError


def recover(pruned: Pruned, windows: Windows, options: Recovery | None = None) -> Pruned:
    """A copy of a pruned model, trained to predict the next tokens of some windows. Its zeros are where they were.

    `realised["recovery"]` has the options, the steps, and the mean loss of each epoch. Of a plan with a scope, only its
    blocks are trained.

    Raises:
        UserError: a model without a head; a loss that is not finite.
    """
    options = options or Recovery()
    began = time.perf_counter()
    told = resolved(pruned.plan)
    chosen = adapter(told.adapter)
    module = deepcopy(pruned.module)
    masks = {name: torch.from_numpy(mask) for name, mask in pruned.support.masks.items()}
    blocks = found(chosen, module)
    scope = [blocks[number] for number in scoped(blocks, told.scope)]
    weights = [block.weight(projection) for block in scope for projection in PROJECTIONS]
    if options.kind == "lora":
        run, names = _low_rank, weights
    else:
        prefixes = tuple(f"{block.name}." for block in scope) if told.scope else ("",)
        run, names = _full, [name for name, _ in module.named_parameters() if name.startswith(prefixes)]
    required = {name: parameter.requires_grad for name, parameter in module.named_parameters()}
    module.requires_grad_(requires_grad=False)
    losses = run(module, chosen, names, masks, calibrated(windows).tokens, options)
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(required[name])
    _check_zeros(module, masks)
    steps = options.epochs * math.ceil(len(calibrated(windows).tokens) / options.batch)
    said = {"options": asdict(options), "steps": steps, "losses": losses}
    return replace(
        pruned,
        module=module,
        updated=tuple(sorted({*pruned.updated, *_aliases(module, names)})),
        realised={**pruned.realised, "recovery": said},
        timings={**pruned.timings, "recover": time.perf_counter() - began},
    )


class LowRank(nn.Module):
    """A weight with a product of two small matrices added to it: mask * (W + scale * B A), of W's shape.

    As a parametrization of a linear layer's weight. B begins as zeros, so that nothing changes at first.
    """

    def __init__(self, weight: Tensor, mask: Tensor | None, options: Recovery, generator: torch.Generator) -> None:
        super().__init__()
        rows, columns = weight.shape
        bound = columns**-0.5
        first = torch.rand(options.rank, columns, generator=generator) * 2 * bound - bound
        self.a = nn.Parameter(first.to(weight))
        self.b = nn.Parameter(torch.zeros(rows, options.rank).to(weight))
        self.scale = options.scale
        self.mask = None if mask is None else mask.to(weight.device)

    def forward(self, weight: Tensor) -> Tensor:
        """The effective weight; where the mask is false, zero and not minus zero."""
        whole = weight + self.scale * (self.b @ self.a)
        return whole if self.mask is None else torch.where(self.mask, whole, 0)


def _low_rank(
    module: nn.Module,
    adapter: Adapter,
    names: Sequence[str],
    masks: Mapping[str, Tensor],
    tokens: Tensor,
    options: Recovery,
) -> list[float]:
    """Train products beside the weights of these names, and merge them; losses of the epochs."""
    rng = torch.Generator().manual_seed(seeds.derive(options.seed, -1, "recovery products"))
    trained: list[nn.Parameter] = []
    owners = [module.get_submodule(name.rpartition(".")[0]) for name in names]
    for name, owner in zip(names, owners, strict=True):
        beside = LowRank(owner.get_parameter("weight").detach(), masks.get(name), options, rng)
        parametrize.register_parametrization(owner, "weight", beside)
        trained += [beside.a, beside.b]
    losses = _trained(module, adapter, trained, tokens, options, lambda: None, lambda: None)
    for owner in owners:
        parametrize.remove_parametrizations(owner, "weight", leave_parametrized=True)
    return losses


def _full(
    module: nn.Module,
    adapter: Adapter,
    names: Sequence[str],
    masks: Mapping[str, Tensor],
    tokens: Tensor,
    options: Recovery,
) -> list[float]:
    """Train the parameters of these names themselves; losses of the epochs."""
    parameters = {name: module.get_parameter(name) for name in names}
    for parameter in parameters.values():
        parameter.requires_grad_()
    zero = [(parameters[name], ~mask.to(parameters[name].device)) for name, mask in masks.items() if name in parameters]

    def mask_gradients() -> None:
        for parameter, gone in zero:
            if parameter.grad is not None:
                parameter.grad.masked_fill_(gone, 0)

    def mask_weights() -> None:
        with torch.no_grad():
            for parameter, gone in zero:
                parameter.masked_fill_(gone, 0)

    return _trained(module, adapter, list(parameters.values()), tokens, options, mask_gradients, mask_weights)


def _trained(
    module: nn.Module,
    adapter: Adapter,
    parameters: Sequence[nn.Parameter],
    tokens: Tensor,
    options: Recovery,
    before: Callable[[], None],
    after: Callable[[], None],
) -> list[float]:
    """Adam's steps over all windows, epoch by epoch, with what is to be done before and after each; mean losses."""
    optimizer = torch.optim.Adam(parameters, lr=options.lr)
    losses: list[float] = []
    modes = evaluate(module)
    module.train()
    try:
        for epoch in range(options.epochs):
            total = 0.0
            for batch in _batches(tokens, options, epoch):
                with torch.enable_grad():
                    loss = _loss(module, adapter, batch)
                    value = _finite(loss, epoch)
                    optimizer.zero_grad()
                    loss.backward()
                before()
                torch.nn.utils.clip_grad_norm_(parameters, options.clip)
                optimizer.step()
                after()
                total += value * len(batch)
            losses.append(total / len(tokens))
        optimizer.zero_grad()
        with torch.no_grad():
            _finite(_loss(module, adapter, tokens[: options.batch]), options.epochs - 1)  # behind the last step
    finally:
        restore(module, modes)
    return losses


def _batches(tokens: Tensor, options: Recovery, epoch: int) -> Iterator[Tensor]:
    """All windows in an order of the epoch's own."""
    order = seeds.generator(options.seed, -1, "recovery order", epoch).permutation(len(tokens))
    yield from tokens[torch.from_numpy(order)].split(options.batch)


def _loss(module: nn.Module, adapter: Adapter, batch: Tensor) -> Tensor:
    logits, given = predicted(module, batch, adapter)
    return cross_entropy(logits[:, :-1].flatten(0, 1).float(), given[:, 1:].flatten())


def _finite(loss: Tensor, epoch: int) -> float:
    value = float(loss.detach())
    if not math.isfinite(value):
        raise UserError(f"the loss is {value} in epoch {epoch + 1} of recovery; lower lr")
    return value


def _check_zeros(module: nn.Module, masks: Mapping[str, Tensor]) -> None:
    state = module.state_dict()
    for name, mask in masks.items():
        filled = int(torch.count_nonzero(state[name].cpu()[~mask]))
        if filled:
            raise PruningError(f"{name}: recovery has filled {filled} weights that were zero")


def _aliases(module: nn.Module, names: Sequence[str]) -> set[str]:
    """The names of some parameters, and all others under which they stand."""
    wanted = set(names)
    every = dict(module.named_parameters(remove_duplicate=False))
    chosen = {id(parameter) for name, parameter in every.items() if name in wanted}
    return {name for name, parameter in every.items() if id(parameter) in chosen}
