"""From a scenario to the parts of a run: fleet, data and shards, model and what it costs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from fedsim import data as data_sets
from fedsim import seeds
from fedsim.data import DataInfo, DataSet, Shards
from fedsim.errors import UserError
from fedsim.experiment.accounts import deployment
from fedsim.experiment.assembly import Assembly, Smaller
from fedsim.experiment.coding import codecs
from fedsim.experiment.cutting import choose_cut
from fedsim.experiment.dealing import count_labels, data_kept, deal, describe, read_data
from fedsim.experiment.families import Family
from fedsim.experiment.families import family as make_family
from fedsim.experiment.fleet import Fleet
from fedsim.experiment.fleets import build_fleet
from fedsim.experiment.forecast import Need, needs
from fedsim.experiment.materials import Materials
from fedsim.experiment.networks import NOTHING, Counted, counting_device, measured, scenario_network
from fedsim.experiment.placing import placed
from fedsim.experiment.profiling import Profiler
from fedsim.experiment.selection import asked
from fedsim.experiment.variants import requests
from fedsim.learning.bundles import VARIANT
from fedsim.learning.optimizers import Training
from fedsim.models.head_cost import HeadCost, head_cost
from fedsim.network.topology import AccessPoint, NetworkOptions
from fedsim.payload.supports import WHOLE
from fedsim.scenario import Scenario, resolved
from fedsim.script import SERVER, Quality
from fedsim.simulation import Fault, Limits, Shortage

if TYPE_CHECKING:
    import torch

    from fedsim.learning.host import Host
    from fedsim.learning.samples import TensorSamples
    from fedsim.models.auxiliary import Head
    from fedsim.models.generation import Decoding
    from fedsim.models.measure import ModelMeasure
    from fedsim.models.units import UnitList

TICKS: Final = 50
"""Evaluations of a run with `until.time` and no `evaluate.every`."""


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
    family: Family | None = None
    """The pruned variants of the model, where the scenario asks for some."""

    def network(self, device: str = "cpu") -> UnitList:
        """The model that the server holds, with its initial weights; each call may give the same."""
        if self.family is not None:
            return self.family.network
        return scenario_network(self.scenario, self.info, self.objects, device)

    def needs(self) -> tuple[Need, ...]:
        """The least memory that each group's devices and the server need."""
        assembly, scheduler = self.assembly, self.assembly.scheduler
        if not scheduler.splits:
            copies = 0
        elif getattr(scheduler, "shared", False):
            copies = 1
        elif hasattr(scheduler, "concurrency"):
            copies = assembly.job().places(scheduler.concurrency)
        else:
            copies = assembly.participants
        buffered, blocks = getattr(scheduler, "buffered", None), assembly.blocks()
        return needs(
            assembly.fleet,
            blocks,
            assembly.held(blocks),
            assembly.samples,
            assembly.training.batch,
            scheduler,
            copies,
            0 if buffered is None else buffered(assembly.job()),
        )

    def head(self, cut: int) -> HeadCost:
        """What the scenario's auxiliary head costs behind a cut.

        Raises:
            UserError: there can be no such head there.
        """
        options = self.scenario.auxiliary.options
        network = self.network(counting_device(self.scenario))
        head = _head(self.scenario, network, cut)
        return head_cost(self.assembly.model, cut, options, head.measure(network.block(0, cut)))

    def warnings(self) -> list[str]:
        """What to know before the run: a head that outweighs its device block, a key that changes nothing."""
        found: list[str | None] = []
        if self.validation is not None:
            found.append(
                f"{self.scenario.scheduler.name} decides by held-out results: {len(self.validation):,} training "
                "samples, drawn by the seed, are kept for that, and devices have the others"
            )
        if self.assembly.head is not None and self.assembly.cut is not None:
            found.append(self.head(self.assembly.cut).warning)
        if getattr(self.assembly.scheduler, "takes_all", False) and self.scenario.selection.kind != "all":
            found.append(
                f"selection: {self.scenario.selection.kind} changes nothing under {self.scenario.scheduler.name}, in "
                "which all devices train all the time"
            )
        if self.assembly.variants and not self.assembly.apart and self.scenario.norm == "bn" and self._normalises():
            found.append(
                "devices hold variants of different widths, whose batch statistics are not comparable; norm: gn or "
                "frozen_bn has none to average"
            )
        found.append(self._beyond())
        if self.scenario.mode == "emulate" or not self.scenario.learning:
            why = "in an emulation every node is a process" if self.scenario.learning else "nothing is learnt"
            for key, idle in (("kind", "inline"), ("processor", "cpu")):
                value = getattr(self.scenario.workers, key)
                if value != idle:
                    found.append(f"workers.{key}: {value} changes nothing, since {why}")
        found += () if self.family is None else self.family.warnings
        return [text for text in found if text is not None]

    def _beyond(self) -> str | None:
        """What to know where a timing-only run counts with more samples than there are."""
        wanted = self.scenario.data.samples
        if self.scenario.learning or wanted is None:
            return None
        there = describe(self.scenario, self.objects).train
        if wanted <= there:
            return None
        return (
            f"data.samples {wanted:,} is more than the {there:,} that {self.info.name} has; times and bytes are those "
            "of a set of that size"
        )

    def _normalises(self) -> bool:
        """Whether the model has running statistics."""
        return any(shape.name.endswith("running_mean") for unit in self.assembly.model.units for shape in unit.buffers)

    def host(self, processor: torch.device | None = None) -> Host:
        """Whoever trains, with the network's initial weights; each call gives an independent one.

        Args:
            processor: what computes; None: the CPU.
        """
        from fedsim.learning.blocks import HOST
        from fedsim.learning.host import Host

        samples = self.samples()
        network, blocks = self.network(), self.assembly.blocks()
        cut = self.assembly.cut
        head = None if self.assembly.head is None or cut is None else _head(self.scenario, network, cut)
        names = [name for name in blocks if VARIANT in name]
        variants = () if self.family is None else self.family.networks
        named = dict(zip(names, variants, strict=True))
        return Host(network, blocks, samples, self.scenario.seed, head, named, processor or HOST)

    def samples(self) -> TensorSamples:
        """The data as tensors, with what is held out for evaluations."""
        from fedsim.learning.samples import TensorSamples

        assert self.data is not None, "learning is off"
        training = self.assembly.training
        wanted = self.scenario.evaluate.samples
        test = None
        if wanted != "all" and wanted < self.info.test:
            rng = seeds.generator(self.scenario.seed, SERVER, "evaluate")
            test = np.sort(rng.choice(self.info.test, size=wanted, replace=False))
        return TensorSamples(
            self.data,
            self.shards,
            dtype=self.scenario.training.dtype,
            channels_last=training.channels_last,
            validation=self.validation,
            test=test,
        )


