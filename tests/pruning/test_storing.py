"""Deployment folders: what is written is read back exactly, small, and nothing damaged is taken for a model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from fedsim.errors import UserError
from fedsim.models.building import build
from fedsim.models.options import Llama, Plain
from fedsim.payload.supports import Support
from fedsim.pruning import deltas
from fedsim.pruning.counting import counts
from fedsim.pruning.manifest import Base, CatalogueBase, Manifest, ObjectBase, content
from fedsim.pruning.pruned import Pruned, PruningError, fingerprint
from fedsim.pruning.skeletons import catalogue_base, transformers_base
from fedsim.pruning.storing import read, read_manifest, write
from fedsim.pruning.verifying import ties, verify
from tests.pruning.cuts import (
    TOKENS,
    Small,
    llama_cut,
    plan_of,
    pruned_of,
    randomise,
    small_cut,
    tiny_llama,
)

IMAGES = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def masked(pruned: Pruned, density: float, *names: str) -> Pruned:
    """The same with a random mask on some tensors."""
    generator = np.random.default_rng(0)
    masks = {}
    for name in names:
        tensor: Any = pruned.module.get_parameter(name)
        masks[name] = generator.random(tuple(tensor.shape)) < density
        with torch.no_grad():
            tensor.masked_fill_(torch.from_numpy(~masks[name]), 0)
    sparsity = dict.fromkeys((name.removesuffix(".weight") for name in names), 1 - density)
    return replace(pruned, support=Support(pruned.support.axes, masks), plan=replace(pruned.plan, sparsity=sparsity))


def keep(folder: Path, parent: nn.Module, pruned: Pruned, base: Base, example: Any, **more: Any) -> Manifest:
    """Verify, count and write."""
    bare = replace(pruned, support=Support(pruned.support.axes))
    updated = tuple(pruned.support.masks)  # zeros are no longer the parent's values
    checks = verify(parent, replace(bare, updated=updated), example)
    sizes = counts(pruned.module, example, pruned.support)
    return write(folder, pruned, checks, base, sizes, parent=parent, **more)


@pytest.fixture
def small() -> Small:
    """With values as after training."""
    model = Small()
    randomise(model)
    return model


@pytest.fixture
def folder(tmp_path: Path, small: Small) -> Path:
    """A written network, cut and masked."""
    keep(tmp_path / "small", small, masked(small_cut(small), 0.3, "out.weight"), ObjectBase(), IMAGES)
    return tmp_path / "small"


def same(module: nn.Module, other: nn.Module) -> bool:
    """Names, types, bits; minus zero counts as zero."""
    ours, theirs = module.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(
        tensor.dtype == theirs[name].dtype and tensor.equal(theirs[name]) for name, tensor in ours.items()
    )


def test_an_object_of_the_callers(tmp_path: Path, small: Small) -> None:
    """Values, masks, plan, sizes, checks and attributes come back; no file beside the two."""
    pruned = masked(small_cut(small), 0.3, "out.weight", "conv.weight")
    pruned = replace(pruned, realised={"out": 0.7}, timings={"score": 0.25}, reinitialised=("conv",))
    manifest = keep(tmp_path / "a" / "small", small, pruned, ObjectBase(), IMAGES, calibration="none")
    assert sorted(path.name for path in (tmp_path / "a" / "small").iterdir()) == ["manifest.json", "model.safetensors"]
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["small"]
    stored = read(tmp_path / "a" / "small", Small())
    assert same(stored.module, pruned.module)
    assert stored.plan == pruned.plan
    assert stored.support == pruned.support
    assert stored.manifest == manifest
    assert stored.module(IMAGES).equal(pruned.module(IMAGES))
    assert manifest.counts.disk == (tmp_path / "a" / "small" / "model.safetensors").stat().st_size


def test_a_model_that_was_read_has_memory_of_its_own(folder: Path) -> None:
    """It keeps its values when the file is overwritten in place, and the file's bytes do not stay in memory for it."""
    module = read(folder, Small()).module
    before = fingerprint(module)
    file = folder / "model.safetensors"
    with file.open("r+b") as opened:
        opened.write(b"\xff" * file.stat().st_size)
    assert fingerprint(module) == before


