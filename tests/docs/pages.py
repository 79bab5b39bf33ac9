"""The pages of the documentation taken apart: blocks of code with the comments above them, links, headings."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Final, Literal

import yaml
from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT: Final = Path(__file__).resolve().parents[2]
PAGES: Final = ("README.md", *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")))
"""What is tested, by path from the top."""

Kind = Literal["shell", "python", "yaml", "text"]
_LANGUAGES: Final[dict[str, Kind]] = {
    "bash": "shell",
    "sh": "shell",
    "shell": "shell",
    "console": "shell",
    "python": "python",
    "py": "python",
    "yaml": "yaml",
    "yml": "yaml",
    "text": "text",
}
_COMMANDS: Final = re.compile(
    r"(?:[A-Z_]+=\S+ )*(fedsim|python3?(?:\.\d+)?|pip|pytest|docker|ray|ssh|scp|grep|sed|for|mkdocs|cd)\b"
)
"""How the first line of a shell block begins, where no language is given."""
_COMMENT: Final = re.compile(r"<!--\s*(.*?)\s*-->", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A block of code, fenced or indented."""

    page: str
    line: int
    kind: Kind
    text: str
    marks: tuple[str, ...]
    """The comments that stand directly above it."""

    @property
    def place(self) -> str:
        """Where it is, for people."""
        return f"{self.page}:{self.line}"

    def mark(self, name: str) -> str | None:
        """What follows `name:` in a mark above, empty for a bare `name`; None where there is none."""
        for mark in self.marks:
            if mark == name:
                return ""
            if mark.startswith(f"{name}:"):
                return mark[len(name) + 1 :].strip()
        return None

    @property
    def runs(self) -> bool:
        """Whether nothing says that it cannot be run."""
        return self.mark("not run") is None


@cache
def text_of(page: str) -> str:
    """A page as it is written."""
    return (ROOT / page).read_text(encoding="utf-8")


@cache
def tokens(page: str) -> tuple[Token, ...]:
    """A page as CommonMark has it."""
    return tuple(MarkdownIt("commonmark").enable("table").parse(text_of(page)))


@cache
def blocks(page: str) -> tuple[Block, ...]:
    """The blocks of code of a page."""
    return tuple(taken_apart(page, tokens(page)))


def taken_apart(page: str, parsed: tuple[Token, ...]) -> list[Block]:
    """The blocks of code among these tokens."""
    found: list[Block] = []
    marks: list[str] = []
    for token in parsed:
        if token.type == "html_block":
            marks += _COMMENT.findall(token.content)
        elif token.type in ("fence", "code_block"):
            assert token.map is not None
            language = token.info.split()[0] if token.info.split() else ""
            kind = _LANGUAGES.get(language, "text") if language else guessed(token.content)
            found.append(Block(page, token.map[0] + 1, kind, token.content, tuple(marks)))
            marks = []
        else:
            marks = []
    return found


def guessed(text: str) -> Kind:
    """What a block is that does not say."""
    if _COMMANDS.match(text):
        return "shell"
    try:
        if isinstance(yaml.safe_load(text), dict):
            return "yaml"
    except yaml.YAMLError:
        pass
    try:
        body = ast.parse(text).body
    except SyntaxError:
        return "text"
    return "text" if all(isinstance(each, ast.Expr) for each in body) else "python"


def followed(page: str) -> bool:
    """Whether the page says that its blocks are run in order."""
    return any(mark.startswith("followed:") for mark in _COMMENT.findall(text_of(page)))


def commands(text: str) -> list[str]:
    """The commands of a shell block, one a line: continued lines joined, comments and prompts left out."""
    joined = re.sub(r"\s*\\\n\s*", " ", text)
    joined = re.sub(r"\n[ \t]+(?=\[)", " ", joined)  # a synopsis goes on with its next option
    lines = (re.sub(r"(?:^|\s)#.*$", "", line).strip().removeprefix("$ ") for line in joined.splitlines())
    return [part.strip() for line in lines if line for part in re.split(r"\s(?:&&|\|\||;|\|)\s", line)]


@cache
def links(page: str) -> tuple[tuple[int, str], ...]:
    """Line and target of every link and image of a page."""
    found = []
    for token in tokens(page):
        for child in token.children or ():
            target = child.attrGet("href") or child.attrGet("src")
            if child.type in ("link_open", "image") and isinstance(target, str):
                found.append(((token.map or [0])[0] + 1, target))
    return tuple(found)


@cache
def anchors(page: str) -> frozenset[str]:
    """The anchors of a page's headings, as GitHub names them."""
    parsed, found = tokens(page), set[str]()
    for head, inline in pairwise(parsed):
        if head.type == "heading_open":
            words = "".join(child.content for child in inline.children or ())
            name = re.sub(r"[^\w\- ]", "", words.lower()).strip().replace(" ", "-")
            found.add(next(n for n in (name, *(f"{name}-{i}" for i in range(1, 99))) if n not in found))
    return frozenset(found)
