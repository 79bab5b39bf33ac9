"""What is known of a data set without opening anything: samples, shape and classes, by name.

Knows nothing of files' contents. Timing-only runs and `fedsim list data` need no more than this module.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal

from fedsim.errors import UserError, unknown

Kind = Literal["image", "vector", "text"]

BYTE_VALUES: Final = 256
"""Vocabulary of the tokenizer `bytes`."""

TRAIN_SHARE: Final = 0.9
"""Share of a text without a test part that is for training; the rest, at its end, is for testing (nanoGPT's)."""


@dataclass(frozen=True, kw_only=True)
class DataInfo:
    """A data set in numbers."""

    name: str
    kind: Kind
    train: int
    """Training samples."""
    test: int
    """Test samples."""
    shape: tuple[int, ...]
    """Of one sample: (channels, height, width), (features,) or (tokens,)."""
    classes: int
    """Labels are 0 to classes - 1; for text the size of the vocabulary."""

    def fitted(self, samples: int | None, resize: int | None) -> DataInfo:
        """These numbers after a subset of the training set and a new image size.

        Raises:
            UserError: the subset is larger than the set, or the samples are no images.
        """
        info = self
        if samples is not None:
            if not 1 <= samples <= self.train:
                raise UserError(
                    f"samples: {samples}, but the training set of {self.name} has {self.train:,}; "
                    f"choose 1-{self.train} or leave `samples` out"
                )
            info = replace(info, train=samples)
        if resize is not None:
            if self.kind != "image":
                raise UserError(f"resize: {resize}, but {self.name} holds {self.kind}s, not images; leave it out")
            if resize < 1:
                raise UserError(f"resize: {resize} is no image size; choose a number of pixels, like 32")
            info = replace(info, shape=(self.shape[0], resize, resize))
        return info


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """A text of the catalogue: its files and the counts that its number of windows follows from."""

    train_file: str
    test_file: str | None
    """None: the end of `train_file` is for testing (see `TRAIN_SHARE`)."""
    sizes: tuple[int, ...]
    """Bytes of each file."""
    characters: tuple[int, ...]
    """Unicode characters of each file."""
    vocabulary: int
    """Different characters in all files."""

    def info(self, name: str, length: int, *, characters: bool) -> DataInfo:
        """The corpus in windows of `length` tokens, each a byte or a character."""
        counts = self.characters if characters else self.sizes
        train, test = counts if len(counts) == 2 else divided(counts[0])
        if min(train, test) <= length:
            raise UserError(
                f"tokens.length: {length}, but the smaller part of {name} has {min(train, test):,} tokens; shorten it"
            )
        return DataInfo(
            name=name,
            kind="text",
            train=train // (length + 1),
            test=test // (length + 1),
            shape=(length,),
            classes=self.vocabulary if characters else BYTE_VALUES,
        )


def divided(tokens: int) -> tuple[int, int]:
    """How many of the tokens of a single text are for training and for testing."""
    train = int(tokens * TRAIN_SHARE)
    return train, tokens - train


def _images(name: str, train: int, test: int, shape: tuple[int, ...], classes: int) -> DataInfo:
    return DataInfo(name=name, kind="image", train=train, test=test, shape=shape, classes=classes)


IMAGES: Final[dict[str, DataInfo]] = {
    info.name: info
    for info in (
        _images("digits", 1437, 360, (1, 8, 8), 10),  # UCI optical digits as scikit-learn packages it: 1,797 images
        _images("mnist", 60_000, 10_000, (1, 28, 28), 10),
        _images("fashion-mnist", 60_000, 10_000, (1, 28, 28), 10),
        _images("kmnist", 60_000, 10_000, (1, 28, 28), 10),
        _images("emnist", 112_800, 18_800, (1, 28, 28), 47),  # the split `balanced` of Cohen et al., 1702.05373
        _images("svhn", 73_257, 26_032, (3, 32, 32), 10),  # without the 531,131 `extra` images
        _images("cifar10", 50_000, 10_000, (3, 32, 32), 10),
        _images("cifar100", 50_000, 10_000, (3, 32, 32), 100),
        _images("stl10", 5_000, 8_000, (3, 96, 96), 10),
        _images("tiny-imagenet", 100_000, 10_000, (3, 64, 64), 200),  # tested on its labelled validation images
    )
}

CORPORA: Final[dict[str, Corpus]] = {
    "tinyshakespeare": Corpus(
        train_file="tinyshakespeare.txt",
        test_file=None,
        sizes=(1_115_394,),
        characters=(1_115_394,),
        vocabulary=65,
    ),
    # the validation part is the training text: the training part is ten times as large as a device study needs
    "wikitext2": Corpus(
        train_file="wikitext2-valid.txt",
        test_file="wikitext2-test.txt",
        sizes=(1_121_681, 1_256_449),
        characters=(1_120_192, 1_255_018),
        vocabulary=137,
    ),
}


def names() -> tuple[str, ...]:
    """Names of the data sets that are known without opening anything, sorted."""
    return tuple(sorted([*IMAGES, *CORPORA]))


def find(name: str, *, length: int = 64, characters: bool = False) -> DataInfo:
    """The data set `name` of the catalogue; a text in windows of `length` bytes (or characters).

    Raises:
        UserError: there is no such name.
    """
    if name in IMAGES:
        return IMAGES[name]
    if name in CORPORA:
        return CORPORA[name].info(name, length, characters=characters)
    raise UserError(unknown("data set", name, names()))
