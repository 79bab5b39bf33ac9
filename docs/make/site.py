"""What mkdocs has to know of this repository: pages beside `docs`, and links that lead out of it.

A page reads the same on the site and in the checkout. Links between pages work in both; those to other files of the
checkout, such as a scheduler's module, become plain text on the site, which does not have them.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]

BESIDE: Final = {
    "README.md": "index.md",
    "ARCHITECTURE.md": "ARCHITECTURE.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "devices/README.md": "devices/README.md",
    "server/README.md": "server/README.md",
    "benchmarks/README.md": "benchmarks/README.md",
}
"""Pages beside `docs`, by path in the checkout, with their path on the site."""

_PLACES: Final = {on_site: path for path, on_site in BESIDE.items()}
_LINK: Final = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")
_FENCE: Final = re.compile(r"^(```|~~~).*?^\1[ \t]*$", re.MULTILINE | re.DOTALL)


def on_files(files: Any, config: Any) -> Any:
    """Add the pages beside `docs`."""
    from mkdocs.structure.files import File

    for path, on_site in BESIDE.items():
        files.append(File.generated(config, on_site, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links as they are on the site."""
    return linked(markdown, page.file.src_uri)


def linked(markdown: str, on_site: str) -> str:
    """The text of the page at a path of the site; its links and pictures lead where they do in the checkout."""
    source = PurePosixPath(_PLACES.get(on_site, f"docs/{on_site}"))

    def moved(match: re.Match[str]) -> str:
        picture, text, target = match.groups()
        path, _, anchor = target.partition("#")
        if not path or ":" in path:
            return match[0]  # on this page, or elsewhere
        place = os.path.normpath(source.parent / path)
        wanted = BESIDE.get(place, place.removeprefix("docs/") if place.startswith("docs/") else None)
        if wanted is None:
            return text if (ROOT / place).exists() and not picture else match[0]
        link = os.path.relpath(wanted, PurePosixPath(on_site).parent)
        return f"{picture}[{text}]({link}{'#' + anchor if anchor else ''})"

    parts, at = [], 0
    for block in _FENCE.finditer(markdown):
        parts += [_LINK.sub(moved, markdown[at : block.start()]), block[0]]
        at = block.end()
    return "".join([*parts, _LINK.sub(moved, markdown[at:])])
