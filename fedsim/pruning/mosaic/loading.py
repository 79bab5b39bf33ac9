"""Published language models with their tokenizers, as pruning and its evaluation need them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedsim.data.model_tokenizers import ModelTokenizer, model_tokenizer
from fedsim.data.token_cache import kept
from fedsim.errors import UserError
from fedsim.models.zoo.pretrained import pretrained


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A model and what splits texts for it."""

    model: Any
    """Of transformers, in float32 and eval mode."""
    tokenizer: ModelTokenizer

    def tokens(self, file: Path) -> Tensor:
        """All of a text file, one after the other. Kept on disk for the next time.

        Raises:
            UserError: the file cannot be read.
        """
        try:
            content = file.read_bytes()
            text = content.decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{file} cannot be read as text ({error}); give a file of UTF-8 text") from error
        found = kept(self.tokenizer.fingerprint, content, lambda: self.tokenizer.encode(text))
        return torch.from_numpy(found)


def loaded(path: Path | str) -> Loaded:
    """The model of a path as `fedsim.checkpoints.located` takes it, with the tokenizer that lies there.

    Raises:
        UserError: there is no model, or it cannot be read.
    """
    return Loaded(model=pretrained(path), tokenizer=model_tokenizer(path))
