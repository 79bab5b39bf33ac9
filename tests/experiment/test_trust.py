"""What of a fleet is taken on trust, as a trace carries it."""

from __future__ import annotations

import dataclasses
from typing import Any

from fedsim.experiment.checking import check
from fedsim.experiment.fleet import Fleet
from fedsim.experiment.loading import load_scenario
from fedsim.experiment.trust import provenance, trust
from fedsim.hardware.fits import Calibration
from fedsim.report.page.assumptions import provenance as shown
from tests.experiment.toys import TOY
from tests.report.page.test_systems import run


def fleet(**group: Any) -> Fleet:
    """The toy's, with devices of this kind."""
    updates = {"learning": False, "fleet": [{"profile": "pi-tier-1", "link": "lte", **group}]}
    return check(load_scenario(TOY, updates=updates)).study.assembly.fleet


def entry(found: Fleet, of: str) -> dict[str, Any]:
    """What is said of a profile or link."""
    (said,) = (one for one in provenance(found) if one["of"] == of)
    return said


def confidences(found: Fleet, of: str) -> dict[str, tuple[str, str]]:
    """Confidence and source of every figure, or of the key that stands for those below it."""
    figures = entry(found, of)["figures"]
    return {name: (one["confidence"], one["source"]) for one in figures for name in one["fields"].split(", ")}


def test_a_link_says_its_rates_and_where_each_figure_comes_from() -> None:
    """In bits a second, up and down; of its population nothing, unless devices draw from it."""
    said = confidences(fleet(), "lte")
    assert entry(fleet(), "lte")["speed"] == "up 10 Mbit/s, down 26 Mbit/s"
    assert said["down"] == ("measured", "mobilebandwidth/mobilebandwidth.github.io at ac6aed5")
    assert said["up"][0] == "unverified"
    assert said["radio"] == ("unverified", "Huang et al., MobiSys 2012"), "a key stands for all below it"
    assert not [name for name in said if name.startswith("population")]
    drawn = confidences(fleet(population=True), "lte")
    assert drawn["population.down"][0] == "derived"


def test_a_link_of_the_scenario_is_what_that_says() -> None:
    """Nobody could have verified it: it has rates and no sources, and the report says whose figures they are."""
    found = fleet(link={"up": "8 Mbit/s", "down": "4 Mbit/s"})
    said = entry(found, "inline")
    assert (said["speed"], said["figures"]) == ("up 8 Mbit/s, down 4 Mbit/s", [])
    page = shown(dataclasses.replace(run(), provenance=provenance(found)))
    assert "<p><b>inline</b> up 8 Mbit/s, down 4 Mbit/s; as the scenario gives it</p>" in page


def test_a_figure_without_a_source_is_not_verified() -> None:
    """As where one is added to a shipped profile."""
    found = fleet()
    profile = found.server.profile
    bare = profile.model_copy(update={"sources": [one for one in profile.sources if one.field != "speed"]})
    server = dataclasses.replace(found.server, profile=bare)
    assert confidences(dataclasses.replace(found, server=server), "cpu-60g")["speed"] == ("unverified", "no source")


def test_every_profile_and_link_stands_once() -> None:
    """Though several groups, or the server, have it."""
    names = [one["of"] for one in provenance(fleet())]
    assert len(names) == len(set(names))
    assert {"pi-tier-1", "lte", "cpu-60g"} <= set(names)


def test_a_calibrated_profile_says_its_error() -> None:
    """That of models that it was not fitted to."""
    found = fleet(profile="raspberry-pi-4b")
    assert trust(found)["raspberry-pi-4b"].startswith("not calibrated")
    machine = found.groups[0].machine
    fitted = machine.profile.model_copy(update={"calibration": Calibration.model_construct(left_out=0.15)})
    calibrated = dataclasses.replace(found.groups[0], machine=dataclasses.replace(machine, profile=fitted))
    assert trust(dataclasses.replace(found, groups=(calibrated,)))["raspberry-pi-4b"] == (
        "calibrated; times of models that it was not fitted to were off by 15% on average"
    )
