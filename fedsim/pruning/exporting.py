"""Pruned models for other programs: convolutional networks as ONNX, language models as Hugging Face folders.

What a mask has set to zero is written as zeros there, as large as anything: neither format knows fedsim's encoding.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import copy, deepcopy
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn

from fedsim.errors import UserError
from fedsim.models.units import UnitList
from fedsim.models.zoo.llama import CausalBlock
from fedsim.pruning.storing import check_free
from fedsim.pruning.watching import evaluating
from fedsim.torchvision_shim import import_torchvision

_ONNX: Final = ("onnx", "onnxscript")


def export_onnx(module: nn.Module, example: Tensor, file: Path) -> None:
    """Write a network as ONNX, in eval mode, for batches of any size.

    Args:
        example: inputs, the first axis samples; two of them, since an axis of one is taken for fixed.

    Raises:
        UserError: a package is missing, PyTorch cannot export the network, or the file cannot be written.
    """
    missing = [name for name in _ONNX if find_spec(name) is None]
    if missing:
        raise UserError(
            f"export to ONNX needs the packages {' and '.join(_ONNX)}, and {' and '.join(missing)} cannot be found; "
            'pip install "fedsim-edge[export]"'
        )
    if file.exists():
        raise UserError(f"{file} already exists; choose another file, or remove it")
    batch = torch.export.Dim("batch")
    with evaluating(module), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PyTorch's exporter uses what PyTorch has deprecated
        try:
            program: Any = torch.onnx.export(
                module, (example,), dynamo=True, verbose=False, dynamic_shapes=({0: batch},)
            )
        except torch.onnx.errors.OnnxExporterError as error:
            reason = str(error.__cause__ or error).strip().split("\n", maxsplit=1)[0]
            raise UserError(
                f"PyTorch cannot export this network to ONNX: {reason}; write it without what is named, or deploy "
                "the folder that fedsim prune writes"
            ) from error
    try:
        program.save(file)
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error.strerror}; choose another place") from error


class _Widths(NamedTuple):
    """Of one decoder block."""

    heads: int
    kv_heads: int
    channels: int


def export_hugging_face(module: nn.Module, folder: Path) -> None:
    """Write a language model as a folder that `from_pretrained` of transformers reads; its logits are the same.

    Args:
        module: a causal language model of transformers, or fedsim's `llama`.

    Raises:
        UserError: it is neither, the widths of its blocks differ, or the folder holds something.
    """
    check_free(folder)
    whole = _whole(module) if isinstance(module, UnitList) else module
    if not hasattr(whole, "config") or not hasattr(whole, "save_pretrained"):
        raise UserError(
            f"a {type(module).__name__} is no language model of transformers; networks for images are exported to ONNX"
        )
    size, widths = _widths(whole)
    uniform = _uniform(widths)
    written: Any = copy(whole)  # with a configuration of its own
    written.config = deepcopy(written.config)
    written.config.update(
        {
            "num_attention_heads": uniform.heads,
            "num_key_value_heads": uniform.kv_heads,
            "head_dim": size,
            "intermediate_size": uniform.channels,
        }
    )
    try:
        with quiet():
            written.save_pretrained(folder)
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror}; choose another folder") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' progress bars."""
    from transformers.utils import logging as untyped

    logging: Any = untyped
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _widths(whole: nn.Module) -> tuple[int, dict[str, _Widths]]:
    """The size of a head, and the widths of every block by its name."""
    size, found = 0, dict[str, _Widths]()
    for name, part in whole.named_modules():
        block: Any = part
        if not hasattr(part, "self_attn") or not hasattr(part, "mlp"):
            continue
        attention, mlp = block.self_attn, block.mlp
        size = attention.head_dim
        queries, keys = len(attention.q_proj.weight), len(attention.k_proj.weight)
        found[name] = _Widths(queries // size, keys // size, len(mlp.up_proj.weight))
    if not found:
        raise UserError(
            f"no decoder blocks with self_attn and mlp are found in a {type(whole).__name__}; Hugging Face export is "
            "for models like Llama, Mistral and Qwen2"
        )
    return size, found


def _uniform(widths: Mapping[str, _Widths]) -> _Widths:
    """The widths that all blocks have."""
    (usual, _), *others = Counter(widths.values()).most_common()
    if others:
        odd = [
            f"{name} has {w.heads} query heads, {w.kv_heads} key heads and {w.channels} MLP channels"
            for name, w in widths.items()
            if w != usual
        ]
        more = f"; and {len(odd) - 3} more" if len(odd) > 3 else ""
        raise UserError(
            f"Hugging Face's format has one width for all blocks, but {'; '.join(odd[:3])}{more}, where others have "
            f"{usual.heads}, {usual.kv_heads} and {usual.channels}; prune with uniform_widths: true, or deploy the "
            "folder that fedsim prune writes"
        )
    return usual


def _whole(model: UnitList) -> nn.Module:
    """fedsim's `llama` put together again as a model of transformers, sharing its weights."""
    embedding, *blocks, head = model.children()
    if not blocks or not all(isinstance(block, CausalBlock) for block in blocks):
        raise UserError(
            f"model {model.name} is no language model of transformers; networks for images are exported to ONNX"
        )
    import_torchvision()
    import transformers

    layers: list[Any] = [block.layer for block in blocks if isinstance(block, CausalBlock)]
    assert isinstance(head, nn.Sequential)
    assert isinstance(embedding, nn.Embedding)
    assert isinstance(head[1], nn.Linear)
    config = deepcopy(layers[0].self_attn.config)
    config.tie_word_embeddings = torch.equal(embedding.weight, head[1].weight)
    maker: Any = transformers.AutoModelForCausalLM
    with torch.device("meta"):
        whole = maker.from_config(config)
    whole.model.embed_tokens, whole.model.norm, whole.lm_head = embedding, head[0], head[1]
    whole.model.layers = nn.ModuleList(layers)
    if config.tie_word_embeddings:
        whole.lm_head = copy(head[1])
        whole.lm_head._parameters = {"weight": embedding.weight}
    made: nn.Module = whole
    return made
