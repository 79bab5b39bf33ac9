"""One side of a measure is that side of the measure."""

from __future__ import annotations

from typing import Any

import pytest

from fedsim.models.building import build
from fedsim.models.counting import measure
from fedsim.models.measure import forward_cost, retained_bytes
from fedsim.models.options import Mlp, MobileNet, Plain, TextTransformer
from fedsim.models.sides import Known, forward_side, memory_side
from fedsim.models.units import UnitList

pytestmark = pytest.mark.slow  # what `meta` imports takes a second


def made(name: str, options: Any, **given: Any) -> UnitList:
    """On `meta`."""
    shape: dict[str, Any] = {"input": (3, 32, 32), "classes": 4, "kind": "image", **given}
    return build(name, options, **shape)


MODELS: list[tuple[str, Any, dict[str, Any]]] = [
    ("vgg5", Plain(), {}),
    ("resnet20", Plain(), {"norm": "gn"}),
    ("mobilenetv3_large", MobileNet(width_ratio=0.25), {}),
    ("mlp", Mlp(), {"input": (7,), "kind": "vector"}),
    ("transformer", TextTransformer(), {"input": (8,), "classes": 50, "kind": "text"}),
]


@pytest.mark.parametrize(("name", "options", "given"), MODELS, ids=[name for name, _, _ in MODELS])
def test_both_sides_are_as_measured(name: str, options: Any, given: dict[str, Any]) -> None:
    """Forward operators at any batch; bytes of a step, with the loss and without, of all units or the first few."""
    model = made(name, options, **given)
    measured, training = measure(model), model.training
    forward = forward_side(model)
    for batch in (1, 16):
        cost, whole = (forward_cost(units, batch, model.name) for units in (forward, measured.units))
        assert cost.operators == whole.operators
    for batch in (2, 16):
        units, end = memory_side(model, batch)
        for count in (1, 2, len(units)):
            few, loss = count < len(units), None if count < len(units) else end
            wanted = retained_bytes(
                measured.units[:count], batch, to_input=False, loss=None if few else measured.loss_retained
            )
            assert retained_bytes(units[:count], batch, to_input=False, loss=loss) == wanted
            assert [u.parameters for u in units] == [u.parameters for u in measured.units]
            assert [u.state_bytes for u in units] == [u.state_bytes for u in measured.units]
            assert [u.output for u in units] == [u.output for u in measured.units]
    assert model.training == training


def test_units_are_counted_once() -> None:
    """What is known is looked up; a unit of other widths, or behind one, is not."""
    known: Known = {}
    model = made("vgg5", Plain())
    first = forward_side(model, known)
    assert len(known) == len(first)
    assert all(a is b for a, b in zip(forward_side(model, known), first, strict=True))
    other = made("vgg5", Plain(), classes=5)
    again = forward_side(other, known)
    assert [a is b for a, b in zip(again, first, strict=True)] == [True, True, True, True, False]
