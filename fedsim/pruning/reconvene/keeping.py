"""Curves as files, so that one serves many targets: vectors as safetensors, and the rest as JSON in the header."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from fedsim.errors import UserError
from fedsim.pruning.reconvene.curves import Curve

_FORMAT: Final = "fedsim-curve-1"


def save(curve: Curve, file: Path) -> None:
    """Write a curve; the same one gives the same bytes, but for the seconds that it took."""
    from safetensors.numpy import save_file

    said = {
        "format": _FORMAT,
        "score": curve.score,
        "parent": curve.parent,
        "seed": curve.seed,
        "data": curve.data,
        "layers": list(curve.layers),
        "sizes": list(curve.sizes),
        "lowest": curve.lowest,
        "seconds": curve.seconds,
    }
    vectors = {f"filters.{name}": scores for name, scores in curve.filters.items()} | {"kept": curve.kept}
    save_file(vectors, file, metadata={"curve": json.dumps(said, sort_keys=True, separators=(",", ":"))})


def load(file: Path) -> Curve:
    """Read a curve.

    Raises:
        UserError: the file is not there, or is none.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as opened:
            said = json.loads((opened.metadata() or {}).get("curve", "null"))
            vectors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  # no mapping
    except (OSError, SafetensorError, ValueError) as error:
        raise UserError(f"{file} cannot be read as a curve of scores ({error}); score the model again") from error
    if not isinstance(said, dict) or said.pop("format", None) != _FORMAT:
        raise UserError(f"{file} is no curve of scores that this version of fedsim has written; score the model again")
    layers = tuple(said.pop("layers"))
    filters = {name: vectors[f"filters.{name}"] for name in layers}
    return Curve(**said | {"layers": layers, "sizes": tuple(said["sizes"])}, kept=vectors["kept"], filters=filters)
