"""Windows that move over channels: a small case by hand, and that nothing is left out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim.payload.windows import Channels, Windows

SHAPES = {"a.weight": (5, 3), "a.bias": (5,), "b.weight": (4, 10), "c.weight": (2, 4)}
OUTPUTS = Channels(
    units=5,
    kept=3,
    places={  # b reads maps of two places, flattened
        ("a.weight", 0): np.arange(5)[:, None],
        ("a.bias", 0): np.arange(5)[:, None],
        ("b.weight", 1): np.arange(10).reshape(5, 2),
    },
)
HIDDEN = Channels(4, 2, {("b.weight", 0): np.arange(4)[:, None], ("c.weight", 1): np.arange(4)[:, None]})


def kept(windows: Windows, round: int, name: str) -> list[list[int] | None]:
    """The indices of each axis."""
    return [None if each is None else each.tolist() for each in windows.support(round).axes[name]]


def test_windows_by_hand() -> None:
    """Two channels further each round, modulo the width of each layer; readers of flattened maps follow."""
    windows = Windows((OUTPUTS, HIDDEN), SHAPES, step=2)
    rounds = [
        ([0, 1, 2], [0, 1]),
        ([2, 3, 4], [2, 3]),
        ([0, 1, 4], [0, 1]),  # 4, 0, 1
        ([1, 2, 3], [2, 3]),  # from 6 mod 5
    ]
    for round, (outputs, hidden) in enumerate(rounds):
        assert kept(windows, round, "a.weight") == [outputs, None]
        assert kept(windows, round, "a.bias") == [outputs]
        flat = [place for channel in outputs for place in (2 * channel, 2 * channel + 1)]
        assert kept(windows, round, "b.weight") == [hidden, flat]
        assert kept(windows, round, "c.weight") == [None, hidden]
        for name, shape in SHAPES.items():
            assert windows.support(round).shape(name, shape) == windows.support(0).shape(name, shape)


def test_a_round_is_made_once() -> None:
    """While it is the current one; those that are over are forgotten."""
    windows = Windows((OUTPUTS,), SHAPES, step=1)
    assert windows.support(7) is windows.support(7)
    assert windows.support(7) == windows.support(2)
    for round in range(20):
        windows.support(round)
    assert len(windows._recent) == 2


def test_a_window_is_in_the_order_of_its_channels() -> None:
    """Also where it goes on with the first behind the last."""
    assert Channels(8, 3, {}).window(6).tolist() == [0, 6, 7]


@st.composite
def moving(draw: st.DrawFn) -> tuple[list[Channels], dict[str, tuple[int, ...]], int]:
    """Layers in a chain, windows, and a step that none is narrower than."""
    widths = draw(st.lists(st.integers(1, 12), min_size=1, max_size=4))
    counts = [draw(st.integers(1, width)) for width in widths]
    step = draw(st.integers(1, min(counts)))
    shapes: dict[str, tuple[int, ...]] = {f"{n}": (width, 3) for n, width in enumerate([*widths, 2])}
    found = []
    for n, (width, count) in enumerate(zip(widths, counts, strict=True)):
        places = np.random.default_rng(width).permutation(width)[:, None]
        found.append(Channels(width, count, {(f"{n}", 0): places}))
    return found, shapes, step


@given(moving())
def test_every_channel_has_its_turn(case: tuple[list[Channels], dict[str, tuple[int, ...]], int]) -> None:
    """Of every axis, after as many rounds as steps make up its width; and all rounds have as many."""
    channels, shapes, step = case
    windows = Windows(channels, shapes, step)
    for each in channels:
        assert each.rounds(step) == -(-each.units // step)
        seen: set[int] = set()
        for round in range(each.rounds(step)):
            ((name, axis),) = each.places
            inside = windows.support(round).axes[name][axis]
            assert inside is not None
            assert len(inside) == each.kept
            seen.update(inside.tolist())
        assert seen == set(range(each.units))


@pytest.mark.parametrize("start", [0, 3, 11])
def test_wider_windows_hold_narrower_ones(start: int) -> None:
    """They begin at the same channel, so variants stay nested."""
    narrow, wide = (Channels(8, kept, {}).window(start) for kept in (3, 5))
    assert set(narrow) <= set(wide)
