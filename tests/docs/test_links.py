"""Links and names of files: everything that a page points to is there."""

from __future__ import annotations

import os
import re
from pathlib import PurePosixPath
from typing import Final

import pytest

from docs.make.site import BESIDE
from tests.docs.pages import PAGES, ROOT, anchors, links, text_of
from tests.docs.programs import module_of

LINKED: Final = sorted({*PAGES, *BESIDE})
_PROGRAM: Final = re.compile(
    r"(?<![\w/])((?:benchmarks|tests|docs/make|scenarios|devices|server)/[\w./-]*\w\.(?:py|yaml|md|csv))\b"
)
_MODULE: Final = re.compile(r"python3? -m ((?:benchmarks|docs|tests|fedsim)[\w.]*)")


@pytest.mark.parametrize("page", LINKED)
def test_relative_links_lead_somewhere(page: str) -> None:
    """To a file or folder of the checkout and, with an anchor, to a heading of a page."""
    broken = []
    for line, target in links(page):
        path, _, anchor = target.partition("#")
        if ":" in path:
            continue  # elsewhere
        place = os.path.normpath(PurePosixPath(page).parent / path) if path else page
        if not (ROOT / place).exists() or (anchor and anchor not in anchors(place)):
            broken.append(f"{page}:{line} {target}")
    assert broken == []


@pytest.mark.parametrize("page", LINKED)
def test_programs_and_files_that_are_named_are_there(page: str) -> None:
    """Benchmarks beside numbers, tests that hold facts, scenarios: by their path from the top."""
    text = text_of(page)
    assert [path for path in _PROGRAM.findall(text) if not (ROOT / path).exists()] == []
    assert [name for name in _MODULE.findall(text) if not module_of(name).is_file()] == []


def test_a_table_of_numbers_is_on_a_page_that_names_its_program() -> None:
    """Pages with measured figures name a benchmark, or a test, in the section of each table."""
    silent = []
    for page in ("docs/accuracy.md", "docs/validation.md", "docs/trust.md"):
        for section in re.split(r"^(?=## )", text_of(page), flags=re.MULTILINE):
            has_numbers = re.search(r"^\|.*\d+(?:\.\d+)? ?(?:%|s|±)", section, re.MULTILINE)
            if has_numbers and not re.search(r"benchmarks/|tests/|^# Accuracy|python -m", section, re.MULTILINE):
                silent.append((page, section.splitlines()[0]))
    assert silent == [("docs/validation.md", "## The gate")], (
        "limits are no measurements; everything else names a program"
    )
