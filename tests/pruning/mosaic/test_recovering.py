"""Recovery: a pruned model learns, and its zeros stay."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedsim.errors import UserError
from fedsim.pruning.mosaic import Mosaic, Recovery, prune, rank, recover
from fedsim.pruning.mosaic.evaluating import quality
from fedsim.pruning.mosaic.recovering import LowRank
from fedsim.pruning.pruned import Pruned, fingerprint
from tests.pruning.mosaic import tiny

pytestmark = pytest.mark.slow  # transformers takes seconds to import

KINDS: tuple[Literal["lora", "full"], ...] = ("lora", "full")


def cut(model: Any, alpha: float = 0.5, **options: Any) -> Pruned:
    """A smaller, sparser model."""
    told = Mosaic(sparsity=0.5, alpha=alpha, **options)
    made, _ = prune(model, rank(model, tiny.windows()), told, tiny.windows())
    return made


@pytest.mark.parametrize("model", [tiny.whole, tiny.units])
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_and_zeros_stay(kind: Literal["lora", "full"], alpha: float, model: Any) -> None:
    """Loss goes down; every masked weight is plus zero, bit by bit; the pruned model itself is as it was."""
    pruned = cut(model(), alpha)
    before = fingerprint(pruned.module)
    required = [parameter.requires_grad for parameter in pruned.module.parameters()]
    found = recover(pruned, tiny.windows(), Recovery(kind=kind, lr=0.01, epochs=4))
    first, last = (quality(each.module, tiny.windows()).loss for each in (pruned, found))
    assert last < first - 0.05
    losses = found.realised["recovery"]["losses"]
    assert len(losses) == 4
    assert losses[-1] < losses[0]
    assert found.realised["recovery"]["steps"] == 12
    assert bool(pruned.support.masks) is (alpha < 1)
    state = found.module.state_dict()
    for name, mask in pruned.support.masks.items():
        gone = state[name][torch.from_numpy(~mask)]
        assert gone.numel()
        assert not gone.view(torch.int32).any()
    assert found.support == pruned.support
    assert fingerprint(pruned.module) == before
    assert [parameter.requires_grad for parameter in found.module.parameters()] == required
    assert {name: tensor.shape for name, tensor in state.items()} == {
        name: tensor.shape for name, tensor in pruned.module.state_dict().items()
    }
    assert [type(part) for part in found.module.modules()] == [type(part) for part in pruned.module.modules()]


def test_products_change_projections_alone_and_by_their_rank() -> None:
    """Without masks, the change of a weight has the rank of the products; nothing else changes."""
    pruned = cut(tiny.whole(), 1.0)
    found = recover(pruned, tiny.windows(), Recovery(lr=0.01, rank=2))
    before, after = pruned.module.state_dict(), found.module.state_dict()
    changed = {name for name in before if not before[name].equal(after[name])}
    assert changed == set(tiny.projected(pruned.module))
    assert changed <= set(found.updated)
    for name in changed:
        values = torch.linalg.svdvals((after[name] - before[name]).double())
        assert values[1] > 100 * values[2]


def test_merged_weights_are_the_effective_ones() -> None:
    """What is trained is mask * (W + scale * B A): of the same values, the merged layer gives the same."""
    rng = torch.Generator().manual_seed(2)
    linear = nn.Linear(6, 5, bias=False)
    weight = torch.randn(5, 6, generator=rng)
    mask = torch.rand(5, 6, generator=rng) > 0.5
    beside = LowRank(weight, mask, Recovery(rank=3, scale=2.0), rng)
    assert beside(weight).equal(torch.where(mask, weight, 0)), "no change at first"
    with torch.no_grad():
        beside.b.copy_(torch.randn(5, 3, generator=rng))
        linear.weight.copy_(weight)
        expected = mask * (weight + 2.0 * beside.b @ beside.a)
    torch.nn.utils.parametrize.register_parametrization(linear, "weight", beside)
    x = torch.randn(4, 6, generator=rng)
    out = linear(x)
    torch.testing.assert_close(out, x @ expected.T)
    torch.nn.utils.parametrize.remove_parametrizations(linear, "weight")
    assert linear(x).equal(out)
    assert (linear.weight == 0).equal(~mask)


def test_full_training_reaches_everything() -> None:
    """Embedding and norms, too; what is tied stays tied, and is listed under both names."""
    pruned = cut(tiny.whole(tied=True))
    found = recover(pruned, tiny.windows(), Recovery(kind="full", lr=0.01))
    module: Any = found.module
    assert module.lm_head.weight is module.model.embed_tokens.weight
    assert not module.lm_head.weight.equal(pruned.module.get_parameter("lm_head.weight"))
    assert set(found.updated) == set(module.state_dict())


@pytest.mark.parametrize("kind", KINDS)
def test_only_what_is_in_scope(kind: Literal["lora", "full"]) -> None:
    """Other blocks, embedding and head stay."""
    pruned = cut(tiny.units(), scope=("block1",))
    found = recover(pruned, tiny.windows(), Recovery(kind=kind, lr=0.01))
    before, after = pruned.module.state_dict(), found.module.state_dict()
    changed = {name for name in before if not before[name].equal(after[name])}
    assert changed
    assert {name.split(".")[0] for name in changed} == {"block1"}


def test_the_same_seed_gives_the_same() -> None:
    """And another one another model."""
    pruned = cut(tiny.whole())
    first, again, other = (recover(pruned, tiny.windows(), Recovery(lr=0.01, seed=seed)) for seed in (0, 0, 1))
    assert fingerprint(first.module) == fingerprint(again.module)
    assert fingerprint(first.module) != fingerprint(other.module)


def test_a_loss_that_is_none() -> None:
    """The way out is said."""
    pruned = cut(tiny.units())
    with torch.no_grad():
        pruned.module.get_parameter("embedding.weight")[3] = float("nan")
    with pytest.raises(UserError, match="the loss is nan in epoch 1 of recovery; lower lr"):
        recover(pruned, tiny.windows())


@pytest.mark.parametrize(("kind", "batch"), [("full", 6), ("lora", 12)])
def test_a_last_step_that_goes_wrong(kind: Any, batch: int) -> None:
    """The model that would come back predicts nothing."""
    pruned = cut(tiny.whole())
    with pytest.raises(UserError, match="the loss is nan in epoch 1 of recovery; lower lr"):
        recover(pruned, tiny.windows(), Recovery(kind=kind, lr=1e30, epochs=1, batch=batch))


def test_stored_and_read_again(tmp_path: Any) -> None:
    """A recovered model goes to a folder as any other does."""
    from fedsim.pruning.counting import counts
    from fedsim.pruning.skeletons import transformers_base
    from fedsim.pruning.storing import read, write

    model = tiny.whole()
    pruned, checks = prune(model, rank(model, tiny.windows()), Mosaic(alpha=0.5), tiny.windows())
    found = recover(pruned, tiny.windows(), Recovery(lr=0.01))
    example = {"input_ids": tiny.windows(1), "use_cache": False}
    sizes = counts(found.module, example, found.support)
    write(tmp_path / "small", found, checks, transformers_base(model), sizes)
    assert fingerprint(read(tmp_path / "small").module) == fingerprint(found.module)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "rank 0 must be 1 or more"),
        ({"epochs": 0}, "epochs 0 must be 1 or more"),
        ({"batch": 0}, "batch 0 must be 1 or more"),
        ({"lr": 0.0}, "lr 0.0 must be above 0"),
        ({"scale": -1.0}, "scale -1.0 must be above 0"),
        ({"clip": 0.0}, "clip 0.0 must be above 0"),
    ],
)
def test_what_recovery_cannot_be_told(options: Any, message: str) -> None:
    """Sizes below one, and rates that are none."""
    with pytest.raises(ValueError, match=message):
        Recovery(**options)


def test_full_training_is_a_plain_loop() -> None:
    """Adam on the mean next-token loss; gradients are masked, then clipped all together, and weights masked after."""
    pruned = cut(tiny.whole())
    told = Recovery(kind="full", epochs=3, batch=tiny.WINDOWS, lr=0.003, clip=0.05)
    found = recover(pruned, tiny.windows(), told)
    plain: Any = deepcopy(pruned.module).train()
    named = dict(plain.named_parameters())
    masks = {name: torch.from_numpy(mask) for name, mask in pruned.support.masks.items()}
    optimizer = torch.optim.Adam(plain.parameters(), lr=0.003)
    tokens, losses = tiny.windows(), []
    for _ in range(3):
        logits = plain(tokens).logits[:, :-1]
        loss = cross_entropy(logits.reshape(-1, tiny.VOCABULARY), tokens[:, 1:].reshape(-1))
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        for name, mask in masks.items():
            gradient = named[name].grad
            assert gradient is not None
            gradient *= mask
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.05)
        optimizer.step()
        with torch.no_grad():
            for name, mask in masks.items():
                named[name] *= mask
    assert found.realised["recovery"]["losses"] == pytest.approx(losses, rel=1e-5)
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(found.module.state_dict()[name], tensor, rtol=1e-4, atol=1e-6)


def test_epochs_have_all_windows_in_orders_of_their_own() -> None:
    """Each window once an epoch, of 12 in batches of 5, 5 and 2; an epoch's loss is the mean over its windows."""
    pruned = cut(tiny.whole())
    plain: Any = deepcopy(pruned.module).train()
    seen: list[Tensor] = []
    embedding = pruned.module.get_submodule("model.embed_tokens")
    embedding.register_forward_pre_hook(lambda _, given: seen.append(given[0].clone()))
    found = recover(pruned, tiny.windows(), Recovery(kind="full", epochs=3, batch=5, lr=0.003))
    del seen[-1]  # a look at what the last step has made
    assert [len(batch) for batch in seen] == [5, 5, 2] * 3
    epochs = [torch.cat(seen[first : first + 3]).tolist() for first in (0, 3, 6)]
    assert [sorted(epoch) for epoch in epochs] == [sorted(tiny.windows().tolist())] * 3
    assert len({str(epoch) for epoch in [*epochs, tiny.windows().tolist()]}) == 4
    masks = {name: torch.from_numpy(mask) for name, mask in pruned.support.masks.items()}
    optimizer = torch.optim.Adam(plain.parameters(), lr=0.003)
    losses: list[float] = []
    for batch in seen:
        logits = plain(batch).logits[:, :-1]
        each = cross_entropy(logits.transpose(1, 2), batch[:, 1:], reduction="none").mean(1)
        losses += each.tolist()
        optimizer.zero_grad()
        each.mean().backward()
        for name, mask in masks.items():
            plain.get_parameter(name).grad *= mask
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        optimizer.step()
    means = [sum(losses[first : first + 12]) / 12 for first in (0, 12, 24)]
    assert found.realised["recovery"]["losses"] == pytest.approx(means, rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_minus_zeros_become_zeros(kind: Literal["lora", "full"]) -> None:
    """Negative weights times a mask are minus zero; what is read from a file of masks is plus zero, bit by bit."""
    pruned = cut(tiny.whole())
    module = deepcopy(pruned.module)
    masks = {name: torch.from_numpy(mask) for name, mask in pruned.support.masks.items()}
    with torch.no_grad():
        for name, mask in masks.items():
            module.get_parameter(name)[~mask] = -0.0
    state = recover(replace(pruned, module=module), tiny.windows(), Recovery(kind=kind)).module.state_dict()
    assert not any(state[name][~mask].signbit().any() for name, mask in masks.items())


def test_products_begin_as_lora_says() -> None:
    """One factor even within 1 / sqrt(inputs), as in linear layers of torch; the other zero."""
    beside = LowRank(torch.zeros(9, 400), None, Recovery(rank=8), torch.Generator().manual_seed(0))
    first = beside.a.detach()
    assert first.shape == (8, 400)
    assert first.min().item() == pytest.approx(-0.05, rel=0.01)
    assert first.max().item() == pytest.approx(0.05, rel=0.01)
    assert first.std().item() == pytest.approx(0.05 / 3**0.5, rel=0.05)
    assert not beside.b.any()
