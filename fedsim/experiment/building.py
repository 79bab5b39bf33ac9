"""From a scenario to the parts of a run: fleet, data and shards, model and what it costs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedsim import data as data_sets
from fedsim import seeds
from fedsim.data import DataInfo, DataSet, Shards, TokenOptions
from fedsim.errors import UserError
from fedsim.experiment.assembly import Assembly
from fedsim.experiment.fleet import Fleet, Group
from fedsim.experiment.networks import NOTHING, build_network
from fedsim.hardware.links import Link, load_link
from fedsim.hardware.machines import Machine, machine
from fedsim.hardware.profiles import Profile, load_profile
from fedsim.hardware.traces.loading import load_attendance
from fedsim.learning.optimizers import Training
from fedsim.models.units import check_cut
from fedsim.scenario import Churn, InlineLink, Scenario, resolved
from fedsim.scenario import Group as ScenarioGroup
from fedsim.scenario import Server as ScenarioServer
from fedsim.script import SERVER, Quality
from fedsim.simulation import Fault, Limits, Shortage

if TYPE_CHECKING:
    from fedsim.learning.host import Host
    from fedsim.models.measure import ModelMeasure
    from fedsim.models.units import UnitList

TICKS = 50
"""Evaluations of a run with `until.time` and no `evaluate.every`."""

VALIDATION = 0.1
"""Share of the training samples that is held out for schedulers that validate."""

NEED_LABELS = ("dirichlet", "shards", "natural")
"""Partitions whose shard sizes depend on more than the number of samples."""


@dataclass(frozen=True)
class Study:
    """A scenario with its parts. `data` is None where nothing had to be opened."""

    scenario: Scenario
    assembly: Assembly
    info: DataInfo
    data: DataSet | None
    shards: Shards
    validation: NDArray[np.int64] | None
    objects: Mapping[str, Any]

    def host(self) -> Host:
        """Whoever trains, with the network's initial weights; each call gives an independent one."""
        from fedsim.learning.host import Host
        from fedsim.learning.samples import TensorSamples

        assert self.data is not None, "learning is off"
        training = self.assembly.training
        wanted = self.scenario.evaluate.samples
        test = None
        if wanted != "all" and wanted < self.info.test:
            rng = seeds.generator(self.scenario.seed, SERVER, "evaluate")
            test = np.sort(rng.choice(self.info.test, size=wanted, replace=False))
        samples = TensorSamples(
            self.data,
            self.shards,
            dtype=self.scenario.training.dtype,
            channels_last=training.channels_last,
            validation=self.validation,
            test=test,
        )
        network = _network(self.scenario, self.info, self.objects)
        return Host(network, self.assembly.blocks(), samples, self.scenario.seed)


def build(scenario: Scenario, objects: Mapping[str, Any] = NOTHING) -> Study:
    """Put a scenario's parts together; `objects` holds what its names of the form `module:Class` stand for, if not
    what can be imported.

    Raises:
        UserError: parts that do not fit one another, such as a cut that the model does not have.
    """
    fleet = build_fleet(scenario)
    info, data, shards, validation = deal(scenario, objects)
    network = _network(scenario, info, objects)
    model = _measured(network)
    cut = _cut(scenario, model)
    training = Training(
        batch=scenario.training.batch,
        optimizer=scenario.training.optimizer.options,
        keep_optimizer_state=scenario.training.optimizer_state == "keep",
        channels_last=scenario.workers.memory_format == "channels_last",
    )
    assembly = Assembly(
        scheduler=scenario.scheduler.options,
        model=model,
        cut=cut,
        training=training,
        fleet=fleet,
        samples=shards.sizes(),
        participants=_participants(scenario),
        rounds=scenario.until.rounds,
        limits=_limits(scenario),
        seed=scenario.seed,
        faults=_faults(scenario),
        shortage=Shortage(scenario.on_oom),
        scenario=resolved(scenario),
    )
    return Study(scenario, assembly, info, data, shards, validation, objects)


def _measured(network: UnitList) -> ModelMeasure:
    from fedsim.models.counting import measure

    return measure(network)


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
        with _placed(scenario, *place, "profile"):
            of = profile(section.profile)
        with _placed(scenario, *place, "power_mode" if clock is None else "clock"):
            kind = machines(section.profile, mode, clock)
        with _placed(scenario, *place, "link"):
            return kind, link(section.link, of)

    def group(section: ScenarioGroup, index: int) -> Group:
        kind, connection = member(section, "fleet", index)
        if section.population and connection.population is None:
            with _placed(scenario, "fleet", index, "population"):
                connection.drawn_rates(scenario.seed, np.zeros(0, np.int64))
        recorded = scenario.faults.availability if isinstance(scenario.faults, Churn) else section.availability
        where = ("faults",) if isinstance(scenario.faults, Churn) else ("fleet", index)
        with _placed(scenario, *where, "availability"):
            attendance = (
                None if recorded is None else load_attendance(recorded.path, recorded.reader, wrap=recorded.wrap)
            )
        return Group(kind, connection, section.count, section.access, section.population, attendance)

    @cache
    def machines(name: str, mode: str | None, clock: float | None) -> Machine:
        return machine(profile(name), mode, clock)

    groups = tuple(group(section, index) for index, section in enumerate(scenario.fleet))
    return Fleet(groups, *member(scenario.server, "server"))


def deal(
    scenario: Scenario, objects: Mapping[str, Any] = NOTHING
) -> tuple[DataInfo, DataSet | None, Shards, NDArray[np.int64] | None]:
    """The data, who holds what, and the training samples held out for validation, for schedulers that ask for it.

    Without learning, data are opened only where the shards depend on labels.
    """
    wanted = scenario.data
    name = objects.get(wanted.name, wanted.name)
    with _placed(scenario, "data"):
        return _deal(scenario, name)


