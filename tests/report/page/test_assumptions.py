"""What a run rests on, in words."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from fedsim.experiment.checking import check
from fedsim.experiment.loading import load_scenario
from fedsim.experiment.trust import provenance as gathered
from fedsim.report.page.assumptions import provenance, sentences
from fedsim.report.page.systems import Run
from tests.report.page.test_systems import run

FULL: dict[str, Any] = {
    "model": {"name": "cnn", "cut": 2},
    "data": {"name": "digits", "partition": {"kind": "dirichlet", "alpha": 0.3}},
    "training": {"batch": 16, "optimizer": {"name": "sgd", "lr": 0.1, "clip": None}},
    "codec": {"activations": "int8", "gradients": "fp32", "weights": "fp32"},
    "network": {"efficiency": 0.97, "latency": "on", "jitter": "off", "loss": "delay"},
    "faults": [{"device": 3, "leave": "120 s"}],
    "on_oom": "record",
    "learning": "on",
}


def said(**more: Any) -> str:
    """All sentences of a run with that scenario."""
    return " ".join(sentences(run(**{**FULL, **more})))


@pytest.mark.parametrize(
    "words",
    [
        "Time is virtual",
        "Model cnn, cut after unit 2 where a system cuts it; data digits, dealt out as dirichlet (alpha 0.3); "
        "batches of 16, sgd (lr 0.1).",
        "trained on as it arrives: activations int8",
        "97% of a line's rate is payload; latency on, jitter off, loss delay.",
        "Devices leave and return: 1 fault.",
        "Memory that does not suffice is noted and has no effect.",
        "Energy: linear energy model",
    ],
)
def test_what_was_modelled_is_said(words: str) -> None:
    """From the keys of the resolved scenario."""
    assert words in said()


def test_what_does_not_apply_is_not_said() -> None:
    """No codec, no faults, nothing pruned, and the run trained."""
    text = said(codec={"activations": "fp32"}, faults=[])
    assert not any(words in text for words in ("fewer bits", "leave and return", "pruned", "Nothing was trained"))


def test_options_are_said_as_a_file_writes_them() -> None:
    """Switches are on or off, large numbers are short, what is not given is not there."""
    optimizer = {"name": "sgd", "nesterov": True, "dampening": False, "momentum": None, "lr": 2e9}
    text = said(training={"batch": 8, "optimizer": optimizer}, data={"name": "digits", "partition": "iid"})
    assert "dealt out as iid; batches of 8, sgd (nesterov on, dampening off, lr 2 G)." in text
    assert "Devices leave and return: 2 faults." in said(faults=[{}, {}])
    assert "Devices leave and return: as was recorded." in said(faults={"path": "x.csv"})


def test_timing_only_and_pruning_are_said() -> None:
    """Also where one group alone is pruned."""
    assert "Nothing was trained (learning: off)" in said(learning="off")
    assert "pruned before they were deployed" in said(fleet=[{"profile": "pi", "pruning": {"method": "reconvene"}}])


def test_an_emulation_says_how_much_it_was_slowed_down() -> None:
    """In the place of the virtual clock."""
    one = run(**FULL)
    summary = {**one.summary, "mode": "emulate", "fidelity": {"dilation": 4.0}}
    text = " ".join(sentences(Run(summary, one.measures, one.scenario)))
    assert "slowed down 4 times" in text
    assert "virtual" not in text


def test_every_figure_of_a_profile_stands_with_its_source() -> None:
    """Of a shipped fleet: confidence counted in the line, sources below it, everything as text."""
    fleet = check(load_scenario("eight-boards")).study.assembly.fleet
    page = provenance(dataclasses.replace(run(), provenance=gathered(fleet)))
    assert page.count("<details>") == len({entry["of"] for entry in gathered(fleet)})
    assert "raspberry-pi-4b</b> gemm 14 GMAC/s, 4.8 GB/s; not calibrated" in page
    assert "<td>power</td><td>measured</td><td>PiDramble power table" in page
    assert "figures: 1 measured, 3 derived, 3 specification, 5 unverified" in page


def test_a_link_that_the_scenario_gives_has_no_sources() -> None:
    """It is what the scenario says it is; without any, there is no list at all."""
    link = {"of": "inline", "kind": "link", "speed": "up 8 Mbit/s, down 8 Mbit/s", "figures": []}
    page = provenance(dataclasses.replace(run(), provenance=[link]))
    assert "<p><b>inline</b> up 8 Mbit/s, down 8 Mbit/s; as the scenario gives it</p>" in page
    assert provenance(run()) == ""
