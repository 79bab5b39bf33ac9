"""Text for language models that are pruned: what they are calibrated on, and what they are evaluated on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from fedsim.data import default_folder
from fedsim.data.catalogue import CORPORA
from fedsim.data.text import find_files, tokens_of
from fedsim.errors import UserError, unknown
from fedsim.experiment.pruning.subjects import Subject

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from fedsim.pruning.mosaic.calibration import Calibration, Privacy

WINDOWS: Final = 64
"""Windows of a text that a model is evaluated on where nothing is said."""


def text_file(said: str, folder: Path | None, *, test: bool) -> Path:
    """The file of a path, or of a text of the catalogue.

    Args:
        folder: where texts of the catalogue lie.
        test: its test part, if it has one; else its training part.

    Raises:
        UserError: there is no such text.
    """
    if Path(said).is_file():
        return Path(said)
    if folder is not None and (folder / said).is_file():
        return folder / said
    place = folder or default_folder()
    files = find_files(place, said) if place.is_dir() else None
    if files is not None:
        train, other = files
        return other if test and other is not None else train
    if "/" in said or "." in said:
        raise UserError(f"text {said} does not exist; give the path of a text file")
    raise UserError(
        f"{unknown('text', said, CORPORA)}; its files are looked for in {place}, --data-path names another folder, and "
        "the path of a text file will do"
    )


def tokens(subject: Subject, file: Path) -> NDArray[np.int64]:
    """The tokens of a text for a model.

    Raises:
        UserError: no tokenizer is known, or it is another model's.
    """
    if subject.tokenizer is None:
        raise UserError(
            f"no tokenizer is known for {subject.name}, whose vocabulary has {subject.vocabulary} tokens; name one "
            "with --tokenizer: a tokenizer.json, the folder of a model, package:NAME, or bytes"
        )
    found, size = tokens_of(file, subject.tokenizer)
    if size > subject.vocabulary:
        raise UserError(
            f"tokenizer {subject.tokenizer} has {size} tokens, but {subject.name} knows {subject.vocabulary}; name its "
            "own with --tokenizer"
        )
    return found


def calibration(subject: Subject, file: Path, *, windows: int, privacy: Privacy) -> Calibration:
    """Windows that begin at tokens of a text that the seed draws.

    Raises:
        UserError: the text is too short.
    """
    from fedsim.pruning.mosaic import drawn

    described = {"text": file.name, "tokenizer": _short(subject.tokenizer)}
    return drawn(
        tokens(subject, file),
        count=windows,
        length=subject.length,
        seed=subject.seed,
        description=described,
        privacy=privacy,
    )


def consecutive(subject: Subject, file: Path, *, windows: int) -> Tensor:
    """The first windows of a text, one behind another: `windows length`.

    Raises:
        UserError: it has not one.
    """
    import torch

    from fedsim.pruning.mosaic.evaluating import consecutive as cut

    found = tokens(subject, file)
    count = min(windows, len(found) // subject.length)
    if not count:
        raise UserError(
            f"{file}: {len(found)} tokens make no window of {subject.length}; take a longer text, or a smaller --length"
        )
    return cut(torch.from_numpy(found), subject.length, count)


def _short(tokenizer: str | None) -> str:
    """A tokenizer without the folders of this machine."""
    return "" if tokenizer is None else Path(tokenizer).name
