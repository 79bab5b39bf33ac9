"""Causal language models, taken apart, against transformers' own whole models; and models read from a folder."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedsim.errors import UserError
from fedsim.models.building import build
from fedsim.models.counting import measure
from fedsim.models.options import Llama
from fedsim.models.units import UnitList
from fedsim.models.zoo.llama import apart, published
from fedsim.models.zoo.llama_files import source
from fedsim.torchvision_shim import import_torchvision

pytestmark = pytest.mark.slow  # transformers takes seconds to import

VOCABULARY, LENGTH = 29, 10
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "head_dim": 4,
    "max_position_embeddings": 64,
}


def whole(family: str, **changed: Any) -> Any:
    """A tiny model of transformers with random weights."""
    import_torchvision()
    from transformers import AutoConfig, AutoModelForCausalLM

    maker: Any = AutoModelForCausalLM  # it has no types
    torch.manual_seed(3)
    made = maker.from_config(AutoConfig.for_model(family, **(SIZES | changed)), attn_implementation="sdpa")
    for parameter in made.parameters():  # norms and biases begin as ones and zeros, which would hide mistakes
        nn.init.normal_(parameter, mean=0.3, std=0.3)
    return made


def read(folder: Path, *, classes: int = VOCABULARY, length: int = LENGTH, device: str = "cpu") -> UnitList:
    """The model in a folder."""
    return build("llama", Llama(path=folder), input=(length,), classes=classes, kind="text", device=device)


def drawn(options: Llama, *, classes: int = VOCABULARY, device: str = "cpu") -> UnitList:
    """A model of random weights."""
    return build("llama", options, input=(LENGTH,), classes=classes, kind="text", device=device, seed=5)


def tokens(batch: int = 2) -> Tensor:
    """A batch of made-up sequences."""
    return torch.randint(0, VOCABULARY, (batch, LENGTH), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny tied Llama on disk."""
    whole("llama", tie_word_embeddings=True).save_pretrained(tmp_path)
    return tmp_path


# ---------------------------------------------------------------------------------------------- equality