def test_what_the_manifest_says(folder: Path) -> None:
    """Of every layer the shape, what stays, the mask, and how much of it is zero, wanted and counted."""
    said = json.loads((folder / "manifest.json").read_text())
    out = said["layers"]["out"]
    assert out["tensors"]["weight"]["shape"] == [5, 64]
    assert out["tensors"]["weight"]["of"] == [5, 128]
    assert out["target"] == pytest.approx(0.7)
    assert out["realised"] == pytest.approx(1 - out["tensors"]["weight"]["mask"]["kept"] / 320)
    assert out["removed"] == 0.5
    assert said["layers"]["conv"]["removed"] == 0.5
    assert "realised" not in said["layers"]["conv"]
    (conv, *whole) = said["layers"]["conv"]["tensors"]["weight"]["axes"]
    assert said["indices"][conv] == "0 2 1 4"
    assert whole == [None, None, None]
    assert said["base"]["kind"] == "object"
    assert said["checks"]["parameters"] == said["counts"]["parameters"] == said["plan"]["parameters"]


def test_zeros_take_no_room(tmp_path: Path) -> None:
    """At 90 % of zeros a matrix's values and mask are 13 % of it."""
    model = nn.Sequential(nn.Linear(300, 300, bias=False), nn.Linear(300, 10, bias=False))
    plan = plan_of(model, [], 93_000, sparsity={"0": 0.9})
    pruned = masked(pruned_of(model, {}, plan), 0.1, "0.weight")
    manifest = keep(tmp_path / "m", model, pruned, ObjectBase(), torch.randn(2, 300))
    kept = pruned.support.kept("0.weight")
    assert kept is not None
    assert manifest.counts.wire == 4 * kept + 90_000 // 8 + 4 * 3_000
    assert manifest.counts.disk is not None
    assert 0 < manifest.counts.disk - manifest.counts.wire < 500  # the header
    assert manifest.counts.disk < 0.2 * manifest.counts.resident
    assert same(read(tmp_path / "m", model).module, pruned.module)


@given(st.sets(st.integers(0, 60)), st.integers(0, 200))
def test_index_lists_come_back(indices: set[int], more: int) -> None:
    """Any, and a run of equal steps is short."""
    listed = np.array(sorted(indices), np.int64)
    assert np.array_equal(deltas.parsed(deltas.written(listed), 61), listed)
    run = np.arange(5, 6 + more)
    assert len(deltas.written(run).split()) <= 2
    assert np.array_equal(deltas.parsed(deltas.written(run), 6 + more), run)


