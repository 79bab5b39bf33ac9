"""Flat buffers and the tensors that view them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fedsim.payload.meta import ITEM_BYTES, Shape, TensorMeta
from fedsim.payload.tensors import DTYPES, FlatTensors, Layout
from fedsim.script import Purpose

SHAPES = (
    Shape("conv", (6, 3, 3, 3)),
    Shape("bias", (6,)),
    Shape("scalar", ()),
    Shape("count", (), "int64"),
    Shape("wide", (5, 7), "float64"),
    Shape("mask", (3, 3), "bool"),
    Shape("one_channel", (4, 1, 3, 5)),
)

shapes = st.lists(
    st.tuples(st.lists(st.integers(1, 5), max_size=4), st.sampled_from(sorted(DTYPES))), min_size=1, max_size=6
)


def filled(layout: Layout, seed: int = 0) -> FlatTensors:
    """Made-up values in every tensor, not in the padding."""
    flat = layout.zeros()
    rng = torch.Generator().manual_seed(seed)
    flat.fill_({n: torch.randint(0, 2, v.shape, generator=rng).to(v.dtype) for n, v in flat.named().items()})
    return flat


@settings(max_examples=40, deadline=None)
@given(shapes, st.booleans())
def test_tensors_are_aligned_apart_and_as_large_as_said(made: list[tuple[list[int], str]], channels_last: bool) -> None:
    """Every tensor starts on 64 bytes; none overlaps another; bytes are those of the elements, padding apart."""
    listed = [Shape(f"t{i}", tuple(shape), dtype) for i, (shape, dtype) in enumerate(made)]
    layout = Layout(listed, channels_last=channels_last)
    flat = layout.zeros()
    assert flat.nbytes == layout.nbytes == TensorMeta(Purpose.WEIGHTS, tuple(listed)).nbytes
    assert flat.nbytes == sum(view.nbytes for view in flat.views())
    for index, (shape, view) in enumerate(zip(listed, flat.views(), strict=True)):
        assert tuple(view.shape) == shape.shape
        assert view.dtype == DTYPES[shape.dtype]
        assert view.data_ptr() % 64 == flat.buffers[layout.slots[index].buffer].data_ptr() % 64
        if view.dim() == 4 and channels_last:
            assert view.is_contiguous(memory_format=torch.channels_last)
        else:
            assert view.is_contiguous()
        view.fill_(1)
        others = [v for i, v in enumerate(flat.views()) if i != index]
        assert not any(bool(v.any()) for v in others)
        assert view.all()
        view.fill_(0)
    assert set(ITEM_BYTES) == set(DTYPES)


def test_buffers_start_on_64_bytes() -> None:
    """As PyTorch allocates on the CPU."""
    flat = Layout(SHAPES).zeros()
    assert all(buffer.data_ptr() % 64 == 0 for buffer in flat.buffers)
    assert len(flat.buffers) == 4


def test_views_share_memory_and_clones_do_not() -> None:
    """Writing to a view writes to the buffer; a clone has its own."""
    flat = filled(Layout(SHAPES))
    clone = flat.clone()
    assert all(a.equal(b) for a, b in zip(flat.buffers, clone.buffers, strict=True))
    flat.named()["conv"].fill_(7)
    assert int((flat.buffers[0] == 7).sum()) == 6 * 27
    assert not bool((clone.named()["conv"] == 7).any())
    clone.copy_(flat)
    assert clone.named()["conv"].equal(flat.named()["conv"])


def test_padding_stays_zero() -> None:
    """Whatever is written to the tensors."""
    flat = filled(Layout((Shape("a", (5,)), Shape("b", (3,)))))
    flat.fill_({"a": torch.ones(5), "b": torch.ones(3)})
    assert float(flat.buffers[0].sum()) == 8
    assert flat.buffers[0].numel() == 32


def test_channels_last_goes_round() -> None:
    """Values survive the change of layout, both ways, one channel included."""
    plain, last = Layout(SHAPES), Layout(SHAPES, channels_last=True)
    source = filled(plain, 3)
    through = last.zeros()
    through.fill_(source.named())
    back = plain.zeros()
    back.fill_(through.named())
    assert all(a.equal(b) for a, b in zip(source.buffers, back.buffers, strict=True))
    assert through.named()["conv"].stride() == (27, 1, 9, 3)
    assert through.named()["one_channel"].stride() == (15, 1, 5, 1)


FORMATS = (torch.contiguous_format, torch.channels_last)


def _strided(shape: tuple[int, ...], channels_last: bool) -> Tensor:
    x = torch.arange(float(torch.Size(shape).numel())).reshape(shape)
    if channels_last and len(shape) == 4:
        return x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    return x


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("given_last", [False, True])
@pytest.mark.parametrize(
    "shape", [(2, 3, 4, 4), (2, 1, 4, 4), (2, 3, 1, 1), (1, 1, 1, 1), (2, 3), (5,), (2, 3, 4), (2, 0, 3)]
)
def test_arranged_gives_strides_that_follow_from_the_shape(
    shape: tuple[int, ...], channels_last: bool, given_last: bool
) -> None:
    """However the tensor came; the values stay, and nothing is copied where it lay right already."""
    layout = Layout((), channels_last=channels_last)
    x = _strided(shape, given_last)
    arranged = layout.arranged(x)
    assert arranged.equal(x)
    last = channels_last and x.dim() == 4
    assert arranged.stride() == torch.empty(shape, memory_format=FORMATS[last]).stride()
    assert layout.arranged(arranged) is arranged
    assert (arranged.data_ptr() == x.data_ptr()) is x.is_contiguous(memory_format=FORMATS[last])


def test_kernels_give_the_same_bits_on_views_as_on_tensors_of_their_own() -> None:
    """A linear layer and a convolution, forward and backward."""
    layers = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Flatten(), nn.Linear(5 * 36, 7))
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    layers(x).sum().backward()
    out = layers(x).detach()
    own = [p.grad for p in layers.parameters()]
    layout = Layout([Shape(n, tuple(p.shape)) for n, p in layers.named_parameters()])
    flat = layout.zeros()
    flat.fill_({n: p.detach() for n, p in layers.named_parameters()})
    views = {n: v.requires_grad_() for n, v in flat.named().items()}
    again = torch.func.functional_call(layers, views, (x,))
    again.sum().backward()
    assert again.equal(out)
    for view, grad in zip(views.values(), own, strict=True):
        assert view.grad is not None
        assert grad is not None
        assert view.grad.equal(grad)
