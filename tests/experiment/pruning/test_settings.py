"""What `--set` says, as plain data and as options."""

from __future__ import annotations

import pytest

from fedsim.errors import UserError
from fedsim.experiment.pruning.settings import built, settings
from fedsim.pruning.methods import METHODS
from fedsim.pruning.mosaic.options import Mosaic
from fedsim.pruning.reconvene.options import Budget, Reconvene


def test_keys_below_a_part_are_for_it() -> None:
    """Model, device and recovery; all others are the method's; values are YAML; the last of equal keys counts."""
    parts = settings(["needs.context=64", "recover.lr=0.1", "alpha=1"])
    assert (parts.needs, parts.recover, parts.method, parts.model) == ({"context": 64}, {"lr": 0.1}, {"alpha": 1}, {})
    found = settings(["budget.params=6.17 %", "model.width_ratio=0.25", "gamma=1", "scope=[a, b]", "gamma=0.5"])
    assert found.method == {"budget": {"params": "6.17 %"}, "gamma": 0.5, "scope": ["a", "b"]}
    assert found.model == {"width_ratio": 0.25}


def test_options_are_those_of_the_dataclass() -> None:
    """Nested ones too, and one word where a list is wanted."""
    given = settings(["budget.params=6.17 %", "budget.macs=0.5", "scope=conv1", "round_to=8"]).method
    assert built("pruning method", "reconvene", METHODS, given) == Reconvene(
        budget=Budget(params="6.17 %", macs=0.5), scope=("conv1",), round_to=8
    )
    assert built("pruning method", "mosaic", METHODS, {"pattern": "2:4", "policy": "uniform"}) == Mosaic(
        pattern="2:4", policy="uniform"
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"alpha": 2}, r"alpha 2.* must be between 0"),
        ({"alpha": "much"}, "alpha: .*number"),
        ({"alpha": True}, "alpha: .*number"),
        ({"alfa": 0.5}, "alfa: unknown key; did you mean alpha"),
    ],
)
def test_options_are_checked(given: dict[str, object], message: str) -> None:
    """By their own rules, their types and their names."""
    with pytest.raises(UserError, match=message):
        built("pruning method", "mosaic", METHODS, given)
