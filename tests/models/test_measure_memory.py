"""Memory that training keeps between forward and backward, against what autograd really holds on to."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from fedsim.errors import UserError
from fedsim.models.counting import measure
from fedsim.models.measure import Line, retained_bytes
from fedsim.models.units import UnitList
from fedsim.models.zoo.layers import FrozenBatchNorm
from tests.models.networks import MODELS, batch_for, network

SPARING = {"mobilenetv3_large", "swin_t"}
"""Models that keep other tensors of a single sample: batch norm of one value, windows that need no copy."""


def own(*units: tuple[str, nn.Module], shape: tuple[int, ...] = (6,), dtype: str = "float32") -> UnitList:
    """A network of one's own, with four classes."""
    model = UnitList("own", list(units), input=shape, classes=4, dtype=dtype)
    return model.to(getattr(torch, dtype))


def truth(block: nn.Module, x: Tensor, loss: Callable[[Tensor], Tensor] | None = None) -> int:
    """Bytes of all memory that autograd saves of a real forward, beside what the block holds anyway."""
    held = [*block.parameters(), *block.buffers()]
    for part in block.modules():
        for value in vars(part).values():
            held += [t for t in (value if isinstance(value, tuple) else (value,)) if isinstance(t, Tensor)]
    saved: dict[int, torch.UntypedStorage] = {}

    def save(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(save, lambda kept: kept):
        out = block(x)
        if loss is not None:
            loss(out)
    resident = {t.untyped_storage().data_ptr() for t in held}
    return sum(storage.nbytes() for key, storage in saved.items() if key not in resident)


def check(model: UnitList, batch: int, cuts: range | None = None) -> None:
    """At each cut, what is predicted of the device block and of the server block is what autograd keeps."""
    found = measure(model)
    x = batch_for(model, batch)
    labels = torch.zeros((batch, *model.input) if model.tokens else batch, dtype=torch.int64)
    for cut in cuts or range(1, len(model)):
        with torch.no_grad():
            z = model.block(0, cut)(x).contiguous()
        z.requires_grad_()
        device = retained_bytes(found.units[:cut], batch, to_input=False, input_bytes=x.nbytes)
        assert device == truth(model.block(0, cut), x), f"device block of {cut} units"
        server = retained_bytes(found.units[cut:], batch, to_input=True, input_bytes=z.nbytes, loss=found.loss_retained)
        real = truth(model.block(cut, len(model)), z, lambda out: model.loss(out, labels))
        assert server + labels.nbytes == real, f"server block behind {cut} units"


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_what_is_kept_is_what_autograd_keeps(name: str) -> None:
    """Of every model, at every cut, to the byte; memory that two units share counts once."""
    model = network(name)
    check(model, 8, range(1, len(model), 2))
    check(model, 3, range(2, len(model), 6))
    if name not in SPARING:
        check(model, 1, range(1, len(model), 4))


def test_whoever_waits_for_the_gradient_of_an_output_holds_it() -> None:
    """Which counts where no unit needs it: a linear layer needs its input only."""
    units = measure(own(("a", nn.Linear(6, 5)), ("b", nn.Linear(5, 4)))).units
    assert retained_bytes(units, 3, to_input=False) == 3 * 5 * 4
    assert retained_bytes(units, 3, to_input=False, input_bytes=3 * 6 * 4) == 3 * (5 + 6) * 4
    assert retained_bytes(units, 3, to_input=False, output_held=True) == 3 * (5 + 4) * 4


def kept(module: nn.Module, shape: tuple[int, ...], dtype: str = "float32") -> Any:
    """What a unit in the middle of a network keeps."""
    before = nn.Unflatten(1, shape)
    with torch.no_grad():
        size = module(before(torch.zeros(2, torch.Size(shape).numel()))).flatten(1).shape[1]
    head = nn.Sequential(nn.Flatten(), nn.Linear(size, 4))
    units: list[tuple[str, nn.Module]] = [("before", before), ("it", module), ("head", head)]
    return measure(own(*units, shape=(torch.Size(shape).numel(),), dtype=dtype)).units[1].retained


def test_an_operator_in_place_is_counted_once() -> None:
    """ReLU in place: its output is the memory of batch norm's output."""
    apart = kept(nn.Sequential(nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 5)), (6,))
    in_place = kept(nn.Sequential(nn.BatchNorm1d(6), nn.ReLU(inplace=True), nn.Linear(6, 5)), (6,))
    assert apart == in_place
    assert apart.between == Line(2 * 6 * 4, 6 * 4), "mean and deviation of the batch, and what the layer is given"
    assert apart.keeps_input
    assert not apart.keeps_output


