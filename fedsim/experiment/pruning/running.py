"""One pruning from what was asked for to a verified, finished model, with what it comes to. Writes nothing."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedsim import data as data_sets
from fedsim.errors import UserError
from fedsim.experiment.pruning.advising import advised, needs
from fedsim.experiment.pruning.baselines import Baseline, chosen, made
from fedsim.experiment.pruning.looking import Named, material
from fedsim.experiment.pruning.measuring import Meter
from fedsim.experiment.pruning.recovering import recovered, recovery
from fedsim.experiment.pruning.settings import Settings, built
from fedsim.experiment.pruning.stages import Heard, Stages
from fedsim.experiment.pruning.studies import check_kept, load
from fedsim.experiment.pruning.subjects import Subject, Wanted, subject
from fedsim.experiment.pruning.texts import calibration, text_file
from fedsim.experiment.registry import registry
from fedsim.hardware.machines import Machine, machine
from fedsim.hardware.profiles import load_profile
from fedsim.models.catalogue import ENTRIES
from fedsim.pruning.methods import method
from fedsim.pruning.mosaic.options import Mosaic
from fedsim.pruning.reconvene.options import Reconvene

if TYPE_CHECKING:
    from fedsim.pruning.checks import Checks
    from fedsim.pruning.counting import Counts
    from fedsim.pruning.methods import Material, Method
    from fedsim.pruning.mosaic.calibration import Calibration
    from fedsim.pruning.mosaic.platforms import Advice
    from fedsim.pruning.plans import Plan
    from fedsim.pruning.pruned import Pruned


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a run of `fedsim prune` is asked for."""

    model: Wanted
    method: str | None = None
    """None is reconvene for images and mosaic for text."""
    settings: Settings = field(default_factory=Settings)
    calibration: str | None = None
    """A text file, or the name of a text."""
    windows: int = 32
    data: str | None = None
    data_path: Path | None = None
    private: bool = False
    """Whether the data and the text are of devices."""
    profile: str | None = None
    advise: bool = False
    """Whether the device of the profile decides on the kind and the share of pruning."""
    recover: str | None = None
    """What is trained behind the cut: `lora` or `full`."""
    batch: int = 16
    ranking: Path | None = None
    baselines: tuple[str, ...] = ()
    evaluate: str | None = None
    samples: int | None = None
    """How many windows or samples of the evaluation count; None is 64 windows, or all samples."""
    time: bool = False
    threads: int = 1

    @property
    def pruning(self) -> dict[str, object]:
        """By option: what is said of the pruning itself, rather than of the model and of what is measured."""
        settings = self.settings
        return {
            "--method": self.method,
            "--ranking": self.ranking,
            "--calibration": self.calibration,
            "--baselines": self.baselines,
            "--advise": self.advise,
            "--recover": self.recover,
            **{f"--set {key}": True for key in settings.method},
            **{f"--set needs.{key}": True for key in settings.needs},
            **{f"--set recover.{key}": True for key in settings.recover},
        }


