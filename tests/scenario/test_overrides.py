"""`--set key.path=value`: what it changes, and what it refuses."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fedsim.scenario import ScenarioError
from tests.scenario.toys import FULL, Vgg, read


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("fleet.0.count=3", ("fleet", 0, "count"), 3),
        ("training.batch=64", ("training", "batch"), 64),
        ("workers.threads=2", ("workers", "threads"), 2),
        ("until.rounds = 9", ("until", "rounds"), 9),
        ("until.time=90 min", ("until", "time"), 5400.0),
        ("until={rounds: 7}", ("until", "rounds"), 7),
        ("model=vgg5", ("model", "name"), "vgg5"),
        ("model.width=0.5", ("model", "options"), Vgg(0.5)),
        ("faults=[]", ("faults",), ()),
        ("learning=yes", ("learning",), True),
        ("evaluate.every=", ("evaluate", "every"), None),
    ],
)
def test_an_override_changes_one_value(folder: Path, override: str, path: tuple[str | int, ...], value: object) -> None:
    """The value is YAML; list items go by number; sections that are absent are made."""
    found: object = read(folder, FULL, overrides=[override])
    for key in path:
        found = found[key] if isinstance(key, int) else getattr(found, key)  # type: ignore[index]  # a tuple
    assert found == value


def test_a_short_form_is_written_out_before_it_is_changed(folder: Path) -> None:
    """`--set model=vgg5 --set model.cut=2` works, as if the file had the long form."""
    model = read(folder, FULL, overrides=["model=vgg5", "model.cut=3"]).model
    assert (model.name, model.cut) == ("vgg5", 3)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("until", "'until' has no '='; write --set key.path=value, as in --set training.batch=64 (--set until)"),
        ("=3", "'' is no path of keys; write it like training.batch or fleet.0.count (--set )"),
        ("a..b=3", "'a..b' is no path of keys"),
        ("fleet.7.count=1", "fleet has 2 items, numbered from 0 to 1; '7' is not one of them (--set fleet.7.count)"),
        ("fleet.x.count=1", "'x' is not one of them (--set fleet.x.count)"),
        ("seed.x=1", "seed is 7, which has no keys; set seed itself (--set seed.x)"),
        ("fleet.0.count=0", "fleet.0.count: 0 does not fit; give 1 or more (--set fleet.0.count)"),
        ("fleet.0.cuont=1", "fleet.0.cuont: unknown key; did you mean count? (--set fleet.0.cuont)"),
        ("traning.batch=1", "traning: unknown key; did you mean training? (--set traning.batch)"),
        ("seed=[1", "close the [ with ], and put commas between its items (--set seed=[1)"),
        ("seed=1: 2: 3", "not valid YAML: mapping values are not allowed"),
        (
            "selection.kind=uniform",
            "selection: kind uniform needs count; add it, as in 'count: 10' (--set selection.kind)",
        ),
        ("scheduler.name=fedoptima", "scheduler.deadline: unknown key; the keys here are activation_cap, local_steps"),
        ("name=\udc80", "the text holds the unprintable character '\\udc80'; remove it"),
    ],
)
def test_a_wrong_override_is_named(folder: Path, override: str, message: str) -> None:
    """The message ends with the `--set` that was wrong, not with a line of the file."""
    with pytest.raises(ScenarioError, match=re.escape(message)):
        read(folder, FULL, overrides=[override])


def test_an_item_of_an_empty_list(folder: Path) -> None:
    """There is nothing to address in it."""
    with pytest.raises(ScenarioError, match=r"^faults has 0 items, so set faults itself; '0' is not one of them"):
        read(folder, FULL, overrides=["faults=[]", "faults.0.device=1"])
