"""Names and paths of what travels with fedsim."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fedsim import catalogue
from fedsim.errors import UserError, nearest, shown, unknown


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A catalogue of three files, in the current folder."""
    for name in ("devices/profiles/board", "server/profiles/rack", "devices/links/wifi"):
        path = tmp_path / f"{name}.yaml"
        path.parent.mkdir(parents=True)
        path.write_text("")
    monkeypatch.setattr(catalogue, "_roots", lambda: (tmp_path,))
    monkeypatch.chdir(tmp_path)
    return tmp_path.resolve()


def test_names_are_those_of_files(root: Path) -> None:
    """Profiles of devices and of servers are one kind; a folder that is not there is empty."""
    assert list(catalogue.names("profile")) == ["board", "rack"]
    assert list(catalogue.names("link")) == ["wifi"]
    assert catalogue.names("scenario") == {}


def test_a_file_beside_the_scenario_is_named_where_its_ending_was_left_out(root: Path) -> None:
    """Rather than all names of the catalogue; a name of the catalogue means the catalogue all the same."""
    for name in ("mine.yaml", "rack.yaml"):
        (root / name).write_text("")
    with pytest.raises(UserError, match=r"^'mine' is no profile of the catalogue, but there is a file mine.yaml"):
        catalogue.find("profile", "mine")
    with pytest.raises(UserError, match="unknown profile 'mine'"):
        catalogue.find("profile", "mine", root / "devices")
    assert catalogue.find("profile", "rack") == root / "server/profiles/rack.yaml"
    with pytest.raises(UserError, match="unknown profile"):
        catalogue.find("profile", "m" * 5000)


def test_a_file_is_found_by_name_or_path(root: Path) -> None:
    """A path starts at the folder given, else at the current one."""
    board = root / "devices/profiles/board.yaml"
    assert catalogue.find("profile", "board") == board
    assert catalogue.find("profile", "devices/profiles/board.yaml") == board
    assert catalogue.find("profile", "./board.yaml", root / "devices/profiles") == board
    assert catalogue.find("profile", str(board), Path("/")) == board


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        (
            "profile",
            "bord",
            "unknown profile 'bord'; did you mean board? there are: board, rack, or give a path to a .ya",
        ),
        ("profile", "zzz", "unknown profile 'zzz'; there are: board, rack, or give"),
        ("scenario", "zzz", "unknown scenario 'zzz'; there are none, or give a path to a .yaml file"),
        ("link", "./wifi.yaml", "link file './wifi.yaml' does not exist (looked for "),
        ("link", "devices/links", "link file 'devices/links' does not exist"),
        ("link", "~nobody-at-all/x.yaml", "link file '~nobody-at-all/x.yaml' cannot be read: "),
        ("link", "x" * 5000 + ".yaml", "cannot be read: File name too long; check the path"),
        ("link", "a\0b/c", "link file 'a\\x00b/c' does not exist"),
    ],
    ids=lambda value: value[:30].replace("\0", " "),
)
def test_what_is_not_there_is_told(root: Path, kind: str, name: str, message: str) -> None:
    """The name, the nearest one, all there are, and the way out."""
    with pytest.raises(UserError, match=re.escape(message)):
        catalogue.find(kind, name)


def test_every_shipped_file_has_a_name_of_its_own() -> None:
    """No profile of a device hides one of a server."""
    for kind, folders in catalogue._FOLDERS.items():
        files = [path for root in catalogue._roots() for folder in folders for path in (root / folder).glob("*.yaml")]
        assert len(files) == len(catalogue.names(kind))


def test_the_nearest_name() -> None:
    """A hint only where one name is near."""
    assert nearest("fedvag", ["fedavg", "pipar"]) == "did you mean fedavg?"
    assert nearest("xyz", ["fedavg"]) == ""
    assert unknown("model", "x", []) == "unknown model 'x'; there are none"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (3, "3"),
        ("a\nb", "'a\\nb'"),
        ({}, "a mapping"),
        ((1,), "a list"),
        ("x" * 99, f"'{'x' * 57}'..."),
        (10**5000, "a number of more than 60 digits"),
        (set(range(999)), f"{{{', '.join(map(str, range(999)))}"[:197] + "..."),
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_are_quoted_on_one_short_line(value: object, text: str) -> None:
    """As a file would write them."""
    assert shown(value) == text