def build(scenario: Scenario, objects: Mapping[str, Any] = NOTHING) -> Study:
    """Put a scenario's parts together; `objects` holds what its names of the form `module:Class` stand for, if not
    what can be imported.

    Raises:
        UserError: parts that do not fit one another, such as a cut that the model does not have.
    """
    check_scheduler(scenario)
    fleet = build_fleet(scenario)
    with data_kept():
        info, data, shards, validation = deal(scenario, objects)
        labels = count_labels(scenario, shards, objects)
    network = scenario_network(scenario, info, objects, counting_device(scenario))
    model = measured(network)
    training = Training(
        batch=scenario.training.batch,
        optimizer=scenario.training.optimizer.options,
        keep_optimizer_state=scenario.training.optimizer_state == "keep",
        channels_last=scenario.workers.memory_format == "channels_last",
        drop_last=scenario.training.drop_last,
        codecs=codecs(scenario),
    )
    check_training(scenario, training)
    samples = shards.sizes()
    profiler = Profiler(
        model=model, training=training, fleet=fleet, network=_network_options(scenario), access=_access(scenario)
    )
    cut = choose_cut(scenario, profiler, samples)
    if scenario.model.cut == "auto" and cut is not None:  # from here on as if it had been given
        scenario = scenario.model_copy(update={"model": scenario.model.model_copy(update={"cut": cut})})
    head = None
    if cut is not None and has_local_loss(scenario.scheduler.options):
        with placed(scenario, "auxiliary"):
            head = _head(scenario, network, cut).measure(network.block(0, cut))
    counted = Counted(scenario, info, objects, model)
    family = _family(scenario, fleet, samples, info, objects, training, cut, head, counted)
    if family is not None:
        model = counted(family.network)
        if head is not None and cut is not None:
            head = _head(scenario, family.network, cut).measure(family.network.block(0, cut))
    participants, need, window = asked(scenario.selection, scenario.devices)
    with placed(scenario, "scheduler"):
        assembly = Assembly(
            scheduler=scenario.scheduler.options,
            model=model,
            cut=cut,
            head=head,
            support=WHOLE if family is None else family.support,
            variants=() if family is None else _with_decoding(scenario, family, info),
            apart=family is not None and family.apart,
            pruning=() if family is None else family.report,
            deployment=() if family is None else deployment(family.made, fleet, profiler.network.efficiency),
            decoding=_decoding(scenario, network if family is None else family.network, info),
            labels=labels,
            training=training,
            fleet=fleet,
            samples=samples,
            participants=participants,
            need=need,
            window=window,
            rounds=scenario.until.rounds,
            limits=_limits(scenario),
            seed=scenario.seed,
            faults=_faults(scenario),
            shortage=Shortage(scenario.on_oom),
            network=profiler.network,
            access=profiler.access,
            scenario=resolved(scenario),
        )
    if assembly.scheduler is not scenario.scheduler.options:  # from here on as if that had been given, too
        section = scenario.scheduler.model_copy(update={"options": assembly.scheduler})
        scenario = scenario.model_copy(update={"scheduler": section})
        assembly = replace(assembly, scenario=resolved(scenario))
    return Study(scenario, assembly, info, data, shards, validation, objects, family)


