"""Headless Chromium for pages that are files: what it shows and what a person could read there."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

NAMES: Final = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_QUIET: Final = (  # no sandbox, as tests may run as root; nothing is looked up or fetched
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--enable-logging=stderr"),
)
_SECONDS: Final = 60


@dataclass(frozen=True, slots=True)
class Seen:
    """What became of a page: its elements once its script has run, and what it complained of."""

    elements: str
    complaints: list[str]


def chromium() -> str | None:
    """Path of a Chromium on this machine, None where there is none."""
    return next((found for found in map(shutil.which, NAMES) if found), None)


def read(path: Path, fragment: str = "", width: int = 1200) -> Seen:
    """Open a page; `fragment` is what stands behind `#` in its address."""
    done = _run(path, fragment, f"--window-size={width},900", "--dump-dom")
    complaints = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    return Seen(done.stdout, complaints)


def screenshot(path: Path, picture: Path, size: tuple[int, int], *, dark: bool = False, fragment: str = "") -> None:
    """Write what a window of that size shows of a page as PNG."""
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    _run(path, fragment, f"--window-size={size[0]},{size[1]}", scheme, f"--screenshot={picture}")


def printed(path: Path, document: Path) -> None:
    """Print a page as PDF."""
    _run(path, "", "--no-pdf-header-footer", f"--print-to-pdf={document}")


def _run(path: Path, fragment: str, *asked: str) -> subprocess.CompletedProcess[str]:
    browser = chromium()
    assert browser is not None, "ask `chromium` before"
    address = path.resolve().as_uri() + (f"#{fragment}" if fragment else "")
    with tempfile.TemporaryDirectory() as profile:
        command = [browser, *_QUIET, f"--user-data-dir={profile}", "--virtual-time-budget=5000", *asked, address]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=_SECONDS)