@dataclass(frozen=True, kw_only=True)
class Report:
    """A model by itself: its sizes, how good and how fast it is."""

    counts: Counts
    quality: Mapping[str, Any] | None = None
    timed: Mapping[str, Any] = field(default_factory=dict)
    """By what is called, on this host."""
    priced: float | None = None
    """Seconds of a forward by the cost model of the profile."""

    def data(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {
            **self.counts.data(),
            "quality": self.quality,
            "time": {name: each.data() for name, each in self.timed.items()},
            "priced": self.priced,
        }


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of it."""

    asked: Asked
    subject: Subject
    machine: Machine | None
    options: Any = None
    study: Any = None
    studied: bool = False
    """Whether the study was made now, rather than read."""
    pruned: Pruned | None = None
    """None: a folder that had been pruned before."""
    checks: Checks | None = None
    calibration: Calibration | None = None
    advice: Advice | None = None
    """Where the options are what a device needs."""
    parent: Report | None = None
    now: Report
    baselines: tuple[Baseline, ...] = ()
    timings: Mapping[str, float]
    """Seconds by stage."""
    notes: tuple[str, ...] = ()

    @property
    def plan(self) -> Plan:
        """What was planned."""
        if self.pruned is not None:
            return self.pruned.plan
        assert self.subject.stored is not None
        return self.subject.stored.plan


def run(asked: Asked, heard: Heard = lambda _: None) -> Outcome:
    """Do it.

    Raises:
        UserError: something that was asked for cannot be done.
        PruningError: what the method has cut is not what it planned.
    """
    stages = Stages(heard)
    found, device, named, meter = loaded(asked, stages)
    if found.stored is not None:
        return _read(asked, found, device, meter, stages)
    return _made(asked, found, device, named, meter, stages)


def loaded(asked: Asked, stages: Stages) -> tuple[Subject, Machine | None, Named | None, Meter]:
    """The model, the device, the data that is looked at, and how all is measured.

    Raises:
        UserError: there is no such thing.
    """
    named = None if asked.data is None else Named(name=asked.data, path=asked.data_path, seed=asked.model.seed)
    device = None if asked.profile is None else machine(load_profile(asked.profile))
    wanted = asked.model
    if named is not None and wanted.name in ENTRIES:
        wanted = replace(wanted, data=data_sets.describe(named.name, path=named.path))
    with stages.stage("load"):
        found = subject(wanted)
        return found, device, named, Meter.of(asked, found, device)


def _read(asked: Asked, found: Subject, device: Machine | None, meter: Meter, stages: Stages) -> Outcome:
    """A folder that was pruned before is looked at only."""
    for option, value in asked.pruning.items():
        if value:
            raise UserError(
                f"{found.name} was pruned already, so {option} cannot be for it; prune the model that it is of, or "
                f"leave {option} out"
            )
    assert found.stored is not None
    manifest = found.stored.manifest
    with stages.stage("evaluate"):
        quality = meter.quality(found.module)
    timed = meter.times({"pruned": found.module}, stages)["pruned"]
    now = Report(counts=manifest.counts, quality=quality, timed=timed, priced=meter.priced(found.module))
    return Outcome(
        asked=asked,
        subject=found,
        machine=device,
        checks=manifest.checks,
        now=now,
        timings={**manifest.timings, **{f"now {name}": seconds for name, seconds in stages.seconds.items()}},
    )


def _made(
    asked: Asked, found: Subject, device: Machine | None, named: Named | None, meter: Meter, stages: Stages
) -> Outcome:
    name = asked.method or ("mosaic" if found.text else "reconvene")
    options = built("pruning method", name, registry().pruners, asked.settings.method)
    _suited(options, name, found)
    if isinstance(options, Reconvene):
        _sufficient(options, asked)
    if asked.ranking is not None:
        check_kept(options, asked.ranking)
    baselines, wanted, trained = chosen(asked.baselines, options), needs(asked, options), recovery(asked, options)
    text = _calibration(asked, found, options)
    sight = material(found, data=named, calibration=text, machine=device, batch=asked.batch, private=asked.private)
    prunes = method(options)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always", UserWarning)  # our own remarks; others are shown as ever, below
        with stages.stage("study"):
            known = load(asked.ranking, options, found.module) if asked.ranking and asked.ranking.exists() else None
            first = prunes.study(found.module, sight) if known is None else known
        advice = None
        if wanted is not None and device is not None:
            with stages.stage("advise"):
                advice = advised(wanted, options, found.module, first, device, text, asked=asked)
            options = advice.options
            prunes = method(options)
        pruned, checks = _cut(prunes, found, first, sight, stages)
        if trained is not None and text is not None:
            with stages.stage("recover"):
                pruned = recovered(pruned, text, trained)
        rest = made(baselines, options, found, first, pruned.plan, sight, stages)
    remarks = _remarks(heard)
    parent, now, rest = _measured(found, pruned, rest, meter, stages)
    return Outcome(
        asked=asked,
        subject=found,
        machine=device,
        options=options,
        study=first,
        studied=known is None,
        pruned=replace(pruned, timings={k: stages.seconds[k] for k in ("study", "plan")} | dict(pruned.timings)),
        checks=checks,
        calibration=text,
        advice=advice,
        parent=parent,
        now=now,
        baselines=rest,
        timings={k: v for k, v in stages.seconds.items() if k != "apply"} | dict(pruned.timings),
        notes=remarks,
    )


def _remarks(heard: Sequence[warnings.WarningMessage]) -> tuple[str, ...]:
    """What is to be told to the user; other warnings go where warnings go."""
    for each in heard:
        if each.category is not UserWarning:
            warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
    return tuple(dict.fromkeys(str(each.message) for each in heard if each.category is UserWarning))


def _suited(options: Any, name: str, found: Subject) -> None:
    """Refuse a method that is for other models, before it takes its time."""
    if isinstance(options, Mosaic) and not found.text:
        raise UserError(
            f"method {name} prunes language models, and {found.name} takes {found.kind}s; take --method reconvene"
        )
    if isinstance(options, Reconvene) and found.text:
        raise UserError(
            f"method {name} prunes networks of convolutions, and {found.name} is a language model; take --method mosaic"
        )


def _sufficient(options: Reconvene, asked: Asked) -> None:
    """Refuse what the options need and nobody has given, before scores are taken."""
    from fedsim.pruning.reconvene.scores import score_type

    if options.density is None and not options.budget.given:
        raise UserError(
            "reconvene has neither a budget nor a density to come to; give --set budget.params='25 %', or --set "
            "density=0.1"
        )
    if options.budget.latency is not None and asked.profile is None:
        raise UserError(
            f"budget.latency {options.budget.latency} is of a device, and none is named; give --profile NAME"
        )
    if score_type(options.score).data and asked.data is None:
        raise UserError(
            f"score {options.score} looks at samples with their labels, and there are none; give --data NAME, or take "
            "score synflow, which needs none"
        )


def _calibration(asked: Asked, found: Subject, options: Any) -> Calibration | None:
    """The text that a method looks at.

    Raises:
        UserError: it needs some, and there is none, or it would not be looked at.
    """
    if asked.calibration is None:
        if isinstance(options, Mosaic):
            raise UserError(
                "mosaic prunes a language model by what it does on text, and there is none; give --calibration FILE"
            )
        return None
    if not found.text:
        raise UserError(
            f"--calibration is text, and {found.name} takes {found.kind}s; leave it out, or give --data NAME"
        )
    file = text_file(asked.calibration, asked.data_path, test=False)
    privacy: Any = "device-private" if asked.private else "public"
    return calibration(found, file, windows=asked.windows, privacy=privacy)


def _cut(prunes: Method, found: Subject, known: Any, sight: Material, stages: Stages) -> tuple[Pruned, Checks]:
    """Plan, cut, verify and finish."""
    with stages.stage("plan"):
        plan = prunes.plan(found.module, known, sight)
    with stages.stage("apply"):
        cut, checks = prunes.apply(found.module, plan, sight)
        return prunes.finish(cut, sight), checks


def _measured(
    found: Subject, pruned: Pruned, baselines: tuple[Baseline, ...], meter: Meter, stages: Stages
) -> tuple[Report, Report, tuple[Baseline, ...]]:
    """Sizes, quality and times of the parent, of what came of it, and of what that is compared with."""
    with stages.stage("count"):
        before = meter.counts(found.module)
        after = meter.counts(pruned.module, pruned.support)
        sizes = [meter.counts(each.pruned.module, each.pruned.support) for each in baselines]
    others = {each.name: each.pruned.module for each in baselines}
    modules = {"parent": found.module, "pruned": pruned.module, **others}
    qualities = meter.qualities(modules, stages)
    timed = meter.times(modules, stages)

    def report(name: str, counts: Counts) -> Report:
        return Report(counts=counts, quality=qualities[name], timed=timed[name], priced=meter.priced(modules[name]))

    rest = tuple(replace(b, report=report(b.name, size)) for b, size in zip(baselines, sizes, strict=True))
    return report("parent", before), report("pruned", after), rest
