"""Pages and parts of pages that follow from the code are up to date, and complete."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field

from docs.make import __main__ as make
from docs.make.forms import docstrings, form, keys
from docs.make.pages import FOLDER, generated
from docs.make.tables import keys_table, region, replaced, table
from fedsim.cli.app import app
from fedsim.quantities import Duration, Size
from fedsim.scenario.schema import Scenario
from fedsim.scenario.section import Switch
from fedsim.schedulers.catalogue import SCHEDULERS


@pytest.mark.parametrize("page", sorted(generated()))
def test_a_page_is_as_the_code_has_it(page: str) -> None:
    """Otherwise `python -m docs.make` writes it anew."""
    assert (FOLDER / page).read_text(encoding="utf-8") == generated()[page], "run python -m docs.make"


def test_what_is_out_of_date_is_told_and_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--check` ends with 1 and writes nothing; without it the page is written."""
    assert make.main(["--check"]) == 0
    stale = {**generated(), "keys.md": "something else\n"}
    monkeypatch.setattr(make, "generated", lambda: stale)
    assert make.main(["--check"]) == 1
    assert "docs/keys.md is out of date; run python -m docs.make" in capsys.readouterr().err


def test_every_key_and_every_command_has_its_line() -> None:
    """Top-level keys, options of training systems, commands."""
    page = generated()["keys.md"]
    for name, field in Scenario.model_fields.items():
        assert f"| `{field.alias or name}` |" in page
    for name, kind in SCHEDULERS.items():
        options = region(generated()[f"schedulers/{name}.md"], "options")
        assert re.findall(r"^\| `(\w+)`", options, re.MULTILINE) == [f.name for f in dataclasses.fields(kind)]
    for command in app.registered_commands:
        assert command.callback is not None
        assert f"## `fedsim {command.name or command.callback.__name__}" in generated()["commands.md"]


def test_every_training_system_has_a_page_of_one_shape() -> None:
    """Paper, what it follows, idea, algorithm, options, cost, deviations."""
    assert {path.stem for path in (FOLDER / "schedulers").glob("*.md")} == set(SCHEDULERS)
    for name in SCHEDULERS:
        text = generated()[f"schedulers/{name}.md"]
        assert f"`scheduler: {name}`" in text
        for part in ("**Paper.**", "**What it follows.**", "**Idea.**", "## Algorithm", "## Options", "## Cost"):
            assert part in text
        assert re.search(r"## Deviations and assumptions\n\n\* ", text)


class Inner(BaseModel):
    """A section."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    time: Duration = 90.0
    """How long."""
    room: Annotated[Size, Field(ge=2**20)] | None = None
    """How much."""
    steps: int = Field(ge=1)
    """How many."""
    loud: Switch = False
    """Whether."""


def test_keys_of_a_section() -> None:
    """Quantities by their word and unit, limits beside what they are of, null last, defaults as files have them."""
    found = {key.name: (key.takes, key.default, key.meaning) for key in keys(Inner)}
    assert found == {
        "time": ("[duration](#forms)", "`90 s`", "How long."),
        "room": ("[size](#forms) (at least 1 MiB) or null", "`null`", "How much."),
        "steps": ("whole number (at least 1)", "**required**", "How many."),
        "loud": ("`on` or `off`", "`off`", "Whether."),
    }


@dataclass(frozen=True, kw_only=True)
class Few:
    """Options."""

    kind: Literal["a", "b"] = "a"
    """Which."""
    shares: tuple[float, ...] = (0.5, 0.25)
    """Of what."""


@dataclass(frozen=True, kw_only=True)
class More(Few):
    """More options."""

    kind: Literal["a", "b"] = "b"
    silent: bool = True


def test_options_of_a_dataclass() -> None:
    """With the docstrings of what it extends; an option without one is an error that names it."""
    assert [(key.takes, key.default) for key in keys(Few)] == [
        ("`a` or `b`", "`a`"),
        ("list of numbers", "`[0.5, 0.25]`"),
    ]
    assert docstrings(More) == {"kind": "Which.", "shares": "Of what."}
    with pytest.raises(ValueError, match="silent has no docstring"):
        keys(More)


def test_forms_that_have_no_words_are_errors() -> None:
    """Rather than left out."""
    with pytest.raises(TypeError, match="no words for <class 'complex'>"):
        form(complex)


def test_bars_in_cells_are_no_borders() -> None:
    """Neither in code nor beside it."""
    assert table(["a"], [["`x|y` or |z|"]]).splitlines()[-1] == "| <code>x&#124;y</code> or &#124;z&#124; |"
    assert "| `kind` |" in keys_table(keys(Few))


def test_regions_are_replaced_and_missed() -> None:
    """What stands outside stays; a page without the region is an error."""
    page = "before\n<!-- x: begin -->\nold\n<!-- x: end -->\nafter\n"
    assert replaced(page, "x", "new \\1") == page.replace("old", "new \\1")
    with pytest.raises(ValueError, match="no region <!-- y: begin -->"):
        replaced(page, "y", "new")
