"""Configuration and weights of published language models, under the names that transformers gives them.

Two kinds of source: a folder with config.json and safetensors files, and a GGUF file, whose weights are brought back
from their encoding to float32. What is described is read first; weights are read one by one, when they are asked for.
Knows nothing of the modules that they go into.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedsim.checkpoints import Header, located, read_header
from fedsim.checkpoints.gguf import Entry
from fedsim.errors import UserError

FAMILIES: Final = ("llama", "mistral", "qwen2", "qwen3")
"""Those whose model is an embedding, decoder blocks alike, a norm and a linear head, with rotary positions."""

Described = tuple[str, tuple[int, ...], Callable[[], Tensor]]
"""A tensor: its name, its shape, and a function that reads it."""


class Source(Protocol):
    """A published model."""

    place: Path
    """Its folder or file."""
    described_by: str
    """What says how large it is."""

    def configuration(self) -> dict[str, Any]:
        """What transformers takes to configure it; `model_type` is one of `FAMILIES`."""
        ...

    def tensors(self) -> Iterator[Described]:
        """Every tensor, to be read in float32, into memory of its own."""
        ...


def source(path: Path) -> Source:
    """The model at a path as `fedsim.checkpoints.located` takes it.

    Raises:
        UserError: there is none.
    """
    place = located(path)
    return Folder(place) if place.is_dir() else GgufFile(read_header(place))


def _known(family: object, described_by: str) -> None:
    if family not in FAMILIES:
        raise UserError(
            f"model llama: {described_by} describes a model of type {family}; take one of {', '.join(FAMILIES)}"
        )


class Folder:
    """A folder with config.json and weights in safetensors format."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.described_by = "config.json"

    def configuration(self) -> dict[str, Any]:
        """What config.json says."""
        file = self.place / "config.json"
        try:
            said = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"model llama: {file} is not JSON ({error}); download the model again") from error
        _known(said.get("model_type") if isinstance(said, dict) else None, str(file))
        assert isinstance(said, dict)
        return said

    def tensors(self) -> Iterator[Described]:
        """Those of all safetensors files."""
        from safetensors import SafetensorError, safe_open

        files = sorted(self.place.glob("*.safetensors"))
        if not files:
            raise UserError(
                f"model llama: {self.place} has no weights in safetensors format; download those, or convert the model "
                "by save_pretrained of transformers"
            )
        for file in files:
            try:
                with safe_open(file, framework="pt") as opened:
                    for name in opened.keys():  # noqa: SIM118  # no mapping
                        part = opened.get_slice(name)
                        yield name, tuple(part.get_shape()), partial(_single, part)
            except SafetensorError as error:
                raise UserError(f"model llama: {file} cannot be read ({error}); download it again") from error


def _single(part: Any) -> Tensor:
    """A tensor of a safetensors file."""
    read: Tensor = part[...]
    return read.to(torch.float32, copy=True)


# ------------------------------------------------------------------------------------------------- GGUF

_NAMES: Final = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_BLOCK_NAMES: Final = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_IN_BLOCK: Final = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")
_OUTSIDE: Final = re.compile(r"(\w+)\.(weight|bias)")
_SIZES: Final = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
}


