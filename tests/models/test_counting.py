"""Counted costs against published totals, PyTorch's own counter and formulas by hand."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fedsim.costs import OpClass, Phase
from fedsim.errors import UserError
from fedsim.models.building import build
from fedsim.models.catalogue import ENTRIES
from fedsim.models.counting import measure
from fedsim.models.measure import ModelMeasure, backward_cost, forward_cost
from fedsim.models.options import SmallCnn, TextTransformer
from fedsim.models.units import UnitList
from tests.models.networks import BOTH_NORMS, GROUPED, SLOW, batch_for, network

CIFAR = (3, 32, 32)


def counted(name: str, options: Any = None, *, shape: tuple[int, ...] = CIFAR, device: str = "cpu") -> ModelMeasure:
    """The measure of a model of the catalogue with ten classes."""
    options = options or ENTRIES[name].options()
    return measure(build(name, options, input=shape, classes=10, kind="image", device=device))


def own(*units: tuple[str, nn.Module], shape: tuple[int, ...] = (6,), classes: int = 4) -> UnitList:
    """A network of one's own."""
    return UnitList("own", list(units), input=shape, classes=classes)


# ----------------------------------------------------------------------------------------------- totals


@pytest.mark.slow
def test_published_totals() -> None:
    """VGG-5 as FedAdapt counts it, VGG-11 with 4,096-wide layers, the network of McMahan et al."""
    vgg5 = counted("vgg5")
    assert vgg5.macs == 8_488_192
    assert round(vgg5.parameters, -3) == 582_000
    cnn = counted("cnn", SmallCnn(), shape=(1, 28, 28))
    assert cnn.parameters == 1_663_370
    vgg11 = counted("vgg11", device="meta")
    assert round(vgg11.macs / 1e6, 1) == 171.7
    assert round(vgg11.parameters / 1e6, 2) == 28.15
    assert vgg11.units[1].macs == 18_874_368


@pytest.mark.parametrize(
    ("name", "cut", "macs", "share", "parameters", "kib"),
    [
        ("vgg5", 1, 0.88, 10.4, 1.0, 32),
        ("vgg5", 2, 5.60, 66, 19.6, 16),
        pytest.param("vgg11", 1, 1.77, 1.0, 1.9, 64, marks=pytest.mark.slow),
        pytest.param("vgg11", 2, 20.6, 12, 76, 32, marks=pytest.mark.slow),
        pytest.param("vgg11", 4, 77.3, 45, 962, 16, marks=pytest.mark.slow),
    ],
)
def test_device_blocks_of_the_specification(
    name: str, cut: int, macs: float, share: float, parameters: float, kib: int
) -> None:
    """Table 7 of the specification: MACs (millions), their share, parameters (thousands), KiB a sample."""
    model = counted(name, device="meta")
    block = model.units[:cut]
    mine = sum(unit.macs for unit in block)
    assert mine / 1e6 == pytest.approx(macs, rel=6e-3)
    assert 100 * mine / model.macs == pytest.approx(share, rel=0.05)
    assert sum(unit.trainable for unit in block) / 1e3 == pytest.approx(parameters, rel=0.05)
    assert model.activation_bytes(cut) == kib * 1024


# ---------------------------------------------------------------------------------------------- oracles


@pytest.mark.slow
@pytest.mark.parametrize(("name", "norm"), [(name, norm) for name, norm in BOTH_NORMS if name not in GROUPED])
def test_macs_are_those_of_pytorch(name: str, norm: str) -> None:
    """`torch.utils.flop_counter` counts two FLOPs a MAC, forward and backward, of the whole model and of blocks."""
    model = network(name, norm)
    found = measure(model)
    x = batch_for(model, 2)
    for cut in (0, 1):
        block = model.block(cut, len(model))
        given = x if cut == 0 else model.block(0, cut)(x).detach().requires_grad_()
        with (
            FlopCounterMode(display=False) as forward,
            torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH),
        ):
            out = block(given)
        with FlopCounterMode(display=False) as backward:
            out.sum().backward()
        units = found.units[cut:]
        assert 2 * forward_cost(units, 2).macs == forward.get_total_flops()
        assert 2 * backward_cost(units, 2, to_input=cut > 0).macs == backward.get_total_flops()