def test_indices_and_masks_count() -> None:
    """Pooling keeps its input and an int64 for each output; dropout keeps what it multiplies by."""
    pool = kept(nn.MaxPool2d(2), (3, 4, 4))
    assert (pool.between, pool.keeps_input, pool.keeps_output) == (Line(0, 3 * 4 * 8), True, False)
    dropout = kept(nn.Dropout(0.5), (6,))
    assert (dropout.between, dropout.keeps_input) == (Line(0, 6 * 4), False)


def test_a_view_has_no_memory_of_its_own() -> None:
    """Flattening: its output is its input, and kept where the next unit needs it."""
    units = measure(
        own(("a", nn.Linear(6, 6)), ("b", nn.Unflatten(1, (2, 3))), ("c", nn.Flatten()), ("d", nn.Linear(6, 4)))
    )
    assert [unit.retained.output for unit in units.units[1:3]] == [None, None]
    assert retained_bytes(units.units, 5, to_input=False) == 5 * 6 * 4


class Last(nn.Module):
    """The last of several positions."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.exp(x)[:, -1]


def test_a_part_keeps_the_whole_alive() -> None:
    """A view of larger memory, kept by the next unit, keeps all of it."""
    model = own(("a", nn.Linear(5, 6)), ("last", Last()), ("head", nn.Linear(6, 4)), shape=(3, 5))
    last = measure(model).units[1].retained
    assert (last.output, last.keeps_output) == (Line(0, 3 * 6 * 4), True)
    check(model, 4)


class Checkpointed(nn.Module):
    """Computes its inside again in the backward."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = nn.Sequential(nn.Linear(6, 50), nn.Tanh(), nn.Linear(50, 6))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = checkpoint(self.inside, x, use_reentrant=False)
        return out


def test_of_a_checkpointed_unit_only_the_input_is_kept() -> None:
    """As PyTorch does it: the inside is computed again."""
    found = kept(Checkpointed(), (6,))
    assert (found.between, found.keeps_input, found.keeps_output) == (Line(), True, False)


class Attention(nn.Module):
    """Self-attention of two heads without weights."""

    def __init__(self, dropout: float = 0.0, mask: Tensor | None = None) -> None:
        super().__init__()
        self.dropout, self.mask = dropout, mask

    def forward(self, x: Tensor) -> Tensor:  # batch heads length size
        q, k, v = x.sin(), x.cos(), x.tanh()
        mask = None if self.mask is None else self.mask.to(x.device)
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=self.dropout)


@pytest.mark.parametrize("masked", [False, True])
def test_attention_keeps_what_the_fused_kernel_keeps(masked: bool) -> None:
    """Queries, keys, values, output and a number a row: linear in the length; a mask of booleans becomes numbers."""
    length, size = 12, 4
    found = kept(Attention(mask=torch.ones(length, length).tril() > 0 if masked else None), (2, length, size))
    mask = length * length * 4 if masked else 0
    assert found.between == Line(mask, 2 * length * (3 * size + 1) * 4)
    assert (found.keeps_input, found.keeps_output) == (True, True)


def test_attention_with_dropout_keeps_its_matrix() -> None:
    """No fused kernel on the CPU does dropout."""
    length, size = 12, 4
    assert kept(Attention(0.5), (2, length, size)).between.each > 3 * 2 * length * length * 4


def test_attention_of_other_forms_runs_as_it_is() -> None:
    """Three axes, where the CPU has no fused kernel: exactly what autograd keeps."""
    model = own(
        ("a", nn.Linear(4, 4)),
        ("it", Attention()),
        ("head", nn.Sequential(nn.Flatten(), nn.Linear(12, 4))),
        shape=(3, 4),
    )
    check(model, 2)


