"""`load` and `describe`: from the keys of a scenario's `data` to the reader that fits, and its data set.

`describe` promises exactly what `load` gives, so a timing-only run sees the same numbers as a run that learns.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from fedsim.data import catalogue, parquet, text
from fedsim.data.arrays import NumpyFile
from fedsim.data.catalogue import DataInfo
from fedsim.data.custom import Custom, resolve
from fedsim.data.dataset import DataSet
from fedsim.data.digits import Digits
from fedsim.data.text import TokenOptions
from fedsim.data.torchvision_sets import SETS, TorchvisionImages, missing
from fedsim.errors import UserError, unknown
from fedsim.script import SERVER
from fedsim.seeds import generator

NO_OPTIONS: Final[Mapping[str, Any]] = MappingProxyType({})


class Source(Protocol):
    """A reader of one data set."""

    def info(self) -> DataInfo:
        """The whole data set in numbers, from metadata."""
        ...

    def read(self, info: DataInfo, rows: NDArray[np.int64] | None, /) -> DataSet:
        """The data set as `info` wants it: `rows` (ascending; None: all) of the training set, in its image size."""
        ...


def load(
    name: str | Callable[..., DataSet],
    *,
    path: Path | None = None,
    samples: int | None = None,
    resize: int | None = None,
    tokens: TokenOptions | None = None,
    seed: int = 0,
    options: Mapping[str, Any] = NO_OPTIONS,
) -> DataSet:
    """Read a data set into memory, once.

    Args:
        name: of the catalogue; `numpy` or `text` for a file; the stem of Parquet files; `module:Class` or a callable.
        path: the file or folder; by default the folder of `default_folder()`.
        samples: take a subset of the training set, drawn from `seed`; a larger one of the same seed contains it.
        resize: fit images to this many pixels, high and wide.
        tokens: how text becomes samples.
        seed: of the run.
        options: columns of Parquet files (`image`, `label`, `owner`), or the arguments of the user's own callable.

    Raises:
        UserError: the data set is not there, is broken, or an option does not fit it.
    """
    source = _source(name, path, tokens, options, fit=resize is not None)
    whole = source.info()
    info = whole.fitted(samples, resize)
    rows = None
    if samples is not None and samples < whole.train:
        order = generator(seed, SERVER, "samples").permutation(whole.train)
        rows = np.sort(order[:samples])
    return source.read(info, rows)


def describe(
    name: str | Callable[..., DataSet],
    *,
    path: Path | None = None,
    samples: int | None = None,
    resize: int | None = None,
    tokens: TokenOptions | None = None,
    seed: int = 0,
    options: Mapping[str, Any] = NO_OPTIONS,
) -> DataInfo:
    """What `load` with the same arguments would give, in numbers.

    Names of the catalogue open nothing. Of files only metadata are read; text in other tokens than bytes has to be
    tokenized, and the user's own callable has to be called.

    Raises:
        UserError: the data set does not exist, or an option does not fit it.
    """
    del seed  # which samples are drawn does not show in the numbers
    if isinstance(name, str) and name in catalogue.names() and not _own_tokens(tokens):
        _refuse(name, options=options, tokens=None if name in catalogue.CORPORA else tokens)
        return _known(name, tokens).fitted(samples, resize)
    return _source(name, path, tokens, options, fit=resize is not None).info().fitted(samples, resize)


def default_folder() -> Path:
    """Where data sets are kept when a scenario names no path: $FEDSIM_DATA, else ~/.cache/fedsim/data."""
    return Path(os.environ.get("FEDSIM_DATA") or "~/.cache/fedsim/data").expanduser()


def _own_tokens(tokens: TokenOptions | None) -> bool:
    return tokens is not None and tokens.tokenizer not in text.TOKENIZERS


def _known(name: str, tokens: TokenOptions | None) -> DataInfo:
    tokens = tokens or TokenOptions()
    return catalogue.find(name, length=tokens.length, characters=tokens.tokenizer == "chars")


def _refuse(name: str, *, tokens: TokenOptions | None = None, options: Mapping[str, Any] = NO_OPTIONS) -> None:
    """Keys that this data set has no use for are errors, as every unknown key is."""
    if options:
        raise UserError(f"data set {name} takes no options, but was given {', '.join(map(str, options))}; leave it out")
    if tokens is not None:
        raise UserError(f"data set {name} is not read as text; leave out `tokens`")


def _source(
    name: str | Callable[..., DataSet],
    path: Path | None,
    tokens: TokenOptions | None,
    options: Mapping[str, Any],
    *,
    fit: bool,
) -> Source:
    """The reader for these keys of a scenario."""
    if not isinstance(name, str) or ":" in name:
        target = resolve(name, "data set") if isinstance(name, str) else name
        reference = name if isinstance(name, str) else getattr(name, "__qualname__", repr(name))
        _refuse(reference, tokens=tokens)
        return Custom(target, reference, options if path is None else {"path": path, **options})
    if name in catalogue.IMAGES:
        _refuse(name, tokens=tokens, options=options)
        return Digits() if name == "digits" else _image_source(name, path or default_folder(), fit=fit)
    if path is not None and not path.exists():
        raise UserError(f"data.path: {path} does not exist; check the path of data set {name}")
    if name in catalogue.CORPORA or name == "text":
        _refuse(name, options=options)
        return _text_source(name, path or default_folder(), tokens or TokenOptions())
    if name == "numpy" or (path is not None and path.suffix == ".npz"):
        _refuse(name, tokens=tokens, options=options)
        if path is None or not path.is_file():
            raise UserError(f"data set {name}: set `path` to an .npz file")
        return NumpyFile(name, path)
    folder = path or default_folder()
    files = parquet.find_files(folder, name) if folder.is_dir() else None
    if files is not None:
        _refuse(name, tokens=tokens)
        return parquet.ParquetImages(name, *files, fit=fit, options=options)
    if text.find_files(folder, name) is not None:
        _refuse(name, options=options)
        return _text_source(name, folder, tokens or TokenOptions())
    known = [*catalogue.names(), "numpy", "text", "module:Class"]
    raise UserError(f"{unknown('data set', name, known)}; {folder} has no {name}-train.parquet and no {name}-train.txt")


def _image_source(name: str, folder: Path, *, fit: bool) -> Source:
    known = catalogue.IMAGES[name]
    if folder.is_file():
        raise UserError(f"data.path: {folder} is a file; name the folder that holds {name}")
    files = parquet.find_files(folder, name)
    if files is not None:
        return parquet.ParquetImages(name, *files, expected=known, fit=fit)
    if name in SETS:
        return TorchvisionImages(known, folder)
    raise UserError(missing(name, folder, "torchvision does not have it"))


def _text_source(name: str, folder: Path, tokens: TokenOptions) -> Source:
    files = text.find_files(folder, name)
    if files is None:
        corpus = catalogue.CORPORA.get(name)
        wanted = [corpus.train_file, corpus.test_file] if corpus else [f"{name}-train.txt", f"{name}-test.txt"]
        raise UserError(
            f"text {name} is not in {folder}; put {' and '.join(file for file in wanted if file)} there, "
            "or set `path` to a .txt file"
        )
    catalogued = name in catalogue.CORPORA and not _own_tokens(tokens)
    return text.Text(name, *files, tokens, expected=_known(name, tokens) if catalogued else None)
