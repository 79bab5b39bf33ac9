"""What `check` finds: units, messages, and what is taken on trust."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fedsim.experiment.checking import Findings, check
from fedsim.experiment.loading import load_scenario
from tests.experiment.toys import SPLIT, TOY


def found(**updates: Any) -> Findings:
    """The toy with three layers of different width."""
    model = {"name": "mlp", "hidden": [8, 5], "cut": 1}
    return check(load_scenario(TOY, updates={"model": model, "learning": False, **updates}))


def test_units_are_numbered_from_one_as_cuts_are() -> None:
    """With MACs, parameters, and the bytes of what leaves them."""
    rows = [(u.index, u.name, u.macs, u.parameters, u.output, u.activation_bytes) for u in found().units]
    assert rows == [
        (1, "hidden1", 64 * 8, 64 * 8 + 8, (8,), 32),
        (2, "hidden2", 8 * 5, 8 * 5 + 5, (5,), 20),
        (3, "head", 5 * 10, 5 * 10 + 10, (10,), 40),
    ]


def test_messages_are_those_at_the_cut() -> None:
    """The device block and its activations; without a cut the whole model and none."""
    split, whole = found(scheduler=SPLIT).document()["model"], found().document()["model"]
    assert split["message_bytes"] == {"weights": 4 * 520, "activations_each": 32}
    assert whole["message_bytes"] == {"weights": 4 * (520 + 45 + 60), "activations_each": None}
    small = found(scheduler=SPLIT, codec={"activations": "int8", "weights": "fp16"}).document()["model"]
    assert small["message_bytes"] == {"weights": 2 * 520, "activations_each": 9}, "8 and a sixteenth of 8, rounded up"


def test_what_nobody_has_checked_is_named() -> None:
    """Figures of profiles and links without a source that was looked up; measured ones are not among them."""
    assumed = found().assumptions()
    assert "speed" in assumed["pi-tier-1"]
    assert {"pi-tier-1", "jetson-tier-4", "cpu-60g", "lte"} <= set(assumed)
    assert {"up", "rtt", "radio"} <= set(assumed["lte"]), "a key stands for all below it"
    assert "down" not in assumed["lte"], "measured"
    assert not any("population" in field for field in assumed["lte"]), "nobody draws from it"


def test_figures_that_this_run_does_not_use_are_not_assumed() -> None:
    """Other power modes and processors; a population counts where devices draw from it."""
    fleet = [{"profile": "jetson-nano", "link": "lte", "power_mode": "5w", "population": True}]
    assumed = found(fleet=fleet).assumptions()
    fields = assumed["jetson-nano@5w"]
    assert not [f for f in fields if f.startswith("processors.cpu") or (f.startswith("modes") and "5w" not in f)]
    assert any(field.startswith("processors.gpu") for field in fields)
    assert any(field.startswith("population") for field in assumed["lte"])


def test_a_mode_may_choose_the_processor_whose_figures_are_assumed() -> None:
    """The GPU trains, unless the mode says that the CPU does; other modes do not matter."""
    for mode, processor in (("15w", "gpu"), ("cpu", "cpu")):
        fleet = [{"profile": "jetson-agx-xavier", "link": "lte", "power_mode": mode}]
        fields = found(fleet=fleet).assumptions()[f"jetson-agx-xavier@{mode}"]
        assert {f.split(".")[1] for f in fields if f.startswith("processors.")} == {processor}
        assert {f.split(".")[1] for f in fields if f.startswith("modes.")} <= {mode}


def test_training_keeps_what_its_backward_needs() -> None:
    """Of each unit alone: outputs of ReLU, and nothing of a linear layer, whose input is another's output."""
    assert [unit.retained_bytes for unit in found().units] == [32, 20, 0]


def test_a_scenario_fits_if_all_its_nodes_do() -> None:
    """The server as much as the devices."""
    findings = found()
    assert findings.fits
    short = replace(findings.server, usable=findings.server.total - 1)
    assert not replace(findings, server=short).fits
    first, second = findings.groups
    groups = (first, replace(second, need=replace(second.need, usable=second.need.total - 1)))
    assert not replace(findings, groups=groups).fits


def test_a_check_says_how_far_to_trust_the_times() -> None:
    """Abstract profiles, and boards that nobody has calibrated."""
    fleet = [{"profile": "raspberry-pi-4b", "link": "lte"}]
    board, server = found(fleet=fleet).trust()
    assert board == (
        "raspberry-pi-4b: not calibrated, so its times may be wrong by a factor of three; `fedsim calibrate` measures "
        "a machine"
    )
    assert server.startswith("cpu-60g: one speed for all operators: good for comparing schedulers")


def test_a_check_shows_the_auxiliary_head() -> None:
    """Its cost behind the cut, by the scenario's options; none where nothing is cut, and why, where it cannot be."""
    head = found(scheduler=SPLIT, auxiliary={"kind": "linear"}).head
    assert head is not None
    assert (head.options.kind, head.cut, head.parameters) == ("linear", 1, 8 * 10 + 10)
    assert found().head is None
    mirror = found(scheduler=SPLIT, auxiliary={"kind": "mirror", "units": 2})
    assert mirror.head is None
    assert mirror.no_head is not None
    assert mirror.no_head.startswith("an auxiliary head cannot mirror 2 units behind unit 1 of mlp")


def test_a_check_shows_the_cuts_it_chose_from() -> None:
    """With the chosen one among them."""
    model = {"name": "mlp", "hidden": [8, 5], "cut": "auto", "objective": "bytes"}
    document = found(scheduler=SPLIT, model=model).document()["model"]
    assert [cut["cut"] for cut in document["cuts"]] == [1, 2]
    assert document["cut"] == min(document["cuts"], key=lambda cut: cut["nbytes"])["cut"]


def test_shards_are_summed_up() -> None:
    """200 samples on three devices."""
    sizes = found().document()["data"]["devices"]
    assert (sizes["min"], sizes["max"]) == (66, 67)
    assert abs(sizes["mean"] - 200 / 3) < 1e-9
