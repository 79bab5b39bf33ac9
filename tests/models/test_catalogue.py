"""Every model of the catalogue, cut at every place."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from fedsim.errors import UserError
from fedsim.learning.optimizers import Sgd, Training
from fedsim.learning.plan import DEVICE, SERVER_BLOCK, plans
from fedsim.models.building import build
from fedsim.models.catalogue import ENTRIES
from fedsim.models.counting import measure
from fedsim.models.options import Mlp, Plain, SmallCnn, TextTransformer
from fedsim.models.units import UnitList, check_cut
from fedsim.models.zoo.layers import BatchNorm
from tests.models.networks import BOTH_NORMS, INPUTS, MODELS, OPTIONS, batch_for, network, sampled_cuts, sent

SMALLEST = [
    ("vgg11", 32),
    ("vgg16", 32),
    pytest.param("resnet18", 8, marks=pytest.mark.slow),
    pytest.param("mobilenetv3_large", 16, marks=pytest.mark.slow),
]


def test_every_model_is_tested() -> None:
    """A new model needs an input here."""
    assert INPUTS.keys() == ENTRIES.keys()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "norm"), BOTH_NORMS)
def test_device_block_then_server_block_is_the_whole(name: str, norm: str) -> None:
    """At every cut: the same output, the same gradients, and activations of exactly the announced bytes."""
    model = network(name, norm)
    x = batch_for(model)
    labels = torch.zeros((3, *model.input) if model.tokens else (3,), dtype=torch.int64)
    buffers = {n: b.clone() for n, b in model.named_buffers()}
    model.loss(model(x), labels).backward()
    whole = {n: p.grad for n, p in model.named_parameters()}
    out = model(x)
    measured = measure(model)
    training = Training(batch=3, optimizer=Sgd())
    for cut in range(1, len(model)):
        with torch.no_grad():
            for n, b in model.named_buffers():
                b.copy_(buffers[n])
        model.zero_grad(set_to_none=True)
        blocks = plans(measured, cut, training)
        z = model.block(0, cut)(x)
        assert blocks[DEVICE].activations(3).nbytes == z.nbytes == 3 * measured.activation_bytes(cut)
        assert blocks[DEVICE].activations(3).shapes[0].shape == tuple(z.shape)
        received = sent(z).requires_grad_()
        y = model.block(cut, len(model))(received)
        model.loss(y, labels).backward()
        assert received.grad is not None
        assert blocks[SERVER_BLOCK].gradients(3).nbytes == received.grad.nbytes
        assert blocks[DEVICE].labels(3).nbytes == labels.nbytes
        z.backward(received.grad)
        torch.testing.assert_close(y, out, rtol=1e-6, atol=1e-6)
        for n, p in model.named_parameters():
            assert p.grad is not None
            assert whole[n] is not None
            torch.testing.assert_close(p.grad, whole[n], rtol=1e-6, atol=1e-6)
        own = {s.name: s for block in blocks.values() for s in block.weights.shapes}
        named = [*model.named_parameters(), *model.named_buffers()]
        assert {n: tuple(t.shape) for n, t in named} == {n: s.shape for n, s in own.items()}
        assert sum(block.weights.nbytes for block in blocks.values()) == sum(t.nbytes for _, t in named)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "cut"), sampled_cuts())
def test_cutting_at_full_size_changes_nothing(name: str, cut: int) -> None:
    """The models as they are named, on CIFAR's size of images, cut where a seed says."""
    model = build(name, ENTRIES[name].options(), input=(3, 32, 32), classes=10, kind="image", device="cpu", seed=3)
    x, labels = torch.randn(2, 3, 32, 32), torch.tensor([1, 7])
    before = {n: b.clone() for n, b in model.named_buffers()}
    out = model(x)
    model.loss(out, labels).backward()
    whole = {n: p.grad for n, p in model.named_parameters()}
    assert all(g is not None and g.isfinite().all() and g.any() for n, g in whole.items() if n.endswith("weight"))
    with torch.no_grad():
        for n, b in model.named_buffers():
            b.copy_(before[n])
    model.zero_grad(set_to_none=True)
    z = model.block(0, cut)(x)
    received = sent(z).requires_grad_()
    y = model.block(cut, len(model))(received)
    model.loss(y, labels).backward()
    z.backward(received.grad)
    torch.testing.assert_close(y, out, rtol=1e-6, atol=1e-6)
    for n, p in model.named_parameters():
        torch.testing.assert_close(p.grad, whole[n], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_initial_weights_depend_on_the_seed_only(name: str) -> None:
    """The same seed gives the same bits whatever the global generator did, which is left as it was."""
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = network(name).state_dict()
    assert torch.get_rng_state().equal(before)
    torch.manual_seed(6)
    again, other = network(name).state_dict(), network(name, seed=2).state_dict()
    assert all(first[n].equal(again[n]) for n in first)
    assert any(not first[n].equal(other[n]) for n in first)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_on_meta_has_the_same_shapes(name: str) -> None:
    """Without memory."""
    shapes = {n: t.shape for n, t in network(name, device="meta").state_dict().items()}
    assert shapes == {n: t.shape for n, t in network(name).state_dict().items()}


@pytest.mark.parametrize(("name", "least"), [("vgg5", 8), ("resnet20", 8), *SMALLEST])
def test_one_sample_is_enough_for_batch_norm(name: str, least: int) -> None:
    """A last batch may hold a single sample, also at the smallest image a model takes, where maps shrink to 1x1."""
    options = OPTIONS.get(name, Plain())
    model = build(name, options, input=(3, least, least), classes=4, kind="image", device="cpu")
    model.loss(model(torch.randn(1, 3, least, least)), torch.tensor([1])).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_a_single_value_is_normalised_with_the_running_statistics() -> None:
    """It has no variance of its own, and leaves the statistics as they are; two values are normalised as ever."""
    norm, other = BatchNorm(3), nn.BatchNorm2d(3)
    for layer in (norm, other):
        with torch.no_grad():
            layer.running_mean.copy_(torch.tensor([1.0, 2.0, 3.0]))
    x = torch.randn(1, 3, 1, 1)
    expected = (x - torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1)) / (1 + 1e-5) ** 0.5
    torch.testing.assert_close(norm(x), expected)
    assert norm.running_mean.tolist() == [1, 2, 3]
    x = torch.randn(2, 3, 1, 1)
    assert norm(x).equal(other(x))
    assert norm.running_mean.equal(other.running_mean)


