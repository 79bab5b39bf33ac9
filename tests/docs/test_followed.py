"""Pages that a reader follows from top to bottom: every block is done in order, in an empty folder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.docs.pages import PAGES, Block, blocks, followed, text_of
from tests.docs.running import called, fedsim_calls, importable, not_said, ran, shortened

FOLLOWED = [page for page in PAGES if followed(page)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, and a terminal that is wide enough for any table."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "220")
    return tmp_path


def test_the_tutorials_are_followed() -> None:
    """All three: none is left out because its mark got lost."""
    assert {"docs/tutorial.md", "docs/own-scheduler.md", "docs/own-profile.md"} <= set(FOLLOWED)


@pytest.mark.slow
@pytest.mark.parametrize("page", FOLLOWED)
def test_a_page_can_be_followed(page: str, folder: Path) -> None:
    """Files are written, commands end as the page says, Python runs, and what is shown as output is said.

    Runs are shortened to two rounds unless their output is shown.
    """
    found = blocks(page)
    said, namespace = "", dict[str, Any]()
    with importable():
        for block, after in zip(found, (*found[1:], None), strict=True):
            shown = after is not None and after.mark("output") is not None
            if block.mark("output") is not None:
                assert not_said(block.text, said) == [], f"{block.place} is not what was said:\n{said}"
            elif (name := block.mark("file")) is not None:
                (folder / name).write_text(block.text, encoding="utf-8")
            elif block.runs:
                said = done(block, namespace, whole=shown)


@pytest.mark.slow
def test_the_tutorial_names_the_parts_of_a_report(folder: Path) -> None:
    """In the order in which they stand there."""
    status, said = called(["run", "quickstart", "--set", "until.rounds=2", "--out", "run"])
    assert status == 0, said
    heads = re.findall(r"<h2>(.*?)</h2>", (folder / "run/report.html").read_text(encoding="utf-8"))
    section = text_of("docs/tutorial.md").partition("## The report")[2].partition("\n## ")[0]
    assert re.findall(r"^\* \*\*(.*?)\*\*", section, re.MULTILINE) == heads


def done(block: Block, namespace: dict[str, Any], *, whole: bool) -> str:
    """Do what a block says; answers with all that it prints."""
    match block.kind:
        case "python":
            return ran(block, block.text, namespace)
        case "shell":
            script = block.mark("run as") or block.text
            status, said = 0, ""
            for arguments in fedsim_calls(script):
                assert status == 0, f"{block.place} goes on after a failure:\n{said}"
                status, more = called(arguments if whole else shortened(arguments))
                said += more
            assert status == int(block.mark("status") or 0), f"{block.place} ended with {status}:\n{said}"
            return said
        case "yaml" | "text":
            raise AssertionError(f"{block.place}: say what this block is: <!-- file: NAME --> or <!-- output -->")
