"""From a scenario to its parts: participants, limits, evaluation, hold-out, fleet, and errors that name the line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from fedsim.errors import UserError
from fedsim.experiment.building import TICKS, Study, build
from fedsim.experiment.fleet import Fleet, Group
from fedsim.experiment.loading import load_scenario
from fedsim.hardware.links import load_link
from fedsim.hardware.pricing import nanoseconds
from fedsim.hardware.profiles import load_profile
from fedsim.models.measure import forward_cost
from fedsim.schedulers.fedavg import FedAvg
from fedsim.script import SERVER, Quality
from tests.experiment.toys import SPLIT, TOY


def built(**updates: Any) -> Study:
    """The toy with some keys changed."""
    return build(load_scenario(TOY, updates={"learning": False, **updates}))


@pytest.mark.parametrize(
    ("selection", "participants"),
    [
        ({"kind": "all"}, 3),
        ({"kind": "uniform", "count": 2}, 2),
        ({"kind": "fraction", "fraction": "50 %"}, 2),
        ({"kind": "fraction", "fraction": 0.01}, 1),
        ({"kind": "fraction", "fraction": 1.0}, 3),
    ],
    ids=str,
)
def test_participants(selection: dict[str, Any], participants: int) -> None:
    """As many devices a round as the selection says, one at least."""
    assert built(selection=selection).assembly.participants == participants


def test_evaluation_ticks() -> None:
    """Each model once; with a time limit fifty ticks, unless the scenario says how often."""
    assert built().assembly.limits.every is None
    limits = built(until={"time": "100 s"}).assembly.limits
    assert (limits.time, limits.every) == (100, 100 / TICKS)
    assert built(until={"time": "100 s"}, evaluate={"every": "7 s"}).assembly.limits.every == 7
    assert built(evaluate={"every": "7 s"}).assembly.limits.every == 7


@pytest.mark.parametrize(
    ("until", "yes", "no"),
    [
        ({"accuracy": 0.5}, Quality(0.5, 9, 1), Quality(0.49, 0, 1)),
        ({"loss": 1.0}, Quality(0, 1.0, 1), Quality(1, 1.01, 1)),
        ({"perplexity": 2.0}, Quality(0, 0.69, 1), Quality(1, 0.70, 1)),
        ({"accuracy": 0.9, "loss": 1.0}, Quality(0, 0.9, 1), Quality(0.8, 1.1, 1)),
        ({"perplexity": 2.0}, Quality(0, 0.1, 1), Quality(0, float("inf"), 1)),
        ({"loss": 2.0}, Quality(0, 0.1, 1), Quality(0, float("nan"), 1)),
    ],
    ids=str,
)
def test_goals(until: dict[str, float], yes: Quality, no: Quality) -> None:
    """A run ends at the first goal it reaches; no number reaches nothing."""
    reached = built(learning=True, until=until).assembly.limits.reached
    assert reached is not None
    assert reached(yes)
    assert not reached(no)
    assert built().assembly.limits.reached is None


def test_evaluation_on_a_subset() -> None:
    """So many test samples, drawn from the seed."""
    chosen = []
    for seed in (1, 1, 2):
        study = built(learning=True, seed=seed, evaluate={"samples": 50})
        samples: Any = study.host()._data
        assert samples.held_out_size("test") == 50
        chosen.append(samples.held_out("test", 0, 50)[0])
    assert chosen[0].equal(chosen[1])
    assert not chosen[0].equal(chosen[2])
    many: Any = built(learning=True, evaluate={"samples": 10**6}).host()._data
    assert many.held_out_size("test") == 360, "never more than there are"


@dataclass(frozen=True, kw_only=True)
class Validates(FedAvg):
    """A scheduler that decides by validation results."""

    validates: ClassVar[bool] = True


def test_validation_samples_are_held_out() -> None:
    """A tenth of the training samples is dealt to nobody, and only to schedulers that ask."""
    study = built(learning=True, scheduler=Validates())
    assert study.validation is not None
    assert len(study.validation) == 20
    assert not set(study.validation.tolist()) & set(study.shards.indices.tolist())
    assert sorted([*study.validation.tolist(), *study.shards.indices.tolist()]) == list(range(200))
    assert built(learning=True).validation is None
    with pytest.raises(UserError, match="decides by validation results, which learning: off does not have"):
        built(scheduler=Validates())


@pytest.mark.parametrize("partition", ["iid", "quantity", {"kind": "dirichlet", "alpha": 0.5}, "shards"], ids=str)
def test_shards_do_not_depend_on_learning(partition: Any) -> None:
    """Who holds what is the same, whether or not the data were opened."""
    data = {**TOY["data"], "partition": partition}
    on, off = built(learning=True, data=data), built(data=data)
    assert np.array_equal(on.shards.indices, off.shards.indices)
    assert np.array_equal(on.assembly.samples, off.assembly.samples)
    assert off.data is None


def test_a_cut_only_where_the_scheduler_cuts() -> None:
    """One scenario serves both kinds of system."""
    assert built().assembly.cut is None
    assert built(scheduler=SPLIT).assembly.cut == 1


def test_a_device_block_that_multiplies_nothing() -> None:
    """An embedding alone has no cost in the model of costs, so time would stand still on the devices."""
    text = {"name": "tinyshakespeare", "tokens": {"length": 16, "tokenizer": "bytes"}}
    with pytest.raises(
        UserError, match=r"with cut: 1 the devices of transformer multiply nothing \(embedding\).* cut: 2"
    ):
        built(scheduler=SPLIT, data=text, model={"name": "transformer", "cut": 1})


def fleet() -> Fleet:
    """Three groups."""
    kinds = (("pi-tier-1", "wifi5", 2), ("jetson-tier-4", "lte", 1), ("pi-tier-4", "wifi4", 3))
    groups = tuple(Group(load_profile(profile), load_link(link), count) for profile, link, count in kinds)
    return Fleet(groups, load_profile("cpu-60g"), load_link("ethernet-1g"))


def test_devices_are_numbered_through_the_groups() -> None:
    """From 0, in order; the server is -1; the node table has a row for each."""
    found = fleet()
    assert found.devices == 6
    assert [found.group_of(k) for k in range(6)] == [0, 0, 1, 2, 2, 2]
    assert [found.profile(k).id for k in (1, 2, 5, SERVER)] == ["pi-tier-1", "jetson-tier-4", "pi-tier-4", "cpu-60g"]
    table = found.table(np.arange(6))
    assert [node.number for node in table] == [-1, *range(6)]
    assert [node.samples for node in table] == [0, *range(6)]
    assert [node.group for node in table] == [-1, 0, 0, 1, 2, 2, 2]
    assert [node.name for node in table[:2]] == ["server", "device 0"]


def test_prices_are_those_of_the_profiles() -> None:
    """Each node pays by its own profile; the server is the last."""
    found = fleet()
    cost = forward_cost(built().assembly.model.units, 4)
    price = found.price()
    assert [price(k, cost) for k in (*range(6), SERVER)] == [
        nanoseconds(found.profile(k), cost) for k in (*range(6), SERVER)
    ]


WRONG = """\
name: wrong
model: {name: mlp, cut: 1}
data: {name: digits}
fleet:
  - {profile: pi-tier-1, link: wifi5}
  - {profile: ./board.yaml, link: wifi5}
