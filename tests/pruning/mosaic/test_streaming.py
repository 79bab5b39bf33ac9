"""Block by block over all windows, against the whole model at once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedsim.errors import UserError
from fedsim.pruning.mosaic.adapters import READERS, Decoders, found
from fedsim.pruning.mosaic.streaming import Inputs, Stream, reading
from tests.pruning.mosaic import tiny

pytestmark = pytest.mark.slow  # transformers takes seconds to import


def inputs_of(model: nn.Module, tokens: Tensor) -> dict[str, Tensor]:
    """What every projection sees in one forward of the whole model."""
    seen: dict[str, Tensor] = {}

    def taking(name: str) -> Any:
        def hook(_module: nn.Module, args: tuple[Any, ...]) -> None:
            seen[name] = args[0].detach()

        return hook

    handles = [
        model.get_submodule(path).register_forward_pre_hook(taking(path))
        for block in found(Decoders(), model)
        for path in block.projections.values()
    ]
    tiny.logits(model, tokens)
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(lambda: tiny.whole("llama", attention="eager"), id="llama-eager"),
        pytest.param(lambda: tiny.whole("mistral"), id="mistral"),
        pytest.param(lambda: tiny.whole("qwen2", tied=False), id="qwen2"),
        pytest.param(tiny.units, id="units"),
    ],
)
def test_blocks_see_what_they_see_in_the_whole_model(model: Any) -> None:
    """Norms, variances and Hessians of all inputs of all blocks are those of one forward over all windows."""
    net, tokens = model(), tiny.windows(7)
    blocks = found(Decoders(), net)
    wanted = inputs_of(net, tokens)
    with reading(net):
        stream = Stream(net, Decoders(), blocks, tokens)
        for number, block in enumerate(blocks):
            seen = stream.watch(net, number, block, hessian=True, onwards=True)
            assert set(seen) == set(READERS.values())
            for projection, path in block.projections.items():
                x, got = wanted[path].double(), seen[READERS[projection]]
                torch.testing.assert_close(got.norms, x.square().sum(1).mean(0), rtol=1e-4, atol=1e-6)
                flat = x.flatten(0, 1)
                torch.testing.assert_close(got.variances, flat.var(0, correction=0), rtol=1e-3, atol=1e-5)
                torch.testing.assert_close(got.hessian.double(), 2 / 7 * flat.T @ flat, rtol=1e-3, atol=1e-3)


def test_advancing_is_watching_onwards() -> None:
    """The next block sees the same, whether what went on was watched or not; watching alone moves nothing."""
    model = tiny.whole()
    blocks, tokens = found(Decoders(), model), tiny.windows(3)
    with reading(model):
        first, second = (Stream(model, Decoders(), blocks, tokens) for _ in range(2))
        first.watch(model, 0, blocks[0], hessian=False, onwards=True)
        second.watch(model, 0, blocks[0], hessian=False)
        second.advance(model, 0, blocks[0])
        seen = [s.watch(model, 1, blocks[1], hessian=False)["down"].squares for s in (first, second)]
    assert torch.equal(*seen)


def test_reading_leaves_modes_alone() -> None:
    """A model in training mode, parts of it not, comes back as it was; nothing has hooks."""
    model = tiny.units()
    model.train()
    model.get_submodule("head").eval()
    with reading(model):
        assert not any(module.training for module in model.modules())
        assert not torch.is_grad_enabled()
        blocks = found(Decoders(), model)
        Stream(model, Decoders(), blocks, tiny.windows(2)).watch(model, 0, blocks[0], hessian=False)
    assert model.training
    assert not model.get_submodule("head").training
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_windows_that_do_not_fit_are_the_users_error() -> None:
    """A unit list takes windows of at most its own length."""
    model = tiny.units()
    with pytest.raises(UserError, match=r"the model cannot take windows of 13 tokens .*; give it windows of its own"):
        Stream(model, Decoders(), found(Decoders(), model), tiny.windows(2, 13))
    with pytest.raises(UserError, match="with tokens of its vocabulary"):
        Stream(model, Decoders(), found(Decoders(), model), tiny.windows(2) + tiny.VOCABULARY)


def test_dead_features_are_those_never_other_than_zero() -> None:
    """Over all that was added."""
    inputs = Inputs(3, hessian=False, device=torch.device("cpu"))
    inputs.add(torch.tensor([[[0.0, 1.0, 0.0]]]))
    inputs.add(torch.tensor([[[0.0, 0.0, -2.0]]]))
    assert inputs.dead.tolist() == [True, False, False]
    assert inputs.norms.tolist() == [0.0, 0.5, 2.0]
