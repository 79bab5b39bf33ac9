"""Exports: other programs compute what the pruned model does; what cannot be exported is refused with its reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fedsim.errors import UserError
from fedsim.models.building import build
from fedsim.models.options import Llama, Plain
from fedsim.pruning import exporting
from fedsim.pruning.exporting import export_hugging_face, export_onnx
from tests.pruning.cuts import TOKENS, Small, llama_cut, randomise, small_cut, tiny_llama

IMAGES = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.slow
def test_onnx_computes_the_same(tmp_path: Path) -> None:
    """Evaluated by ONNX's own reference, for a batch of another size, too; the module stays in training mode."""
    from onnx.reference import ReferenceEvaluator

    model = Small()
    randomise(model)
    pruned = small_cut(model).module.train()
    export_onnx(pruned, IMAGES, tmp_path / "small.onnx")
    assert pruned.training
    evaluator = ReferenceEvaluator(str(tmp_path / "small.onnx"))
    pruned.eval()
    for count in (1, 2, 5):
        x = torch.randn(count, 3, 4, 4)
        (got,) = evaluator.run(None, {evaluator.input_names[0]: x.numpy()})
        assert float((torch.from_numpy(got) - pruned(x).detach()).abs().max()) < 1e-5
    with pytest.raises(UserError, match="already exists; choose another file, or remove it"):
        export_onnx(pruned, IMAGES, tmp_path / "small.onnx")


def test_onnx_without_its_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra that brings them is named."""
    monkeypatch.setattr(exporting, "find_spec", lambda name: None if name == "onnxscript" else object())
    with pytest.raises(UserError, match=r'and onnxscript cannot be found; pip install "fedsim-edge\[export\]"'):
        export_onnx(Small(), IMAGES, tmp_path / "small.onnx")
    assert not (tmp_path / "small.onnx").exists()


@pytest.mark.slow
def test_a_network_that_onnx_cannot_hold(tmp_path: Path) -> None:
    """One whose path depends on values; nothing is written."""

    class Choosing(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if float(x.sum()) > 0 else -x

    with pytest.raises(UserError, match=r"PyTorch cannot export this network to ONNX: .*; write it without what is"):
        export_onnx(Choosing(), IMAGES, tmp_path / "choosing.onnx")
    assert not list(tmp_path.iterdir())


def reloaded(folder: Path) -> Any:
    """The model that transformers reads."""
    import transformers

    maker: Any = transformers.AutoModelForCausalLM
    return maker.from_pretrained(folder, dtype=torch.float32).eval()


UNIFORM: Any = {"groups": ((0, 2), (1, 2)), "channels": ((0, 3, 4), (1, 4, 23))}


@pytest.mark.slow
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2"])
def test_hugging_face_reads_the_same_model(tmp_path: Path, family: str, tied: bool) -> None:
    """Other units in each block, but as many: logits are identical, and what was tied is."""
    pruned = llama_cut(tiny_llama(family=family, tied=tied), **UNIFORM).module
    config: Any = pruned.config
    before = config.to_dict()
    export_hugging_face(pruned, tmp_path / "m")
    again = reloaded(tmp_path / "m")
    assert again(TOKENS).logits.equal(pruned.eval()(TOKENS).logits)
    assert (again.lm_head.weight is again.model.embed_tokens.weight) is tied
    assert (again.config.num_attention_heads, again.config.num_key_value_heads) == (6, 2)
    assert config.to_dict() == before
    with pytest.raises(UserError, match="already exists and is not empty"):
        export_hugging_face(pruned, tmp_path / "m")


@pytest.mark.slow
@pytest.mark.parametrize("tied", [True, False])
def test_hugging_face_reads_a_llama_of_units(tmp_path: Path, tied: bool) -> None:
    """Put together again; the head is tied where it is still the embedding."""
    options = Llama(blocks=2, width=36, heads=9, kv_heads=3, intermediate=24, tied=tied)
    parent = build("llama", options, input=(12,), classes=61, kind="text", device="cpu")
    pruned = llama_cut(parent, prefix="block{}.layer.", first=1, **UNIFORM).module
    export_hugging_face(pruned, tmp_path / "m")
    again = reloaded(tmp_path / "m")
    assert again(TOKENS).logits.equal(pruned.eval()(TOKENS))
    assert again.config.tie_word_embeddings is tied
    assert pruned.get_parameter("head.1.weight") is not pruned.get_parameter("embedding.weight")


@pytest.mark.slow
def test_blocks_of_other_widths_are_refused(tmp_path: Path) -> None:
    """They are named, with their widths and the usual ones."""
    pruned = llama_cut(tiny_llama(num_hidden_layers=3), ((0, 2), (1, 2), (0, 1)), ((0, 3), (1, 4), range(7))).module
    with pytest.raises(
        UserError,
        match=r"but model.layers.2 has 6 query heads, 2 key heads and 7 MLP channels, where others have 6, 2 and 2; "
        r"prune with uniform_widths: true",
    ):
        export_hugging_face(pruned, tmp_path / "m")
    assert not list(tmp_path.iterdir())


def test_networks_for_images_are_no_language_models(tmp_path: Path) -> None:
    """The other format is named."""
    with pytest.raises(UserError, match="a Small is no language model of transformers; networks for images"):
        export_hugging_face(Small(), tmp_path / "m")
    vgg = build("vgg5", Plain(), input=(3, 32, 32), classes=10, kind="image")
    with pytest.raises(UserError, match="model vgg5 is no language model"):
        export_hugging_face(vgg, tmp_path / "m")