class GgufFile:
    """A GGUF file of a model of one of the families."""

    def __init__(self, header: Header) -> None:
        self.place = header.file
        self.described_by = "its header"
        self._header = header
        self._family = str(header.values.get("general.architecture"))

    def configuration(self) -> dict[str, Any]:
        """What the header says, in the words of config.json."""
        _known(self._family, str(self.place))
        sizes = {ours: self._whole(theirs) for theirs, ours in _SIZES.items()}
        heads = sizes["num_attention_heads"]
        tensors = self._header.tensors
        embedding = tensors.get("token_embd.weight")
        if embedding is None:
            raise UserError(f"model llama: {self.place} has no embedding (token_embd.weight); download it again")
        said = sizes | {
            "model_type": self._family,
            "num_key_value_heads": self._whole("attention.head_count_kv", heads),
            "head_dim": self._whole("attention.key_length", sizes["hidden_size"] // heads),
            "vocab_size": embedding.shape[0],
            "rms_norm_eps": float(self._value("attention.layer_norm_rms_epsilon", 1e-6)),
            "rope_parameters": self._positions(),
            "tie_word_embeddings": "output.weight" not in tensors,
        }
        if self._family == "llama":  # Qwen has biases of its own, always or never
            said |= {"attention_bias": "blk.0.attn_q.bias" in tensors, "mlp_bias": "blk.0.ffn_up.bias" in tensors}
        return said

    def tensors(self) -> Iterator[Described]:
        """Every tensor in float32."""
        for name, entry in self._header.tensors.items():
            yield self._named(name), entry.shape, partial(self._read, name, entry)

    def _value(self, key: str, otherwise: Any = None) -> Any:
        return self._header.values.get(f"{self._family}.{key}", otherwise)

    def _whole(self, key: str, otherwise: int | None = None) -> int:
        value = self._value(key, otherwise)
        if isinstance(value, list):
            raise UserError(
                f"model llama: {self.place} has blocks of different sizes ({self._family}.{key}); only blocks alike "
                "can be read"
            )
        if not isinstance(value, int) or value < 1:
            raise UserError(f"model llama: {self.place} does not say {self._family}.{key}; download it again")
        return value

    def _positions(self) -> dict[str, Any]:
        """The rule of the rotary positions."""
        rule = self._value("rope.scaling.type", "none")
        said = {"rope_type": "default", "rope_theta": float(self._value("rope.freq_base", 10000.0))}
        if rule == "linear":
            return said | {"rope_type": "linear", "factor": float(self._value("rope.scaling.factor", 1.0))}
        if rule != "none" or "rope_freqs.weight" in self._header.tensors:
            raise UserError(
                f"model llama: {self.place} scales its positions by a rule that is not read from GGUF files "
                f"({rule if rule != 'none' else 'rope_freqs.weight'}); take the model's folder with config.json"
            )
        return said

    def _named(self, name: str) -> str:
        """What transformers calls a tensor."""
        if (found := _IN_BLOCK.fullmatch(name)) and found[2] in _BLOCK_NAMES:
            return f"model.layers.{found[1]}.{_BLOCK_NAMES[found[2]]}.{found[3]}"
        if (found := _OUTSIDE.fullmatch(name)) and found[1] in _NAMES:
            return f"{_NAMES[found[1]]}.{found[2]}"
        return name  # which the model has no place for

    def _read(self, name: str, entry: Entry) -> Tensor:
        values = _decoded(self.place, name, entry)
        found = _IN_BLOCK.fullmatch(name)
        if self._family == "llama" and found and found[2] in ("attn_q", "attn_k"):
            heads = self._whole("attention.head_count")
            values = _turned(values, heads if found[2] == "attn_q" else self._whole("attention.head_count_kv", heads))
        return torch.from_numpy(values)


def _turned(values: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Rows of queries or keys as transformers has them, whose rotation pairs a head's first half with its second.

    llama.cpp rotates neighbours, and its converter has reordered the rows for that.
    """
    pairs = values.shape[0] // heads // 2
    rows = values.reshape(heads, pairs, 2, *values.shape[1:])
    return np.ascontiguousarray(rows.swapaxes(1, 2)).reshape(values.shape)


def _decoded(file: Path, name: str, entry: Entry) -> NDArray[np.float32]:
    """A tensor's values, brought back from their encoding, in memory of their own."""
    try:
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, dequantize
    except ImportError as error:
        raise UserError(
            f'model llama: {file} needs the package gguf, which is not installed; pip install "fedsim-edge[llm]"'
        ) from error
    try:
        kind = GGMLQuantizationType(entry.kind)
        values, nbytes = GGML_QUANT_SIZES[kind]
        stored = np.fromfile(file, np.uint8, entry.elements // values * nbytes, offset=entry.offset)
        made: NDArray[np.float32] = dequantize(stored.reshape(*entry.shape[:-1], -1), kind).reshape(entry.shape)
    except (ValueError, NotImplementedError) as error:
        raise UserError(
            f"model llama: {name} in {file} cannot be read ({error}); it is damaged, or in an encoding that the "
            "package gguf does not know"
        ) from error
    return np.ascontiguousarray(made, np.float32)
