"""`fedsim check`: the scenario with every default, what it comes to, and what of it is taken on trust."""

from __future__ import annotations

import json
from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from fedsim.cli import WRONG_INPUT
from fedsim.cli.printing import wide_console
from fedsim.experiment.building import holdings
from fedsim.experiment.checking import Findings, GroupLine, check
from fedsim.experiment.forecast import Need, said
from fedsim.experiment.loading import is_sweep, load_scenario
from fedsim.experiment.running import memory_verdict
from fedsim.hardware.links import Link
from fedsim.models.head_cost import HeadCost
from fedsim.report.variants import notices, variant_line
from fedsim.scenario import dump
from fedsim.units import human_count, human_seconds

_TEXT = ("", "unit", "output", "profile", "speed", "link", "behind", "")


def check_command(source: str, overrides: Sequence[str], *, as_json: bool) -> int:
    """Check a scenario from the command line; the status is that of wrong input where a run would be refused."""
    if is_sweep(source, overrides):
        from fedsim.cli.sweeping import check_sweep_command

        return check_sweep_command(source, overrides, as_json=as_json)
    findings = check(load_scenario(source, overrides=overrides))
    verdict = memory_verdict(findings.study)
    if as_json:
        print(json.dumps(findings.document(), indent=1))
    else:
        _print(findings, verdict)
    return WRONG_INPUT if verdict is not None and findings.study.scenario.on_oom == "refuse" else 0


def _print(findings: Findings, verdict: str | None) -> None:
    console = wide_console()
    study = findings.study

    def part(title: str, *lines: str | Table) -> None:
        console.print(f"[bold]{title}[/bold] {'─' * max(3, min(console.width, 100) - len(title) - 1)}")
        for line in lines:
            console.print(line if isinstance(line, Table) else escape(line), soft_wrap=True)

    part("resolved scenario", dump(study.scenario).rstrip())
    part("model", _units(findings), f"a device receives and returns {_bytes(findings.weights_bytes)} of weights")
    if findings.candidates:
        objective = study.scenario.model.objective
        chosen = f"chosen by the {said(objective)}"
        if findings.pipelines and objective == "time":
            chosen = "if batches were not cut into micro-batches"
        part(f"cuts, {chosen}", _cuts(findings))
    if findings.pipelines:
        part("micro-batches, by the profiler", _pipelines(findings))
    if study.assembly.cut is not None:
        part("auxiliary head, for schedulers that train devices by a local loss", *_head(findings))
    variants = study.assembly.pruning
    if variants:
        lines = [variant_line(variant) for variant in variants]
        part("pruned variants", *lines, *(f"note: {notice}" for notice in notices(variants)))
    part("fleet", _fleet(findings), *_sharing(findings))
    part("a batch, with nobody else on the links", _steps(findings))
    part("memory, at least", _memory(findings), verdict or "everything fits")
    table = holdings(study)
    part("training samples by device and class", table.rstrip() if table is not None else "not opened: learning is off")
    part("how far to trust it", *findings.trust(), f"energy: {findings.energy()}")
    assumed = findings.assumptions()
    if assumed:
        part("assumed, not verified", *(f"{name}: {', '.join(fields)}" for name, fields in assumed.items()))


def _grid(*heads: str) -> Table:
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for head in heads:
        grid.add_column(head, justify="left" if head in _TEXT else "right", overflow="fold")
    return grid


def _units(findings: Findings) -> Table:
    cut = findings.study.assembly.cut
    model = findings.study.assembly.model
    grid = _grid("", "unit", "MAC/sample", "share", "parameters", "output", "activations/sample", "kept in training")
    for unit in findings.units:
        grid.add_row(
            str(unit.index),
            unit.name,
            f"{unit.macs:,}",
            f"{unit.macs / model.macs:.1%}" if model.macs else "",
            f"{unit.parameters:,}",
            "x".join(map(str, unit.output)),
            _bytes(unit.activation_bytes),
            _bytes(unit.retained_bytes),
        )
        if unit.index == cut:
            grid.add_row("", "[bold]cut[/bold]", style="dim")
    grid.add_section()
    kept = sum(unit.retained_bytes for unit in findings.units)
    grid.add_row("", "all", f"{model.macs:,}", "", f"{model.parameters:,}", "", "", _bytes(kept))
    return grid


def _cuts(findings: Findings) -> Table:
    grid = _grid("cut", "time of a round", "bytes of a round", "of the fullest device's memory", "")
    for candidate in findings.candidates:
        chosen = candidate.cut == findings.study.assembly.cut
        grid.add_row(
            str(candidate.cut),
            human_seconds(candidate.seconds),
            _bytes(candidate.nbytes),
            f"{candidate.memory:.0%}",
            "chosen" if chosen else "" if candidate.fits else "does not fit",
            style="bold" if chosen else "",
        )
    return grid


