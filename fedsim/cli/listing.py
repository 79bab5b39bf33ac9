"""`fedsim list`: names with one line about each."""

from __future__ import annotations

import inspect
import json
import re
from itertools import takewhile
from pathlib import Path
from typing import Final

from fedsim import catalogue
from fedsim.units import human_count, human_seconds

_SENTENCE: Final = re.compile(r"(?<=[.?])\s")


def _schedulers() -> dict[str, str]:
    from fedsim.experiment.registry import registry

    found = {}
    for name, scheduler in registry().schedulers.items():
        module = inspect.getmodule(scheduler)
        text = inspect.getdoc(module) or inspect.getdoc(scheduler) or ""
        found[name] = " ".join(text.split("\n\n")[0].split())
    return dict(sorted(found.items()))


def _models() -> dict[str, str]:
    from fedsim.models.catalogue import ENTRIES

    return {name: entry.summary for name, entry in sorted(ENTRIES.items())}


def _data() -> dict[str, str]:
    from fedsim import data

    found = {}
    for name in data.names():
        info = data.describe(name)
        shape = "x".join(map(str, info.shape))
        what = f"vocabulary {info.classes}" if info.kind == "text" else f"{info.classes} classes"
        found[name] = f"{info.kind}, {info.train:,} training and {info.test:,} test samples, {shape}, {what}"
    return found


def _profiles() -> dict[str, str]:
    from fedsim.hardware.machines import machine
    from fedsim.hardware.profiles import load_profile

    found = {}
    for name in catalogue.names("profile"):
        profile = load_profile(name)
        memory = human_count(profile.memory.usable, "B")
        found[name] = f"{profile.kind}, {machine(profile).summary}, {memory} usable; {profile.name}"
    return found


def _links() -> dict[str, str]:
    from fedsim.hardware.links import load_link

    found = {}
    for name in catalogue.names("link"):
        link = load_link(name)
        up, down = (human_count(rate * 8, "bit/s") for rate in (link.up, link.down))
        more = [f"jitter {human_seconds(link.jitter)}"] if link.jitter else []
        more += [f"loss {100 * link.loss:.3g} %"] if link.loss else []
        more += ["a population"] if link.population is not None else []
        found[name] = ", ".join([f"up {up}", f"down {down}", f"{human_seconds(link.one_way)} one way", *more])
    return found


def _scenarios() -> dict[str, str]:
    return {name: _first_sentence(path) for name, path in catalogue.names("scenario").items()}


def _first_sentence(path: Path) -> str:
    """Of the comment that the file begins with; all of it where it has no full stop or question mark."""
    lines = takewhile(lambda line: line.startswith("#"), path.read_text(encoding="utf-8").splitlines())
    comment = " ".join(line.removeprefix("#").strip() for line in lines)
    return _SENTENCE.split(comment, maxsplit=1)[0]


_LISTS = {
    "schedulers": _schedulers,
    "models": _models,
    "data": _data,
    "profiles": _profiles,
    "links": _links,
    "scenarios": _scenarios,
}


def entries(kind: str) -> dict[str, str]:
    """Names of a kind with one line about each."""
    return _LISTS[kind]()


def list_command(kind: str, *, as_json: bool) -> int:
    """Print what there is of a kind."""
    found = entries(kind)
    if as_json:
        print(json.dumps(found, indent=1))
        return 0
    width = max(map(len, found), default=0)
    for name, summary in found.items():
        print(f"{name:<{width}}  {summary}".rstrip())
    return 0
