"""Windows over a network: what they are made of, and what cannot be moved."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedsim.errors import UserError
from fedsim.payload.supports import Axes, Support
from fedsim.pruning.rolling import windows

SOME = np.array([0, 2, 5])
EXAMPLE = torch.zeros(2, 4)


def network() -> nn.Module:
    """Six hidden channels between four inputs and three classes."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))


def support(readers: Axes = (None, SOME)) -> Support:
    """Three of the channels, and what the layer behind them keeps."""
    return Support({"0.weight": (SOME, None), "0.bias": (SOME,), "2.weight": readers, "2.bias": (None,)})


def test_the_hidden_channels_move() -> None:
    """As many as are kept, whichever these are; classes and inputs stay."""
    made = windows(network(), support(), EXAMPLE, protected=("2",), step=2)
    for round, expected in enumerate(([0, 1, 2], [2, 3, 4], [0, 4, 5])):
        axes = made.support(round).axes
        hidden, inputs = axes["0.weight"]
        assert inputs is None
        assert hidden is not None
        assert hidden.tolist() == expected
        classes, read = axes["2.weight"]
        assert classes is None
        assert read is not None
        assert read.tolist() == expected


@pytest.mark.parametrize(
    ("held", "example", "step", "message"),
    [
        (support((None, None)), EXAMPLE, 1, "what 2.weight keeps is not these; leave windows out"),
        (support(), torch.zeros(2, 4, dtype=torch.int64), 1, "for networks on images or vectors, and this one takes"),
        (Support(masks={"0.weight": np.ones((6, 4), bool)}), EXAMPLE, 1, "but this method sets weights to zero"),
        (support(), EXAMPLE, 4, "window_step 4 is more than the 3 channels that 0 keeps"),
    ],
)
def test_what_cannot_be_moved_is_refused(held: Support, example: Tensor, step: int, message: str) -> None:
    """Parts that are not channels, tokens, zeros, and steps over channels."""
    with pytest.raises(UserError, match=message):
        windows(network(), held, example, protected=("2",), step=step)


def test_steps_as_wide_as_the_window_are_the_widest() -> None:
    """No channel is left out."""
    assert windows(network(), support(), EXAMPLE, protected=("2",), step=3).step == 3