@pytest.mark.parametrize(
    ("family", "changed"),
    [
        ("llama", {"tie_word_embeddings": True}),
        ("llama", {"tie_word_embeddings": False}),
        ("llama", {"num_key_value_heads": 6}),
        ("llama", {"num_key_value_heads": 1, "attention_bias": True, "mlp_bias": True, "head_dim": 8}),
        ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 500.0}}),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 500.0}}),
        (
            "llama",
            {
                "rope_parameters": {
                    "rope_type": "llama3",
                    "factor": 8.0,
                    "rope_theta": 500.0,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 8,
                }
            },
        ),
        ("mistral", {"sliding_window": 4}),
        ("mistral", {"sliding_window": None}),
        ("qwen2", {"tie_word_embeddings": True}),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1}),
        ("qwen3", {}),
    ],
)
def test_logits_and_gradients_are_those_of_transformers(tmp_path: Path, family: str, changed: dict[str, Any]) -> None:
    """For the same weights, through a folder: grouped heads, biases, scaled positions, windows, tied and untied."""
    theirs = whole(family, **changed)
    theirs.save_pretrained(tmp_path)
    ours = read(tmp_path)
    assert [n for n, _ in ours.named_children()] == ["embedding", "block1", "block2", "block3", "head"]
    x = tokens()
    out, expected = ours(x), theirs(x).logits
    torch.testing.assert_close(out, expected, rtol=1e-6, atol=1e-6)
    ours.loss(out, x).backward()
    nn.functional.cross_entropy(expected.flatten(0, 1), x.flatten()).backward()
    mine = dict(ours.named_parameters())
    for name, parameter in theirs.model.layers.named_parameters():
        index, _, rest = name.partition(".")
        torch.testing.assert_close(
            mine[f"block{int(index) + 1}.layer.{rest}"].grad, parameter.grad, rtol=1e-5, atol=1e-6
        )
    embedding, head = mine["embedding.weight"].grad, mine["head.1.weight"].grad
    assert embedding is not None
    assert head is not None
    if changed.get("tie_word_embeddings"):
        torch.testing.assert_close(embedding + head, theirs.lm_head.weight.grad, rtol=1e-5, atol=1e-6)
    else:
        torch.testing.assert_close(embedding, theirs.model.embed_tokens.weight.grad, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(head, theirs.lm_head.weight.grad, rtol=1e-5, atol=1e-6)


def test_cutting_unties_embedding_and_head() -> None:
    """The head begins as a copy of the embedding, in memory of its own, and is counted as the server's."""
    tied, untied = drawn(Llama(width=24, heads=6, blocks=1)), drawn(Llama(width=24, heads=6, blocks=1, tied=False))
    first, *_, last = tied.parameters()
    assert first.equal(last)
    assert first.data_ptr() != last.data_ptr()
    first, *_, last = untied.parameters()
    assert first.shape == last.shape
    assert not first.equal(last)
    found = measure(tied)
    assert found.units[0].trainable == VOCABULARY * 24
    assert found.units[-1].trainable == VOCABULARY * 24 + 24


def test_constants_do_not_travel() -> None:
    """No buffers: tables of angles and masks of windows are rebuilt wherever a block is."""
    model = drawn(Llama(width=24, heads=6, blocks=2, family="mistral", sliding_window=4))
    assert not list(model.buffers())
    assert not any(unit.buffers for unit in measure(model).units)


def test_macs_by_hand() -> None:
    """Projections, gated MLP, two attention products over all pairs, and the head; the embedding is looked up."""
    found = measure(drawn(Llama(width=24, heads=6, kv_heads=3, intermediate=40, blocks=2)))
    block = LENGTH * (24 * 24 * 2 + 24 * 12 * 2 + 3 * 24 * 40) + 2 * LENGTH * LENGTH * 24
    assert [unit.macs for unit in found.units] == [0, block, block, LENGTH * 24 * VOCABULARY]


def test_sizes_left_open_follow_from_the_others() -> None:
    """As many key and value heads as heads, an MLP of 8/3 of the width, and the tokens of the data."""
    shapes = {n: tuple(p.shape) for n, p in drawn(Llama(width=48, heads=4, blocks=1)).named_parameters()}
    assert shapes["block1.layer.self_attn.k_proj.weight"] == (48, 48)
    assert shapes["block1.layer.mlp.up_proj.weight"] == (128, 48)
    assert shapes["embedding.weight"] == shapes["head.1.weight"] == (VOCABULARY, 48)
    larger = drawn(Llama(width=48, heads=4, blocks=1, vocabulary=64))
    assert larger.classes == 64
    assert measure(larger).units[-1].output == (LENGTH, 64)


# ---------------------------------------------------------------------------------------------- from a folder


def test_weights_in_pieces_and_in_half_precision(tmp_path: Path) -> None:
    """Several files, bfloat16: read as float32, which holds them exactly."""
    theirs = whole("llama").to(torch.bfloat16)
    theirs.save_pretrained(tmp_path, max_shard_size="8KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    model = read(tmp_path)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    torch.testing.assert_close(model(tokens()), theirs.to(torch.float32)(tokens()).logits, rtol=1e-6, atol=1e-6)


def test_a_folder_on_meta_reads_no_weights(folder: Path) -> None:
    """Shapes only, and the same counts."""
    model = read(folder, device="meta")
    assert {p.device.type for p in model.parameters()} == {"meta"}
    assert measure(model) == measure(read(folder))


def test_data_may_have_fewer_tokens_than_the_model(folder: Path) -> None:
    """Its vocabulary stays; more tokens than it has are refused."""
    assert read(folder, classes=20).classes == VOCABULARY
    with pytest.raises(UserError, match="vocabulary of 29 tokens, but the data have 30; give the model a larger"):
        read(folder, classes=30)


def test_sequences_longer_than_the_model_was_made_for_are_refused(folder: Path) -> None:
    """Positions beyond would be made up."""
    with pytest.raises(UserError, match=r"at most 64 tokens, but the data's have 65; set data\.tokens\.length to 64"):
        read(folder, length=65)


def _without(folder: Path, name: str) -> None:
    from safetensors.torch import load_file, save_file

    file = folder / "model.safetensors"
    save_file({n: t for n, t in load_file(file).items() if n != name}, file)


def _with(folder: Path, name: str, tensor: Tensor) -> None:
    from safetensors.torch import load_file, save_file

    file = folder / "model.safetensors"
    save_file(load_file(file) | {name: tensor}, file)


def _describe(folder: Path, **changed: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda f: (f / "config.json").unlink(),
            r"has no config\.json and no \.gguf file; give the folder of a downloaded",
        ),
        (lambda f: (f / "config.json").write_text("{"), r"config\.json is not JSON \(.*\); download the model again"),
        (
            lambda f: (f / "config.json").write_text("[]"),
            "model of type None; take one of llama, mistral, qwen2, qwen3",
        ),
        (lambda f: _describe(f, model_type="gpt2"), "describes a model of type gpt2; take one of llama, mistral"),
        (
            lambda f: _describe(f, hidden_size=25),
            r"transformers refuses config\.json of .*: .*multiple of the number of att",
        ),
        (lambda f: (f / "model.safetensors").unlink(), "has no weights in safetensors format; download those, or"),
        (lambda f: (f / "model.safetensors").write_bytes(b"123"), r"cannot be read \(.*\); download it again"),
        (lambda f: _without(f, "model.norm.weight"), r"lacks 1 weights, such as model\.norm\.weight; download it"),
        (lambda f: _with(f, "adapter", torch.ones(2)), "holds weights adapter, which config.json has no place for"),
        (lambda f: _describe(f, intermediate_size=41), r"of shape \(\d+, \d+\), but config.json says \(.*41.*\)"),
    ],
)
def test_a_folder_that_cannot_be_used_says_why(folder: Path, spoil: Any, message: str) -> None:
    """What is wrong, and what to do."""
    spoil(folder)
    with pytest.raises(UserError, match=message):
        read(folder)


