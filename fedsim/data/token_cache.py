"""Tokens of texts that were split before, kept on disk: each node of an emulation needs them, and so does every run.

A file is named by a hash of the text and of everything that the tokenizer depends on, so it is never out of date; a
folder that cannot be written to costs the time of splitting, nothing else.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from tempfile import NamedTemporaryFile

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.int64]


def folder() -> Path:
    """Where tokens are kept: $FEDSIM_CACHE/tokens, else ~/.cache/fedsim/tokens."""
    return Path(os.environ.get("FEDSIM_CACHE") or "~/.cache/fedsim").expanduser() / "tokens"


def kept(fingerprint: str, content: bytes, make: Callable[[], Tokens]) -> Tokens:
    """The tokens of a text: those of an earlier time, or what `make` makes of it now.

    Args:
        fingerprint: of the tokenizer.
        content: the text.
    """
    digest = hashlib.sha256(f"{fingerprint} {len(content)} ".encode())
    digest.update(content)
    file = folder() / f"{digest.hexdigest()}.npy"
    try:
        stored = np.load(file, allow_pickle=False)
        if stored.dtype == np.uint32 and stored.ndim == 1:
            found: Tokens = stored.astype(np.int64)
            return found
    except (OSError, ValueError, EOFError):
        pass  # not there yet, or damaged: it is made again
    made = make()
    _keep(file, made)
    return made


def _keep(file: Path, tokens: Tokens) -> None:
    """Write a file that nobody ever sees half of."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=file.parent, suffix=".part", delete=False) as part:
            np.save(part, tokens.astype(np.uint32))
        os.replace(part.name, file)
    except OSError:
        pass  # a home that is read-only or full; the next run splits the text again
