"""Every model of the catalogue, cut at every place."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
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
from fedsim.models.options import (
    Llama,
    Mlp,
    MobileNet,
    Plain,
    ResNet,
    SmallCnn,
    Swin,
    TextTransformer,
    Vgg,
    VisionTransformer,
)
from fedsim.models.units import UnitList, check_cut
from fedsim.models.zoo.layers import BatchNorm
from fedsim.models.zoo.swin import fitting_window
from tests.models.networks import BOTH_NORMS, INPUTS, MODELS, OPTIONS, SLOW, batch_for, network, sampled_cuts, sent

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
    mean = torch.tensor([1.0, 2.0, 3.0])
    for layer in (norm, other):
        layer.load_state_dict(layer.state_dict() | {"running_mean": mean})
    x = torch.randn(1, 3, 1, 1)
    torch.testing.assert_close(norm(x), (x - mean.view(1, 3, 1, 1)) / (1 + 1e-5) ** 0.5)
    assert norm.state_dict()["running_mean"].equal(mean)
    assert norm.state_dict()["num_batches_tracked"] == 0
    x = torch.randn(2, 3, 1, 1)
    assert norm(x).equal(other(x))
    assert all(t.equal(other.state_dict()[n]) for n, t in norm.state_dict().items())


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


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vgg16", "resnet18", "mobilenetv3_large", "vit_s", "swin_t"])
def test_images_may_have_one_channel(name: str) -> None:
    """Such as MNIST's, of 28 pixels, made 32."""
    model = build(name, OPTIONS[name], input=(1, 32, 32), classes=4, kind="image", device="cpu")
    assert model(torch.randn(2, 1, 32, 32)).shape == (2, 4)


@pytest.mark.slow
def test_dropout_is_off_unless_asked_for() -> None:
    """Where it is on, training draws random numbers and evaluation does not."""
    options = {
        "vgg16": Vgg(width_ratio=0.0625, hidden=16, dropout=0.5),
        "mobilenetv3_large": MobileNet(width_ratio=0.25, dropout=0.5),
        "vit_s": VisionTransformer(width=24, heads=3, blocks=1, dropout=0.5),
        "swin_t": Swin(width=12, blocks=[1, 1], heads=[1, 2], stochastic_depth=0.5),
    }
    for name, option in options.items():
        for drops, chosen in ((False, OPTIONS[name]), (True, option)):
            model = build(name, chosen, input=(3, 32, 32), classes=4, kind="image", device="cpu")
            x = torch.randn(8, 3, 32, 32)
            assert model(x).equal(model(x)) != drops, name
            assert model.eval()(x).equal(model(x)), name


def test_windows_of_swin_fit_the_grid() -> None:
    """7 where it divides, as on 224 pixels; the whole of a small grid; else what needs no padding, if there is any."""
    fitting = {7: 7, 14: 7, 28: 7, 56: 7, 8: 8, 4: 4, 2: 2, 1: 1, 16: 8, 64: 8, 12: 6, 10: 5, 9: 7, 11: 7, 20: 5}
    assert {grid: fitting_window(grid) for grid in fitting} == fitting


@pytest.mark.slow
def test_small_models_import_neither_torchvision_nor_transformers() -> None:
    """They take seconds; so is the catalogue free of torch."""
    names = [name for name in ENTRIES if name not in SLOW]
    program = f"""
import sys
from fedsim.models.catalogue import ENTRIES
assert "torch" not in sys.modules
from fedsim.models.building import build
for name in {names}:
    shape, kind = ((8,), "text") if ENTRIES[name].inputs == "text" else ((3, 32, 32), "image")
    build(name, ENTRIES[name].options(), input=shape, classes=4, kind=kind)
print(*sorted({{"torchvision", "transformers"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


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
        (
            "resnet18",
            ResNet(stem="imagenet"),
            (3, 28, 28),
            "image",
            "at least 32x32, but these are 28x28; set data.res",
        ),
        ("mobilenetv3_large", MobileNet(), (1, 8, 8), "image", "at least 16x16, but these are 8x8; set data.resize to"),
        (
            "vit_s",
            VisionTransformer(),
            (3, 30, 30),
            "image",
            "patches of 4x4, but these are 30x30; choose patch 2 or 3 or 5 or 6 or 10 or 15, or set data.resize to 32",
        ),
        ("vit_s", VisionTransformer(), (3, 31, 31), "image", "choose another size of images, or set data.resize to 32"),
        ("swin_t", Swin(), (3, 30, 30), "image", "patches of 4x4, but these are 30x30; set data.resize to 32$"),
        ("swin_t", Swin(), (3, 4, 4), "image", "at least 8x8, but these are 4x4; set data.resize to 32"),
        ("llama", Llama(), (3, 8, 8), "image", "takes text data, but this is image data; choose mlp, cnn"),
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
        (Vgg, {"width_ratio": 0.0}, "width_ratio 0.0 must be above 0 and at most 16, such as 0.5"),
        (Vgg, {"dropout": 1.0}, "dropout 1.0 must be 0 or more and below 1, such as 0.1"),
        (Vgg, {"hidden": 0}, "^hidden 0 must be 1 or more, such as 4096; null is for no hidden layers"),
        (Vgg, {"hidden": None, "dropout": 0.5}, "dropout 0.5 is of the hidden layers, and hidden: null leaves"),
        (ResNet, {"width_ratio": 17.0}, "width_ratio 17.0 must be above 0"),
        (MobileNet, {"width_ratio": -1.0}, "width_ratio -1.0 must be above 0"),
        (MobileNet, {"dropout": -0.1}, "dropout -0.1 must be 0 or more"),
        (VisionTransformer, {"patch": 0}, "patch 0 must be 1 or more, such as 4"),
        (VisionTransformer, {"heads": 5}, "width 384 must be a multiple of heads 5, and blocks 1 or more"),
        (VisionTransformer, {"dropout": 2.0}, "dropout 2.0 must be"),
        (Swin, {"window": 0}, "patch 4, width 96 and window 0 must be 1 or more"),
        (Swin, {"blocks": [2, 2]}, r"blocks: \[2, 2\] and heads: \[3, 6, 12, 24\] need a number each for every stage"),
        (
            Swin,
            {"heads": [3, 6, 12, 25]},
            r"heads: \[3, 6, 12, 25\] must divide the channels, and 25 does not divide 768",
        ),
        (Swin, {"dropout": 1.0}, "dropout 1.0 must be"),
        (Swin, {"stochastic_depth": 1.0}, "stochastic_depth 1.0 must be 0 or more and below 1"),
        (
            Llama,
            {"path": Path("x"), "width": 8, "tied": False},
            r"with path, width and tied would contradict its config",
        ),
        (Llama, {"width": 20, "heads": 4}, "width 20 over heads 4 must be even: rotary positions turn pairs"),
        (Llama, {"kv_heads": 3}, "heads 4 must be a multiple of kv_heads 3"),
        (Llama, {"blocks": 0}, "blocks 1 or more"),
        (Llama, {"intermediate": 0}, "intermediate 0 must be 1 or more"),
        (Llama, {"vocabulary": 0}, "vocabulary 0 must be 1 or more"),
        (Llama, {"rope_theta": 0.0}, "rope_theta 0.0 must be above 0, such as 10000"),
        (Llama, {"sliding_window": 4}, "sliding_window is an option of family mistral, not of llama; leave it out"),
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
