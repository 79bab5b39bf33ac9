"""Which pages are generated, whole or in part, and what they are to be."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Final

from docs.make import commands, keys
from docs.make.forms import keys as keys_of
from docs.make.tables import keys_table, region, replaced
from fedsim.schedulers.catalogue import SCHEDULERS

FOLDER: Final = Path(__file__).resolve().parent.parent


@functools.cache
def generated() -> dict[str, str]:
    """Every page with a generated part, by its path within `docs`, as it should read."""
    found = {"keys.md": keys.page(), "commands.md": commands.page()}
    for name, kind in SCHEDULERS.items():
        page = f"schedulers/{name}.md"
        options = keys_table(keys_of(kind), "option").replace("(#forms)", "(../keys.md#forms)")
        found[page] = replaced(_text(page), "options", options)
    measured = region(_text("validation.md"), "table of benchmarks/validation.py")
    return found | {"trust.md": replaced(_text("trust.md"), "fidelity", measured)}


def _text(page: str) -> str:
    return (FOLDER / page).read_text(encoding="utf-8")
