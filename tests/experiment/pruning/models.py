"""Small models and texts for tests of `fedsim prune`, and methods of a user's own that go wrong."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from fedsim.pruning.exporting import quiet
from fedsim.pruning.methods import Material
from fedsim.pruning.plans import Plan
from tests.experiment.cropping import Crop
from tests.pruning.cuts import tiny_llama

WORDS = "the cat sat on a mat and the dog ran to it , while birds sang over the old red barn by the lake . "
LENGTH = 16
IMAGES = ("--input", "1x8x8")
"""The shape of digits, at which vgg5 is small."""
LLAMA = (
    "llama",
    *(f"--set=model.{each}" for each in ("width=36", "heads=9", "kv_heads=3", "blocks=2", "intermediate=24")),
)


def text(folder: Path, name: str = "words.txt", repeats: int = 40) -> str:
    """A file of some thousand letters."""
    file = folder / name
    file.write_text(WORDS * repeats, encoding="utf-8")
    return str(file)


def published(folder: Path, *, tied: bool = True, seed: int = 0, **sizes: Any) -> Path:
    """A tiny model as transformers writes it, for the tokens of `bytes`."""
    made = tiny_llama(tied=tied, seed=seed, vocab_size=256, **sizes)
    with quiet():
        made.save_pretrained(folder)
    return folder


def tokenizer(file: Path) -> str:
    """A tokenizer.json of 60 tokens or fewer, trained on the words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    made: Any = Tokenizer(models.BPE(unk_token="?"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.train_from_iterator([WORDS], trainers.BpeTrainer(vocab_size=60, special_tokens=["?"], show_progress=False))
    made.save(str(file))
    return str(file)


@dataclass(frozen=True, kw_only=True)
class Miscounting(Crop):
    """Plans for one parameter more than it leaves, which the checks find."""

    def plan(self, model: nn.Module, study: Any, material: Material, within: Plan | None = None) -> Plan:
        made = super().plan(model, study, material, within)
        return replace(made, parameters=made.parameters + 1)


class NoMethod:
    """Not even a dataclass."""


@dataclass(frozen=True)
class Half:
    """A dataclass that lacks the functions of a method."""

    keep: int = 1
