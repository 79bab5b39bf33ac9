"""Models and plain data: where sections are, and what is said about data that do not fit."""

from __future__ import annotations

from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, model_validator

from fedsim.documents.checking import checked, keys_of, model_at
from fedsim.documents.problems import KeyPath
from fedsim.documents.translate import rule


class Leaf(BaseModel):
    """A section with a rule between its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: Annotated[int, Field(ge=1)] = Field(examples=[3])
    kind: Literal["oak", "elm"] = "oak"
    from_: int = Field(default=0, alias="from")
    secret: int = Field(default=0, exclude=True)

    @model_validator(mode="after")
    def _begins_before_it_ends(self) -> Leaf:
        if self.from_ > self.width:
            raise rule("begins after the end; give less", "from")
        return self


class Tree(BaseModel):
    """A document."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    top: Leaf | None = None
    leaves: tuple[Leaf, ...] = ()
    number: int | str = 0

    @model_validator(mode="after")
    def _tops_are_wide(self) -> Tree:
        if any(leaf.width > 90 for leaf in self.leaves):
            raise rule("too wide; give 90 or less", "leaves", 0, "width")
        return self


def test_paths_lead_to_models() -> None:
    """Through options and lists; a value and a way to nowhere are no models."""
    assert model_at(Tree, ()) is Tree
    assert model_at(Tree, ("top",)) is Leaf
    assert model_at(Tree, ("leaves", 3)) is Leaf
    assert model_at(Tree, ("number",)) is None
    assert model_at(Tree, ("nowhere", "at", "all")) is None


def test_keys_are_those_of_the_file() -> None:
    """Aliases stand for names; what a file does not write is no key."""
    assert list(keys_of(Leaf)) == ["width", "kind", "from"]


def test_right_data_become_the_object() -> None:
    """And there are no problems."""
    assert checked(Tree, {"leaves": [{"width": 2}]}) == (Tree(leaves=(Leaf(width=2),)), [])


@pytest.mark.parametrize(
    ("data", "path", "sentence"),
    [
        ({"tops": 3}, ("tops",), "unknown key; did you mean top?"),
        ({"top": {"size": 3, "width": 1}}, ("top", "size"), "unknown key; the keys here are from, kind, width"),
        ({"top": {}}, ("top", "width"), "missing; add it, as in 'width: 3'"),
        ({"leaves": [{"width": 1}, {"width": 0}]}, ("leaves", 1, "width"), "0 does not fit; give 1 or more"),
        ({"leaves": 3}, ("leaves",), "3 does not fit; give a list"),
        (
            {"top": {"width": 1, "kind": "elk"}},
            ("top", "kind"),
            "'elk' does not fit; give oak or elm; did you mean elm?",
        ),
        ({"top": {"width": 1, "from": 2}}, ("top", "from"), "begins after the end; give less"),
        ({"leaves": [{"width": 99}]}, ("leaves", 0, "width"), "too wide; give 90 or less"),
        ({"number": [1]}, ("number",), "a list does not fit; give a whole number or text"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_mistake_is_a_path_and_a_sentence(data: dict[str, object], path: KeyPath, sentence: str) -> None:
    """One mistake is one problem, in the words of whoever wrote the document."""
    tree, problems = checked(Tree, data)
    assert tree is None
    assert [(problem.path, problem.sentence) for problem in problems] == [(path, sentence)]
