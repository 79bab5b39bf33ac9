"""Places, and the error that lists what is wrong."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from fedsim.documents.problems import DocumentError, DocumentKind, Places, Problem, error, untold


class RecipeError(DocumentError):
    """A wrong recipe."""


RECIPE = DocumentKind("recipe", "eggs: 3", RecipeError)
PLACES = Places(RECIPE, "x.yaml", Path("/kitchen"), {(): 1, ("eggs",): 4, ("steps", 0): 2})


def test_a_place_is_that_of_the_nearest_section() -> None:
    """What has no line of its own is where the section around it is."""
    assert PLACES.where(("eggs",)) == "(x.yaml, line 4)"
    assert PLACES.where(("steps", 0, "time")) == "(x.yaml, line 2)"
    assert PLACES.where(("flour",)) == "(x.yaml, line 1)"
    assert Places(RECIPE).where(("eggs",)) == "(recipe given from Python)"


def test_a_moved_value_has_a_new_place() -> None:
    """Its own paths are then relative to the current folder, the others' to the file's."""
    moved = PLACES.moved(("eggs",), "--set eggs")
    assert moved.where(("eggs", "size")) == "(--set eggs)"
    assert moved.where(("steps", 0)) == "(x.yaml, line 2)"
    assert (moved.base(("eggs",)), moved.base(("steps",))) == (Path.cwd(), Path("/kitchen"))
    assert moved == PLACES


def test_one_problem_is_one_line() -> None:
    """Key, sentence, place; the error is the document's own."""
    told = error([Problem(("eggs",), "no value is given; give a number")], PLACES)
    assert isinstance(told, RecipeError)
    assert str(told) == "eggs: no value is given; give a number (x.yaml, line 4)"
    assert str(error([Problem((), "is empty\nfill it")], PLACES)) == "is empty fill it (x.yaml, line 1)"


def test_several_problems_are_listed_once_in_the_order_of_lines() -> None:
    """Whatever found them; what is in no line comes last."""
    later, sooner = Problem(("eggs",), "a; b"), Problem(("steps", 0), "c; d")
    told = error([Problem((), "e; f", place="--set x"), later, sooner, later], PLACES)
    assert str(told).split("\n  ") == [
        "3 errors in x.yaml:",
        "steps.0: c; d (x.yaml, line 2)",
        "eggs: a; b (x.yaml, line 4)",
        "e; f (--set x)",
    ]
    assert told.problems[:2] == (sooner, later)
    assert str(error([later, sooner], Places(RECIPE))).startswith("2 errors in the recipe:")


def test_an_echo_is_not_told_again() -> None:
    """A problem below or at a place that is known to be wrong says nothing new."""
    found = [Problem(("steps",), "a; b"), Problem((), "c; d")]
    later = [Problem(("steps", 0, "time"), "e; f"), Problem(("steps",), "g; h"), Problem(("eggs",), "i; j")]
    assert untold(later, found) == later[2:]


@pytest.mark.parametrize("kind", [RECIPE, DocumentKind("note", "text: hello")])
def test_an_error_can_be_sent_between_processes(kind: DocumentKind) -> None:
    """Class, text and problems survive pickling."""
    told = error([Problem(("eggs",), "a; b")], Places(kind))
    again = pickle.loads(pickle.dumps(told))
    assert (type(again), str(again), again.problems) == (kind.error, str(told), told.problems)
