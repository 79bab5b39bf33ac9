"""How many heads and channels blocks keep."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim.errors import UserError
from fedsim.pruning.mosaic.adapters import PROJECTIONS, Block
from fedsim.pruning.mosaic.widths import Rules, Width, whole, widths

RULES = Rules(kv_unit="group", round_to=8, most=0.95, uniform=False)


def block(channels: int = 128, kv_heads: int = 4, repeats: int = 2) -> Block:
    """Of width 64 and head size 8."""
    return Block(
        name="b",
        attention="b.self_attn",
        projections={p: f"b.{p}_proj" for p in PROJECTIONS},
        heads=kv_heads * repeats,
        kv_heads=kv_heads,
        head_size=8,
        width=64,
        channels=channels,
    )


def rules(**changed: Any) -> Rules:
    """The usual ones but for some."""
    return replace(RULES, **changed)


def removed(blocks: list[Block], made: tuple[Width, ...]) -> float:
    """The share of all weights."""
    before = sum(whole(b).total(b) for b in blocks)
    return 1 - sum(width.total(b) for width, b in zip(made, blocks, strict=True)) / before


def test_totals_by_hand() -> None:
    """q and o by query heads, k and v by groups, the MLP by channels."""
    one = block()
    assert whole(one).total(one) == 64 * (2 * 64 + 2 * 32 + 3 * 128)
    assert Width(kv_heads=3, repeats=1, channels=40).total(one) == 64 * (2 * 24 + 2 * 24 + 3 * 40)
    assert whole(one).total(one) == sum(one.elements(p) for p in PROJECTIONS)


def test_attention_goes_first_and_mlps_absorb_the_rest() -> None:
    """At 30 %, 2.8 of 4 groups are 3; the MLPs lose more than 30 % for it."""
    blocks = [block(), block()]
    made = widths(blocks, [True, True], np.full((2, 7), 0.3), 0.3, RULES)
    assert [width.kv_heads for width in made] == [3, 3]
    total = whole(blocks[0]).total(blocks[0]) * 2
    left = 0.3 * total - 2 * 64 * (2 * 16 + 2 * 8)
    assert sum(128 - width.channels for width in made) == pytest.approx(left / (3 * 64), abs=4)
    assert max(width.channels for width in made) < 0.7 * 128


def test_shares_lead_the_way() -> None:
    """A block that a policy wants less of gets fewer groups and channels."""
    shares = np.array([[0.7] * 7, [0.3] * 7])
    first, second = widths([block(), block()], [True, True], shares, 0.5, RULES)
    assert first.kv_heads < second.kv_heads
    assert first.channels < second.channels


def test_single_query_heads_leave_keys_and_values() -> None:
    """The same number of every group goes; q and o alone lead the way."""
    shares = np.array([[0.5, 0.0, 0.0, 0.5, 0.3, 0.3, 0.3]])
    (made,) = widths([block(repeats=4)], [True], shares, 0.3, rules(kv_unit="query_head"))
    assert (made.kv_heads, made.repeats) == (4, 2)


def test_spared_blocks_stay_whole_and_others_lose_more() -> None:
    """The total is the same."""
    blocks = [block() for _ in range(4)]
    made = widths(blocks, [False, True, True, False], np.full((4, 7), 0.3), 0.3, RULES)
    assert made[0] == made[3] == whole(blocks[0])
    assert removed(blocks, made) == pytest.approx(0.3, abs=0.01)
    assert made[1].kv_heads == 2  # of 60 % to remove, not 30


def test_uniform_widths_are_uniform() -> None:
    """Whatever the shares; to within half a step of all blocks."""
    blocks = [block() for _ in range(3)]
    made = widths(blocks, [True] * 3, np.array([[0.2] * 7, [0.5] * 7, [0.8] * 7]), 0.5, rules(uniform=True))
    assert len(set(made)) == 1
    step = 3 * 8 * 3 * 64 / sum(whole(b).total(b) for b in blocks)
    assert abs(removed(blocks, made) - 0.5) <= step / 2 + 1e-9
    with pytest.raises(UserError, match="uniform_widths: this model's blocks differ in width already"):
        widths([block(), block(channels=64)], [True] * 2, np.full((2, 7), 0.5), 0.5, rules(uniform=True))


@pytest.mark.slow
@given(
    st.lists(st.floats(0.05, 0.95), min_size=7, max_size=35),
    st.lists(st.sampled_from([40, 100, 128, 520]), min_size=5, max_size=5),
    st.floats(0.1, 0.6),
    st.sampled_from(["group", "query_head"]),
    st.sampled_from([1, 8]),
)
def test_totals_are_the_target_to_half_a_step(
    values: list[float], channels: list[int], target: float, kv_unit: Any, round_to: int
) -> None:
    """For any shares and widths: within half a step, or refused with another share that is within reach."""
    count = len(values) // 7
    shares = np.array(values[: count * 7]).reshape(count, 7)
    blocks = [block(size) for size in channels[:count]]
    try:
        made = widths(blocks, [True] * count, shares, target, rules(kv_unit=kv_unit, round_to=round_to))
    except UserError as error:
        matched = re.search(r"the nearest share that can is ([\d.]+)%", str(error))
        nearest = float(matched[1]) / 100 if matched else target
        assert abs(nearest - target) > 0.001
        return
    step = round_to * 3 * 64 / sum(whole(b).total(b) for b in blocks)
    assert abs(removed(blocks, made) - target) <= step / 2 + 1e-3
    for width, one in zip(made, blocks, strict=True):
        assert 1 <= width.kv_heads <= one.kv_heads
        assert 1 <= width.repeats <= one.repeats
        assert width.channels % round_to == 0 or width.channels == one.channels


def test_the_nearest_reachable_share_is_said() -> None:
    """Too much for what has to stay; too little for one step."""
    blocks = [block(), block()]
    smallest = Width(kv_heads=1, repeats=2, channels=8)
    share = removed(blocks, (smallest, smallest))
    with pytest.raises(UserError, match=f"92.00% of the decoder blocks' .*the nearest share that can is {share:.2%}: "):
        widths(blocks, [True, True], np.full((2, 7), 0.92), 0.92, RULES)
    with pytest.raises(UserError, match=r"0.10% of .*the nearest share that can is 0.00%"):
        widths(blocks, [True, True], np.full((2, 7), 0.001), 0.001, RULES)
    with pytest.raises(UserError, match=r"30.00% of .*the nearest share that can is 0.00%.*protect fewer blocks"):
        widths(blocks, [False, False], np.full((2, 7), 0.3), 0.3, RULES)


def test_nothing_asked_for_is_nothing_cut() -> None:
    """Whatever the shares."""
    assert widths([block()], [True], np.full((1, 7), 0.5), 0.0, RULES) == (whole(block()),)
