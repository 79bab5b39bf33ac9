"""The section `sweep`: how axes are written and called, and what is refused with its line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from fedsim.documents.files import load as opened
from fedsim.scenario import ScenarioError, Sweep
from fedsim.scenario.errors import SCENARIO
from fedsim.scenario.overrides import Change
from fedsim.scenario.sweeps import label_of, sweep_of, taken
from tests.scenario.toys import FULL, read


def swept(folder: Path, text: str, *overrides: str) -> Sweep | None:
    """The sweep of a file with this section, after overrides."""
    path = folder / "swept.yaml"
    path.write_text(f"model: vgg5\n{text}")
    section, places, _ = taken(*opened(path, SCENARIO), overrides)
    return None if section is None else sweep_of(section, places)


def choices(found: Sweep | None) -> dict[str, dict[str, dict[str, Any]]]:
    """What each choice of each axis sets."""
    assert found is not None
    return {
        axis.name: {label: {one.name: one.value for one in changes} for label, changes in axis.choices.items()}
        for axis in found.axes
    }


def test_three_forms_of_an_axis(folder: Path) -> None:
    """A path with values, several paths that take the same values, and choices with names of their own."""
    text = """\
sweep:
  model.cut: [1, 2]
  bandwidth: {set: [fleet.*.link.up, fleet.*.link.down], to: [5 Mbit/s]}
  batch: {set: training.batch, to: {small: 8, large: 64}}
  boards:
    slow: {fleet.0.profile: a, fleet.0.count: 4}
    fast: {fleet.0.profile: b}
  seeds: 3
  targets: [90 %, 0.5]