def _pipelines(findings: Findings) -> Table:
    grid = _grid("cut", "micro-batches", "a batch on the slowest device", "")
    for plan in findings.pipelines:
        chosen = plan.cut == findings.study.assembly.cut
        row = (str(plan.cut), str(plan.micro_batches), human_seconds(plan.seconds))
        grid.add_row(*row, "chosen" if chosen else "", style="bold" if chosen else "")
    return grid


def _head(findings: Findings) -> list[str]:
    head = findings.head
    if head is None:
        return [f"none here: {findings.no_head}"]
    return [_head_line(head), *([f"warning: {head.warning}"] if head.warning else [])]


def _head_line(head: HeadCost) -> str:
    block = f"{head.macs_share:.3g} times the device block's" if head.block_macs else "the device block has none"
    training = f"{head.training_macs / head.split_macs:.3g} times" if head.split_macs else "more than"
    return (
        f"{head.options.kind}: {human_count(head.macs, 'MAC')} a sample ({block}), {head.parameters:,} parameters, "
        f"{_bytes(head.bytes)} ({head.bytes_share:.3g} times the device block's); a device then computes {training} "
        "what split learning asks of it"
    )


def _fleet(findings: Findings) -> Table:
    fleet = findings.study.assembly.fleet
    grid = _grid("", "profile", "speed", "link", "up", "down", "one way", "jitter", "loss", "behind", "online")
    for group in fleet.groups:
        online = "" if group.attendance is None else f"{group.attendance.share:.0%}"
        link = (f"{group.link.id}, drawn",) if group.population else (group.link.id,)
        row = _link(group.link, *link)
        grid.add_row(f"{group.count} x", group.machine.id, group.machine.summary, *row, group.access or "", online)
    grid.add_row("server", fleet.server.id, fleet.server.summary, *_link(fleet.server_link, fleet.server_link.id))
    return grid


def _link(link: Link, name: str) -> tuple[str, ...]:
    trace = link.rate_trace()
    up, down = (link.up, link.down) if trace is None else trace.mean
    return (
        name if trace is None else f"{name}, recorded",
        human_count(up * 8, "bit/s"),
        human_count(down * 8, "bit/s"),
        human_seconds(link.one_way),
        human_seconds(link.jitter) if link.jitter else "",
        f"{link.loss:.2%}" if link.loss else "",
    )


def _sharing(findings: Findings) -> list[str]:
    """What many devices share: the server's link and access points, against what they could use together."""
    assembly = findings.study.assembly
    fleet, efficiency = assembly.fleet, assembly.network.efficiency
    together = sum(group.count * group.link.goodput_up(efficiency) for group in fleet.groups)
    ingress = fleet.server_link.goodput_down(efficiency)
    lines = [_shared("the server receives", ingress, together)]
    for name, point in assembly.access.items():
        behind = [group for group in fleet.groups if group.access == name]
        capacity = point.up * (efficiency if point.rate == "line" else 1.0)
        could = sum(group.count * group.link.goodput_up(efficiency) for group in behind)
        lines.append(_shared(f"access point {name} carries up", capacity, could))
    return lines


def _shared(who: str, capacity: float, together: float) -> str:
    verdict = "enough for all at once" if together <= capacity else f"{together / capacity:.3g} times less than"
    could = f"{human_count(together * 8, 'bit/s')} that its devices could send together"
    return f"{who} {human_count(capacity * 8, 'bit/s')}: {verdict} {'(' if together <= capacity else ''}{could}" + (
        ")" if together <= capacity else ""
    )


def _steps(findings: Findings) -> Table:
    phases = [name for name, _ in findings.groups[0].step.phases]
    grid = _grid("", "profile", "samples", *phases, "all", "weights, both ways")
    for line in findings.groups:
        seconds = [human_seconds(seconds) for _, seconds in line.step.phases]
        whole, model = human_seconds(line.step.seconds), human_seconds(line.step.model)
        grid.add_row(_count(line), line.group.machine.id, str(line.step.batch), *seconds, whole, model)
    return grid


def _memory(findings: Findings) -> Table:
    grid = _grid("", "profile", "process", "weights and state", "a step", "in all", "usable", "")
    for line in findings.groups:
        grid.add_row(_count(line), line.group.machine.id, *_need(line.need))
    grid.add_row("server", findings.study.assembly.fleet.server.id, *_need(findings.server))
    return grid


def _need(need: Need) -> tuple[str | Text, ...]:
    sizes = map(_bytes, (need.process, need.model, need.step, need.total, need.usable))
    return (*sizes, "fits" if need.fits else Text("does not fit", "bold red"))


def _count(line: GroupLine) -> str:
    return f"{line.group.count} x"


def _bytes(nbytes: float) -> str:
    return human_count(nbytes, "B")
