"""The wheel: one top-level name, typed, with the files that a checkout keeps outside the package."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path, PurePosixPath

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent
SHIPPED = ("devices/profiles", "devices/links", "server/profiles", "scenarios")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel of this checkout, built from its own source distribution: what an index would get."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(CHECKOUT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = out.glob("*.whl")
    return zipfile.ZipFile(path)


@pytest.mark.slow
def test_the_only_top_level_name_is_fedsim(wheel: zipfile.ZipFile) -> None:
    """`devices`, `server`, `tests` and `scenarios` would shadow modules of a user's own."""
    tops = {PurePosixPath(name).parts[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"fedsim"}


@pytest.mark.slow
@pytest.mark.parametrize("folder", SHIPPED)
def test_every_shipped_file_is_in_the_wheel(wheel: zipfile.ZipFile, folder: str) -> None:
    """Profiles, links and scenarios are found without a checkout; byte for byte those of the checkout."""
    prefix = f"fedsim/shipped/{folder}/"
    packed = {name.removeprefix(prefix): wheel.read(name) for name in wheel.namelist() if name.startswith(prefix)}
    here = {path.name: path.read_bytes() for path in (CHECKOUT / folder).glob("*.yaml")}
    assert here
    assert {name: packed.get(name) for name in here} == here


@pytest.mark.slow
def test_the_wheel_is_typed_licensed_and_has_the_command(wheel: zipfile.ZipFile) -> None:
    """Type checkers see `py.typed`, lawyers the licence, shells `fedsim`."""
    names = {name.split(".dist-info/")[-1]: name for name in wheel.namelist()}
    assert "fedsim/py.typed" in names
    assert b"Apache License" in wheel.read(names["licenses/LICENSE"])
    assert b"fedsim = fedsim.cli:main" in wheel.read(names["entry_points.txt"])
    assert b"\nName: fedsim-edge\n" in wheel.read(names["METADATA"])


@pytest.mark.slow
def test_every_file_of_the_package_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    """Neither a module nor the report's style sheet is left behind by a pattern."""
    files = (path for path in (CHECKOUT / "fedsim").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    assert {path.relative_to(CHECKOUT).as_posix() for path in files} <= set(wheel.namelist())
