"""The procedure: refused on a busy machine, threads as asked for, each network left out once, and what it warns of."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

from fedsim.calibration import running, surroundings
from fedsim.calibration.fitting import predicted
from fedsim.calibration.networks import Network, chosen
from fedsim.calibration.observations import Observation, Part
from fedsim.calibration.rates import Rates
from fedsim.calibration.running import Plan, calibrate, fit
from fedsim.calibration.surroundings import Watch
from fedsim.calibration.targets import Target
from fedsim.calibration.timing import Clock, Patience
from fedsim.errors import RunError, UserError
from tests.calibration.machines import MIXES, RATES, evidence, observed, outcome, true
from tests.calibration.test_rates import Ticks


class Stage:
    """Stands in for the measuring: what was asked for, and which load is seen before and meanwhile."""

    def __init__(self, *loads: float) -> None:
        self.loads = iter(loads)
        self.threads: list[int] = []
        self.asked: list[tuple[str, Sequence[int]]] = []

    @contextmanager
    def watched(self) -> Iterator[Watch]:
        """The next load."""
        watch = Watch()
        yield watch
        watch.share = next(self.loads)

    def rates(self, _target: Target, _patience: Patience, _clock: Clock) -> Rates:
        """Those of the made-up machine."""
        self.threads.append(torch.get_num_threads())
        return RATES

    def observations(
        self, network: Network, batches: Sequence[int], _target: Target, _patience: Patience, _clock: Clock
    ) -> list[Observation]:
        """Those of a made-up network, under the name of a real one."""
        self.asked.append((network.name, batches))
        mix = list(MIXES)[len(self.asked) - 1]
        return [dataclasses.replace(one, network=network.name) for one in observed(true(), (mix,))]


def staged(monkeypatch: pytest.MonkeyPatch, *loads: float) -> Stage:
    """The stage, in place."""
    stage = Stage(*loads)
    monkeypatch.setattr(running, "watched", stage.watched)
    monkeypatch.setattr(running, "measure_rates", stage.rates)
    monkeypatch.setattr(running, "observations", stage.observations)
    monkeypatch.setattr(running, "warm_up", lambda _target, _clock: None)
    monkeypatch.setattr(surroundings, "WINDOW", 0.0)
    return stage


def plan(**changes: Any) -> Plan:
    """Three networks on one thread."""
    return dataclasses.replace(Plan(chosen(["mlp", "vgg5", "transformer"]), threads=1), **changes)


def test_everything_is_measured_and_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each network at the plan's batch sizes; the larger of both loads is kept; whoever listens hears of each."""
    stage = staged(monkeypatch, 0.04, 0.06)
    heard: list[tuple[str, float]] = []
    found = calibrate(plan(batches=(8,)), lambda what, share: heard.append((what, share)), Ticks())
    assert stage.asked == [("mlp", (8,)), ("vgg5", (8,)), ("transformer", (8,))]
    assert found.evidence.networks == ["mlp", "vgg5", "transformer"]
    assert (found.evidence.load, found.evidence.rates) == (0.06, RATES)
    assert found.evidence.memory > 0
    assert heard == [
        ("looking at the load", 0.0),
        ("plain rates", 0.0),
        ("mlp", 0.0),
        ("vgg5", pytest.approx(1 / 3)),
        ("transformer", pytest.approx(2 / 3)),
    ]


def test_threads_are_as_asked_for_and_afterwards_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of an operator, while it is measured."""
    before = torch.get_num_threads()
    stage = staged(monkeypatch, 0.0, 0.0)
    calibrate(plan(threads=2), clock=Ticks())
    assert stage.threads == [2]
    assert torch.get_num_threads() == before


def test_a_busy_machine_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing was asked for; with leave to, everything is, and the load is in the evidence."""
    stage = staged(monkeypatch, 0.5)
    with pytest.raises(UserError, match=r"other processes take 50% .* with --allow-load"):
        calibrate(plan(), clock=Ticks())
    assert stage.asked == []
    staged(monkeypatch, 0.5, 0.3)
    found = calibrate(plan(allow_load=True), clock=Ticks())
    assert found.evidence.load == 0.5
    assert "other processes took 50% of the machine while it was measured" in list(found.remarks())


def test_a_machine_that_is_too_slow_has_no_fit() -> None:
    """Two networks of four could be timed: neither can be left out."""
    few = evidence(observed(true(), ("dense", "plain")))
    message = r"only 2 of 4 networks could be timed in 12 s each, and a fit needs 3; .* cost model table or scalar"
    with pytest.raises(RunError, match=message):
        fit(few)


def test_each_network_is_priced_without_its_own_help() -> None:
    """One takes twice as long as its operators say: the fit without it cannot know, and it is half too low."""
    strange = [dataclasses.replace(o, seconds=o.seconds * (1 + (o.network == "plain"))) for o in observed(true())]
    found = outcome(strange)
    others = [o for o in strange if o.network != "plain"]
    again = fit(evidence(others)).processor
    mine = np.array([o.network == "plain" for o in strange])
    assert found.accuracy(left_out=True, network="plain").mape == pytest.approx(0.5, abs=0.05)
    assert predicted(again, [o for o in strange if o.network == "plain"]) == pytest.approx(
        found.left_out[mine], rel=1e-12
    )


def test_accuracy_of_some_observations() -> None:
    """By value, or by several; the typical ones are left out, at batch 8 and 32."""
    at_32 = [dataclasses.replace(o, seconds=o.seconds * (1 + (o.batch == 32))) for o in observed(true())]
    found = outcome(at_32)
    by_hand = np.array([o.batch in (8, 32) for o in at_32])
    measured = np.array([o.seconds for o in at_32])
    errors = np.abs(found.left_out / measured - 1)
    assert found.typical.mape == pytest.approx(errors[by_hand].mean())
    assert found.accuracy(left_out=True).mape == pytest.approx(errors.mean())
    assert found.accuracy(batch=32).mape > found.accuracy(batch=1).mape
    assert found.accuracy(batch=(1, 8, 32), part=list(Part)).mape == found.accuracy().mape


def test_a_good_fit_has_nothing_to_remark() -> None:
    """Small errors, no scatter, no load."""
    assert list(outcome().remarks()) == []


def test_what_a_calibration_warns_of() -> None:
    """More than 10 % off in the fit, 25 % left out, 10 % scatter, 10 % load: a sentence each, with the figure."""
    rough = [
        dataclasses.replace(o, seconds=o.seconds * (1 + 0.9 * (index % 2) + (o.network == "plain")), scatter=0.2)
        for index, o in enumerate(observed(true()))
    ]
    first, second, third, fourth = outcome(rough, load=0.4).remarks()
    assert first.startswith("prices of the measured networks are off by ")
    assert "more than 10%" in first
    assert second.startswith("networks that were left out of the fit are off by ")
    assert "more than 25%" in second
    assert third.startswith("repeats scatter by 20%, more than 10%; measure again on a machine that has nothing else")
    assert fourth == "other processes took 40% of the machine while it was measured"
