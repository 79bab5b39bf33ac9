"""Blocks of pages that are looked up rather than followed: commands parse, YAML loads, Python runs."""

from __future__ import annotations

import ast
import re
from collections import Counter
from itertools import dropwhile
from pathlib import Path
from typing import Any, Final

import pytest
import typer
import yaml

from docs.make.commands import functions, parameters
from fedsim import catalogue
from fedsim.cli import app as command_line
from fedsim.experiment.loading import load_scenario
from fedsim.experiment.sweeping import planned
from fedsim.scenario import Scenario
from tests.docs.given import GIVEN
from tests.docs.pages import PAGES, ROOT, Block, blocks, commands, followed
from tests.docs.programs import module_of, options_of
from tests.docs.running import called, importable, not_said, ran, shortened, words

LOOKED_UP: Final = [block for page in PAGES if not followed(page) for block in blocks(page)]
EVERY: Final = [block for page in PAGES for block in blocks(page)]
SHELL: Final = [(block, command) for block in EVERY if block.kind == "shell" for command in commands(block.text)]

OTHERS: Final = {"pip", "pytest", "docker", "ray", "ssh", "scp", "grep", "sed", "mkdocs", "cd", "for", "do", "done"}
"""Programs of others, whose command lines are theirs to check."""
CHEAP: Final = {"quickstart", "validation"}
"""Scenarios that need no data and whose two rounds take a moment."""
STAND_INS: Final = re.compile(r"[A-Z_]+|\$\w+")
"""What a reader is to fill in."""
REASONS: Final = 12
"""Blocks that may be marked as not to be run, beside pseudo-code. Think twice before you raise it."""


def named(things: list[Block] | list[tuple[Block, str]]) -> pytest.MarkDecorator:
    """Parameters with the place of each as its name."""
    places = [thing.place if isinstance(thing, Block) else f"{thing[0].place} {thing[1][:40]}" for thing in things]
    return pytest.mark.parametrize("it", things, ids=places)


def test_what_cannot_be_run_is_said_with_a_reason() -> None:
    """And there is little of it: pseudo-code, one block a training system, and few others."""
    reasons = [reason for block in EVERY if (reason := block.mark("not run")) is not None]
    assert all(reasons), "a mark without a reason"
    assert Counter(reasons)["pseudo-code"] == len(list((ROOT / "docs/schedulers").glob("*.md")))
    assert len([reason for reason in reasons if reason != "pseudo-code"]) <= REASONS


def test_every_block_is_of_a_kind_that_something_is_done_with() -> None:
    """Text is output of the command above it, or marked."""
    unknown = [
        block.place
        for block in EVERY
        if block.kind == "text" and block.runs and block.mark("output") is None and command_above(block) is None
    ]
    assert unknown == [], "name a language after the fence, or say <!-- not run: why -->"


# ------------------------------------------------------------------------------------------------- commands


