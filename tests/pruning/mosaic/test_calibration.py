"""Calibration windows."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from fedsim.errors import UserError
from fedsim.pruning.mosaic.calibration import Calibration, calibrated, drawn


def test_windows_are_parts_of_the_text_by_seed() -> None:
    """Every window is a run of the text's tokens; one seed gives one set, another another."""
    text = np.arange(1000)
    first, again, other = (drawn(text, count=20, length=7, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first.tokens, again.tokens)
    assert not torch.equal(first.tokens, other.tokens)
    starts = first.tokens[:, 0]
    assert torch.equal(first.tokens, starts[:, None] + torch.arange(7))
    assert len(set(starts.tolist())) == 20


def test_all_of_a_text_can_be_used() -> None:
    """As many windows as there are beginnings, and no more."""
    made = drawn(range(10), count=6, length=5)
    assert sorted(made.tokens[:, 0].tolist()) == list(range(6))
    with pytest.raises(UserError, match="7 calibration windows of 5 tokens need a text of 11 tokens or more, but this"):
        drawn(range(10), count=7, length=5)


def test_the_description_has_sizes_and_a_hash() -> None:
    """What is known beforehand, and what follows from the tokens."""
    made = drawn(range(50), count=3, length=4, description={"text": "numbers"}, privacy="device-private")
    said = made.described()
    tokens = hashlib.sha256(made.tokens.numpy().astype("<i8").tobytes()).hexdigest()
    expected = {"text": "numbers", "windows": 3, "length": 4, "sha256": tokens, "privacy": "device-private"}
    assert said == expected | {"seed": 0, "text_tokens": 50}


def test_plain_tokens_do() -> None:
    """A tensor, or any iterable of windows of one length."""
    tokens = torch.arange(6).reshape(2, 3)
    assert torch.equal(calibrated(tokens).tokens, tokens)
    assert torch.equal(calibrated([[0, 1, 2], tokens[1]]).tokens, tokens)
    made = Calibration(tokens=tokens)
    assert calibrated(made) is made


def test_windows_of_other_kinds_are_refused() -> None:
    """Different lengths, none, and no integers."""
    with pytest.raises(UserError, match="calibration windows of lengths 2, 3; give one or more, all of one length"):
        calibrated([[0, 1, 2], [0, 1]])
    with pytest.raises(UserError, match="lengths none at all"):
        calibrated([])
    with pytest.raises(UserError, match=r"shape \(2, 3\) and type torch.float32; they are integers"):
        calibrated(torch.zeros(2, 3))
