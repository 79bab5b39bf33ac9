"""Files of documents, and the data that Python gives in their stead."""

from __future__ import annotations

from collections import UserDict
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from fedsim.documents.files import copied, load
from fedsim.documents.problems import DocumentError, DocumentKind
from fedsim.errors import UserError

RECIPE = DocumentKind("recipe", "eggs: 3")


def test_a_file_gives_its_data_and_their_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines for messages, the folder for relative paths; the file as one would type it from here."""
    path = tmp_path / "cake.yaml"
    path.write_bytes("\ufeffeggs: 3\nfor: [café]\n".encode())
    data, places = load(path, RECIPE)
    assert data == {"eggs": 3, "for": ["café"]}
    assert places.where(("for", 0)) == f"({path}, line 2)"
    assert places.folder == tmp_path
    monkeypatch.chdir(tmp_path)
    assert load(path, RECIPE)[1].where(()) == "(cake.yaml, line 1)"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "nothing is there; give a mapping of keys, such as 'eggs: 3' (cake.yaml, line 1)"),
        (b"\n[3]", "a list is no recipe; give a mapping of keys, such as 'eggs: 3' (cake.yaml, line 2)"),
        (b"a: 1\na: 2", "the key 'a' is given twice, in lines 1 and 2; keep one (cake.yaml, line 2)"),
        (b"a: !b 1", "the tag '!b' has no meaning in a recipe; remove it (cake.yaml, line 1)"),
        (b"[" * 50, "values are nested more than 40 deep; a recipe needs no more than five (cake.yaml, line 1)"),
    ],
)
def test_a_file_that_holds_no_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, message: str
) -> None:
    """What is there, the way out, the file and the line."""
    monkeypatch.chdir(tmp_path)
    Path("cake.yaml").write_bytes(content)
    with pytest.raises(DocumentError) as caught:
        load(Path("cake.yaml"), RECIPE)
    assert str(caught.value) == message


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    """It is not there, is a folder, or is no text."""
    with pytest.raises(UserError, match=r"^recipe file .*none.yaml cannot be read: No such file or directory; check"):
        load(tmp_path / "none.yaml", RECIPE)
    with pytest.raises(UserError, match=r"^recipe file .* cannot be read: Is a directory; check the path$"):
        load(tmp_path, RECIPE)
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9")
    with pytest.raises(UserError, match=r"latin\.yaml is not text in UTF-8 \(byte 9\); save it as UTF-8$"):
        load(tmp_path / "latin.yaml", RECIPE)


def test_data_from_python_become_plain() -> None:
    """Mappings and sequences of any kind; paths are text; the caller's data stay."""
    given = MappingProxyType({"a": (1, UserDict({"b": Path("x")}))})
    assert copied(given, RECIPE) == {"a": [1, {"b": "x"}]}


def test_data_from_python_that_no_file_could_hold() -> None:
    """Keys that are no strings, half characters, data without end."""
    endless: dict[str, Any] = {}
    endless["a"] = endless
    for given, message in (
        ({3: 4}, r"^3 is no key of a recipe; keys are strings$"),
        ({"a": "\ud800"}, r"^'\\ud800' is not text that a file in UTF-8 can hold; rename it$"),
        (endless, r"^the recipe given from Python is nested more than 40 deep; a recipe needs no more than 5$"),
    ):
        with pytest.raises(UserError, match=message):
            copied(given, RECIPE)