def _family(
    scenario: Scenario,
    fleet: Fleet,
    samples: NDArray[np.int64],
    info: DataInfo,
    objects: Mapping[str, Any],
    training: Training,
    cut: int | None,
    head: ModelMeasure | None,
    counted: Counted,
) -> Family | None:
    """The pruned variants of a scenario; None where it asks for none, or all devices can have the whole model."""
    wanted = requests(scenario, fleet, samples)
    if not wanted:
        return None
    chooses = any(request.section.method is not None for request in wanted)
    network = scenario_network(scenario, info, objects, pruned=chooses)
    materials = Materials(
        scenario=scenario,
        network=network,
        info=info,
        data=partial(read_data, scenario, objects),
        training=training,
        cut=cut,
        head=head,
        measure=counted,
    )
    made = make_family(scenario, network, fleet, wanted, materials)
    return made if made.report else None


def has_local_loss(scheduler: Any) -> bool:
    """Whether a scheduler's devices train by a loss of their own, through an auxiliary head."""
    return bool(getattr(scheduler, "local_loss", False))


def _decoding(scenario: Scenario, network: UnitList, info: DataInfo) -> Decoding | None:
    """What the network costs token by token, where the scheduler lets it generate text.

    Raises:
        UserError: as many tokens cannot be generated.
    """
    new_tokens = getattr(scenario.scheduler.options, "new_tokens", None)
    if new_tokens is None:
        return None
    length = info.shape[0] if network.tokens else None
    try:
        tokens = new_tokens(length)
    except ValueError as error:
        raise UserError(str(error)) from error
    if not tokens or length is None:
        return None
    from fedsim.models.decoding import decoding

    return decoding(network, length - tokens)


def _with_decoding(scenario: Scenario, family: Family, info: DataInfo) -> tuple[Smaller, ...]:
    """The variants with what each costs token by token, where the scheduler lets them generate text."""
    pairs = zip(family.networks, family.smaller, strict=True)
    return tuple(replace(smaller, decoding=_decoding(scenario, network, info)) for network, smaller in pairs)


def _head(scenario: Scenario, network: UnitList, cut: int) -> Head:
    """The scenario's auxiliary head behind a cut of its network, with its initial weights."""
    from fedsim.models.auxiliary import build_head

    return build_head(network, cut, scenario.auxiliary.options, scenario.seed)


def check_scheduler(scenario: Scenario) -> None:
    """Refuse a scheduler that lacks one of its parts.

    Raises:
        UserError: naming the part.
    """
    for part in ("device", "server", "splits", "messages"):
        if not hasattr(scenario.scheduler.options, part):
            raise UserError(
                f"scheduler {scenario.scheduler.name} has no {part}; a scheduler has the scripts device(me) and "
                f"server(me), and says splits and messages {scenario.where('scheduler')}"
            )


def check_training(scenario: Scenario, training: Training) -> None:
    """Refuse a way to train that the scheduler says it cannot do with.

    Raises:
        UserError: what the scheduler says, and where the optimizer was given.
    """
    check = getattr(scenario.scheduler.options, "check", None)
    if check is None:
        return
    try:
        check(training)
    except ValueError as error:
        raise UserError(f"{error} {scenario.where('training', 'optimizer')}") from error


def _network_options(scenario: Scenario) -> NetworkOptions:
    given = {name: getattr(scenario.network, name) for name in type(scenario.network).model_fields}
    return NetworkOptions(**given | {"window": None if given["window"] == "off" else given["window"]})


def _access(scenario: Scenario) -> dict[str, AccessPoint]:
    return {
        name: AccessPoint(point.up, point.down, point.duplex == "half", point.rate)
        for name, point in scenario.access.items()
    }


def _faults(scenario: Scenario) -> list[Fault]:
    return [Fault(device=fault.device, leave=fault.leave, back=fault.return_) for fault in scenario.listed_faults]


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
