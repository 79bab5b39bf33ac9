"""A user's own scheduler, model and data set: by object and by `module:Name`, the same run either way."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import fedsim
from fedsim.data import DataSet
from fedsim.errors import UserError
from fedsim.experiment.loading import load_scenario, named
from fedsim.experiment.registry import _with_plugins
from fedsim.models.options import Mlp
from fedsim.models.units import UnitList
from fedsim.schedulers.fedavg import FedAvg
from fedsim.schedulers.splitfed import SplitFed
from tests.experiment import toys
from tests.experiment.test_running import records
from tests.experiment.toys import TOY

pytestmark = pytest.mark.slow
HERE = "tests.experiment.toys"


@pytest.mark.parametrize(
    ("by_object", "by_name"),
    [
        ({"scheduler": toys.Own(local_steps=3)}, {"scheduler": {"name": f"{HERE}:Own", "local_steps": 3}}),
        ({"scheduler": toys.Own}, {"scheduler": f"{HERE}:Own"}),
        ({"scheduler": {"name": toys.Own, "pace": 1.5}}, {"scheduler": {"name": f"{HERE}:Own", "pace": 1.5}}),
        ({"scheduler": SplitFed(local_steps=1)}, {"scheduler": {"name": "splitfed", "local_steps": 1}}),
        ({"data": toys.data}, {"data": f"{HERE}:data"}),
        ({"model": toys.model}, {"model": f"{HERE}:model"}),
        ({"model": {"name": toys.model, "width": 7}}, {"model": {"name": f"{HERE}:model", "width": 7}}),
        ({"model": Mlp(hidden=[5])}, {"model": {"name": "mlp", "hidden": [5]}}),
        ({"model": {"name": toys.Model, "width": 7}}, {"model": {"name": f"{HERE}:Model", "width": 7}}),
    ],
    ids=lambda value: next(iter(value)),
)
def test_by_object_or_by_name(by_object: dict[str, Any], by_name: dict[str, Any], tmp_path: Path) -> None:
    """The same trace, weights and resolved scenario; what was saved can be run and loaded again."""
    one, two = fedsim.run(TOY, out=tmp_path / "one", **by_object), fedsim.run(TOY, **by_name)
    assert records(one.trace) == records(two.trace)
    assert one.scenario == two.scenario
    assert one.weights is not None
    assert two.weights is not None
    assert all(tensor.equal(two.weights[name]) for name, tensor in one.weights.items())
    again = fedsim.run(tmp_path / "one/scenario.yaml")
    assert records(again.trace) == records(one.trace)
    assert isinstance(fedsim.load_model(tmp_path / "one"), UnitList)


def test_objects_without_a_name_of_their_own(tmp_path: Path) -> None:
    """A lambda, a partial, an instance, a local class and a finished data set all run; two lambdas are two objects."""

    @dataclass(frozen=True, kw_only=True)
    class Local(FedAvg):
        pass

    ready = toys.data()
    makers: list[Any] = [
        lambda **given: toys.model(width=3, **given),
        partial(toys.model, width=3),
        toys.Model(width=3),
    ]
    for maker in makers:
        run = fedsim.run(TOY, scheduler=Local, model=maker, data=lambda: ready, out=tmp_path / str(makers.index(maker)))
        assert run.weights is not None
        assert run.weights["first.1.weight"].shape == (3, 5)
    sets: list[Any] = [ready, {"name": ready, "samples": 30}, {"name": toys.data}]
    for data in sets:
        assert fedsim.run(TOY, data=data, model=toys.model).summary["status"] == "done"
    with pytest.raises(UserError, match="is no name to import; write module:Class"):
        load_scenario(tmp_path / "0/scenario.yaml")
    with pytest.raises(UserError, match=r"cannot be loaded .*is no name to import"):
        fedsim.load_model(tmp_path / "0")


def test_names_of_objects() -> None:
    """Each object has a name of its own; those that cannot be imported say so; schedulers pass as they are."""
    own, ready = toys.Own(), toys.data()
    plain, objects = named({"model": lambda: 0, "data": lambda: 1, "scheduler": own, "until": {"rounds": 1}})
    assert plain["scheduler"] is own
    assert plain["until"] == {"rounds": 1}
    assert len(objects) == 2
    assert [objects[plain[key]["name"]]() for key in ("model", "data")] == [0, 1]
    plain, objects = named({"data": ready})
    assert plain == {"data": {"name": "fedsim.data:DataSet(own)"}}
    assert objects["fedsim.data:DataSet(own)"]() is ready
    assert named({"data": toys.data})[0] == {"data": {"name": f"{HERE}:data"}}
    assert named({"model": "mlp", "data": {"samples": 3}}) == ({"model": "mlp", "data": {"samples": 3}}, {})


@pytest.mark.parametrize(
    ("updates", "message"),
    [
        ({"model": f"{HERE}:odd_model"}, "odd_model is a Linear; return a UnitList"),
        ({"model": f"{HERE}:stubborn_model"}, "cannot be called with input, classes, norm: .*; it takes the keyword"),
        ({"model": {"name": f"{HERE}:model", "depth": 1}}, "depth: unknown key"),
        ({"model": f"{HERE}:nothing"}, "there is no nothing in tests.experiment.toys"),
        ({"data": f"{HERE}:Own"}, "Own returned a Own|it must return a fedsim.data.DataSet"),
        ({"scheduler": f"{HERE}:data"}, "is no scheduler: it is not a dataclass"),
        ({"scheduler": 3}, "scheduler"),
        ({"data": 3}, "data"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_named(updates: dict[str, Any], message: str) -> None:
    """An error for the user, with the name."""
    with pytest.raises(UserError, match=message):
        fedsim.run(TOY, **updates)


def test_a_plug_in_that_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another package's broken entry point is named; ours win over theirs."""

    class Point:
        name, value = "mine", "nowhere:Mine"

        def load(self) -> Any:
            raise ImportError("no module")

    monkeypatch.setattr("fedsim.experiment.registry.entry_points", lambda group: [Point()])
    with pytest.raises(UserError, match=r"fedsim.schedulers entry point mine = nowhere:Mine cannot be loaded"):
        _with_plugins({}, "fedsim.schedulers")
    assert _with_plugins({"mine": FedAvg}, "fedsim.schedulers") == {"mine": FedAvg}
    assert isinstance(toys.data(), DataSet)
