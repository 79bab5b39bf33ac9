"""`load` and `describe` choose the reader."""

from pathlib import Path

import pytest

from fedsim.data import TokenOptions, default_folder, describe, load, names
from fedsim.errors import UserError


def test_catalogue_is_described_without_files() -> None:
    """Every name of the catalogue is described where there is no data at all."""
    for name in names():
        assert describe(name, path=Path("/nowhere")).name == name


def test_unknown_names(tmp_path: Path) -> None:
    """A misspelt name is answered with the nearest and with what a folder would need to hold."""
    with pytest.raises(
        UserError, match=r"unknown data set 'digit'; did you mean digits\?.* has no digit-train.parquet"
    ):
        load("digit", path=tmp_path)
    with pytest.raises(UserError, match=r"data.path: .*absent does not exist; check the path of data set mine"):
        load("mine", path=tmp_path / "absent")


def test_keys_without_use_are_refused(tmp_path: Path) -> None:
    """Options and tokens that a data set does not read are errors, in both functions."""
    for function in (load, describe):
        with pytest.raises(UserError, match="data set digits takes no options, but was given label; leave it out"):
            function("digits", options={"label": "x"})
        with pytest.raises(UserError, match="data set cifar10 is not read as text; leave out `tokens`"):
            function("cifar10", tokens=TokenOptions())


def test_path_has_to_be_a_folder_for_images(tmp_path: Path) -> None:
    """A file is no folder."""
    file = tmp_path / "x"
    file.touch()
    with pytest.raises(UserError, match="x is a file; name the folder that holds mnist"):
        load("mnist", path=file)


def test_data_set_that_nobody_downloads(tmp_path: Path) -> None:
    """What torchvision does not have is asked for as Parquet."""
    with pytest.raises(
        UserError, match=r"put into that folder tiny-imagenet-train.parquet and .*choose `name: digits`"
    ):
        load("tiny-imagenet", path=tmp_path)


def test_default_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without a path, data sets are looked for where the environment says."""
    monkeypatch.setenv("FEDSIM_DATA", str(tmp_path))
    assert default_folder() == tmp_path
    with pytest.raises(UserError, match="text wikitext2 is not in "):
        load("wikitext2")
    monkeypatch.delenv("FEDSIM_DATA")
    assert default_folder() == Path.home() / ".cache" / "fedsim" / "data"