@pytest.mark.parametrize("text", ["3", "0 0", "2 -1", "-1", "0 1x9999999999", "0 1x3", "x"])
def test_index_lists_that_leave_their_axis(text: str) -> None:
    """They are refused, and no list of any length is made."""
    with pytest.raises(ValueError, match=r"indices|invalid literal"):
        deltas.parsed(text, 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_every_precision(tmp_path: Path, dtype: torch.dtype) -> None:
    """Masked or not, bit for bit."""
    model = Small()
    randomise(model)
    model = model.to(dtype)
    pruned = masked(small_cut(model), 0.4, "out.weight")
    keep(tmp_path / "m", model, pruned, ObjectBase(), IMAGES.to(dtype))
    stored = read(tmp_path / "m", Small().to(dtype))
    assert same(stored.module, pruned.module)
    assert stored.support == pruned.support


def test_a_model_of_the_catalogue(tmp_path: Path) -> None:
    """Nothing has to be handed in; shortcuts, norms and dtypes are those of the builder; on `meta`, shapes alone."""
    settings: dict[str, Any] = {"input": (3, 32, 32), "classes": 10, "norm": "bn"}
    parent: Any = build("resnet20", Plain(), **settings, kind="image", device="cpu")
    randomise(parent)
    stay = (1, 5, 9, 14)
    axes: dict[str, Any] = {"block1_2.conv1.weight": (stay, None, None, None)}
    axes |= {f"block1_2.norm1.{name}": (stay,) for name in ("weight", "bias", "running_mean", "running_var")}
    axes |= {"block1_2.conv2.weight": (None, stay, None, None)}
    parameters = sum(p.numel() for p in parent.parameters()) - 12 * (2 * 16 * 9 + 2)
    pruned = pruned_of(parent, axes, plan_of(parent, [("block1_2.conv1", "filters", 16, stay)], parameters))
    base = catalogue_base(parent, Plain(), data="image", norm="bn")
    example = torch.randn(2, 3, 32, 32)
    keep(tmp_path / "m", parent, pruned, base, example)
    stored = read(tmp_path / "m")
    assert fingerprint(stored.module) == fingerprint(pruned.module)
    assert stored.module.eval()(example).equal(pruned.module.eval()(example))
    assert type(stored.module) is type(parent)
    empty = read(tmp_path / "m", device="meta").module
    assert {n: t.shape for n, t in empty.state_dict().items()} == {
        n: t.shape for n, t in pruned.module.state_dict().items()
    }
    assert all(tensor.is_meta for tensor in empty.state_dict().values())


@pytest.mark.slow
@pytest.mark.parametrize("tied", [True, False])
def test_a_model_of_transformers(tmp_path: Path, tied: bool) -> None:
    """From its configuration; tied again, stored once; the manifest says the heads of each block."""
    parent = tiny_llama(tied=tied)
    example = {"input_ids": TOKENS}
    pruned = masked(llama_cut(parent), 0.5, "model.layers.0.mlp.up_proj.weight")
    manifest = keep(tmp_path / "m", parent, pruned, transformers_base(parent), example)
    stored = read(tmp_path / "m")
    assert fingerprint(stored.module) == fingerprint(pruned.module)
    assert ties(stored.module) == ties(parent)
    assert stored.module.eval()(**example).logits.equal(pruned.module.eval()(**example).logits)
    said = manifest.data()["layers"]
    assert said["model.layers.0.self_attn"] == {"tensors": {}, "heads": 6, "kv_heads": 2}
    assert said["model.layers.0.mlp.up_proj"]["realised"] == pytest.approx(0.5, abs=0.05)
    assert ("lm_head.weight" in load_file(tmp_path / "m" / "model.safetensors")) is not tied


@pytest.mark.slow
def test_a_llama_of_units(tmp_path: Path) -> None:
    """The catalogue's, with rotary tables that are no buffers."""
    options = Llama(blocks=2, width=36, heads=9, kv_heads=3, intermediate=24)
    parent = build("llama", options, input=(12,), classes=61, kind="text", device="cpu")
    pruned = llama_cut(parent, prefix="block{}.layer.", first=1)
    keep(tmp_path / "m", parent, pruned, catalogue_base(parent, options, data="text", norm="bn"), TOKENS)
    stored = read(tmp_path / "m")
    assert fingerprint(stored.module) == fingerprint(pruned.module)
    assert stored.module.eval()(TOKENS).equal(pruned.module.eval()(TOKENS))


def test_the_same_model_gives_the_same_files(tmp_path: Path, small: Small) -> None:
    """Byte for byte, but for the timings, which the hash of the content leaves out."""
    for name, seconds in (("a", 1.0), ("b", 2.0)):
        pruned = replace(masked(small_cut(small), 0.3, "out.weight"), timings={"cut": seconds})
        keep(tmp_path / name, small, pruned, ObjectBase(), IMAGES)
    texts = [(tmp_path / name / "manifest.json").read_text() for name in "ab"]
    assert texts[0] == texts[1].replace("2.0", "1.0")
    assert json.loads(texts[0])["content"] == json.loads(texts[1])["content"]
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in "ab"]
    assert files[0] == files[1]


# ------------------------------------------------------------------------------------------ what is wrong


def changed(folder: Path, edit: Callable[[dict[str, Any]], None], *, sealed: bool = True) -> None:
    """Edit a manifest, with the hash that fits what it says then."""
    said = json.loads((folder / "manifest.json").read_text())
    edit(said)
    if sealed:
        said["content"] = content(said)
    (folder / "manifest.json").write_text(json.dumps(said))


def test_nothing_is_written_over(folder: Path, small: Small) -> None:
    """Nor left behind where writing fails."""
    with pytest.raises(UserError, match="already exists and is not empty; choose another folder, or remove it"):
        keep(folder, small, small_cut(small), ObjectBase(), IMAGES)
    pruned = masked(small_cut(small), 0.3, "out.weight")
    with torch.no_grad():
        pruned.module.get_parameter("out.weight").fill_(1.0)
    other = folder.parent / "other"
    sizes, checks = read_manifest(folder).counts, read_manifest(folder).checks
    with pytest.raises(PruningError, match=r"^out.weight: the mask leaves out a value that is not zero"):
        write(other, pruned, checks, ObjectBase(), sizes, parent=small)
    with pytest.raises(UserError, match=r"cannot be made: .*; choose another folder"):
        write(folder / "manifest.json" / "x", small_cut(small), checks, ObjectBase(), sizes, parent=small)
    assert [path.name for path in folder.parent.iterdir()] == ["small"]


