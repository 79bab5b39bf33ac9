"""`fedsim check`: the scenario with every default, the model by unit, the fleet, who holds what."""

from __future__ import annotations

import json
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fedsim.experiment.building import holdings
from fedsim.experiment.checking import Findings, check
from fedsim.experiment.loading import load_scenario
from fedsim.scenario import dump
from fedsim.units import human_count, human_seconds


def check_command(source: str, overrides: Sequence[str], *, as_json: bool) -> int:
    """Check a scenario from the command line."""
    findings = check(load_scenario(source, overrides=overrides))
    if as_json:
        print(json.dumps(findings.document(), indent=1))
        return 0
    console = Console(highlight=False)
    console.rule("resolved scenario", align="left")
    console.print(escape(dump(findings.study.scenario).rstrip()), soft_wrap=True)
    console.rule("model", align="left")
    console.print(_units(findings))
    console.rule("fleet", align="left")
    console.print(_fleet(findings))
    table = holdings(findings.study)
    console.rule("training samples by device and class", align="left")
    console.print(escape(table.rstrip()) if table is not None else "not opened: learning is off", soft_wrap=True)
    assumed = findings.assumptions()
    if assumed:
        console.rule("assumed, not verified", align="left")
        for name, fields in assumed.items():
            console.print(f"{name}: {', '.join(fields)}", soft_wrap=True)
    return 0


def _units(findings: Findings) -> Table:
    cut = findings.study.assembly.cut
    model = findings.study.assembly.model
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for head in ("", "unit", "MAC/sample", "share", "parameters", "output", "activations/sample"):
        grid.add_column(head, justify="left" if head in ("", "unit", "output") else "right")
    for unit in findings.units:
        grid.add_row(
            str(unit.index),
            unit.name,
            f"{unit.macs:,}",
            f"{unit.macs / model.macs:.1%}" if model.macs else "",
            f"{unit.parameters:,}",
            "x".join(map(str, unit.output)),
            human_count(unit.activation_bytes, "B"),
        )
        if unit.index == cut:
            grid.add_row("", "[bold]cut[/bold]", "", "", "", "", "", style="dim")
    grid.add_section()
    grid.add_row("", "all", f"{model.macs:,}", "", f"{model.parameters:,}", "", "")
    size = human_count(findings.weights_bytes, "B")
    grid.caption = f"a device receives and returns {size} of weights"
    grid.caption_justify = "left"
    return grid


def _fleet(findings: Findings) -> Table:
    fleet = findings.study.assembly.fleet
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for head in ("", "profile", "speed", "usable memory", "link", "up", "down", "one way"):
        grid.add_column(head, justify="left" if head in ("profile", "link") else "right")
    rows = [*((f"{g.count} x", g.machine, g.link) for g in fleet.groups), ("server", fleet.server, fleet.server_link)]
    for count, machine, link in rows:
        grid.add_row(
            count,
            machine.id,
            machine.summary,
            human_count(machine.memory.usable, "B"),
            link.id,
            human_count(link.up * 8, "bit/s"),
            human_count(link.down * 8, "bit/s"),
            human_seconds(link.one_way),
        )
    return grid