@named(SHELL)
def test_a_command_is_one_that_there_is(it: tuple[Block, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours parse, against the command line itself; programs of the repository are there and know their options."""
    block, command = it
    told = list(dropwhile(re.compile(r"[A-Z_]+=\S*|do").fullmatch, words(command)))  # variables, and the body of a loop
    match told:
        case ["fedsim", *_] if "[--" in command:
            synopsis(words(re.sub(r"[][]", " ", command))[1:])
        case ["fedsim", *arguments]:
            parses(arguments, monkeypatch)
        case ["python" | "python3", "-m", module, *rest]:
            knows(module, rest)
        case ["python" | "python3" | "python3.11", path, *rest] if path.endswith(".py"):
            assert (ROOT / path).is_file(), f"{block.place}: there is no {path}"
            knows(path.removesuffix(".py").replace("/", "."), rest)
        case _:
            assert told[0] in OTHERS, f"{block.place}: no program of ours or others that this test knows: {told[0]}"


def parses(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line takes them; a scenario that they name is there."""
    told: list[tuple[str, tuple[Any, ...]]] = []

    def record(command: str, *given: Any, **_: Any) -> None:
        told.append((command, given))
        raise typer.Exit(0)

    monkeypatch.setattr(command_line, "_exit", record)
    assert command_line.invoke(arguments) == 0, f"fedsim {' '.join(arguments)} does not parse"
    match told:
        case [(command, (str(name), *_))] if command.endswith(
            ("run_command", "serve_command", "compare_command", "check_command", "validate_command")
        ):
            there = name.endswith(".yaml") or STAND_INS.fullmatch(name) or name in catalogue.names("scenario")
            assert there, f"there is no scenario {name}"


def synopsis(rest: list[str]) -> None:
    """A command with its options in brackets: each is one of it."""
    known = {each.shown.split()[0] for each in parameters(functions()[rest[0]])}
    assert {word for word in rest if word.startswith("--")} <= known


def knows(module: str, arguments: list[str]) -> None:
    """A module that can be run from the checkout, with these options."""
    if module.partition(".")[0] not in ("benchmarks", "docs", "fedsim", "tests"):
        return
    given = {word.partition("=")[0] for word in arguments if word.startswith("--")}
    assert module_of(module).is_file(), f"there is no {module}"
    assert given <= options_of(module) if given else True, f"{module} has no {given - options_of(module)}"


def cheap(arguments: list[str]) -> bool:
    """Whether a command can be run here in a moment."""
    match arguments:
        case ["list", *_]:
            return True
        case ["run" | "compare" | "check", scenario, *rest]:
            told = " ".join(rest)
            return scenario in CHEAP and not any(
                word in told for word in ("emulate", "--ray", "--workers", "--jobs", "--track")
            )
        case _:
            return False


CALLS: Final = {
    tuple(words(command)[1:]): block
    for block, command in SHELL
    if block in LOOKED_UP and command.startswith("fedsim ") and "[--" not in command and cheap(words(command)[1:])
}


@pytest.mark.slow
@pytest.mark.parametrize("arguments", CALLS, ids=" ".join)
def test_a_cheap_command_runs(arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To its end, with two rounds, one seed each and a folder of its own."""
    monkeypatch.chdir(tmp_path)
    status, said = called(shortened(arguments))
    assert status == 0, said


# --------------------------------------------------------------------------------------------------- output


def command_above(block: Block) -> list[str] | None:
    """The last of our commands in the nearest block of commands above, if that can be run in a moment."""
    above = [other for other in blocks(block.page) if other.line < block.line and other.kind == "shell"]
    ours = (
        [words(command)[1:] for command in commands(above[-1].text) if command.startswith("fedsim ")] if above else []
    )
    return ours[-1] if ours and cheap(ours[-1]) else None


OUTPUT: Final = [block for block in LOOKED_UP if block.kind == "text" and block.runs]


@pytest.mark.slow
@named(OUTPUT)
def test_output_is_what_the_command_above_says(it: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Line by line, in full length; a page may leave lines out."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "220")
    arguments = command_above(it)
    assert arguments is not None
    status, said = called(arguments)
    assert status == 0
    assert not_said(it.text, said) == [], said


# ------------------------------------------------------------------------------------------------ YAML, Python

BASE: Final = {
    "model": "cnn",
    "data": "digits",
    "fleet": [{"profile": "pi-tier-1", "count": 4, "link": {"up": "50 Mbit/s", "down": "50 Mbit/s"}}],
    "server": {"profile": "cpu-60g", "link": "ethernet-1g"},
    "scheduler": "fedavg",
    "until": {"rounds": 1},
}


@named([block for block in LOOKED_UP if block.kind == "yaml" and block.runs])
def test_yaml_is_of_a_scenario(it: Block) -> None:
    """A whole one, or sections that fit into one."""
    data = yaml.safe_load(it.text)
    known = {*Scenario.model_fields, "sweep"}
    assert set(data) <= known, f"{it.place} is no scenario; say <!-- not run: what it is -->"
    whole = {"name": "page", **BASE, **data}
    if "sweep" in data:
        plan = planned(whole)
        assert plan is not None
        assert plan.contest().cells
    else:
        load_scenario(whole)


@named([block for block in EVERY if block.kind == "python"])
def test_python_imports_what_there_is(it: Block) -> None:
    """Also where a block is not run: names that it imports from fedsim exist."""
    tree = ast.parse(it.text)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "fedsim":
            exec(compile(ast.Module([node], []), it.place, "exec"), {})


@pytest.mark.slow
@named([block for block in LOOKED_UP if block.kind == "python" and block.runs])
def test_python_runs(it: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an empty folder, with what its mark says is given."""
    monkeypatch.chdir(tmp_path)
    given = it.mark("given")
    with importable():
        namespace = GIVEN[given]() if given else {}
        ran(it, it.text, namespace)
