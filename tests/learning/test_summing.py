"""The running mean: one order of additions, whoever comes first."""

from __future__ import annotations

import weakref
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.learning.summing import RunningMean
from fedsim.learning.sums import run_length
from fedsim.payload.meta import Shape
from fedsim.payload.tensors import FlatTensors, Layout

LAYOUT = Layout((Shape("w", (37,)), Shape("b", (3, 2)), Shape("n", (), "int64"), Shape("d", (4,), "float64")))


def member(number: int) -> FlatTensors:
    """Made-up tensors of one member."""
    rng = torch.Generator().manual_seed(number)
    flat = LAYOUT.zeros()
    flat.fill_(
        {
            "w": torch.randn(37, generator=rng),
            "b": torch.randn((3, 2), generator=rng),
            "n": torch.tensor((number * 7) % 11),
            "d": torch.randn(4, generator=rng, dtype=torch.float64),
        }
    )
    return flat


def mean(expected: Sequence[int], order: Sequence[int], weights: dict[int, int]) -> FlatTensors:
    """The mean of members that come in `order`."""
    running = RunningMean(LAYOUT, expected)
    for number in order:
        running.add(number, member(number), weights[number])
    return running.result()


@settings(max_examples=40)
@given(st.data())
def test_any_order_of_arrival_gives_the_same_bits(data: st.DataObject) -> None:
    """With any members missing, any weights; and the value is that of NumPy in float64."""
    expected = sorted(data.draw(st.sets(st.integers(0, 99), min_size=1, max_size=30)))
    came = data.draw(st.lists(st.sampled_from(expected), min_size=1, unique=True))
    weights = {n: data.draw(st.integers(1, 5000)) for n in expected}
    ours = mean(expected, came, weights)
    again = mean(expected, sorted(came), weights)
    assert all(a.equal(b) for a, b in zip(ours.buffers, again.buffers, strict=True))
    total = sum(weights[n] for n in came)
    for name, tensor in ours.named().items():
        values = {n: member(n).named()[name].numpy() for n in came}
        if name == "n":
            assert int(tensor) == max(int(v) for v in values.values())
            continue
        reference = sum(np.float64(weights[n]) * values[n].astype(np.float64) for n in came) / total
        scale = max(float(np.abs(v).max()) for v in values.values())
        error = float(np.abs(tensor.numpy() - reference).max()) / scale
        assert error < (1e-15 if tensor.dtype == torch.float64 else 1e-6) * 4


def test_the_order_is_runs_of_eight_then_the_runs() -> None:
    """Written out by hand for ninety-one members."""
    numbers = list(range(0, 273, 3))
    weights = {n: n + 1 for n in numbers}
    sums = []
    for start in range(0, len(numbers), 8):
        first, *rest = numbers[start : start + 8]
        total = member(first).named()["w"] * weights[first]
        for n in rest:
            total = torch.add(total, member(n).named()["w"], alpha=weights[n])
        sums.append(total)
    total = sums[0].clone()
    for each in sums[1:]:
        total += each
    by_hand = total / sum(weights.values())
    assert run_length(len(numbers)) == 8
    assert mean(numbers, numbers[::-1], weights).named()["w"].equal(by_hand)


def test_no_member_is_changed_and_padding_stays_zero() -> None:
    """Weights that came in may be someone else's too."""
    given_in = {n: member(n) for n in range(10)}
    running = RunningMean(LAYOUT, range(10))
    for n, value in given_in.items():
        running.add(n, value, 3)
    result = running.result()
    for n, value in given_in.items():
        assert all(a.equal(b) for a, b in zip(value.buffers, member(n).buffers, strict=True))
        assert all(a.data_ptr() != b.data_ptr() for a, b in zip(value.buffers, result.buffers, strict=True))
    views = torch.cat([v.flatten() for name, v in result.named().items() if name in "wb"])
    assert float(result.buffers[0].abs().sum()) == pytest.approx(float(views.abs().sum()), rel=1e-6)
    assert int((result.buffers[0] != 0).sum()) == 43


def test_one_member_alone_is_its_own_mean() -> None:
    """Exactly, where its weight is a power of two, and integers always."""
    result = mean([4, 9], [9], {9: 64})
    assert all(a.equal(b) for a, b in zip(result.buffers, member(9).buffers, strict=True))


def test_only_early_members_are_held() -> None:
    """In order, none is kept; the first of a run that is late keeps the others of its run only."""
    running = RunningMean(LAYOUT, range(80))
    alive: list[weakref.ref[torch.Tensor]] = []

    def add(number: int) -> int:
        value = member(number)
        alive.append(weakref.ref(value.buffers[0]))
        running.add(number, value, 1)
        del value
        return sum(ref() is not None for ref in alive)

    assert [add(n) for n in range(5)] == [0] * 5
    assert [add(n) for n in (9, 10, 11)] == [1, 2, 3]
    assert [add(n) for n in range(16, 24)] == [3] * 8
    assert [add(n) for n in (5, 8)] == [3, 0]


@pytest.mark.parametrize(
    ("numbers", "weight", "message"),
    [
        ([3, 3], 1, "member 3 is not expected, or came before"),
        ([4], 1, "member 4 is not expected, or came before"),
        ([3], 0, "weight 0 of member 3"),
        ([], 1, "a mean of nothing"),
    ],
)
def test_mistakes_of_schedulers_raise(numbers: list[int], weight: int, message: str) -> None:
    """A member that comes twice would be counted twice."""

    def use() -> None:
        running = RunningMean(LAYOUT, [2, 3])
        for number in numbers:
            running.add(number, member(number), weight)
        running.result()

    with pytest.raises(AssertionError, match=message):
        use()


def test_a_mean_of_another_layout_is_refused() -> None:
    """Tensors of another block never add up in silence."""
    with pytest.raises(AssertionError, match="weights of another block"):
        RunningMean(Layout((Shape("w", (37,)),)), [1]).add(1, member(1), 1)


def test_runs_are_short_where_members_are_few() -> None:
    """So that two workers can have half of ten, of fifty and of a thousand."""
    assert [run_length(n) for n in (0, 1, 10, 11, 50, 80, 1000)] == [1, 1, 1, 2, 5, 8, 8]