"""
    found = swept(folder, text)
    assert choices(found) == {
        "model.cut": {"1": {"model.cut": 1}, "2": {"model.cut": 2}},
        "bandwidth": {"5 Mbit/s": {"fleet.*.link.up": "5 Mbit/s", "fleet.*.link.down": "5 Mbit/s"}},
        "batch": {"small": {"training.batch": 8}, "large": {"training.batch": 64}},
        "boards": {"slow": {"fleet.0.profile": "a", "fleet.0.count": 4}, "fast": {"fleet.0.profile": "b"}},
    }
    assert found is not None
    assert (found.seeds, found.targets) == (3, (0.9, 0.5))
    assert found.axes[3].paths == ("fleet.0.profile", "fleet.0.count")
    assert found.axes[3].choices["fast"][0].place == 8, "the line of the file"
    tall = swept(folder, "sweep:\n  model.cut:\n    - 1\n    - 2\n  b: {set: training.batch, to: {x: 8,\n    y: 16}}\n")
    assert tall is not None
    places = [change.place for axis in tall.axes for changes in axis.choices.values() for change in changes]
    assert places == [4, 5, 6, 7], "that of the value, where each has its own"


def test_what_values_are_called() -> None:
    """As a file writes them; a section by its name, with what is given beside it."""
    called = {
        "none": None,
        "on": True,
        "0.1": 0.1,
        "5 Mbit/s": "5 Mbit/s",
        "dirichlet alpha 0.1": {"kind": "dirichlet", "alpha": 0.1},
        "fedavg local_steps 5": {"name": "fedavg", "local_steps": 5},
        "1, off": [1, False],
        "empty": {},
    }
    assert {label: label_of(value) for label, value in called.items()} == {label: label for label in called}


def test_overrides_of_a_sweep(folder: Path) -> None:
    """After `sweep.` a path is an axis whole, dots and all; a named axis has keys; off leaves all of it out."""
    text = "sweep: {model.cut: [1, 2], rate: {set: fleet.0.link, to: [a, b]}}\n"
    found = choices(swept(folder, text, "sweep.model.cut=[3]", "sweep.rate.to=[c]", "sweep.training.batch=[8]"))
    assert {name: list(labels) for name, labels in found.items()} == {
        "model.cut": ["3"],
        "rate": ["c"],
        "training.batch": ["8"],
    }
    assert swept(folder, text, "sweep=off") is None
    assert swept(folder, "") is None
    assert list(choices(swept(folder, "", "sweep.seed.x=[1]"))) == ["seed.x"], "a sweep from nothing"
    _, _, left = taken({}, opened(folder / "swept.yaml", SCENARIO)[1], ["sweep.a.b=[1]", "seed=3"])
    assert left == ["seed=3"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sweep: [1]", "sweep: a list does not fit; give a mapping of axes or off (swept.yaml, line 2)"),
        ("sweep: {}", "sweep: nothing is varied; give an axis, as in 'model.cut: [1, 2]'"),
        ("sweep:\n  model.cut: []", "sweep.model.cut: an axis without values; give one or more, or remove it"),
        (
            "sweep:\n  model.cut: 3",
            "sweep.model.cut: 3 does not fit; give a list of values or {set: PATHS, to: VALUES}",
        ),
        ("sweep:\n  model.cut: [1, 2, 1]", "sweep.model.cut.2: '1' is there twice; keep one"),
        (
            "sweep:\n  seed: [1, 2]",
            "an axis called seed, but a sweep's table has a column of that name; seeds: 3 runs each",
        ),
        (
            "sweep:\n  status: [1]",
            "a sweep's table has a column of that name; call it otherwise (swept.yaml, line 3)",
        ),
        ("sweep:\n  a: {set: [1], to: [2]}", "sweep.a.set: a list does not fit; give a path or a list of paths"),
        ("sweep:\n  a: {set: x, to: 3}", "sweep.a.to: 3 does not fit; give a list of values or values by label"),
        ("sweep:\n  a: {set: x, to: [1], too: 1}", "sweep.a.too: unknown key beside set; an axis takes set and to"),
        ("sweep:\n  a: {slow: 3}", "sweep.a.slow: 3 does not fit; give a mapping of paths to values"),
        ("sweep:\n  x: [1]\n  seeds: 0", "sweep.seeds: 0 does not fit; give a whole number, 1 or more"),
        ("sweep:\n  x: [1]\n  targets: 3", "sweep.targets: 3 does not fit; give a list of accuracies, as in [90 %]"),
        ("sweep:\n  x: [1]\n  targets: [3 s]", "sweep.targets.0: '3 s' has the unit 's', but a fraction"),
        (
            "sweep:\n  fleet.*.count: [1]\n  n: {set: fleet.0.count, to: [2]}",
            "sweep.n: the axis fleet.*.count sets fleet.0.count, too; keep it in one of them (swept.yaml, line 4)",
        ),
        (
            f"sweep:\n  a: {list(range(101))}\n  b: {list(range(100))}",
            "sweep: the axes make 10100 cells; give values for 10000 or fewer",
        ),
    ],
)
def test_what_is_wrong_is_said_with_its_line(folder: Path, text: str, message: str) -> None:
    """What, the value, the rule, the way out."""
    with pytest.raises(ScenarioError, match=re.escape(message)):
        swept(folder, text)


def test_a_path_for_every_item(folder: Path) -> None:
    """`*` is every item of a list, also in `--set`; where there is none, that is said."""
    assert [group.count for group in read(folder, FULL, overrides=["fleet.*.count=3"]).fleet] == [3, 3]
    with pytest.raises(ScenarioError, match=re.escape("'*' stands for every item, but faults has none; name what to")):
        read(folder, FULL, overrides=["faults=[]", "faults.*.device=1"])
    with pytest.raises(ScenarioError, match=r"fleet\.1\.cuont: unknown key; did you mean count\?"):
        read(folder, FULL, overrides=["fleet.*.cuont=3"])


def test_a_cell_between_overrides(folder: Path) -> None:
    """After an override of the section that it is in, before one of what is in it, never beside one of the same."""
    cell = [Change("training", {"batch": 8, "optimizer": {"name": "sgd", "lr": 0.5}}, 4)]
    found = read(folder, FULL, overrides=["training.batch=16"], cell=cell)
    assert (found.training.batch, found.training.dtype) == (16, "float32")
    cell = [Change("training.batch", 8, 4)]
    assert read(folder, FULL, overrides=["training={batch: 99}"], cell=cell).training.batch == 8
    message = "training.batch is what the sweep varies; --set 'sweep.training.batch=[VALUE]' gives it one value"
    with pytest.raises(ScenarioError, match=re.escape(message)):
        read(folder, FULL, overrides=["training.batch=2"], cell=cell)


def test_a_sweep_is_no_single_run(folder: Path) -> None:
    """Loaded as one scenario it is refused, with who takes it; switched off it is one."""
    text = FULL + "\nsweep: {training.batch: [1, 2]}\n"
    with pytest.raises(ScenarioError, match=r"sweep: this is a sweep, which is many runs; `fedsim run` and .*line"):
        read(folder, text)
    assert read(folder, text, overrides=["sweep=off"]) == read(folder, FULL)