@pytest.mark.parametrize("name", MODELS)
def test_no_unit_begins_in_place(name: str) -> None:
    """A unit's input may be activations that someone else still holds."""
    model = network(name)
    x = batch_for(model)
    for module in model:
        before = x.clone()
        out = module(x)
        assert x.equal(before)
        x = out.detach()


def test_group_norm_takes_groups_of_sixteen_channels_where_they_divide() -> None:
    """Else one group (Wu and He 2018)."""
    groups = [m.num_groups for m in network("vgg5", "gn").modules() if isinstance(m, nn.GroupNorm)]
    assert groups == [2, 4, 4]
    assert not any(isinstance(m, nn.BatchNorm2d) for m in network("resnet20", "gn").modules())


# ----------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("name", "options", "shape", "kind", "message"),
    [
        ("resnet2", Plain(), (3, 8, 8), "image", r"unknown model 'resnet2'; did you mean resnet20\? there are: cnn, "),
        ("vgg5", Plain(), (6,), "vector", "model vgg5 takes image data, but this is vector data; choose mlp$"),
        ("cnn", SmallCnn(), (9,), "text", "model cnn takes image data, but this is text data; choose mlp, transformer"),
        ("transformer", TextTransformer(), (3, 8, 8), "image", "takes text data, but this is image data; choose mlp,"),
        (
            "vgg11",
            Plain(),
            (3, 28, 28),
            "image",
            "vgg11 takes square images of at least 32x32, but these are 28x28; set data.resize to 32",
        ),
        (
            "vgg5",
            Plain(),
            (3, 8, 9),
            "image",
            "takes square images of at least 8x8, but these are 8x9; set data.resize",
        ),
        ("lenet5", Plain(), (1, 8, 8), "image", "at least 16x16, but these are 8x8; set data.resize to 32"),
    ],
)
def test_a_model_that_does_not_fit_says_why(name: str, options: Any, shape: Any, kind: str, message: str) -> None:
    """Wrong kind of data, image too small, not square, no such model."""
    with pytest.raises(UserError, match=message):
        build(name, options, input=shape, classes=4, kind=kind)


@pytest.mark.parametrize(
    ("kind", "keywords", "message"),
    [
        (Mlp, {"hidden": []}, r"hidden: \[\] needs at least one width"),
        (Mlp, {"hidden": [4, 0]}, r"hidden: \[4, 0\] needs at least one width, each 1 or more"),
        (SmallCnn, {"channels": [3]}, r"channels: \[3\] needs two widths"),
        (SmallCnn, {"channels": [3, 0]}, r"channels: \[3, 0\] needs two widths, each 1 or more"),
        (SmallCnn, {"hidden": 0}, r"^hidden 0 must be 1 or more"),
        (TextTransformer, {"width": 10, "heads": 4}, "width 10 must be a multiple of heads 4"),
        (TextTransformer, {"blocks": 0}, "blocks 1 or more"),
    ],
)
def test_options_that_make_no_network_are_refused(kind: Any, keywords: dict[str, Any], message: str) -> None:
    """With the value that is wrong."""
    with pytest.raises(ValueError, match=message):
        kind(**keywords)


@pytest.mark.parametrize("cut", [-1, 0, 5, 6])
def test_a_cut_leaves_something_on_both_sides(cut: int) -> None:
    """The message gives the range."""
    names = [name for name, _ in network("vgg5").named_children()]
    with pytest.raises(UserError, match=f"cut after unit {cut}, but vgg5 has 5 units; choose 1-4"):
        check_cut("vgg5", names, cut)
    for fine in range(1, 5):
        check_cut("vgg5", names, fine)


def linear(*, options: Any, input: tuple[int, ...], classes: int, norm: str) -> Any:
    """Not a unit list."""
    return nn.Linear(4, classes)


def test_a_model_of_ones_own_is_a_unit_list() -> None:
    """What a function returns is checked before anything is done with it."""
    with pytest.raises(UserError, match=r"model linear is a Linear; return a UnitList \(fedsim.models.units\)"):
        build(linear, Plain(), input=(4,), classes=4, kind="vector")


@pytest.mark.parametrize("names", [[], ["a", "a"]])
def test_units_have_names_of_their_own(names: list[str]) -> None:
    """A dictionary would drop one in silence."""
    with pytest.raises(UserError, match="give at least one, each its own name"):
        UnitList("m", [(name, nn.Linear(4, 4)) for name in names], input=(4,), classes=4)
