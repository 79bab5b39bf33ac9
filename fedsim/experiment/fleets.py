"""From the fleet of a scenario to machines, links and recordings, each read once."""

from __future__ import annotations

from functools import cache

import numpy as np

from fedsim.errors import UserError
from fedsim.experiment.fleet import Fleet, Group
from fedsim.experiment.placing import placed
from fedsim.hardware.links import Link, load_link
from fedsim.hardware.machines import Machine, machine
from fedsim.hardware.profiles import CostModel, Profile, load_profile
from fedsim.hardware.traces.loading import load_attendance
from fedsim.scenario import Churn, InlineLink, Scenario
from fedsim.scenario import Group as ScenarioGroup
from fedsim.scenario import Server as ScenarioServer


def build_fleet(scenario: Scenario) -> Fleet:
    """The fleet of a scenario, profiles and links read.

    Raises:
        UserError: a profile or link is wrong, or a link is missing.
    """
    profile, named_link = cache(load_profile), cache(load_link)

    def link(chosen: str | InlineLink | None, of: Profile) -> Link:
        if isinstance(chosen, InlineLink):
            return load_link(chosen.model_dump(exclude_none=True))
        name = chosen or of.default_link
        if name is None:
            raise UserError(
                f"profile {of.id} has no default link, and none is given; add link: wifi5, "
                "or another of `fedsim list links`"
            )
        return named_link(name)

    def member(section: ScenarioGroup | ScenarioServer, *place: str | int) -> tuple[Machine, Link]:
        mode, clock = (section.power_mode, section.clock) if isinstance(section, ScenarioGroup) else (None, None)
        with placed(scenario, *place, "profile"):
            of = profile(section.profile)
        with placed(scenario, *place, "power_mode" if clock is None else "clock"):
            kind = machines(section.profile, mode, clock)
        with placed(scenario, *place, "link"):
            return kind, link(section.link, of)

    def group(section: ScenarioGroup, index: int) -> Group:
        kind, connection = member(section, "fleet", index)
        if section.population and connection.population is None:
            with placed(scenario, "fleet", index, "population"):
                connection.drawn_rates(scenario.seed, np.zeros(0, np.int64))
        recorded = scenario.faults.availability if isinstance(scenario.faults, Churn) else section.availability
        where = ("faults",) if isinstance(scenario.faults, Churn) else ("fleet", index)
        with placed(scenario, *where, "availability"):
            attendance = (
                None if recorded is None else load_attendance(recorded.path, recorded.reader, wrap=recorded.wrap)
            )
        return Group(kind, connection, section.count, section.access, section.population, attendance)

    @cache
    def machines(name: str, mode: str | None, clock: float | None) -> Machine:
        return machine(profile(name), mode, clock)

    groups = tuple(group(section, index) for index, section in enumerate(scenario.fleet))
    server, server_link = member(scenario.server, "server")
    if server.cost_model is CostModel.FEDSCALE:
        raise UserError(
            f"profile {server.profile.id} knows times of whole training steps only (cost_model: fedscale_scalar), but "
            f"a server averages models; choose another profile for it {scenario.where('server', 'profile')}"
        )
    return Fleet(groups, server, server_link)