def test_a_depthwise_convolution_by_hand() -> None:
    """k·k MACs an output element forward; backward the same for the weights and once more for the input."""
    model = own(
        ("expand", nn.Conv2d(3, 8, 1, bias=False)),
        ("depthwise", nn.Conv2d(8, 8, 3, padding=1, stride=2, groups=8, bias=False)),
        ("grouped", nn.Conv2d(8, 6, 3, padding=1, groups=2)),
        ("head", nn.Sequential(nn.Flatten(), nn.Linear(6 * 16, 4))),
        shape=(3, 8, 8),
    )
    found = measure(model)
    expand, depthwise, grouped, head = found.units
    assert (expand.macs, depthwise.macs) == (8 * 3 * 64, 8 * 9 * 16)
    assert (grouped.macs, head.macs) == (6 * (8 // 2) * 9 * 16, 96 * 4)
    assert [unit.forward[0].kind for unit in (expand, depthwise, grouped)] == [
        OpClass.POINTWISE,
        OpClass.DEPTHWISE,
        OpClass.CONV,
    ]
    total = found.macs
    assert backward_cost(found.units[1:], 1, to_input=True).macs == 2 * (total - expand.macs)
    assert backward_cost(found.units, 1, to_input=False).macs == 2 * total - expand.macs
    for unit in found.units[1:]:
        assert sum(op.macs_each for op in unit.backward_first) == unit.macs


def test_a_transposed_convolution_by_hand() -> None:
    """Each input element meets the kernel once, forward, for the weights and for the input."""
    model = own(
        ("narrow", nn.Conv2d(1, 4, 1)),
        ("up", nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2)),
        ("head", nn.Sequential(nn.Flatten(), nn.Linear(6 * 64, 4))),
        shape=(1, 4, 4),
    )
    up = measure(model).units[1]
    assert up.macs == (4 * 16) * (6 // 2) * 4
    assert sum(op.macs_each for op in up.backward) == 2 * up.macs


def test_attention_with_a_mask_is_counted_where_it_adds_and_multiplies_at_once() -> None:
    """`nn.MultiheadAttention` that gives its weights too runs `baddbmm`: positions x positions x width all the same."""

    class Weighing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            mask = torch.zeros(5, 5, device=x.device, dtype=x.dtype)
            out: Tensor = self.attention(x, x, x, attn_mask=mask)[0]
            return out

    head = nn.Sequential(nn.Flatten(), nn.Linear(40, 4))
    unit = measure(own(("a", nn.Linear(8, 8)), ("weighing", Weighing()), ("head", head), shape=(5, 8))).units[1]
    assert unit.macs == 5 * (4 * 8 * 8) + 2 * 5 * 5 * 8


class _Last(nn.Module):
    """The last step of a recurrent layer."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layer(x)[0][:, -1]
        return out


def test_a_recurrent_layer_is_counted_or_refused() -> None:
    """Never free: a GRU runs as products, an LSTM as one operator that cannot be counted."""
    gru = own(("gru", _Last(nn.GRU(8, 16, batch_first=True))), ("head", nn.Linear(16, 4)), shape=(8, 8))
    assert measure(gru).units[0].macs == 8 * 3 * 16 * (8 + 16)
    lstm = own(("lstm", _Last(nn.LSTM(8, 16, batch_first=True))), ("head", nn.Linear(16, 4)), shape=(8, 8))
    with pytest.raises(UserError, match=r"the model runs aten::mkldnn_rnn_layer, whose .*nn\.GRU rather than"):
        measure(lstm)


def test_the_first_unit_with_parameters_has_no_input_gradient() -> None:
    """Also where units without parameters stand before it."""
    model = own(("flatten", nn.Flatten()), ("relu", nn.ReLU()), ("a", nn.Linear(6, 5)), ("head", nn.Linear(5, 4)))
    found = measure(model)
    x = torch.randn(2, 6)
    with FlopCounterMode(display=False) as backward:
        out = model(x).sum()
        forward = backward.get_total_flops()
        out.backward()
    counted_macs = backward_cost(found.units, 2, to_input=False).macs
    assert 2 * counted_macs == backward.get_total_flops() - forward == 2 * 2 * (30 + 2 * 20)
    assert backward_cost(found.units, 2, to_input=True).macs == 2 * (2 * 30 + 2 * 20)


def test_backward_operators_know_their_forward_macs() -> None:
    """What a scalar cost model multiplies by its ratio adds up to the forward MACs of the units."""
    found = counted("vgg5")
    for to_input in (True, False):
        cost = backward_cost(found.units, 7, to_input=to_input)
        assert sum(op.forward_macs for op in cost.operators) == 7 * found.macs
        assert {op.phase for op in cost.operators} == {Phase.BACKWARD}


def test_operators_know_their_unit() -> None:
    """So that a table of measured times can be looked up."""
    found = measure(own(("a", nn.Linear(6, 5)), ("h", nn.Linear(5, 4))))
    for unit in found.units:
        for op in (*unit.forward, *unit.backward, *unit.backward_first):
            assert op.unit == op.at(3).unit == unit.name
    assert {op.at(3).unit for op in (*found.loss_forward, *found.loss_backward)} == {"loss"}
    cost = backward_cost(found.units, 3, to_input=False, model="own")
    assert (cost.batch, cost.model, cost.operators[0].unit) == (3, "own", "a")
    assert (forward_cost(found.units, 3).batch, forward_cost(found.units, 3).model) == (3, "")


def test_a_look_into_a_table_reads_what_it_takes() -> None:
    """Not the whole table, which is large for a language model; its gradient is as large as the table."""
    embedding = measure(network("transformer")).units[0]
    read = 10 * 16 * 4
    assert (embedding.forward[0].bytes_fixed, embedding.forward[0].bytes_each) == (0, 10 * 8 + 2 * read)
    assert 7 * 16 * 4 in [op.bytes_fixed for op in embedding.backward_first]


def test_an_expanded_tensor_is_read_once() -> None:
    """A bias that is added to every position is as large as it is."""

    class Spread(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, :1].expand(-1, 5).contiguous()

    unit = measure(own(("a", nn.Linear(6, 2)), ("spread", Spread()), ("h", nn.Linear(5, 4)))).units[1]
    assert [op.bytes_each for op in unit.forward] == [4 + 5 * 4]


def test_bytes_by_hand() -> None:
    """Every operator reads what it is given and writes what it makes, in float32; views and counters are free.

    A layer of 6 to 5: a sample is 24 bytes in and 20 out, the weights are 120, the bias 20.
    """
    linear, norm, head = measure(own(("a", nn.Linear(6, 5)), ("n", nn.BatchNorm1d(5)), ("h", nn.Linear(5, 4)))).units
    assert [(op.bytes_fixed, op.bytes_each) for op in linear.forward] == [(120 + 20, 24 + 20)]
    weights, bias = (120, 20 + 24), (20, 20)  # the product of gradients and inputs; the sum of gradients
    assert [(op.bytes_fixed, op.bytes_each) for op in linear.backward_first] == [weights, bias]
    assert {(op.bytes_fixed, op.bytes_each) for op in head.backward} == {(80, 16 + 20), (16, 16)}
    assert len(head.backward) == 3, "and the product of gradients and weights"
    # Scale, shift, two running moments and two of the batch; the count of batches is free.
    assert [(op.bytes_fixed, op.bytes_each) for op in norm.forward] == [(6 * 20, 20 + 20)]


def test_the_loss_by_hand() -> None:
    """log-softmax and the choice of a label, and back: four logits, a label of eight bytes, two scalars."""
    found = measure(own(("a", nn.Linear(6, 4))))
    assert [(op.bytes_fixed, op.bytes_each) for op in found.loss_forward] == [(0, 2 * 16), (2 * 4, 16 + 8)]
    assert [(op.bytes_fixed, op.bytes_each) for op in found.loss_backward] == [(2 * 4, 2 * 16 + 8), (0, 3 * 16)]
    assert {op.kind for op in (*found.loss_forward, *found.loss_backward)} == {OpClass.ELEMENTWISE}


def test_buffers_travel_with_a_unit_and_are_not_trained() -> None:
    """Batch norm: scale and shift, running mean and variance, and a count of eight bytes."""
    norm = measure(own(("n", nn.BatchNorm1d(6)), ("a", nn.Linear(6, 4)))).units[0]
    assert norm.trainable == 12
    assert norm.state_bytes == 4 * (12 + 12) + 8


# ------------------------------------------------------------------------------------- what counting does


LARGE = {"vgg11", "vgg16", "resnet20", "transformer", *SLOW}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n in LARGE else []) for n in ENTRIES])
def test_costs_are_the_same_on_meta_and_linear_in_the_batch(name: str) -> None:
    """Which device counts never changes a cost."""
    cpu, meta = measure(network(name)), measure(network(name, device="meta"))
    assert cpu == meta
    small, large = forward_cost(cpu.units, 3), forward_cost(cpu.units, 12)
    assert 4 * small.macs == large.macs
    sizes = [forward_cost(cpu.units, batch).bytes for batch in (1, 2, 3, 4)]
    assert len({b - a for a, b in itertools.pairwise(sizes)}) == 1


class Noisy(nn.Module):
    """Draws random numbers without any module that says so."""

    def forward(self, x: Tensor) -> Tensor:
        """Dropout, where training."""
        return nn.functional.dropout(x, 0.5, self.training)


def test_counting_leaves_no_trace() -> None:
    """Weights, buffers, gradients, modes and the global generator stay as they were."""
    model = network("resnet20")
    model.add_module("noise", Noisy())
    model.eval()
    state = {n: t.clone() for n, t in model.state_dict().items()}
    before = torch.get_rng_state()
    found = measure(model)
    assert torch.get_rng_state().equal(before)
    assert all(t.equal(state[n]) for n, t in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert not any(m.training for m in model.modules())
    assert [unit.draws for unit in found.units] == [False] * 11 + [True]


def test_units_that_draw_random_numbers_are_known() -> None:
    """Modules and functions alike, on `meta` as well."""
    for device in ("cpu", "meta"):
        with torch.device(device):
            model = own(("a", nn.Sequential(nn.Linear(6, 5), nn.Dropout(0.1))), ("b", Noisy()), ("c", nn.Linear(5, 4)))
        assert [unit.draws for unit in measure(model).units] == [True, True, False]


def test_attention_is_counted_as_its_two_products() -> None:
    """Tokens x tokens x width, twice, whatever kernel would run."""
    found = measure(network("transformer"))
    attention = [op for op in found.units[1].forward if op.kind is OpClass.ATTENTION]
    assert [op.macs_each for op in attention] == [10 * 10 * 16] * 2


# ----------------------------------------------------------------------------------------------- errors


class InPlace(nn.Module):
    """Changes what it is given."""

    def forward(self, x: Tensor) -> Tensor:
        """ReLU in place."""
        return x.relu_()


class Pair(nn.Module):
    """Gives two tensors."""

    def forward(self, x: Tensor) -> Any:
        """Twice the same."""
        return x, x


def _shared() -> UnitList:
    layer = nn.Linear(6, 6)
    return own(("a", layer), ("b", nn.Sequential(nn.ReLU(), layer)), ("c", nn.Linear(6, 4)))


def _frozen() -> UnitList:
    layer = nn.Linear(6, 6)
    layer.weight.requires_grad_(False)
    return own(("a", layer), ("c", nn.Linear(6, 4)))


def _short() -> UnitList:
    layer = nn.Linear(6, 6)
    layer.register_buffer("seen", torch.zeros(3, dtype=torch.int16))
    return own(("a", layer), ("c", nn.Linear(6, 4)))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: own(("a", nn.Linear(6, 5)), ("b", nn.Linear(6, 4))), r"unit b cannot take inputs of shape \(2, 5\)"),
        (lambda: own(("a", Pair()), ("b", nn.Linear(6, 4))), "unit a gives a tuple; units give one tensor"),
        (lambda: own(("a", InPlace()), ("b", nn.Linear(6, 4))), "unit a changes its input in place"),
        (lambda: own(("a", nn.Linear(6, 3)), ("b", InPlace()), ("c", nn.Linear(3, 4))), "unit b changes its input"),
        (lambda: own(("a", nn.Linear(6, 3))), r"model own gives \(3,\) a sample, but \(4,\) is needed for 4 classes"),
        (_shared, r"units a and b share a tensor \(weight, 1.weight\); units share nothing"),
        (_frozen, "parameter a.weight does not require a gradient; register what is not trained as a buffer"),
        (_short, "a.seen is a tensor of int16; weights may be float32,"),
    ],
)
def test_networks_that_break_a_rule_are_refused(model: Any, message: str) -> None:
    """In the words of whoever wrote the network."""
    with pytest.raises(UserError, match=message):
        measure(model())


def test_an_operator_without_a_closed_form_is_refused() -> None:
    """Never zero MACs in silence."""

    class Dot(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.mv(self.w, self.v).sum()

        w = torch.ones(3, 3)
        v = torch.ones(3)

    with pytest.raises(UserError, match=r"the model runs aten::mv, whose multiplications fedsim cannot count"):
        measure(own(("a", Dot()), ("c", nn.Linear(6, 4))))


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_products_know_their_parameters(device: str) -> None:
    """Forward ones, also where they multiply by a view of one; products of activations have none."""
    model = build(
        "transformer",
        TextTransformer(width=8, heads=2, blocks=1),
        input=(6,),
        classes=11,
        kind="text",
        norm="bn",
        dtype="float32",
        device=device,
        seed=0,
    )
    found = {op.weight for unit in measure(model).units for op in unit.forward if op.macs_each}
    matrices = {name for name, tensor in model.named_parameters() if tensor.dim() == 2 and "embedding" not in name}
    assert found - {""} == matrices
    assert not any(op.weight for unit in measure(model).units for op in unit.backward)
    attention = [op.weight for unit in measure(model).units for op in unit.forward if op.kind is OpClass.ATTENTION]
    assert attention
    assert set(attention) == {""}
