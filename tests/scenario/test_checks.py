"""Rules that join sections, at their edges: what is just allowed, and what is not."""

from __future__ import annotations

from typing import Any

import pytest

from fedsim.scenario import Scenario, ScenarioError, load
from tests.scenario.toys import REGISTRY, SHORT

BOARDS = {"fleet": [{"profile": "pi-tier-1", "count": 4}], "server": {"profile": "cpu-60g"}}


def read(**sections: Any) -> Scenario:
    """Four boards, with some sections changed."""
    return load(SHORT | BOARDS | sections, registry=REGISTRY)


def test_all_devices_may_be_asked_for_by_number() -> None:
    """Four of four."""
    assert read(selection={"kind": "uniform", "count": 4}).selection.count == 4
    with pytest.raises(ScenarioError, match=r"selection\.count: 5 devices a round, but the fleet has 4"):
        read(selection={"kind": "uniform", "count": 5})


def test_the_last_device_may_leave() -> None:
    """Devices are numbered from 0."""
    assert read(faults=[{"device": 3, "leave": "1 s"}]).listed_faults[0].device == 3
    with pytest.raises(ScenarioError, match=r"faults\.0\.device: device 4, but the fleet has devices 0 to 3"):
        read(faults=[{"device": 4, "leave": "1 s"}])


def test_a_device_may_leave_again_in_the_instant_of_its_return() -> None:
    """In whatever order the two are written."""
    first = {"device": 1, "leave": "1 s", "return": "2 s"}
    second = {"device": 1, "leave": "2 s", "return": "3 s"}
    for faults in ([first, second], [second, first]):
        assert len(read(faults=faults).listed_faults) == 2
    overlapping = {"device": 1, "leave": "1.9 s", "return": "3 s"}
    for faults, index in (([first, overlapping], 1), ([overlapping, first], 0)):
        with pytest.raises(ScenarioError, match=rf"faults\.{index}\.leave: device 1 is already away since 1 s"):
            read(faults=faults)


@pytest.mark.parametrize("goal", [{"accuracy": 0.9}, {"loss": 0.1}, {"perplexity": 3.0}], ids=str)
def test_a_goal_of_quality_needs_learning(goal: dict[str, float]) -> None:
    """Each of the three."""
    (key,) = goal
    assert getattr(read(until=goal).until, key) == goal[key]
    with pytest.raises(ScenarioError, match=rf"until\.{key}: needs learning: on, since timing only trains nothing"):
        read(until=goal, learning=False)


def test_an_access_point_is_named_and_used() -> None:
    """A group names one that there is, and one that nobody is behind is a mistake."""
    lab = {"lab": {"up": "3 MB/s", "down": "3 MB/s"}}
    fleet = [{"profile": "pi-tier-1", "count": 4, "access": "lab"}]
    assert read(fleet=fleet, access=lab).fleet[0].access == "lab"
    with pytest.raises(ScenarioError, match=r"fleet\.0\.access: unknown access point 'lab'; did you mean lab2\?"):
        read(fleet=fleet, access={"lab2": lab["lab"]})
    with pytest.raises(ScenarioError, match=r"access\.lab: no group of the fleet is behind it"):
        read(access=lab)


def test_devices_that_come_and_go_for_ever_need_an_end() -> None:
    """A recording that begins again wants until.time; one that ends does not."""
    fleet = [{"profile": "pi-tier-1", "count": 4, "availability": "a.csv"}]
    endless = r"devices come and go for ever, so the run may never end; add until\.time, or wrap: off"
    for given in ({"fleet": fleet}, {"faults": {"availability": "a.csv"}}):
        with pytest.raises(ScenarioError, match=endless):
            read(**given)
        assert read(**given, until={"rounds": 3, "time": "1 h"}).until.rounds == 3
    once = [{"profile": "pi-tier-1", "availability": {"path": "a.csv", "wrap": False}}]
    recorded = read(fleet=once).fleet[0].availability
    assert recorded is not None
    assert recorded.path.is_absolute()
    with pytest.raises(ScenarioError, match=r"fleet\.0\.availability: faults are given, too; keep one of them"):
        read(fleet=once, faults=[{"device": 0, "leave": "1 s"}])
