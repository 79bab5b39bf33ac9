"""Shape functions that are remembered say what they would have said."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fedsim.models.building import build
from fedsim.models.counting import measure
from fedsim.models.options import TextTransformer
from fedsim.models.recall import Recall

pytestmark = pytest.mark.slow  # what `meta` imports takes a second


class Watch(TorchDispatchMode):
    """Counts the operators that get past the memory."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch has no types for it
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func._schema.name.removeprefix("aten::"))
        return func(*args, **(kwargs or {}))


def layout(tensor: Tensor) -> tuple[Any, ...]:
    """All that a tensor on `meta` is."""
    return tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device.type


def test_an_operator_is_worked_out_once_for_the_same_shapes() -> None:
    """The second answer is a tensor of its own."""
    x = torch.empty(4, 6, device="meta")
    with Watch() as watch, Recall():
        first, again, other = x.mul(2.0), x.mul(2.0), x.t().mul(2.0)
    assert watch.names.count("mul") == 2
    assert layout(first) == layout(again)
    assert first.untyped_storage()._cdata != again.untyped_storage()._cdata
    assert layout(other) == ((6, 4), (1, 6), torch.float32, "meta")


def test_numbers_of_different_types_are_told_apart() -> None:
    """1, 1.0 and True are equal, and promote differently."""
    x = torch.empty(3, dtype=torch.int32, device="meta")
    with Recall():
        made = [x.add(1).dtype, x.add(1.0).dtype, x.add(True).dtype]
    assert made == [torch.int32, torch.float32, torch.int32]


def test_an_operator_in_place_gives_what_it_was_given() -> None:
    """Also from memory; and autograd knows that the tensor has changed."""
    x, y = torch.empty(3, device="meta"), torch.empty(3, device="meta")
    with Watch() as watch, Recall():
        x.sin_()
        version = y._version
        assert y.sin_() is y
    assert watch.names.count("sin_") == 1
    assert y._version == version + 1


def test_operators_that_reshape_in_place_are_not_answered_from_memory() -> None:
    """Their argument itself changes."""
    with Recall():
        shapes = []
        for _ in range(2):
            x = torch.empty(3, 2, device="meta")
            shapes.append(tuple(x.resize_(2, 5).shape))
    assert shapes == [(2, 5), (2, 5)]


def test_hidden_views_keep_sharing_memory() -> None:
    """`_unsafe_view` lies in its input, whatever its schema says."""
    x = torch.empty(4, 6, device="meta")
    with Recall():
        views = [torch.ops.aten._unsafe_view(x, [24]) for _ in range(2)]
    assert {v.untyped_storage()._cdata for v in views} == {x.untyped_storage()._cdata}


def test_several_outputs_and_none() -> None:
    """Tuples come back as tuples."""
    x = torch.empty(4, 6, device="meta")
    with Recall():
        (values, indices), again = torch.ops.aten.sort(x), torch.ops.aten.sort(x)
    assert [layout(t) for t in again] == [layout(values), layout(indices)]
    assert isinstance(again, tuple)


def test_other_devices_compute_as_ever() -> None:
    """Values matter there."""
    x = torch.tensor([1.0, 2.0])
    with Recall():
        assert (x * 2).tolist() == [2.0, 4.0]
        assert (x * 2).tolist() == [2.0, 4.0]


def test_a_deeper_network_asks_for_no_more_shapes() -> None:
    """Equal blocks are worked out once, so that counting a deep transformer takes hardly longer than a shallow one."""
    asked = []
    for blocks in (2, 6):
        options = TextTransformer(blocks=blocks, width=16, heads=2)
        model = build("transformer", options, input=(10,), classes=7, kind="text")
        with Watch() as watch:
            measure(model)
        asked.append([watch.names.count(name) for name in ("addmm", "native_layer_norm", "gelu", "gelu_backward")])
    assert asked[0] == asked[1]
