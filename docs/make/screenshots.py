"""The pictures of reports in this documentation: `python -m docs.make.screenshots`, from the top of a checkout.

Runs `quickstart` and a comparison of four systems on `twelve-boards` (two minutes), and opens their reports in headless
Chromium, which has to be there.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Final

from PIL import Image

import fedsim
from tests.browser import chromium, screenshot

IMAGES: Final = Path(__file__).parent.parent / "images"
SYSTEMS: Final = ("fedavg", "splitfed", "ampere", "fedoptima")
_COLOURS: Final = 128  # of a palette: a third of the bytes, and nothing to be seen of it


def main() -> None:
    """Write the pictures."""
    if chromium() is None:
        sys.exit("no Chromium is on the PATH; install one (Debian: apt-get install chromium)")
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        one, many = Path(folder) / "run", Path(folder) / "comparison"
        fedsim.run("quickstart", out=one)
        fedsim.compare("twelve-boards", SYSTEMS, seeds=2, out=many)
        take(one / "report.html", "report", (1200, 1560))
        take(one / "report.html", "report-narrow", (390, 1560))
        take(many / "comparison.html", "comparison", (1200, 1900))
        take(many / "comparison.html", "comparison-dark", (1200, 1900), dark=True)


def take(page: Path, name: str, size: tuple[int, int], *, dark: bool = False) -> None:
    """One picture, of few colours."""
    path = IMAGES / f"{name}.png"
    screenshot(page, path, size, dark=dark)
    Image.open(path).convert("RGB").quantize(_COLOURS).save(path, optimize=True)
    print(f"{path.relative_to(IMAGES.parent.parent)}: {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
