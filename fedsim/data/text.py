"""Text for next-token prediction: a file is tokens, cut into windows that do not overlap.

A window of `length` + 1 tokens gives `length` inputs and, one further, `length` labels. Tokens left at the end are
dropped. Texts carry no natural owners. Knows nothing of language models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Final, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedsim.checkpoints import PACKAGE, is_place
from fedsim.data.catalogue import BYTE_VALUES, CORPORA, DataInfo, divided
from fedsim.data.custom import call, resolve
from fedsim.data.dataset import DataSet, Split, assembled, rows_of
from fedsim.data.model_tokenizers import model_tokenizer
from fedsim.data.token_cache import kept
from fedsim.errors import UserError, unknown

TOKENIZERS: Final = ("bytes", "chars")
TEST_PARTS: Final = ("test", "valid", "validation")


@runtime_checkable
class Tokenizer(Protocol):
    """What a `module:Class` named as tokenizer has to make, called without arguments."""

    @property
    def vocab_size(self) -> int:
        """Tokens are 0 to vocab_size - 1."""
        ...

    def encode(self, text: str, /) -> ArrayLike:
        """The text as token numbers."""
        ...


@dataclass(frozen=True, kw_only=True)
class TokenOptions:
    """How text becomes samples."""

    length: int = 64
    """Tokens a sample."""
    tokenizer: str = "bytes"
    """`bytes` (256 tokens), `chars` (the characters of the text), the path of a published model or of a tokenizer.json,
    `package:NAME` or `module:Class`."""

    def __post_init__(self) -> None:
        if self.length < 1:
            raise UserError(f"tokens.length: {self.length}; a sample needs at least 1 token")
        if self.tokenizer not in TOKENIZERS and ":" not in self.tokenizer and not self.published:
            known = [*TOKENIZERS, "./FOLDER", f"{PACKAGE}NAME", "module:Class"]
            raise UserError(unknown("tokenizer", self.tokenizer, known))

    @property
    def published(self) -> bool:
        """Whether the tokenizer is that of a published model."""
        return is_place(self.tokenizer)


def find_files(path: Path, name: str) -> tuple[Path, Path | None] | None:
    """The training and the test file of text `name`; no test file: the end of the training file is for testing.

    `path` is the text itself, or a folder with NAME-train.txt and NAME-test.txt (or -valid), or NAME.txt. Where only
    -valid and -test exist, -valid is for training. None: there is no text.
    """
    if path.is_file():
        return (path, None) if path.suffix == ".txt" else None
    if name in CORPORA:
        corpus = CORPORA[name]
        train, test = path / corpus.train_file, path / corpus.test_file if corpus.test_file else None
        return (train, test) if train.is_file() and (test is None or test.is_file()) else None
    found = [file for part in ("train", *TEST_PARTS[1:]) if (file := path / f"{name}-{part}.txt").is_file()]
    tests = [file for part in TEST_PARTS if (file := path / f"{name}-{part}.txt").is_file()]
    if found and tests:
        test = next((file for file in tests if file != found[0]), None)
        return found[0], test
    if found:
        return found[0], None
    single = path / f"{name}.txt"
    return (single, None) if single.is_file() else None


@dataclass(frozen=True)
class Text:
    """Reads one text; describing it in `bytes` asks only for the sizes of its files."""

    name: str
    train_file: Path
    test_file: Path | None
    tokens: TokenOptions
    expected: DataInfo | None = None
    """What the catalogue says, which the files must agree with."""

    def info(self) -> DataInfo:
        """Windows of each part; tokenizers other than `bytes` have to read the text for it."""
        files = [self.train_file] if self.test_file is None else [self.train_file, self.test_file]
        if self.tokens.tokenizer == "bytes":
            counts, classes = [file.stat().st_size for file in files], BYTE_VALUES
        else:
            sequences, classes = self._tokenized
            counts = [len(sequence) for sequence in sequences]
        train, test = divided(counts[0]) if len(counts) == 1 else (counts[0], counts[1])
        window = self.tokens.length + 1
        info = DataInfo(
            name=self.name,
            kind="text",
            train=train // window,
            test=test // window,
            shape=(self.tokens.length,),
            classes=classes,
        )
        for count, windows, file in ((train, info.train, files[0]), (test, info.test, files[-1])):
            if windows == 0:
                raise UserError(
                    f"{file}: {count:,} tokens make no window of {window} (tokens.length + 1); shorten tokens.length"
                )
        if self.expected is not None and info != self.expected:
            raise UserError(
                f"{self.train_file}: {info.train:,} and {info.test:,} windows of {info.classes} tokens, but "
                f"{self.name} has {self.expected.train:,} and {self.expected.test:,} of {self.expected.classes}; "
                "name a text of your own otherwise (`name: text`, `path: FILE.txt`)"
            )
        return info

    def read(self, info: DataInfo, rows: NDArray[np.int64] | None) -> DataSet:
        """Windows in the order of the text."""
        sequences, _ = self._tokenized
        if len(sequences) == 1:
            sequences = np.split(sequences[0], [divided(len(sequences[0]))[0]])
        train, test = (windows(sequence, self.tokens.length) for sequence in sequences)
        return assembled(info, rows_of(train, rows), test)

    @cached_property
    def _tokenized(self) -> tuple[Sequence[NDArray[np.int64]], int]:
        """The tokens of each file, and the size of the vocabulary."""
        contents = [file.read_bytes() for file in (self.train_file, self.test_file) if file is not None]
        if self.tokens.published:
            return self._published(contents)
        match self.tokens.tokenizer:
            case "bytes":
                return [np.frombuffer(content, np.uint8).astype(np.int64) for content in contents], BYTE_VALUES
            case "chars":
                return _characters([self._decoded(content) for content in contents])
            case own:
                return _encoded(own, [self._decoded(content) for content in contents])

    def _published(self, contents: list[bytes]) -> tuple[list[NDArray[np.int64]], int]:
        tokenizer = model_tokenizer(self.tokens.tokenizer)
        name, sequences = tokenizer.fingerprint, []
        for content in contents:
            text = self._decoded(content)
            sequences.append(kept(name, content, partial(tokenizer.encode, text)))
        return sequences, tokenizer.vocab_size

    def _decoded(self, content: bytes) -> str:
        try:
            return content.decode("utf-8")
        except UnicodeDecodeError as error:
            raise UserError(
                f"{self.train_file.parent}: {self.name} is not UTF-8 ({error}); convert it, "
                "or choose `tokenizer: bytes`, which takes any file"
            ) from error


def tokens_of(file: Path, tokenizer: str) -> tuple[NDArray[np.int64], int]:
    """The tokens of one text, in order, and the size of their vocabulary.

    Raises:
        UserError: the file is not there or is not UTF-8, or there is no such tokenizer.
    """
    if not file.is_file():
        raise UserError(f"text {file} does not exist; give the path of a text file")
    sequences, size = Text(file.name, file, None, TokenOptions(tokenizer=tokenizer))._tokenized
    return sequences[0], size


def windows(tokens: NDArray[np.int64], length: int) -> Split:
    """Tokens cut into windows of `length` + 1: the first `length` of each are inputs, the last `length` labels."""
    count = len(tokens) // (length + 1)
    table = tokens[: count * (length + 1)].reshape(count, length + 1)
    return Split(table[:, :-1], table[:, 1:])


def _characters(texts: list[str]) -> tuple[list[NDArray[np.int64]], int]:
    """Each character's place among the different characters of all texts (nanoGPT's character data)."""
    points = [np.frombuffer(text.encode("utf-32-le"), np.uint32) for text in texts]
    vocabulary = np.unique(np.concatenate(points))
    return [np.searchsorted(vocabulary, sequence).astype(np.int64) for sequence in points], len(vocabulary)


def _encoded(own: str, texts: list[str]) -> tuple[list[NDArray[np.int64]], int]:
    tokenizer = call(resolve(own, "tokenizer"), own, {})
    if not isinstance(tokenizer, Tokenizer):
        raise UserError(f"tokenizer {own} makes a {type(tokenizer).__name__}; it needs `vocab_size` and `encode(text)`")
    sequences = [np.asarray(tokenizer.encode(text), np.int64) for text in texts]
    size = tokenizer.vocab_size
    for sequence in sequences:
        if sequence.ndim != 1 or (len(sequence) and not 0 <= sequence.min() <= sequence.max() < size):
            raise UserError(f"tokenizer {own}: tokens must be a list of numbers from 0 to vocab_size - 1 = {size - 1}")
    return sequences, size
