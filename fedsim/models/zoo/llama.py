"""Causal language models of Hugging Face's `transformers`, taken apart into units: Llama, Mistral, Qwen2 and Qwen3.

The decoder blocks are those of transformers; what a whole model there shares between them, each gets here by itself.
Nothing is ever downloaded: sizes come from the options or a published model on this machine, and so do weights
(`llama_files`) where they are not drawn. transformers is imported when such a model is asked for.
"""

from __future__ import annotations

from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from fedsim.errors import UserError
from fedsim.models.key_values import KeyValues
from fedsim.models.options import Llama
from fedsim.models.units import UnitList
from fedsim.models.zoo import pretrained
from fedsim.models.zoo.llama_files import Source, source
from fedsim.models.zoo.pretrained import configuration, transformers


class CausalBlock(nn.Module):
    """A decoder layer of transformers with its rotary table and, where attention is windowed, its mask.

    Both are constants: attributes rather than buffers, which would travel with the weights.

    Args:
        layer: such as transformers' `LlamaDecoderLayer`.
        table: cosines and sines, each `1 length head_size`.
        mask: `1 1 length length`, true where a token attends; None is causal.
    """

    def __init__(self, layer: nn.Module, table: tuple[Tensor, Tensor], mask: Tensor | None) -> None:
        super().__init__()
        self.layer = layer
        self.table = table
        self.mask = mask

    def forward(self, x: Tensor, start: int = 0, kept: KeyValues | None = None) -> Tensor:
        """Vectors `batch length width`, of the same shape afterwards; the first is token `start`, behind those kept."""
        end = start + x.shape[1]
        cos, sin = (part[:, start:end].to(x) for part in self.table)
        mask = None if self.mask is None else self.mask[:, :, start:end, :end]
        cache = {} if kept is None else {_cache_argument(self.layer): kept}
        out: Tensor = self.layer(x, attention_mask=mask, position_embeddings=(cos, sin), **cache)
        return out


def _cache_argument(layer: nn.Module) -> str:
    """What this version of transformers calls the earlier keys and values."""
    return "cache" if "cache" in signature(type(layer).forward).parameters else "past_key_values"


def llama(*, options: Llama, input: tuple[int, ...], classes: int, norm: str) -> UnitList:
    """A causal language model on windows of `input[0]` tokens, of which the data have `classes`.

    Units: embedding, decoder blocks, and the head (norm and linear layer), which owns its weights. Norm layers: RMS.

    Raises:
        UserError: transformers is missing, the folder cannot be used, or the model does not fit the data.
    """
    del norm
    length = input[0]
    if options.path is None:
        auto = transformers()
        whole = auto.AutoModelForCausalLM.from_config(
            _configured(auto, options, length, classes), attn_implementation="sdpa", dtype=torch.float32
        )
    else:
        whole = published(source(options.path), length)
    if whole.config.vocab_size < classes:
        raise UserError(
            f"model llama has a vocabulary of {whole.config.vocab_size} tokens, but the data have {classes}; "
            "give the model a larger vocabulary, or the data the model's own tokenizer"
        )
    return apart(whole, length)


def published(found: Source, length: int) -> Any:
    """A published model as transformers has it, embedding and head tied where it ties them, in float32.

    On the default device `meta` its weights stay unread.

    Args:
        length: tokens of the sequences that it is for.

    Raises:
        UserError: transformers is missing, the model cannot be used, or its sequences are shorter.
    """
    config = _read(transformers(), found, length)
    return pretrained.whole(found, config, load=torch.get_default_device().type != "meta")


def apart(whole: Any, length: int) -> UnitList:
    """A causal language model of transformers as units for windows of `length` tokens; they share its weights.

    Only a head that is tied to the embedding gets weights of its own.
    """
    config, device = whole.config, torch.get_default_device()
    table = _table(whole.model.rotary_emb, length, device)
    windows = getattr(config, "sliding_window", None) or length
    windowed = _window(length, windows).to(device) if windows < length else None
    units: list[tuple[str, nn.Module]] = [("embedding", whole.model.embed_tokens)]
    for index, layer in enumerate(whole.model.layers):
        units.append((f"block{index + 1}", CausalBlock(layer, table, windowed if _slides(config, index) else None)))
    head = whole.lm_head
    if config.tie_word_embeddings:
        head = nn.Linear(config.hidden_size, config.vocab_size, bias=False, device="meta")
        head.weight = nn.Parameter(whole.model.embed_tokens.weight.detach().clone())
    units.append(("head", nn.Sequential(whole.model.norm, head)))
    return UnitList("llama", units, input=(length,), classes=config.vocab_size, tokens=True)


def _configured(auto: Any, options: Llama, length: int, classes: int) -> Any:
    """The configuration that the options describe."""
    sizes: dict[str, Any] = {"sliding_window": options.sliding_window} if options.family == "mistral" else {}
    return auto.AutoConfig.for_model(
        options.family,
        vocab_size=options.vocabulary or classes,
        hidden_size=options.width,
        intermediate_size=options.intermediate or -(-8 * options.width // 48) * 16,
        num_hidden_layers=options.blocks,
        num_attention_heads=options.heads,
        num_key_value_heads=options.kv_heads or options.heads,
        head_dim=options.width // options.heads,
        max_position_embeddings=length,
        tie_word_embeddings=options.tied,
        rope_parameters={"rope_type": "default", "rope_theta": options.rope_theta},
        **sizes,
    )


def _read(auto: Any, found: Source, length: int) -> Any:
    """The configuration of a published model, for sequences that it can take."""
    config = configuration(auto, found)
    if length > config.max_position_embeddings:
        raise UserError(
            f"model llama of {found.place} takes sequences of at most {config.max_position_embeddings} tokens, but the "
            f"data's have {length}; set data.tokens.length to {config.max_position_embeddings} or less"
        )
    return config


def _table(rotary: Any, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines of all positions, by the model's own rule."""
    with torch.device("cpu"), torch.no_grad():  # some rules look at the positions' values, which `meta` has not
        cos, sin = type(rotary)(config=rotary.config)(torch.zeros(1), torch.arange(length)[None])
    return cos.to(device), sin.to(device)


def _window(length: int, window: int) -> Tensor:
    """Whether a token (row) attends to another: to itself and the `window - 1` before it."""
    with torch.device("cpu"):
        behind = torch.arange(length)[:, None] - torch.arange(length)
    return ((behind >= 0) & (behind < window))[None, None]


def _slides(config: Any, index: int) -> bool:
    """Whether a layer's attention is windowed where any is: all of them in Mistral, those that are listed in Qwen."""
    kinds = getattr(config, "layer_types", None)
    return kinds is None or kinds[index] == "sliding_attention"
