"""What `check` finds: units, messages, and what is taken on trust."""

from __future__ import annotations

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


def test_what_nobody_has_checked_is_named() -> None:
    """Figures of profiles and links without a source that was looked up; measured ones are not among them."""
    assumed = found().assumptions()
    assert "speed" in assumed["pi-tier-1"]
    assert {"pi-tier-1", "jetson-tier-4", "cpu-60g", "lte"} <= set(assumed)
    assert {"up", "rtt", "radio.active"} <= set(assumed["lte"])
    assert "down" not in assumed["lte"], "measured"


def test_shards_are_summed_up() -> None:
    """200 samples on three devices."""
    sizes = found().document()["data"]["devices"]
    assert (sizes["min"], sizes["max"]) == (66, 67)
    assert abs(sizes["mean"] - 200 / 3) < 1e-9
