"""Pruners of one matrix, against slow and plain ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedsim.errors import UserError
from fedsim.pruning.mosaic.options import Mosaic
from fedsim.pruning.mosaic.pruners import Magnitude, SparseGpt, Wanda, lowest, pruner
from fedsim.pruning.mosaic.streaming import Inputs


def drawn(rows: int, columns: int, seed: int = 0, tokens: int = 60) -> tuple[Tensor, Inputs]:
    """A matrix and correlated inputs in float64; the Hessian is float32."""
    rng = torch.Generator().manual_seed(seed)
    inputs = Inputs(columns, hessian=True, device=torch.device("cpu"))
    mixing = torch.eye(columns) + 0.5 * torch.randn(columns, columns, generator=rng) / columns**0.5
    scales = torch.rand(columns, generator=rng) * 3 + 0.2
    inputs.add(torch.randn(3, tokens, columns, generator=rng) @ mixing * scales)
    return torch.randn(rows, columns, generator=rng, dtype=torch.float64), inputs


def plain_sparsegpt(
    weight: Tensor, hessian: Tensor, sparsity: float, columns: int, damping: float
) -> tuple[Tensor, Tensor]:
    """Column by column with the inverse Hessian of what is right of it, got by elimination; no Cholesky factor.

    What a column's error changes is the whole rest at once; thresholds are those of blocks of columns, as they are
    when the block begins.
    """
    made, total = weight.clone(), weight.shape[1]
    damped = hessian.double().tril() + hessian.double().tril(-1).T  # exactly symmetric, which float32 sums are not
    damped += torch.diag(damping * damped.diagonal().mean().expand(total))
    remaining = damped.inverse()
    errors_cost = torch.empty(total, dtype=torch.float64)
    inverse = remaining.clone()
    for j in range(total):  # what each column's error costs, once all to the left are done
        errors_cost[j] = inverse[j, j]
        inverse = inverse - torch.outer(inverse[:, j], inverse[j]) / inverse[j, j]
    keep = torch.ones_like(weight, dtype=torch.bool)
    gone = 0
    for j in range(total):
        if j % columns == 0:
            last = min(j + columns, total)
            part = made[:, j:last].square() / errors_cost[j:last]
            count = round(sparsity * len(weight) * last) - gone
            gone += count
            order = part.flatten().argsort()[:count]
            flat = torch.ones(part.numel(), dtype=torch.bool)
            flat[order] = False
            keep[:, j:last] = flat.reshape(part.shape)
        wanted = torch.where(keep[:, j], made[:, j], 0.0)
        step = (made[:, j] - wanted) / remaining[j, j]
        made[:, j:] -= torch.outer(step, remaining[j, j:])
        made[:, j] = wanted
        remaining = remaining - torch.outer(remaining[:, j], remaining[j]) / remaining[j, j]
    return made, keep


@pytest.mark.parametrize(("rows", "columns", "block"), [(6, 20, 8), (5, 16, 16), (7, 13, 4), (3, 9, 100)])
@pytest.mark.parametrize("sparsity", [0.3, 0.7])
def test_sparsegpt_is_the_plain_algorithm(rows: int, columns: int, block: int, sparsity: float) -> None:
    """The same zeros, and the same weights to 1e-9, as elimination column by column in float64."""
    weight, inputs = drawn(rows, columns, seed=rows)
    before = weight.clone()
    made, mask = SparseGpt(columns=block, damping=0.01)(weight, inputs, sparsity)
    wanted, keep = plain_sparsegpt(weight, inputs.hessian, sparsity, block, 0.01)
    assert torch.equal(mask, keep)
    torch.testing.assert_close(made, wanted, rtol=1e-9, atol=1e-9)
    assert torch.equal(weight, before)


def test_sparsegpt_errs_less_than_wanda_and_magnitude() -> None:
    """In the outputs on the calibration inputs, which is what it minimises."""
    weight, inputs = drawn(24, 48)
    hessian = inputs.hessian.double()

    def error(made: Tensor) -> float:
        return float(((made - weight) @ hessian * (made - weight)).sum())

    errors = [error(rule(weight, inputs, 0.5)[0]) for rule in (SparseGpt(columns=16), Wanda(), Magnitude())]
    assert errors[0] < 0.8 * errors[1] < 0.8 * errors[2]


@pytest.mark.slow
@given(st.integers(1, 9), st.integers(1, 40), st.floats(0, 0.95), st.sampled_from([1, 7, 16, 128]), st.integers(0, 5))
def test_counts_are_exact(rows: int, columns: int, sparsity: float, block: int, seed: int) -> None:
    """As many zeros as the share says, to the nearest weight; what is masked is zero, what is not stays or is moved."""
    weight, inputs = drawn(rows, columns, seed)
    rules: tuple[Any, ...] = (SparseGpt(columns=block), Wanda(), Magnitude())
    for rule in rules:
        made, mask = rule(weight, inputs, sparsity)
        assert int((~mask).sum()) == round(sparsity * weight.numel())
        assert not made[~mask].any()
    for rule in rules[1:]:
        made, mask = rule(weight, inputs, sparsity)
        assert torch.equal(made[mask], weight[mask])


def test_wanda_compares_within_rows() -> None:
    """Each row loses its lowest; of two rows with a weight to lose, the one to whom it means least."""
    inputs = Inputs(3, hessian=False, device=torch.device("cpu"))
    inputs.add(torch.tensor([[[1.0, 2.0, 3.0]]]))
    weight = torch.tensor([[3.0, 1.0, 2.0], [9.0, 8.0, 1.0]])  # metric 3 2 6, 9 16 3
    assert Wanda()(weight, inputs, 2 / 6)[0].tolist() == [[3.0, 0.0, 2.0], [9.0, 8.0, 0.0]]
    assert Wanda()(weight, inputs, 3 / 6)[0].tolist() == [[0.0, 0.0, 2.0], [9.0, 8.0, 0.0]]


def test_magnitude_has_one_threshold() -> None:
    """For the matrix, not for rows."""
    weight = torch.tensor([[3.0, -1.0, 2.0], [9.0, -8.0, 7.0]])
    made, _ = Magnitude()(weight, Inputs(3, hessian=False, device=torch.device("cpu")), 0.5)
    assert made.tolist() == [[0.0, 0.0, 0.0], [9.0, -8.0, 7.0]]


@pytest.mark.parametrize("pattern", [(2, 4), (1, 4), (4, 8)])
def test_patterns_hold_in_every_group(pattern: tuple[int, int]) -> None:
    """n of m consecutive weights of each row are zero, with both pruners."""
    weight, inputs = drawn(6, 32)
    for rule in (SparseGpt(columns=16, pattern=pattern), Wanda(pattern=pattern)):
        made, mask = rule(weight, inputs, pattern[0] / pattern[1])
        zeros = (~mask).reshape(6, -1, pattern[1]).sum(-1)
        assert (zeros == pattern[0]).all()
        assert not made[~mask].any()


def test_patterns_choose_by_what_an_error_costs() -> None:
    """Without correlations: by weight times input, in either pruner."""
    inputs = Inputs(4, hessian=True, device=torch.device("cpu"))
    inputs.add(torch.diag(torch.tensor([1.0, 4.0, 1.0, 4.0]))[None])
    weight = torch.tensor([[3.0, 1.0, 2.0, 1.5]])
    for rule in (SparseGpt(pattern=(2, 4), damping=1e-6), Wanda(pattern=(2, 4))):
        made, _ = rule(weight, inputs, 0.5)
        assert (made == 0).tolist() == [[True, False, True, False]]


def test_inputs_that_are_always_zero_lose_their_weights() -> None:
    """Their weights go first, and all of them; the rest makes up for the count where it can."""
    weight, inputs = drawn(4, 8)
    dead = Inputs(8, hessian=True, device=torch.device("cpu"))
    x = torch.randn(2, 30, 8, generator=torch.Generator().manual_seed(1))
    x[:, :, [2, 5]] = 0
    dead.add(x)
    made, mask = SparseGpt(columns=4)(weight, dead, 0.5)
    assert not mask[:, [2, 5]].any()
    assert not made[:, [2, 5]].any()
    assert int((~mask).sum()) == 16
    _, mask = SparseGpt(columns=4)(weight, dead, 0.1)
    assert int((~mask).sum()) == 8
    assert made.isfinite().all()
    del inputs


def test_of_equal_scores_the_first_go() -> None:
    """So that counts are exact and the same everywhere."""
    scores = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    assert lowest(scores, 3).tolist() == [[True, True], [True, False]]
    assert not lowest(scores, 0).any()
    assert lowest(scores, 4).all()


class Everything:
    """A pruner of somebody's own, which leaves nothing."""

    hessian = False

    def __call__(self, weight: Tensor, inputs: Inputs, sparsity: float) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(weight), torch.zeros_like(weight, dtype=torch.bool)


def test_pruners_by_name() -> None:
    """With their options, or somebody's own."""
    assert pruner(Mosaic(columns=64, damping=0.1)) == SparseGpt(columns=64, damping=0.1)
    assert pruner(Mosaic(pruner="wanda", policy="uniform", pattern="2:4")) == Wanda(pattern=(2, 4))
    assert pruner(Mosaic(pruner="magnitude")) == Magnitude()
    assert isinstance(pruner(Mosaic(pruner=f"{__name__}:Everything")), Everything)
    with pytest.raises(UserError, match="has no 'Nothing'"):
        pruner(Mosaic(pruner=f"{__name__}:Nothing"))
