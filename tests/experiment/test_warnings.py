"""What a run says before it begins, and what `selection` is to systems without rounds."""

from __future__ import annotations

from typing import Any

import pytest

import fedsim
from fedsim.errors import UserError
from fedsim.experiment.building import Study, build
from fedsim.experiment.loading import load_scenario
from fedsim.experiment.running import Watcher


class Listener(Watcher):
    """Keeps what it is told before the run."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def warn(self, text: str) -> None:
        """Keep it."""
        self.heard.append(text)


def study(**updates: Any) -> Study:
    """Twelve boards without learning, with changes."""
    return build(load_scenario("twelve-boards", updates={"learning": False, **updates}))


def test_a_heavy_head_is_said_before_the_run() -> None:
    """Both costs, the limit and the ways out; once, and only for systems that train it."""
    listener = Listener()
    heavy: dict[str, Any] = {"auxiliary": {"kind": "scaled_layer", "ratio": 0.5}, "until": {"rounds": 1}}
    fedsim.run("twelve-boards", learning=False, watcher=listener, **heavy)
    (text,) = listener.heard
    assert "times its device block's" in text
    assert "choose a ratio below 0.5 or kind: linear or a later cut" in text
    assert study(**heavy, scheduler="splitfed").warnings() == []
    assert study(scheduler="ampere", auxiliary={"kind": "linear"}).warnings() == []


def test_samples_that_are_held_back_are_said() -> None:
    """A tenth of the training data, where a system decides by held-out results."""
    plain = {"name": "ampere", "device_rounds": 1, "server_epochs": 1}
    more: dict[str, Any] = {"learning": True, "auxiliary": {"kind": "linear"}, "data": {"name": "digits"}}
    assert study(**more, scheduler=plain).warnings() == []
    (text,) = study(**more, scheduler=plain | {"stop_server": 2}).warnings()
    assert text.startswith("ampere decides by held-out results: 1")
    assert "training samples, drawn by the seed, are kept for that, and devices have the others" in text


def test_a_selection_that_changes_nothing_is_said() -> None:
    """FedOptima takes all devices; systems with rounds, and those that train some at a time, go by the selection."""
    few: dict[str, Any] = {"selection": {"kind": "uniform", "count": 3}, "auxiliary": {"kind": "linear"}}
    (text,) = study(**few, scheduler="fedoptima").warnings()
    assert text == "selection: uniform changes nothing under fedoptima, in which all devices train all the time"
    assert study(**few, scheduler="fedasync").warnings() == []
    assert study(scheduler="fedoptima", auxiliary={"kind": "linear"}).warnings() == []


def test_selection_says_how_many_devices_an_asynchronous_system_trains_at_once() -> None:
    """Unless `concurrency` does."""
    for scheduler, sitting_out in (
        ({"name": "fedasync"}, 9),
        ({"name": "fedasync", "concurrency": 5}, 7),
        ({"name": "oafl"}, 9),
    ):
        few: dict[str, Any] = {"selection": {"kind": "uniform", "count": 3}, "until": {"rounds": 1}}
        run = fedsim.run("twelve-boards", learning=False, scheduler=scheduler, **few)
        at_start = [mark for mark in run.trace.marks if mark[1:3] == (0, "benched")]
        assert len(at_start) == sitting_out


def test_a_pool_that_would_have_nothing_to_do() -> None:
    """Without learning, and where nodes are processes anyway."""
    pool: dict[str, Any] = {"workers": {"kind": "ray", "count": 2}, "scheduler": "fedavg"}
    assert study(**pool).warnings() == ["workers.kind: ray changes nothing, since nothing is learnt"]
    (text,) = study(**pool, learning=True, mode="emulate").warnings()
    assert text.endswith("since in an emulation every node is a process")
    assert study(**pool, learning=True).warnings() == []


def test_more_samples_than_there_are() -> None:
    """Without learning only their number matters, so it may be any; it is said. With learning it is refused."""
    large: dict[str, Any] = {"data": {"name": "digits", "samples": 50_000}, "scheduler": "fedavg"}
    made = study(**large)
    assert made.assembly.samples.sum() == 50_000
    (text,) = made.warnings()
    assert text.startswith("data.samples 50,000 is more than the 1,437 that digits has; times and bytes are those")
    assert study(data={"name": "digits", "samples": 1437}, scheduler="fedavg").warnings() == []
    with pytest.raises(UserError, match="samples: 50000, but the training set of digits has 1,437"):
        study(**large, learning=True)
    with pytest.raises(UserError, match="samples: 50000, but partition dirichlet looks at those that there are"):
        study(data={"name": "digits", "samples": 50_000, "partition": {"kind": "dirichlet", "alpha": 0.5}})
