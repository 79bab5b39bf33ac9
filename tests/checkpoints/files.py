"""Small GGUF files, written by the package gguf."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def write_gguf(
    file: Path, family: str, keys: Mapping[str, Any], tensors: Mapping[str, NDArray[np.float32]], kind: str = "F32"
) -> Path:
    """A file with these keys and tensors; matrices are of a kind that ggml has, where their rows allow it."""
    import gguf

    writer: Any = gguf.GGUFWriter(file, family)
    for name, value in keys.items():
        match value:
            case bool():
                writer.add_bool(name, value)
            case str():
                writer.add_string(name, value)
            case list():
                writer.add_array(name, value)
            case float():
                writer.add_float32(name, value)
            case _:
                writer.add_uint32(name, value)
    for name, values in tensors.items():
        encoded = values.ndim == 2 and values.shape[-1] % 32 == 0
        stored = getattr(gguf.GGMLQuantizationType, kind if encoded else "F32")
        writer.add_tensor(name, gguf.quantize(values, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def trained_tokenizer(text: str, kind: str = "smollm", size: int = 330) -> Any:
    """Byte pairs learnt from a text, which is split first as models of a kind do."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    plain = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made = tokenizers.Tokenizer(models.BPE())
    digits = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), plain])
    made.pre_tokenizer = {"gpt-2": plain, "smollm": digits}[kind]
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator([text], trainer)
    return made


def tokenizer_keys(made: Any, kind: str = "smollm") -> dict[str, Any]:
    """A tokenizer as GGUF files hold it."""
    said = json.loads(made.to_str())["model"]
    texts = sorted(said["vocab"], key=said["vocab"].get)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": kind,
        "tokenizer.ggml.tokens": texts,
        "tokenizer.ggml.token_type": [3 if text == "<|end|>" else 1 for text in texts],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in said["merges"]],
    }


def llama_keys(family: str = "llama", **changed: Any) -> dict[str, Any]:
    """The sizes of a model of two blocks of width 64; None leaves one out."""
    sizes = {
        "block_count": 2,
        "context_length": 128,
        "embedding_length": 64,
        "feed_forward_length": 96,
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
        "attention.key_length": head_size(family),
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.freq_base": 500.0,
        "vocab_size": 40,
    } | changed
    named = {f"{family}.{key}": value for key, value in sizes.items() if value is not None}
    return {"general.name": "tiny", **named}


def head_size(family: str) -> int:
    """Of 4 heads; transformers takes Qwen 3 to have 128, whatever its file says."""
    return 128 if family == "qwen3" else 16


def llama_tensors(
    family: str = "llama", *, vocabulary: int = 40, tied: bool = True, bias: bool = False
) -> dict[str, NDArray[np.float32]]:
    """Random weights for `llama_keys`, as llama.cpp names them."""
    width, head = 64, head_size(family)
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (vocabulary, width), "output_norm.weight": (width,)}
    if not tied:
        shapes["output.weight"] = (vocabulary, width)
    for block in ("blk.0", "blk.1"):
        shapes |= {f"{block}.attn_norm.weight": (width,), f"{block}.ffn_norm.weight": (width,)}
        for name, rows in (("attn_q", 4 * head), ("attn_k", 2 * head), ("attn_v", 2 * head), ("attn_output", width)):
            shapes[f"{block}.{name}.weight"] = (rows, 4 * head if name == "attn_output" else width)
            if bias or (family == "qwen2" and name != "attn_output"):
                shapes[f"{block}.{name}.bias"] = (rows,)
        shapes |= {f"{block}.ffn_gate.weight": (96, width), f"{block}.ffn_up.weight": (96, width)}
        shapes[f"{block}.ffn_down.weight"] = (width, 96)
        if family == "qwen3":
            shapes |= {f"{block}.attn_q_norm.weight": (head,), f"{block}.attn_k_norm.weight": (head,)}
    rng = np.random.default_rng(4)
    return {name: rng.normal(0.1, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}
