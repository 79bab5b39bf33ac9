"""The summary: names as interface.md fixes them, figures worked out by hand."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from fedsim.report.idle import CAUSES
from fedsim.report.measures import measure
from fedsim.report.summary import summarise
from fedsim.script import SERVER
from tests.report.hand_made_traces import SCENARIO, Tape, fedavg

NS = 1e-9


def summary_of(tape: Tape) -> dict[str, Any]:
    """The summary of a finished run."""
    return summarise(tape.trace, status="done", wall_seconds=1.5)


def test_the_keys_are_those_of_the_interface() -> None:
    """Every level, in their order; `pruning` and `fidelity` only where they apply."""
    found = summary_of(fedavg())
    purposes = ["activations", "gradients", "weights", "labels", "control"]
    assert {key: list(value) if isinstance(value, dict) else None for key, value in found.items()} == {
        **dict.fromkeys(["schema", "name", "scheduler", "mode", "seed", "status", "seconds", "wall_seconds"]),
        "accuracy": ["final", "best", "time_to"],
        "server": ["idle", "idle_by_cause", "busy", "idle_whole_run", "peak_memory_bytes", "joules"],
        "devices": [
            *("count", "idle", "idle_by_cause", "busy", "idle_min", "idle_max", "idle_whole_run"),
            *("macs", "macs_forward", "macs_backward", "macs_head", "macs_wasted", "peak_memory_bytes", "joules"),
        ],
        "bytes": ["up", "down", "total", "payload", "envelope", "wasted"],
        "throughput": ["device_samples_per_s", "server_samples_per_s", "end_to_end_samples_per_s"],
        "metric": ["name", "final", "best"],
        "deployment": ["bytes", "seconds", "macs"],
        "contributions": [
            *("min", "max", "jain", "kind"),
            *("trained", "offered", "sent", "skipped", "rejected", "consumed", "delivered"),
            *("dropped_samples", "coverage"),
        ],
        "energy_label": None,
        "identity": ["time_error_s", "bytes_in_flight", "bytes_wasted"],
    }
    assert list(found["bytes"]["up"]) == list(found["bytes"]["down"]) == purposes
    assert tuple(found["server"]["idle_by_cause"]) == tuple(found["devices"]["idle_by_cause"]) == CAUSES
    trace = fedavg().trace
    trace.mark(SERVER, 0, "pruning", 1, {"method": "crop"})
    more = summarise(trace, status="done", wall_seconds=1, fidelity={"lag_s": 0.0})
    assert more["pruning"]["variants"][0]["method"] == "crop"
    assert list(more)[-2:] == ["pruning", "fidelity"]
    json.dumps(found, allow_nan=False)


def test_the_figures_of_a_round_of_fedavg() -> None:
    """Fractions, bytes, MACs, joules, throughput and quality of the trace drawn in `fedavg`."""
    found = summary_of(fedavg())
    assert (found["name"], found["scheduler"], found["mode"], found["seed"]) == ("by-hand", "fedavg", "simulate", 7)
    assert (found["status"], found["wall_seconds"]) == ("done", 1.5)
    assert found["seconds"] == 80e-9
    server, devices = found["server"], found["devices"]
    assert (server["idle"], server["busy"]) == (0.875, 0.125)
    assert {k: v for k, v in server["idle_by_cause"].items() if v} == {"dependency": 0.5, "straggler": 0.375}
    assert (devices["count"], devices["idle"], devices["busy"], devices["macs"]) == (2, 0.75, 0.25, 60)
    assert {k: v for k, v in devices["idle_by_cause"].items() if v} == {"straggler": 0.1875, "model": 0.5625}
    assert server["joules"] == pytest.approx(100 * 80 * NS + 200 * 10 * NS)
    assert devices["joules"] == pytest.approx(2 * 2 * 80 * NS + 4 * 40 * NS)
    assert server["peak_memory_bytes"] is devices["peak_memory_bytes"] is None, "not measured is not 0"
    assert found["bytes"]["up"]["weights"] == found["bytes"]["down"]["weights"] == 200
    assert (found["bytes"]["total"], found["bytes"]["payload"], found["bytes"]["envelope"]) == (416, 400, 16)
    assert (devices["idle_min"], devices["idle_max"], devices["idle_whole_run"]) == (0.625, 0.875, 0.75)
    assert (devices["macs_forward"], devices["macs_backward"], devices["macs_wasted"]) == (20, 40, 0)
    assert devices["macs_head"] is None, "no device has a head"
    rates = found["throughput"]
    assert rates["device_samples_per_s"] == rates["end_to_end_samples_per_s"] == pytest.approx(16 / (80 * NS))
    assert rates["server_samples_per_s"] is None, "there is no server block"
    assert found["accuracy"] == {"final": 0.6, "best": 0.6, "time_to": {"0.5": 70e-9}}
    assert found["metric"] == {"name": "accuracy", "final": 0.6, "best": 0.6}
    assert found["contributions"] == {
        **{"min": 1, "max": 1, "jain": 1.0, "kind": "delivered", "trained": 2, "delivered": 2},
        **dict.fromkeys(["offered", "sent", "skipped", "rejected", "consumed", "dropped_samples", "coverage"]),
    }
    assert found["identity"] == {"time_error_s": 0, "bytes_in_flight": 0, "bytes_wasted": 0}
    assert found["deployment"] == {"bytes": None, "seconds": None, "macs": None}


def test_idle_lanes_of_a_busy_server_are_idle_time() -> None:
    """With G lanes idle is 1 - Σbusy/(G·T), and the causes still sum to it."""
    tape = Tape(1, 80, lanes=2)
    tape.span(SERVER, 0, 40, samples=4)
    tape.span(SERVER, 0, 20, lane=1)
    tape.wait(SERVER, 40, 80, "activations")
    found = summary_of(tape)["server"]
    assert (found["busy"], found["idle"]) == (0.375, 0.625)
    assert found["idle_by_cause"]["dependency"] == pytest.approx(0.625)
    assert sum(found["idle_by_cause"].values()) == pytest.approx(found["idle"])


def test_idle_is_of_the_active_time_and_stands_beside_that_of_the_whole_run() -> None:
    """Device 0 ends at 50 after computing 40, device 1 computes 20 of 100, device 2 joins at 60 and always computes.

    Of their own horizons they idle 1/5, 4/5 and 0, of the run 3/5, 4/5 and 3/5. Device 3 never took part.
    """
    tape = Tape(4, 100, lanes=2)
    tape.span(0, 0, 40)
    tape.wait(0, 40, 50, "model")
    tape.trace.mark(0, 50, "end")
    tape.span(1, 0, 20)
    tape.wait(1, 20, 100, "model")
    tape.trace.mark(2, 60, "join")
    tape.span(2, 60, 100)
    tape.trace.mark(3, 0, "leave")
    tape.span(SERVER, 0, 30)
    tape.span(SERVER, 0, 10, lane=1)
    tape.wait(SERVER, 30, 100, "contribution")
    found = summary_of(tape)
    devices = found["devices"]
    assert devices["idle"] == pytest.approx((0.2 + 0.8 + 0) / 3)
    assert (devices["idle_min"], devices["idle_max"]) == (0, pytest.approx(0.8))
    assert devices["idle_whole_run"] == pytest.approx((0.6 + 0.8 + 0.6) / 3)
    assert found["server"]["idle"] == found["server"]["idle_whole_run"] == 1 - 40 / (2 * 100)
    measures = measure(tape.trace)
    assert measures.idle.tolist() == pytest.approx([0.8, 0.2, 0.8, 0, math.nan], nan_ok=True)
    assert measures.idle_whole_run.tolist() == pytest.approx([0.8, 0.6, 0.8, 0.6, math.nan], nan_ok=True)


def test_bytes_count_at_delivery_and_lost_ones_apart() -> None:
    """What is in flight or lost is in no direction and in no total."""
    tape = Tape(1, 80)
    tape.send(0, SERVER, "activations", 0, 10, activations=8, labels=2)
    tape.send(SERVER, 0, "gradient", 10, 20, gradients=16)
    tape.send(0, SERVER, "contribution", 20, 80, weights=32, outcome="in flight")
    tape.send(0, SERVER, "contribution", 20, 40, weights=64, control=1, outcome="left")
    found = summary_of(tape)
    assert found["bytes"]["up"] == {"activations": 8, "gradients": 0, "weights": 0, "labels": 2, "control": 0}
    assert found["bytes"]["down"]["gradients"] == found["bytes"]["total"] - 10 == 16
    assert found["identity"]["bytes_in_flight"] == 32
    assert found["identity"]["bytes_wasted"] == 65
    assert found["bytes"]["wasted"] == 65
    assert (found["contributions"]["min"], found["contributions"]["jain"]) == (0, None)
    assert measure(tape.trace).traffic.lost == {"left": 65}


def test_split_systems_are_as_fast_as_their_slower_half() -> None:
    """End to end is the minimum of both rates; wasted samples are not trained."""
    tape = Tape(1, 100)
    tape.span(0, 0, 50, samples=30)
    tape.span(0, 50, 100, samples=10, wasted=True)
    tape.span(SERVER, 0, 100, samples=20)
    assert rates(tape) == pytest.approx([30, 20, 20])
    tape.span(SERVER, 0, 100, samples=15)
    assert rates(tape) == pytest.approx([30, 35, 30])


def rates(tape: Tape) -> list[float | None]:
    """Samples in 100 ns: on devices, at the server, end to end."""
    found = summary_of(tape)["throughput"]
    names = ("device_samples_per_s", "server_samples_per_s", "end_to_end_samples_per_s")
    return [None if found[name] is None else found[name] * 100 * NS for name in names]


def test_a_batch_counts_once_however_many_spans_it_takes() -> None:
    """Two micro-batches of 4: forwards train nothing, backwards their 4 samples each, the step none."""
    tape = Tape(1, 100)
    for micro in (0, 1):
        tape.span(0, 10 * micro, 10 * micro + 10, "forward")
        tape.span(0, 40 + 10 * micro, 50 + 10 * micro, "backward", samples=4)
        tape.span(SERVER, 20 + 10 * micro, 30 + 10 * micro, "gradient", samples=4)
    tape.span(0, 60, 65, "update")
    tape.span(SERVER, 40, 45, "update")
    assert rates(tape) == pytest.approx([8, 8, 8])
    assert measure(tape.trace).contributions.trained.tolist() == [2, 2]


def test_a_merged_batch_counts_with_all_its_samples() -> None:
    """The server takes one step on the batches of three devices."""
    tape = Tape(3, 100)
    for device in range(3):
        tape.span(device, 0, 10, "backward", samples=4)
    tape.span(SERVER, 20, 30, samples=12)
    assert rates(tape) == pytest.approx([12, 12, 12])


def test_a_split_system_whose_server_never_trained_is_no_full_model_system() -> None:
    """It has sent activations, or devices have trained heads: end to end nothing has come out of it."""
    head, sent, whole = Tape(1, 100), Tape(1, 100), Tape(1, 100)
    for tape in (head, sent, whole):
        tape.span(0, 0, 10, samples=8, macs=9, head_macs=3 if tape is head else 0)
    sent.send(0, SERVER, "activations", 10, 100, activations=8, outcome="in flight")
    assert rates(head) == rates(sent) == pytest.approx([8, 0, 0])
    assert rates(whole) == pytest.approx([8, None, 8])


def test_a_target_that_was_not_reached_is_null_and_not_dropped() -> None:
    """The first evaluation at or above the target counts; nothing is interpolated."""
    tape = Tape(1, 100, {**SCENARIO, "until": {"accuracy": 0.9}})
    for time, accuracy in ((10, 0.7), (20, 0.89), (30, 0.6)):
        tape.evaluate(time, accuracy, 1.0, 5)
    assert summary_of(tape)["accuracy"] == {"final": 0.6, "best": 0.89, "time_to": {"0.9": None}}
    tape.evaluate(40, 0.9, 1.0, 5)
    assert summary_of(tape)["accuracy"]["time_to"] == {"0.9": 40e-9}


def test_more_targets_may_be_asked_for() -> None:
    """Beside the one that the scenario ends at; each is there, reached or not."""
    tape = Tape(1, 100, {**SCENARIO, "until": {"accuracy": 0.5}})
    for time, accuracy in ((10, 0.4), (20, 0.75)):
        tape.evaluate(time, accuracy, 1.0, 5)
    found = summarise(tape.trace, status="done", wall_seconds=1.0, targets=[0.4, 0.8])
    assert found["accuracy"]["time_to"] == {"0.5": 20e-9, "0.4": 10e-9, "0.8": None}


def test_language_models_are_measured_by_perplexity() -> None:
    """exp of the loss, the lowest the best; a loss too large for it is not a number in JSON."""
    tape = Tape(1, 100, {**SCENARIO, "data": {"name": "x", "tokens": {"length": 8}}, "until": {"rounds": 2}})
    tape.evaluate(10, 0.1, 2.0, 5)
    tape.evaluate(20, 0.1, 3.0, 9)
    found = summary_of(tape)
    assert found["metric"] == {
        "name": "perplexity",
        "final": pytest.approx(math.exp(3)),
        "best": pytest.approx(math.exp(2)),
    }
    tape.evaluate(30, 0.1, 1e4, 9)
    assert summary_of(tape)["metric"]["final"] is None


def test_until_loss_makes_the_loss_the_metric() -> None:
    """A diverged run has a null there, and still a best."""
    tape = Tape(1, 100, {**SCENARIO, "until": {"loss": 0.1}})
    tape.evaluate(10, 0.5, 0.7, 5)
    tape.evaluate(20, 0.1, math.nan, 9)
    assert summary_of(tape)["metric"] == {"name": "loss", "final": None, "best": 0.7}


def test_deployment_comes_from_its_marks() -> None:
    """Bytes and MACs add up over nodes; seconds are those of the slowest."""
    tape = fedavg()
    for device, seconds in ((0, 2.0), (1, 3.0)):
        tape.trace.mark(device, 0, "deployment", 0, {"bytes": 10, "seconds": seconds, "macs": 4})
    assert summary_of(tape)["deployment"] == {"bytes": 20, "seconds": 3.0, "macs": 8}


def test_a_run_without_learning_and_of_no_length_has_nulls() -> None:
    """Timing-only runs have no accuracy; a run that failed at once has no rates."""
    found = summary_of(Tape(0, 0))
    assert found["accuracy"] == {"final": None, "best": None, "time_to": {"0.5": None}}
    assert found["server"]["idle"] is found["devices"]["idle"] is None
    assert found["throughput"]["device_samples_per_s"] is None
    assert {value for key, value in found["contributions"].items() if key != "kind"} == {None}
    assert (
        found["server"]["idle_whole_run"] is found["devices"]["idle_whole_run"] is found["devices"]["idle_min"] is None
    )
    json.dumps(found, allow_nan=False)


def test_time_that_an_emulation_lost_is_the_time_error() -> None:
    """Neither busy nor waiting: the worst node counts."""
    tape = Tape(1, 100)
    tape.span(0, 0, 90)
    tape.wait(SERVER, 0, 99, "contribution")
    assert summary_of(tape)["identity"]["time_error_s"] == pytest.approx(10 * NS)


def test_the_most_that_a_node_has_held_is_its_peak() -> None:
    """Of the server, and of the device that held most."""
    tape = Tape(2, 100)
    for node, held in ((SERVER, 900.0), (0, 40.0), (1, 70.0), (1, 60.0)):
        tape.trace.mark(node, 50, "memory.peak", held)
    found = summary_of(tape)
    assert (found["server"]["peak_memory_bytes"], found["devices"]["peak_memory_bytes"]) == (900, 70)


def test_wasted_work_is_spent_and_teaches_nothing() -> None:
    """MACs of every kind count, and those of wasted work stand apart as well; samples and batches do not count."""
    tape = Tape(1, 100)
    tape.span(0, 0, 50, samples=30, macs=70, forward_macs=20, head_macs=15)
    tape.span(0, 50, 100, samples=10, macs=30, forward_macs=10, head_macs=5, wasted=True)
    tape.span(SERVER, 0, 100, macs=1000, forward_macs=1000)
    found = summary_of(tape)["devices"]
    assert (found["macs"], found["macs_wasted"]) == (100, 30)
    assert (found["macs_forward"], found["macs_backward"], found["macs_head"]) == (30, 50, 20)
    measures = measure(tape.trace)
    assert (measures.samples.tolist(), measures.contributions.trained.tolist()) == ([0, 30], [0, 1])


def test_where_several_goals_are_given_accuracy_is_the_metric() -> None:
    """A loss beside it is only another way to end."""
    tape = Tape(1, 100, {**SCENARIO, "until": {"loss": 0.1, "accuracy": 0.9}})
    tape.evaluate(10, 0.5, 0.7, 5)
    assert summary_of(tape)["metric"] == {"name": "accuracy", "final": 0.5, "best": 0.5}


def test_a_device_that_never_took_part_is_in_no_mean() -> None:
    """It has no horizon, so no fraction of it; it is counted as a device all the same."""
    tape = Tape(2, 100)
    tape.span(0, 0, 25)
    tape.wait(0, 25, 100, "sleep")
    tape.trace.mark(1, 0, "leave")
    found = summary_of(tape)["devices"]
    assert (found["count"], found["busy"], found["idle"]) == (2, 0.25, 0.75)
    assert found["idle_by_cause"]["sleep"] == 0.75


def test_a_frozen_device_block_has_no_rate() -> None:
    """Devices that only infer train nothing, and the server's rate is that of the whole; with a step it is not."""
    tape = Tape(1, 100)
    tape.span(0, 0, 40, "infer")
    tape.send(0, SERVER, "activations", 40, 50, activations=10)
    tape.span(SERVER, 50, 90, "step", samples=16)
    rates = summarise(tape.trace, status="done", wall_seconds=1.0)["throughput"]
    assert rates == {
        "device_samples_per_s": None,
        "server_samples_per_s": pytest.approx(16 / 100e-9),
        "end_to_end_samples_per_s": pytest.approx(16 / 100e-9),
    }
    tape.span(0, 60, 80, "step", samples=8)
    rates = summarise(tape.trace, status="done", wall_seconds=1.0)["throughput"]
    assert rates["end_to_end_samples_per_s"] == rates["device_samples_per_s"] == pytest.approx(8 / 100e-9)
