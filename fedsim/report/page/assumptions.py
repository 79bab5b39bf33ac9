"""What a run's figures rest on, in words: how time, traffic, memory and energy were modelled, on which figures.

From the resolved scenario and what the trace carries of profiles and links; looks nothing up.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from fedsim.report.energy import CONFIDENCE
from fedsim.report.page.systems import Run
from fedsim.report.pages import cell, table
from fedsim.units import human_count

Section = Mapping[str, Any]


def sentences(run: Run) -> list[str]:
    """What was modelled, and how."""
    scenario = run.scenario
    return [
        *_clock(run.summary, scenario),
        *_learning(scenario),
        *_traffic(scenario),
        *_fleet(scenario),
        f"Energy: {run.summary['energy_label']}.",
    ]


def provenance(run: Run) -> str:
    """Each profile and link with how far to trust it; every figure with its source, folded away. HTML."""
    parts = []
    for entry in run.provenance:
        confidence = ", ".join(f"{count} {name}" for name, count in _counted(entry["figures"]).items())
        figures = f"figures: {confidence}" if confidence else "as the scenario gives it"
        words = [str(entry["speed"]), str(entry.get("trust", "")), figures]
        head = f"<b>{escape(str(entry['of']))}</b> {escape('; '.join(word for word in words if word))}"
        rows = [
            [cell(str(figure["fields"])), cell(str(figure["confidence"])), cell(str(figure["source"]))]
            for figure in entry["figures"]
        ]
        inner = table(["figures", "confidence", "source"], rows) if rows else ""
        parts.append(f"<details><summary>{head}</summary>{inner}</details>" if inner else f"<p>{head}</p>")
    return f'<div class="sources">{"".join(parts)}</div>' if parts else ""


def _counted(figures: Sequence[Section]) -> dict[str, int]:
    """Figures by confidence, best first."""
    found = dict.fromkeys(CONFIDENCE, 0)
    for figure in figures:
        found[str(figure["confidence"])] += str(figure["fields"]).count(",") + 1
    return {name: count for name, count in found.items() if count}


def _clock(summary: Section, scenario: Section) -> Iterator[str]:
    if summary["mode"] == "emulate":
        fidelity = summary.get("fidelity") or {}
        yield (
            f"Time is that of the wall clock, slowed down {fidelity.get('dilation', 1):g} times and given in the "
            "scenario's seconds: works were done for real and held back to what their profile takes."
        )
    else:
        yield "Time is virtual: a work takes what the cost model says for its operators on its machine, no stopwatch."
    yield "No time is charged for encoding messages, reading data or evaluating the model."
    if scenario.get("learning") is False or str(scenario.get("learning")) == "off":
        yield "Nothing was trained (learning: off): the clock, traffic and waiting are those of a run that trains."


def _learning(scenario: Section) -> Iterator[str]:
    model, data, training = (scenario.get(key) or {} for key in ("model", "data", "training"))
    if not model or not data:
        return
    cut = f", cut after unit {model['cut']} where a system cuts it" if model.get("cut") else ""
    spread = _options(data.get("partition"))
    optimizer = training.get("optimizer") or {}
    steps = f"; batches of {training.get('batch')}, {_options(optimizer)}" if training else ""
    yield f"Model {model.get('name')}{cut}; data {data.get('name')}, dealt out as {spread}{steps}."
    changed = [f"{key} {value}" for key, value in (scenario.get("codec") or {}).items() if value != "fp32"]
    if changed:
        yield f"Sent in fewer bits, and trained on as it arrives: {', '.join(changed)}."
    if scenario.get("pruning") or any(isinstance(g, Mapping) and g.get("pruning") for g in scenario.get("fleet") or ()):
        yield "Models were pruned before they were deployed; what that takes is shown apart, not in the run's length."


def _traffic(scenario: Section) -> Iterator[str]:
    network = scenario.get("network") or {}
    if not network:
        return
    known = {key: network[key] for key in ("latency", "jitter", "loss", "window", "slow_start") if key in network}
    stated = ", ".join(f"{key} {_plain(value)}" for key, value in known.items())
    yield (
        f"Messages flow as a fluid and share each link max-min fairly; {float(network.get('efficiency', 1)):.0%} of a "
        f"line's rate is payload; {stated}."
    )


def _fleet(scenario: Section) -> Iterator[str]:
    faults = scenario.get("faults")
    if faults:
        how = f"{len(faults)} fault{'s' if len(faults) > 1 else ''}" if isinstance(faults, list) else "as was recorded"
        yield f"Devices leave and return: {how}."
    oom = {
        "refuse": "A run that is sure not to fit in memory would have been refused.",
        "leave": "A device whose memory does not suffice leaves.",
        "record": "Memory that does not suffice is noted and has no effect.",
    }
    if scenario.get("on_oom") in oom:
        yield oom[str(scenario["on_oom"])]


def _options(section: object) -> str:
    """A name, and what it is given: `dirichlet (alpha 0.3)`."""
    if not isinstance(section, Mapping):
        return str(section)
    name = section.get("kind", section.get("name"))
    given = {key: value for key, value in section.items() if key not in ("kind", "name") and value is not None}
    rest = [f"{key} {_plain(value)}" for key, value in given.items()]
    return f"{name} ({', '.join(rest)})" if rest else str(name)


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float) and value >= 1e4:
        return human_count(value, "")
    return str(value)
