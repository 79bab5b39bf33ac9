"""Options of optimizers: what they are when nothing is said, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from fedsim.learning.optimizers import AdamW, Sgd


def test_defaults() -> None:
    """Those of the interface."""
    assert Sgd() == Sgd(lr=0.05, momentum=0.0, weight_decay=0.0)
    assert AdamW() == AdamW(lr=0.001, weight_decay=0.01)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (Sgd, {"lr": 0.0}, "lr 0.0 must be greater than 0, such as 0.05"),
        (AdamW, {"lr": float("nan")}, "lr nan must be greater than 0"),
        (Sgd, {"weight_decay": -0.1}, "weight_decay -0.1 must be 0 or more"),
        (Sgd, {"momentum": 1.0}, "momentum 1.0 must be at least 0 and below 1"),
        (Sgd, {"momentum": -0.1}, "momentum -0.1 must be at least 0 and below 1"),
    ],
)
def test_what_could_not_train_is_refused(kind: Any, options: dict[str, float], message: str) -> None:
    """With momentum 1 a step would never end."""
    with pytest.raises(ValueError, match=message):
        kind(**options)