def test_a_base_that_is_not_the_parent(tmp_path: Path, folder: Path, small: Small) -> None:
    """It is found when the folder is written, not when it is to be read."""
    manifest = read_manifest(folder)
    base = CatalogueBase(name="lenet5", options={}, input=(1, 28, 28), classes=10, data="image")
    with pytest.raises(UserError, match=r"differ in \d+ tensors, such as .*; take the network that was pruned"):
        write(tmp_path / "m", small_cut(small), manifest.checks, base, manifest.counts)
    wide = Small()
    wide.out = nn.Linear(128, 6)
    with pytest.raises(UserError, match=r"out.weight has shape \(5, 64\), which is not what the support leaves of \(6"):
        write(tmp_path / "m", small_cut(small), manifest.checks, ObjectBase(), manifest.counts, parent=wide)


def test_no_folder_or_no_manifest(tmp_path: Path) -> None:
    """The way out names the command that writes one."""
    with pytest.raises(UserError, match=r"has no manifest.json; give a folder that fedsim prune has written"):
        read(tmp_path / "nothing")


@pytest.mark.parametrize("size", [0, 10, -1])
def test_a_truncated_manifest(folder: Path, size: int) -> None:
    """Wherever it ends."""
    text = (folder / "manifest.json").read_text().rstrip()
    (folder / "manifest.json").write_text(text[:size])
    with pytest.raises(UserError, match=r"manifest.json is not JSON \(.*\); copy the folder again, or prune again"):
        read(folder, Small())


def test_a_manifest_of_another_version(folder: Path) -> None:
    """Both versions are named."""
    changed(folder, lambda said: said.update(schema="fedsim-pruned/9"))
    with pytest.raises(UserError, match="has schema 'fedsim-pruned/9', but 'fedsim-pruned/1' is read here"):
        read(folder, Small())
    (folder / "manifest.json").write_text("[]")
    with pytest.raises(UserError, match="has schema null, but"):
        read(folder, Small())


def test_a_manifest_that_was_changed(folder: Path) -> None:
    """Anything in it but the timings."""
    changed(folder, lambda said: said["timings"].update(cut=3.0), sealed=False)
    assert read(folder, Small()).manifest.timings == {"cut": 3.0}
    changed(folder, lambda said: said["plan"].update(parameters=1), sealed=False)
    with pytest.raises(UserError, match="was changed after it was written: its content has another hash"):
        read(folder, Small())


def _drop_counts(said: dict[str, Any]) -> None:
    del said["counts"]["macs"]


def _drop_list(said: dict[str, Any]) -> None:
    said["indices"].clear()


def _far_index(said: dict[str, Any]) -> None:
    said["indices"] = dict.fromkeys(said["indices"], "0 2 1 400")


def _other_file(said: dict[str, Any]) -> None:
    said["weights"]["file"] = "../../other.safetensors"


def _odd_shape(said: dict[str, Any]) -> None:
    said["layers"]["out"]["tensors"]["bias"]["shape"] = [-5]


@pytest.mark.parametrize("edit", [_drop_counts, _drop_list, _far_index, _other_file, _odd_shape])
def test_a_manifest_that_lacks_something(folder: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    """Though it is sealed as if it had been written so."""
    changed(folder, edit)
    with pytest.raises(UserError, match=r"does not say what it has to .*; copy the folder again, or prune again"):
        read(folder, Small())


def test_damaged_tensors(folder: Path) -> None:
    """Gone, cut short, with a bit turned, or another model's."""
    file = folder / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[:-7])
    with pytest.raises(UserError, match=rf"not the one that was written: {len(data) - 7} bytes, of {len(data)}; copy"):
        read(folder, Small())
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(UserError, match="is not the one that was written"):
        read(folder, Small())
    file.unlink()
    with pytest.raises(UserError, match=r"there is no .*model.safetensors beside the manifest"):
        read(folder, Small())


