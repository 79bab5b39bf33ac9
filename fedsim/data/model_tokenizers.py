"""Tokenizers of published language models, from tokenizer.json or from the header of a GGUF file.

The package `tokenizers` splits the text; it is imported when such a tokenizer is asked for. Knows nothing of windows.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fedsim.checkpoints import Header, located, read_header
from fedsim.errors import UserError

FILE: Final = "tokenizer.json"

_CONTROL: Final = 3
_USER_DEFINED: Final = 4
"""Types of tokens in GGUF files (`tokenizer.ggml.token_type`) that stand for themselves in a text."""

_LLAMA3: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2: Final = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
"""How the authors of Llama 3 and of Qwen 2 split a text before byte pairs are joined, from their tokenizer.json."""


class ModelTokenizer:
    """A published tokenizer. Special tokens stand where the text itself has them; none is added."""

    def __init__(self, made: Any) -> None:
        self._made = made

    @property
    def vocab_size(self) -> int:
        """Tokens are 0 to vocab_size - 1."""
        return int(self._made.get_vocab_size(with_added_tokens=True))

    @property
    def fingerprint(self) -> str:
        """A hash of all that tokens depend on."""
        from tokenizers import __version__

        return hashlib.sha256(f"{__version__} {self._made.to_str()}".encode()).hexdigest()

    @property
    def text(self) -> str:
        """All of it, as a tokenizer.json has it."""
        made: str = self._made.to_str()
        return made

    def encode(self, text: str) -> NDArray[np.int64]:
        """The text as token numbers."""
        return np.asarray(self._made.encode(text, add_special_tokens=False).ids, np.int64)


def model_tokenizer(path: Path | str) -> ModelTokenizer:
    """The tokenizer of a published model.

    Args:
        path: a tokenizer.json, or the model as `fedsim.checkpoints.located` takes it.

    Raises:
        UserError: there is none, or one of a kind that cannot be read.
    """
    file = Path(path)
    if file.name != FILE:
        found = located(path)
        file = found / FILE if found.is_dir() else found
    try:
        import tokenizers
    except ImportError as error:
        raise UserError(
            f'tokenizer {path} needs the package tokenizers, which is not installed; pip install "fedsim-edge[llm]"'
        ) from error
    if file.suffix.lower() == ".gguf":
        return ModelTokenizer(_of_header(tokenizers, read_header(file)))
    if not file.is_file():
        raise UserError(f"tokenizer: {file} does not exist; download it beside the model's weights")
    try:
        return ModelTokenizer(tokenizers.Tokenizer.from_file(str(file)))
    except Exception as error:  # the package raises nothing more specific
        raise UserError(f"tokenizer: {file} cannot be read ({error}); download it again") from error


def _of_header(tokenizers: Any, header: Header) -> Any:
    """Byte pairs, joined in the order of the file's merges."""
    values = header.values
    kind = values.get("tokenizer.ggml.model")
    if kind != "gpt2":
        raise UserError(
            f"tokenizer: {header.file} holds one of kind {kind}, and only byte pairs (gpt2) can be read from GGUF "
            f"files; give the path of the model's {FILE}"
        )
    texts: list[str] = values.get("tokenizer.ggml.tokens", [])
    merges = [tuple(pair.split(" ", 1)) for pair in values.get("tokenizer.ggml.merges", [])]
    if not texts or not merges:
        raise UserError(f"tokenizer: {header.file} lacks its tokens or merges; give the path of the model's {FILE}")
    vocabulary = {text: number for number, text in enumerate(texts)}
    made = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, merges, ignore_merges=_whole_words(values)))
    made.pre_tokenizer = _splitting(tokenizers, header)
    made.decoder = tokenizers.decoders.ByteLevel()
    for text, meaning in zip(texts, values.get("tokenizer.ggml.token_type", []), strict=False):
        if meaning in (_CONTROL, _USER_DEFINED):
            token = tokenizers.AddedToken(text, normalized=False, special=meaning == _CONTROL)
            made.add_special_tokens([token]) if meaning == _CONTROL else made.add_tokens([token])
    return made


def _whole_words(values: Any) -> bool:
    """Whether a word that is a token is taken as it is; so in Llama 3."""
    return str(values.get("tokenizer.ggml.pre")) == "llama-bpe"


def _splitting(tokenizers: Any, header: Header) -> Any:
    """How a text is split before byte pairs are joined, by the name that llama.cpp gave it."""
    of, name = tokenizers.pre_tokenizers, str(header.values.get("tokenizer.ggml.pre", "default"))
    plain = of.ByteLevel(add_prefix_space=False)
    match name:
        case "gpt-2" | "default":
            return plain
        case "smollm":
            return of.Sequence([of.Digits(individual_digits=True), plain])
        case "llama-bpe" | "qwen2":
            pattern = tokenizers.Regex(_LLAMA3 if name == "llama-bpe" else _QWEN2)
            split = of.Split(pattern, behavior="isolated")
            return of.Sequence([split, of.ByteLevel(add_prefix_space=False, use_regex=False)])
        case _:
            raise UserError(
                f"tokenizer: {header.file} splits texts by the rule {name}, which is not known here; give the path of "
                f"the model's {FILE}"
            )
