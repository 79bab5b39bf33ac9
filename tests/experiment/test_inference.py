"""Deployments for inference: what they need, take and refuse, from a scenario to its figures."""

from __future__ import annotations

from typing import Any

import pytest

from fedsim import run
from fedsim.errors import UserError
from fedsim.experiment.building import build
from fedsim.experiment.checking import check
from fedsim.experiment.loading import load_scenario
from fedsim.hardware.pricing import seconds
from fedsim.learning.plan import MODEL

TEXT: dict[str, Any] = {
    "name": "answers",
    "seed": 3,
    "learning": False,
    "model": {"name": "transformer", "blocks": 2, "width": 64},
    "data": {"name": "wikitext2", "tokens": {"length": 48, "tokenizer": "bytes"}},
    "fleet": [
        {"profile": "raspberry-pi-4b", "count": 2, "link": "wifi5"},
        {"profile": "raspberry-pi-zero-2w", "link": "wifi4"},
    ],
    "server": {"profile": "rtx-a6000", "link": "ethernet-1g"},
    "scheduler": {"name": "inference", "generate": 12},
    "until": {"rounds": 4},
}


def study(**updates: Any) -> Any:
    """The parts of the scenario with some keys changed."""
    return build(load_scenario(TEXT | updates))


def test_latency_is_the_sum_of_prices() -> None:
    """Of a prompt and of eleven tokens, on a machine that is like its profile; a token reads what was before."""
    made = study(fleet=[{"profile": "pi-tier-1"}])
    plan, machine = made.assembly.blocks()[MODEL], made.assembly.fleet.machine(0)
    parts = plan.answer_parts(1, 12)
    assert [part.kind for part in parts] == ["prefill"] + ["decode"] * 11
    assert plan.decoding.length == 36
    prices = [seconds(machine, part.cost) for part in parts]
    (row,) = run(TEXT, fleet=[{"profile": "pi-tier-1"}]).summary["inference"]
    assert row["latency_s"]["p50"] == pytest.approx(sum(prices), abs=1e-7)
    assert row["first_token_s"]["p50"] == pytest.approx(prices[0], abs=1e-7)
    assert row["tokens_per_s"] == pytest.approx(11 / sum(prices[1:]), rel=1e-4)
    assert prices[1] < prices[-1]


def test_a_prompt_computes_and_a_token_reads() -> None:
    """On a roofline a prompt of 36 tokens takes far less than 36 tokens one after the other."""
    boards, _ = run(TEXT).summary["inference"]
    assert boards["first_token_s"]["p50"] < 36 / boards["tokens_per_s"] / 3


def test_memory_is_weights_a_prompt_and_what_is_kept() -> None:
    """No gradients, no optimizer; `fedsim check` says what a run then holds."""
    made = study()
    plan = made.assembly.blocks()[MODEL]
    boards, _, server = made.needs()
    kept = 2 * 2 * 64 * 48 * 4
    assert boards.model == plan.state_bytes
    assert boards.step >= 2 * 2 * 64 * 47 * 4
    assert boards.step < kept + 2 * 48 * 64 * 4 + 256 * 8
    assert server.model == plan.state_bytes
    summary = run(TEXT).summary
    assert boards.total <= summary["inference"][0]["peak_memory_bytes"] <= boards.total + plan.weights.nbytes + 64


@pytest.mark.slow
def test_what_does_not_fit_is_refused_or_left_out() -> None:
    """50 MB beside a process of 250 MB, where 283 MB may be used: the run is refused, or goes on without that board."""
    large = {"name": "transformer", "blocks": 4, "width": 512, "heads": 8}
    with pytest.raises(UserError, match=r"raspberry-pi-zero-2w needs at least .*, but may use 283 MB"):
        run(TEXT, model=large)
    boards, zero = run(TEXT, model=large, on_oom="leave").summary["inference"]
    assert (boards["requests"], boards["out_of_memory"]) == (8, 0)
    assert (zero["requests"], zero["out_of_memory"]) == (0, 1)


def test_requests_that_come_faster_than_answers_wait() -> None:
    """A queue grows: the last of four waits longer than the first takes."""
    alone, _ = run(TEXT).summary["inference"]
    usual = alone["latency_s"]["p50"]

    def every(seconds: float) -> dict[str, Any]:
        scheduler = {"name": "inference", "generate": 12, "every": f"{seconds} s"}
        found: dict[str, Any] = run(TEXT, scheduler=scheduler).summary["inference"][0]
        return found

    hurried, easy = every(usual / 2), every(3 * usual)
    assert hurried["latency_s"]["p95"] > 1.8 * usual
    assert easy["latency_s"]["p50"] == pytest.approx(usual, rel=0.1)
    assert easy["joules_per_request"] > alone["joules_per_request"], "idle in between"


def test_check_shows_phases() -> None:
    """Seconds of a prompt and of the tokens after it, of one sample."""
    findings = check(load_scenario(TEXT))
    step = findings.groups[0].step
    assert [name for name, _ in step.phases] == ["prefill", "decode"]
    assert step.batch == 1


def test_pictures_are_answered_by_one_forward() -> None:
    """In requests of several, with learning on: the published model is the initial one, and is evaluated."""
    done = run("quickstart", scheduler={"name": "inference", "size": 4}, until={"rounds": 3})
    assert [row["requests"] for row in done.summary["inference"]] == [9, 9, 6]
    assert all(row["first_token_s"] is None for row in done.summary["inference"])
    assert len(done.curves) == 1
    assert done.summary["bytes"]["up"]["weights"] == 0


@pytest.mark.parametrize(
    ("updates", "message"),
    [
        ({"scheduler": {"name": "inference", "generate": 48}}, "generate 48 leaves no prompt of samples of 48 tokens"),
        (
            {"model": "mlp", "data": "digits", "scheduler": {"name": "inference", "generate": 2}},
            "generate 2 is for language models; leave it out",
        ),
    ],
)
def test_what_cannot_be_generated_is_refused(updates: dict[str, Any], message: str) -> None:
    """Before the run, with the rule."""
    with pytest.raises(UserError, match=message):
        study(**updates)
