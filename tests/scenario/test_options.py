"""Options against dataclass types, names to import, and objects given from Python."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from fedsim.errors import UserError
from fedsim.scenario import Arguments, Registry, Scenario, ScenarioError, dump, import_object, load, resolved
from tests.scenario import toys
from tests.scenario.toys import REGISTRY, SHORT, FedAvg, FedOptima, Mine, Window

HERE = "tests.scenario.toys"


def loaded(**updates: Any) -> Scenario:
    """The short scenario with changes."""
    return load(SHORT | updates, registry=REGISTRY)


def test_a_dataclass_of_ones_own_is_imported(folder: Path) -> None:
    """`module:Class` names it, and its options, nested ones too, are checked and written back."""
    scenario = loaded(scheduler={"name": f"{HERE}:Mine", "window": {"start": 3}, "names": {"a": 1}})
    assert scenario.scheduler.options == Mine(window=Window(3), names={"a": 1})
    assert load(resolved(scenario), registry=REGISTRY) == scenario


def test_objects_stand_for_themselves(folder: Path) -> None:
    """Python may give an instance, a class, or a class with options."""
    assert loaded(scheduler=FedOptima(3)).scheduler.name == "fedoptima"
    assert loaded(scheduler=FedOptima(3)).scheduler.options == FedOptima(3)
    assert loaded(scheduler=FedAvg).scheduler.options == FedAvg()
    assert loaded(scheduler={"name": FedAvg, "mix": 1}).scheduler.options == FedAvg(mix=1.0)
    mine = loaded(scheduler=Mine(Window(4)))
    assert (mine.scheduler.name, mine.scheduler.options) == (f"{HERE}:Mine", Mine(Window(4)))
    assert load(resolved(mine), registry=REGISTRY) == mine
    timed = loaded(scheduler=FedAvg(deadline=0.1))
    assert timed.scheduler.options == FedAvg(deadline=0.1)


def test_a_function_may_make_a_model(folder: Path) -> None:
    """Its arguments are checked by name; values stay as they are."""
    for name in (toys.network, f"{HERE}:network"):
        model = loaded(model={"name": name, "depth": 4, "cut": 2}).model
        assert (model.name, model.cut, model.options) == (f"{HERE}:network", 2, Arguments((("depth", 4),)))
        assert model.options.keywords() == {"depth": 4}
    assert "model: {name: 'tests.scenario.toys:network', cut: null, objective: time, weights: null, depth: 4}" in dump(
        loaded(model={"name": toys.network, "depth": 4})
    )


def test_a_data_set_of_ones_own(folder: Path) -> None:
    """Anything that can be called will do."""
    assert loaded(data=f"{HERE}:Thing").data.name == f"{HERE}:Thing"
    assert loaded(data=toys.Thing).data.name == f"{HERE}:Thing"


@pytest.mark.parametrize(
    ("updates", "message"),
    [
        ({"scheduler": f"{HERE}:Mime"}, "there is no Mime in tests.scenario.toys; did you mean Mine?"),
        (
            {"scheduler": "none.such:Mine"},
            "module none.such cannot be imported (No module named 'none'); install it, or",
        ),
        ({"scheduler": "no:such:thing"}, "'no:such:thing' is no name to import; write module:Class, as in"),
        (
            {"scheduler": f"{HERE}:Thing"},
            f"'{HERE}:Thing' is no scheduler: it is not a dataclass; decorate it with @da",
        ),
        ({"scheduler": f"{HERE}:network"}, "is no scheduler: it is not a dataclass"),
        ({"scheduler": toys.Thing}, "does not fit; give the name of a scheduler or module:Class"),
        ({"scheduler": toys.Thing()}, "does not fit; give a name or a mapping {name: NAME}"),
        ({"model": f"{HERE}:number"}, "is no model: it is not a dataclass"),
        ({"model": {"name": toys.network, "dept": 4}}, "model.dept: unknown key; did you mean depth?"),
        ({"data": f"{HERE}:number"}, "is no data set: it cannot be called; name a class"),
        ({"data": f"{HERE}:numbre"}, "data.name: 'tests.scenario.toys:numbre': there is no numbre in"),
        (
            {"scheduler": {"name": Mine, "window": {"start": -1}}},
            "scheduler: window.start is -1; give 0 or more (scenario given from Python)",
        ),
        (
            {"scheduler": {"name": Mine, "window": {"start": 99}}},
            "scheduler: Mine does not take these options (RuntimeError: no 99); change them",
        ),
        (
            {"scheduler": {"name": Mine, "window": {"start": 98}}},
            "scheduler: window.start is 98; give less (scenario given from Python)",
        ),
        (
            {"scheduler": {"name": Mine, "window": {"strat": 1}}},
            "scheduler.window.strat: unknown key; did you mean start?",
        ),
        (
            {"scheduler": {"name": Mine, "window": {"start": True}}},
            "scheduler.window.start: true does not fit; give a num",
        ),
        ({"scheduler": {"name": Mine, "window": 3}}, "scheduler.window: 3 does not fit; give a mapping of keys"),
        ({"scheduler": {"name": Mine, "names": {"a": True}}}, "scheduler.names.a: true does not fit; give a number"),
        (
            {"scheduler": {"name": Mine, "size": [1]}},
            "scheduler.size: a list does not fit; give a whole number or text",
        ),
        (
            {"scheduler": toys.Opaque},
            "tests.scenario.toys:Opaque has an option that a file cannot hold; give its fields p",
        ),
        ({"scheduler": toys.Unwritable}, "tests.scenario.toys:Unwritable has an option that a file cannot hold"),
        ({"scheduler": FedAvg(deadline=float("inf"))}, "FedAvg has an option that no file can hold"),
    ],
    ids=lambda value: re.sub(" at 0x[0-9a-f]+", "", str(value)),  # the same in every process
)
def test_wrong_names_and_options(folder: Path, updates: dict[str, Any], message: str) -> None:
    """What cannot be imported, is of the wrong kind, or does not take its options."""
    with pytest.raises(ScenarioError, match=re.escape(message)):
        loaded(**updates)


def test_a_default_may_be_infinite(folder: Path) -> None:
    """What a type has as its default is written and read; nothing else that is not finite."""
    scenario = loaded(scheduler={"name": Mine, "limit": float("inf")})
    assert load(resolved(scenario), registry=REGISTRY) == scenario
    with pytest.raises(ScenarioError, match=r"scheduler\.limit: -inf does not fit; give a finite number"):
        loaded(scheduler={"name": Mine, "limit": float("-inf")})


def test_a_module_that_fails_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's module may raise anything while it is imported."""
    (folder / "broken_for_test.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(str(folder))
    with pytest.raises(
        UserError, match=r"importing broken_for_test failed with ZeroDivisionError: .*; mend the module"
    ):
        import_object("broken_for_test:Mine")
    assert "broken_for_test" not in sys.modules


def test_the_resolver_can_be_replaced(folder: Path) -> None:
    """The layer above may find `module:Class` names in its own way."""
    registry = Registry(
        schedulers={}, models={"m": toys.Vgg}, partitions={"iid": toys.Iid}, optimizers={"sgd": toys.Sgd},
        data={"digits"}, resolve={"my:own": FedOptima}.__getitem__,
    )  # fmt: skip
    scenario = load(SHORT | {"model": "m", "scheduler": "my:own"}, registry=registry)
    assert scenario.scheduler.options == FedOptima()
