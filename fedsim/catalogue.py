"""Files that travel with fedsim: device and server profiles, links, scenarios.

In a wheel they lie inside the package; in a checkout at the top of the repository. Knows names and paths,
not what is in the files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from fedsim.errors import UserError, shown, unknown

_PACKAGE: Final = Path(__file__).resolve().parent
_FOLDERS: Final = {
    "profile": ("devices/profiles", "server/profiles"),
    "link": ("devices/links",),
    "scenario": ("scenarios",),
}


def _roots() -> tuple[Path, ...]:
    shipped = _PACKAGE / "shipped"
    return (shipped,) if shipped.is_dir() else (_PACKAGE.parent,)


def names(kind: str) -> dict[str, Path]:
    """Every shipped file of a kind (`profile`, `link`, `scenario`), by name, sorted."""
    found: dict[str, Path] = {}
    for root in _roots():
        for folder in _FOLDERS[kind]:
            found |= {path.stem: path for path in (root / folder).glob("*.yaml")}
    return dict(sorted(found.items()))


def find(kind: str, name: str, relative_to: Path | None = None) -> Path:
    """The file of `name`: a name of the catalogue, or a path (relative to the folder `relative_to`).

    Raises:
        UserError: there is no such file; the message names the nearest one of the catalogue.
    """
    if name.endswith((".yaml", ".yml")) or "/" in name:
        return _by_path(kind, name, relative_to)
    known = names(kind)
    if name in known:
        return known[name]
    if (beside := _beside(name, relative_to)) is not None:
        raise UserError(f"{shown(name)} is no {kind} of the catalogue, but there is a file {beside}; write {beside}")
    raise UserError(unknown(kind, name, known) + ", or give a path to a .yaml file")


def _beside(name: str, relative_to: Path | None) -> str | None:
    """The file that somebody may have meant who left its ending out."""
    for ending in (".yaml", ".yml"):
        try:
            if ((relative_to or Path.cwd()) / f"{name}{ending}").is_file():
                return f"{name}{ending}"
        except (OSError, ValueError):  # no name of a file
            pass
    return None


def _by_path(kind: str, name: str, relative_to: Path | None) -> Path:
    try:
        path = (relative_to or Path.cwd()) / Path(name).expanduser()
        if path.is_file():
            return path.resolve()
    except (OSError, RuntimeError, ValueError) as error:  # no such user's home, a name too long, a folder out of reach
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UserError(f"{kind} file {shown(name)} cannot be read: {reason}; check the path") from error
    raise UserError(f"{kind} file {shown(name)} does not exist (looked for {path}); check the path")