server: {profile: cpu-60g, link: ./line.yaml}
scheduler: fedavg
until: {rounds: 1}
"""


def test_errors_of_parts_name_the_scenarios_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A profile, a link or data that are wrong: what, in which file, and where the scenario asked for it."""
    monkeypatch.chdir(tmp_path)
    Path("wrong.yaml").write_text(WRONG)
    Path("board.yaml").write_text("id: board\n")
    Path("line.yaml").write_text("up: 3 apples\n")
    with pytest.raises(UserError, match=r"(?s)board\.yaml.*\(wrong\.yaml, line 6\)$"):
        build(load_scenario("wrong.yaml"))
    Path("wrong.yaml").write_text(WRONG.replace("./board.yaml", "pi-tier-4"))
    with pytest.raises(UserError, match=r"(?s)line\.yaml.*\(wrong\.yaml, line 7\)$"):
        build(load_scenario("wrong.yaml"))
    Path("wrong.yaml").write_text(WRONG.replace("./board.yaml", "pi-tier-4").replace("./line.yaml", "lte"))
    for change, line in (("data.samples=9999", r"\(--set data.samples\)|line 3"), ("model=transformer", "--set model")):
        with pytest.raises(UserError, match=line):
            build(load_scenario("wrong.yaml", overrides=[change]))
