"""Keys of a scenario that all training systems share, with the options of this installation."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import pytest
import yaml

from fedsim.errors import UserError
from fedsim.experiment.loading import load_scenario
from fedsim.experiment.running import run
from fedsim.learning.optimizers import AdamW, Schedule, Sgd
from fedsim.scenario import dump, resolved
from fedsim.script import SERVER
from fedsim.trace import Span
from tests.experiment.toys import TOY

SGD = {"name": "sgd", "lr": 0.05}


def optimized(optimizer: Any) -> dict[str, Any]:
    """A scenario with this optimizer, as it is written out."""
    scenario = load_scenario(TOY, updates={"training": {"optimizer": optimizer}})
    again = load_scenario(yaml.safe_load(dump(scenario)))
    assert again == scenario
    assert again.training.optimizer.options == scenario.training.optimizer.options
    found: dict[str, Any] = resolved(scenario)["training"]["optimizer"]
    return found


def test_a_schedule_and_clipping_are_written_out_and_read_back() -> None:
    """With every default; neither is there unless it is asked for."""
    plain = {"name": "sgd", "lr": 0.05, "momentum": 0.0, "weight_decay": 0.0, "clip": None, "schedule": None}
    assert optimized("sgd") == plain
    schedule = {"kind": "exponential", "factor": 0.993, "floor": 0.005}
    assert optimized({**SGD, "clip": 2, "schedule": schedule}) == plain | {
        "clip": 2.0,
        "schedule": {**schedule, "every": None, "rounds": None, "warmup": 0},
    }
    warm = optimized({"name": "adamw", "schedule": {"warmup": 5}})
    assert (warm["clip"], warm["schedule"]["kind"], warm["schedule"]["warmup"]) == (None, "constant", 5)


def test_an_optimizer_may_be_an_object() -> None:
    """From Python, with its schedule."""
    for optimizer in (Sgd(lr=0.1, schedule=Schedule(kind="cosine", rounds=9)), AdamW(clip=1.0)):
        scenario = load_scenario(TOY, updates={"training": {"optimizer": optimizer}})
        assert scenario.training.optimizer.options == optimizer


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("clip", -1, ".optimizer: clip -1.0 must be greater than 0, such as 1.0; leave it out for none"),
        ("clip", True, ".optimizer.clip: true does not fit; give a number"),
        ("schedule", "cosine", ".optimizer.schedule: 'cosine' does not fit; give a mapping of keys, such as {key:"),
        ("schedule", {"kind": "cosin", "rounds": 3}, ".schedule.kind: 'cosin' does not fit; give constant, step, expo"),
        ("schedule", {"kind": "cosine"}, ".schedule: kind cosine needs rounds; add it, as in 'rounds: 100'"),
        ("schedule", {"kind": "cosine", "rounds": 2.5}, ".schedule.rounds: 2.5 does not fit; give a whole number"),
        ("schedule", {"kind": "cosine", "rounds": 3, "flor": 0.1}, ".schedule.flor: unknown key; did you mean floor?"),
        ("schedule", {"kind": "exponential", "factor": 2}, ".schedule: factor 2.0 must be above 0 and at most 1, such"),
        (
            "schedule",
            {"kind": "cosine", "rounds": 3, "floor": 1},
            "training.optimizer: schedule.floor 1.0 must be at most lr 0.05",
        ),
    ],
)
def test_what_is_wrong_with_an_optimizer_is_said_where_it_is(key: str, value: Any, message: str) -> None:
    """At its key, with the way out."""
    with pytest.raises(UserError, match=re.escape(message)):
        load_scenario(TOY, updates={"training": {"optimizer": {**SGD, key: value}}})


# ------------------------------------------------------------------------------------------- last batches


@pytest.mark.parametrize(
    ("batch", "drop", "scheduler", "sizes"),
    [
        (16, False, {"name": "fedavg", "local_epochs": 2}, {16: 24, 2: 2, 3: 4}),
        (16, True, {"name": "fedavg", "local_epochs": 2}, {16: 24}),
        (16, True, {"name": "fedavg", "local_steps": 6}, {16: 18}),
        (16, True, {"name": "splitfed", "local_epochs": 2}, {16: 24}),
        (33, True, {"name": "fedavg", "local_epochs": 2}, {33: 12}),
        (66, True, {"name": "fedavg", "local_epochs": 2}, {66: 6}),
        (67, True, {"name": "fedavg", "local_epochs": 2}, {66: 2, 67: 4}),
        (99, True, {"name": "fedavg", "local_epochs": 2}, {66: 2, 67: 4}),
    ],
    ids=str,
)
def test_a_last_batch_that_is_not_full_may_be_left_out(
    batch: int, drop: bool, scheduler: dict[str, Any], sizes: dict[int, int]
) -> None:
    """In passes and in steps that go on over them, by any system; unless it is the only batch of a pass."""
    training = {"batch": batch, "drop_last": drop}
    done = run(TOY, learning=False, scheduler=scheduler, training=training, until={"rounds": 1})
    assert [node.samples for node in done.trace.nodes[1:]] == [67, 67, 66]
    spans = [Span(*span) for span in done.trace.spans]
    trained = Counter(span.samples for span in spans if span.node != SERVER and span.samples)
    assert trained == sizes


def test_by_default_every_batch_is_trained() -> None:
    """And it is a switch."""
    assert resolved(load_scenario(TOY))["training"]["drop_last"] == "off"
    with pytest.raises(UserError, match=r"training\.drop_last: 3 does not fit; give on or off"):
        load_scenario(TOY, overrides=["training.drop_last=3"])