def test_a_configuration_in_the_older_form_is_read(folder: Path) -> None:
    """As most published folders have it: the base of the angles beside their scaling, and another word for the type."""
    file = folder / "config.json"
    said = {k: v for k, v in json.loads(file.read_text()).items() if k not in ("rope_parameters", "dtype")}
    said |= {"rope_theta": 500.0, "rope_scaling": None, "torch_dtype": "bfloat16", "transformers_version": "4.40.1"}
    file.write_text(json.dumps(said))
    theirs = whole("llama", tie_word_embeddings=True, rope_parameters={"rope_type": "default", "rope_theta": 500.0})
    torch.testing.assert_close(read(folder)(tokens()), theirs(tokens()).logits, rtol=1e-6, atol=1e-6)


def test_angles_and_a_tied_head_in_a_file_are_passed_over(folder: Path) -> None:
    """Old files hold both; they follow from the configuration and the embedding."""
    before = read(folder)(tokens())
    _with(folder, "model.layers.0.self_attn.rotary_emb.inv_freq", torch.ones(2))
    _with(folder, "lm_head.weight", torch.zeros(VOCABULARY, 24))
    assert read(folder)(tokens()).equal(before)


# ---------------------------------------------------------------------------------------------- the package


def test_without_transformers_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where fedsim was installed without the extra, or with an old version of the package."""
    import_torchvision()
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"not installed; pip install \"fedsim-edge\[llm\]\""):
        drawn(Llama())
    old = ModuleType("transformers")
    old.__version__ = "4.57.1"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "transformers", old)
    with pytest.raises(UserError, match=r"needs transformers 5, but 4.57.1 is installed; pip install"):
        drawn(Llama())


@pytest.mark.parametrize("tied", [True, False])
def test_a_published_model_comes_whole_and_can_be_taken_apart(tied: bool, tmp_path: Path) -> None:
    """With the same logits as transformers reads it; embedding and head are one where they were, until it is apart."""
    made = whole("llama", tie_word_embeddings=tied)
    made.save_pretrained(tmp_path)
    found = published(source(tmp_path), LENGTH)
    tokens = torch.arange(2 * LENGTH).view(2, LENGTH) % VOCABULARY
    with torch.no_grad():
        wanted = made.eval()(input_ids=tokens).logits
        torch.testing.assert_close(found.eval()(input_ids=tokens).logits, wanted)
        units = apart(found, LENGTH)
        torch.testing.assert_close(units.eval()(tokens), wanted)
    assert (found.lm_head.weight is found.model.embed_tokens.weight) is tied
    assert units.get_parameter("head.1.weight") is not units.get_parameter("embedding.weight")
    assert units.get_parameter("embedding.weight") is found.model.embed_tokens.weight
    with torch.device("meta"):
        assert all(parameter.is_meta for parameter in published(source(tmp_path), LENGTH).parameters())