def _deal(scenario: Scenario, name: Any) -> tuple[DataInfo, DataSet | None, Shards, NDArray[np.int64] | None]:
    wanted = scenario.data
    arguments: dict[str, Any] = {
        "path": wanted.path,
        "samples": wanted.samples,
        "resize": wanted.resize,
        "tokens": None if wanted.tokens is None else TokenOptions(**wanted.tokens.model_dump()),
        "seed": scenario.seed,
    }
    rng = seeds.generator(scenario.seed, SERVER, "partition")
    partition = wanted.partition.options
    if not scenario.learning and wanted.partition.kind not in NEED_LABELS:
        info = data_sets.describe(name, **arguments)
        kept, validation = _hold_out(scenario, info.train)
        shards = partition.deal(np.zeros(len(kept), np.int64), None, scenario.devices, rng)
        return info, None, Shards(kept[shards.indices], shards.offsets), validation
    data = data_sets.load(name, **arguments)
    kept, validation = _hold_out(scenario, data.info.train)
    owners = None if data.train.owners is None else data.train.owners[kept]
    shards = partition.deal(data.train.labels[kept], owners, scenario.devices, rng)
    return (
        data.info,
        data if scenario.learning else None,
        Shards(kept[shards.indices], shards.offsets),
        validation,
    )


def _hold_out(scenario: Scenario, samples: int) -> tuple[NDArray[np.int64], NDArray[np.int64] | None]:
    """Training samples to deal, and those to validate on where the scheduler says `validates`."""
    if not getattr(scenario.scheduler.options, "validates", False):
        return np.arange(samples), None
    if not scenario.learning:
        raise UserError(
            f"scheduler {scenario.scheduler.name} decides by validation results, which learning: off does not have; "
            f"give it fixed counts instead, or set learning: on {scenario.where('learning')}"
        )
    drawn = seeds.generator(scenario.seed, SERVER, "validation").permutation(samples)
    size = max(1, round(VALIDATION * samples))
    return np.sort(drawn[size:]), np.sort(drawn[:size])


def _network(scenario: Scenario, info: DataInfo, objects: Mapping[str, Any]) -> UnitList:
    """The scenario's network on the CPU, with its initial weights."""
    with _placed(scenario, "model"):
        return build_network(
            scenario.model.name,
            scenario.model.options,
            input=info.shape,
            classes=info.classes,
            kind=info.kind,
            norm=scenario.norm,
            dtype=scenario.training.dtype,
            seed=scenario.seed,
            objects=objects,
        )


@contextmanager
def _placed(scenario: Scenario, *path: str | int) -> Iterator[None]:
    """Errors of the parts below, which know nothing of scenarios, with the line that named them."""
    try:
        yield
    except UserError as error:
        where = scenario.where(*path)
        text = str(error)
        raise UserError(text if text.endswith(where) else f"{text} {where}") from error


def _cut(scenario: Scenario, model: ModelMeasure) -> int | None:
    cut = scenario.model.cut
    units = [unit.name for unit in model.units]
    if cut == "auto":
        raise UserError("an automatic cut is not in this version")
    if cut is not None:
        with _placed(scenario, "model", "cut"):
            check_cut(scenario.model.name, units, cut)
    scheduler = scenario.scheduler.options
    for part in ("device", "server", "splits", "messages"):
        if not hasattr(scheduler, part):
            raise UserError(
                f"scheduler {scenario.scheduler.name} has no {part}; a scheduler has the scripts device(me) and "
                f"server(me), and says splits and messages {scenario.where('scheduler')}"
            )
    if not scheduler.splits:
        return None  # one scenario serves systems that cut the model and systems that do not
    if cut is None:
        raise UserError(
            f"scheduler {scenario.scheduler.name} cuts the model, but model.cut is not given; "
            f"add cut: 1 to {len(units) - 1} (units of {scenario.model.name}: {', '.join(units)}) "
            f"{scenario.where('model')}"
        )
    if not any(unit.macs for unit in model.units[:cut]):
        first = next((index for index, unit in enumerate(model.units, 1) if unit.macs), len(units))
        raise UserError(
            f"with cut: {cut} the devices of {scenario.model.name} multiply nothing ({', '.join(units[:cut])}), which "
            f"no cost model can charge for; choose cut: {first} or more {scenario.where('model', 'cut')}"
        )
    return cut


def _faults(scenario: Scenario) -> list[Fault]:
    return [Fault(device=fault.device, leave=fault.leave, back=fault.return_) for fault in scenario.listed_faults]


def _participants(scenario: Scenario) -> int:
    selection = scenario.selection
    if selection.kind == "uniform":
        assert selection.count is not None
        return selection.count
    if selection.kind == "fraction":
        assert selection.fraction is not None
        return max(1, round(selection.fraction * scenario.devices))
    return scenario.devices


def _limits(scenario: Scenario) -> Limits:
    until = scenario.until
    every = scenario.evaluate.every
    if every is None and until.time is not None:
        every = until.time / TICKS
    goals: list[Any] = []
    if until.accuracy is not None:
        goals.append(lambda quality: quality.accuracy >= until.accuracy)
    if until.loss is not None:
        goals.append(lambda quality: quality.loss <= until.loss)
    if until.perplexity is not None:
        goals.append(lambda quality: math.exp(min(quality.loss, 700.0)) <= until.perplexity)

    def reached(quality: Quality) -> bool:
        return any(goal(quality) for goal in goals)

    return Limits(time=until.time, every=every, reached=reached if goals else None)


def holdings(study: Study) -> str | None:
    """The table of who holds what, where the labels are known."""
    if study.data is None:
        return None
    return data_sets.holdings_table(study.shards, study.data.train.labels, study.info.classes)
