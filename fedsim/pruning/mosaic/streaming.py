"""Running a language model block by block over all calibration windows, without a backward.

The hidden states of all windows are kept, `windows length width` values; each block maps them to the next block's.
Keyword arguments (positions, masks) are caught where the model itself hands them over.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor, nn

from fedsim.errors import UserError
from fedsim.pruning.mosaic.adapters import Adapter, Block, Projection, evaluate, on_device, restore

_CHUNK: Final = 2048
"""Tokens that a block is given at once: enough for full speed on a CPU, and little memory."""


class Inputs:
    """What is gathered of the inputs that a projection sees. Features are columns of its weight.

    Args:
        hessian: whether products of features are gathered, too: `features²` values of four bytes.
    """

    def __init__(self, features: int, *, hessian: bool, device: torch.device) -> None:
        self.windows = 0
        self.tokens = 0
        self.squares = torch.zeros(features, dtype=torch.float64, device=device)
        self.sums = torch.zeros(features, dtype=torch.float64, device=device)
        self._products = torch.zeros(features, features, device=device) if hessian else None

    def add(self, x: Tensor) -> None:
        """Take in `batch length features`."""
        self.windows += len(x)
        rows = x.detach().reshape(-1, x.shape[-1]).float()
        self.tokens += len(rows)
        self.squares += rows.square().sum(0, dtype=torch.float64)
        self.sums += rows.sum(0, dtype=torch.float64)
        if self._products is not None:
            self._products.addmm_(rows.T, rows)

    @property
    def norms(self) -> Tensor:  # x
        """Mean over windows of the squared norm of each feature over the window's tokens, in float64."""
        return self.squares / self.windows

    @property
    def variances(self) -> Tensor:
        """Variance of each feature over all tokens, in float64."""
        mean = self.sums / self.tokens
        return (self.squares / self.tokens - mean.square()).clamp(min=0)

    @property
    def hessian(self) -> Tensor:  # H
        """2/windows times the products of features with one another, `features features`."""
        assert self._products is not None, "no Hessian was asked for"
        return self._products * (2 / self.windows)

    @property
    def dead(self) -> Tensor:
        """Whether a feature is zero in all tokens."""
        return self.squares == 0


class Stream:
    """The hidden states in front of one block, for all windows.

    Raises:
        UserError: the model cannot take windows of this length.
    """

    def __init__(self, model: nn.Module, adapter: Adapter, blocks: Sequence[Block], tokens: Tensor) -> None:
        self._keywords = _keywords(model, adapter, blocks, tokens[:1])
        self._hidden = _entering(model, adapter, blocks[0], tokens)
        self._batch = max(1, _CHUNK // tokens.shape[1])

    def watch(
        self,
        model: nn.Module,
        block: int,
        described: Block,
        *,
        hessian: bool,
        only: Sequence[Projection] = ("q", "o", "gate", "down"),
        onwards: bool = False,
    ) -> dict[Projection, Inputs]:
        """Run one block, and gather what its projections see.

        Args:
            only: of these, each of which stands for those with the same inputs.
            onwards: whether the hidden states become those that this run gives.
        """
        seen: dict[Projection, Inputs] = {}
        handles = []
        for projection in only:
            module = model.get_submodule(described.projections[projection])
            weight = module.get_parameter("weight")
            seen[projection] = Inputs(weight.shape[1], hessian=hessian, device=weight.device)
            handles.append(module.register_forward_pre_hook(_taking(seen[projection])))
        try:
            self._run(model.get_submodule(described.name), block, onwards)
        finally:
            for handle in handles:
                handle.remove()
        return seen

    def advance(self, model: nn.Module, block: int, described: Block) -> None:
        """The hidden states become what a block gives for them."""
        self._run(model.get_submodule(described.name), block, keep=True)

    def _run(self, module: nn.Module, block: int, keep: bool) -> None:
        for first in range(0, len(self._hidden), self._batch):
            part = slice(first, first + self._batch)
            out = module(self._hidden[part], **self._keywords[block])
            if keep:
                self._hidden[part] = out[0] if isinstance(out, tuple) else out


@contextmanager
def reading(model: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; afterwards every module has the mode it had."""
    modes = evaluate(model)
    try:
        with torch.no_grad():
            yield
    finally:
        restore(model, modes)


def _taking(inputs: Inputs) -> Any:
    def hook(_module: nn.Module, args: tuple[Any, ...]) -> None:
        inputs.add(args[0])

    return hook


class _Entered(Exception):  # no error: the way out of a forward
    """The first block has been reached."""


def _keywords(model: nn.Module, adapter: Adapter, blocks: Sequence[Block], window: Tensor) -> list[Mapping[str, Any]]:
    """What each block is called with besides the hidden states, from a forward of one window.

    A batch axis of length one, which masks and positions have, fits any number of windows.
    """
    caught: list[Mapping[str, Any]] = [{}] * len(blocks)

    def catching(number: int) -> Any:
        def hook(_module: nn.Module, _args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            caught[number] = {name: value for name, value in keywords.items() if name != "hidden_states"}

        return hook

    handles = [
        model.get_submodule(block.name).register_forward_pre_hook(catching(number), with_kwargs=True)
        for number, block in enumerate(blocks)
    ]
    try:
        adapter.run(model, on_device(model, window))
    except (RuntimeError, IndexError, ValueError) as error:
        raise UserError(
            f"the model cannot take windows of {window.shape[1]} tokens ({' '.join(str(error).split())}); give it "
            "windows of its own length, with tokens of its vocabulary"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return caught


def _entering(model: nn.Module, adapter: Adapter, block: Block, tokens: Tensor) -> Tensor:
    """The hidden states in front of the first block, `windows length width`."""
    made: list[Tensor] = []

    def hook(_module: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        made.append((args[0] if args else keywords["hidden_states"]).detach().clone())
        raise _Entered

    handle = model.get_submodule(block.name).register_forward_pre_hook(hook, with_kwargs=True)
    try:
        for window in tokens.split(1):
            try:
                adapter.run(model, on_device(model, window))
            except _Entered:
                continue
    finally:
        handle.remove()
    return torch.cat(made)