def _resealed(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Other tensors, with a manifest that has their hash."""
    import hashlib

    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    changed(folder, lambda said: said["weights"].update(sha256=digest))


def test_tensors_that_the_manifest_does_not_describe(folder: Path) -> None:
    """One too few, one of another shape, a sparse one cut short, or with another mask."""
    whole = load_file(folder / "model.safetensors")
    _resealed(folder, {name: tensor for name, tensor in whole.items() if name != "conv.bias"})
    with pytest.raises(UserError, match=r"and its manifest differ in 1 tensors, such as conv.bias"):
        read(folder, Small())
    _resealed(folder, {**whole, "conv.bias": torch.zeros(5)})
    with pytest.raises(UserError, match=r"conv.bias is of torch.float32 and shape \(5,\), not as the manifest says"):
        read(folder, Small())
    _resealed(folder, {**whole, "out.weight": whole["out.weight"][:-1].clone()})
    with pytest.raises(UserError, match=r"cannot be read \(\d+ bytes, but \d+ are needed\); copy"):
        read(folder, Small())
    turned = whole["out.weight"].clone()
    ones = [bit for bit in range(8) if int(turned[0]) >> bit & 1]
    zeros = [bit for bit in range(8) if not int(turned[0]) >> bit & 1]
    turned[0] = int(turned[0]) ^ (1 << ones[0]) ^ (1 << zeros[0])  # as many, elsewhere
    _resealed(folder, {**whole, "out.weight": turned})
    with pytest.raises(UserError, match="the masks of its tensors are not those of its manifest"):
        read(folder, Small())
    (folder / "model.safetensors").write_bytes(b"nonsense")
    import hashlib

    changed(folder, lambda said: said["weights"].update(sha256=hashlib.sha256(b"nonsense").hexdigest()))
    with pytest.raises(UserError, match=r"cannot be read .*; copy the folder again"):
        read(folder, Small())


def test_another_skeleton(folder: Path) -> None:
    """None at all, another network, or the same one of other widths."""
    with pytest.raises(UserError, match="hand a model like it to `read`"):
        read(folder)
    with pytest.raises(UserError, match=r"differ in \d+ tensors, such as .*; take the network that was pruned"):
        read(folder, nn.Linear(2, 2))
    wide = Small()
    wide.out = nn.Linear(128, 6)
    with pytest.raises(
        UserError, match=r"out.weight has shape \(6, 128\) in the skeleton, but \(5, 128\) in the parent"
    ):
        read(folder, wide)


def test_a_model_that_this_version_has_not(tmp_path: Path) -> None:
    """By name, or with an option of a later version."""
    parent: Any = build("lenet5", Plain(), input=(1, 28, 28), classes=10, kind="image", device="cpu")
    first = next(name for name, part in parent.named_modules() if isinstance(part, nn.Conv2d))
    assert parent.get_submodule(first).out_channels == 6
    second = [name for name, part in parent.named_modules() if isinstance(part, nn.Conv2d)][1]
    stay = (0, 1, 2)
    axes: Any = {f"{first}.weight": (stay, None, None, None), f"{first}.bias": (stay,)}
    axes |= {f"{second}.weight": (None, stay, None, None)}
    parameters = sum(p.numel() for p in parent.parameters()) - 3 * 26 - 3 * 16 * 25
    pruned = pruned_of(parent, axes, plan_of(parent, [(first, "filters", 6, stay)], parameters))
    base = catalogue_base(parent, Plain(), data="image", norm="bn")
    keep(tmp_path / "m", parent, pruned, base, torch.randn(2, 1, 28, 28))
    shutil.copytree(tmp_path / "m", tmp_path / "n")
    changed(tmp_path / "m", lambda said: said["base"].update(name="lenet6"))
    with pytest.raises(UserError, match="is of lenet6 in float32, which this version of fedsim has not"):
        read(tmp_path / "m")
    changed(tmp_path / "n", lambda said: said["base"].update(options={"width": 3}))
    with pytest.raises(
        UserError,
        match=r"the pruned model's lenet5: base.options.width: unknown key.*; use the version of fedsim that pruned",
    ):
        read(tmp_path / "n")


def test_both_files_may_be_read_by_whoever_may_read_one(folder: Path) -> None:
    """The file of tensors is not its maker's alone."""
    modes = {(folder / name).stat().st_mode for name in ("manifest.json", "model.safetensors")}
    assert len(modes) == 1


def test_further_files_come_with_the_folder_and_know_its_size(small: Small, tmp_path: Path) -> None:
    """They are not part of the model; where one of them fails, there is no folder."""

    def beside(manifest: Manifest) -> dict[str, str]:
        return {"read.me": f"{manifest.counts.disk} bytes"}

    manifest = keep(tmp_path / "a", small, small_cut(small), ObjectBase(), IMAGES, beside=beside)
    assert (tmp_path / "a" / "read.me").read_text(encoding="utf-8") == f"{manifest.counts.disk} bytes"
    assert read(tmp_path / "a", small).manifest == manifest

    def fails(_manifest: Manifest) -> dict[str, str]:
        raise KeyError("nothing to say")

    with pytest.raises(KeyError):
        keep(tmp_path / "b", small, small_cut(small), ObjectBase(), IMAGES, beside=fails)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
