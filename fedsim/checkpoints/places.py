"""Where a published language model lies: a folder in Hugging Face's form, a GGUF file, or an installed package.

`package:NAME` stands for the folder of a Python package, which is found without being imported; such a path is the same
on every machine that has the package.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Final

from fedsim.errors import UserError

PACKAGE: Final = "package:"
"""What a path begins with that names an installed package."""


SUFFIXES: Final = (".gguf", ".json")
"""Of files that hold a model or its tokenizer."""


def is_place(said: str) -> bool:
    """Whether a text says where something lies, rather than what it is called."""
    return said.startswith(PACKAGE) or "/" in said or said.endswith(SUFFIXES)


def located(path: Path | str) -> Path:
    """The folder that holds a model's config.json, or its GGUF file.

    Args:
        path: one of these; a folder without config.json and with a single GGUF file; or `package:NAME` for such a one.

    Raises:
        UserError: there is no model, or there are several.
    """
    said = str(path)
    place = _of_package(said.removeprefix(PACKAGE)) if said.startswith(PACKAGE) else Path(path)
    if place.suffix.lower() == ".gguf" and place.is_file():
        return place
    if place.is_file():
        raise UserError(f"model {place} is a file of another kind than .gguf; give that, or the folder of a model")
    if not place.is_dir():
        raise UserError(f"model {place} does not exist; give a folder, a .gguf file, or {PACKAGE}NAME")
    if (place / "config.json").is_file():
        return place
    files = sorted(place.glob("*.gguf"))
    if len(files) == 1:
        return files[0]
    if files:
        listed = ", ".join(file.name for file in files)
        raise UserError(f"{place} holds {len(files)} models ({listed}); give the path of one of these files")
    raise UserError(f"{place} has no config.json and no .gguf file; give the folder of a downloaded model")


def _of_package(name: str) -> Path:
    """The folder of an installed package."""
    try:
        found = find_spec(name) if name.isidentifier() else None  # a dotted name would import its parents
    except (ImportError, ValueError):
        found = None
    if found is None or not found.submodule_search_locations:
        raise UserError(f"{PACKAGE}{name}: no such package is installed; pip install it, or give a folder or file")
    return Path(found.submodule_search_locations[0])