def test_half_of_the_bytes_with_half_the_precision() -> None:
    """Memory goes by the type of number."""
    module = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    assert kept(module, (6,)).between == Line(0, 5 * 4)
    assert kept(module, (6,), "float64").between == Line(0, 5 * 8)


class Together(nn.Module):
    """Compares every sample with every other."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.exp(x @ x.T) @ x


def test_samples_that_see_one_another_are_refused() -> None:
    """Nothing would be linear in the batch size."""
    model = own(("a", nn.Linear(6, 6)), ("pairs", Together()), ("head", nn.Linear(6, 4)))
    with pytest.raises(
        UserError, match=r"MACs of unit pairs of model own: 24 for a batch of 2, but 96 for a batch of 4"
    ):
        measure(model)


class Moody(nn.Module):
    """Does more for a larger batch."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sin().cos() if len(x) > 3 else x.sin()


def test_other_operators_for_other_batch_sizes_are_refused() -> None:
    """Two batch sizes would not say what a third costs."""
    model = own(("a", nn.Linear(6, 6)), ("moody", Moody()), ("head", nn.Linear(6, 4)))
    with pytest.raises(UserError, match="unit moody of model own runs other operators for another batch size"):
        measure(model)


class Conditioned(nn.Module):
    """A linear layer whose weights are a product, whatever the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Parameter(torch.ones(6, 2)), nn.Parameter(torch.ones(2, 6))

    def forward(self, x: Tensor) -> Tensor:
        return x @ (self.left @ self.right)


def test_a_product_of_weights_costs_the_same_for_every_batch() -> None:
    """Its MACs are fixed; those of a sample are what a sample adds."""
    unit = measure(own(("a", nn.Linear(6, 6)), ("low_rank", Conditioned()), ("head", nn.Linear(6, 4)))).units[1]
    assert (unit.macs, [op.at(3).macs for op in unit.forward]) == (36, [6 * 2 * 6, 3 * 36])


LAYERS = st.sampled_from(
    ["conv", "bn", "frozen", "relu", "in place", "pool", "sigmoid", "dropout", "average", "shortcut"]
)


class Shortcut(nn.Module):
    """A convolution added to its input, in place."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        out += x
        return out.sigmoid_()


NEEDS_OUTPUT = {"relu", "in place", "sigmoid", "shortcut", "start"}
"""What may not be followed by an operator in place, and the start of a unit, which may not be one."""


def layer(kind: str, before: str, channels: int) -> nn.Module:
    """A layer that keeps shapes."""
    made: dict[str, Callable[[], nn.Module]] = {
        "conv": lambda: nn.Conv2d(channels, channels, 3, padding=1),
        "bn": lambda: nn.BatchNorm2d(channels),
        "frozen": lambda: FrozenBatchNorm(channels),
        "relu": nn.ReLU,
        "in place": lambda: nn.ReLU(inplace=before not in NEEDS_OUTPUT),
        "pool": lambda: nn.MaxPool2d(3, stride=1, padding=1),
        "sigmoid": nn.Sigmoid,
        "dropout": lambda: nn.Dropout2d(0.5),
        "average": lambda: nn.AvgPool2d(3, stride=1, padding=1),
        "shortcut": lambda: Shortcut(channels),
    }
    return made[kind]()


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(units=st.lists(st.lists(LAYERS, min_size=1, max_size=4), min_size=2, max_size=4), batch=st.integers(2, 5))
def test_networks_of_any_make_keep_what_autograd_keeps(units: list[list[str]], batch: int) -> None:
    """Random units of convolutions, norms, activations and poolings, cut anywhere."""
    made: list[tuple[str, nn.Module]] = [("stem", nn.Conv2d(2, 3, 3, padding=1))]
    for index, kinds in enumerate(units):
        layers = [layer(kind, before, 3) for before, kind in itertools.pairwise(("start", *kinds))]
        made.append((f"unit{index}", nn.Sequential(*layers)))
    made.append(("head", nn.Sequential(nn.Flatten(), nn.Linear(3 * 25, 4))))
    check(own(*made, shape=(2, 5, 5)), batch)
