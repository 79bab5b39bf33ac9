"""Predictions before a run: memory, times and the choice of a cut, worked out by hand or held against a run."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from fedsim.errors import UserError
from fedsim.experiment.assembly import Assembly
from fedsim.experiment.building import Study, build
from fedsim.experiment.checking import check
from fedsim.experiment.fleet import Fleet, Group
from fedsim.experiment.forecast import Candidate, Need, Objective, best, candidates, device_step, shortage, steps_of
from fedsim.experiment.loading import load_scenario
from fedsim.experiment.running import run
from fedsim.hardware.links import Link
from fedsim.hardware.machines import Machine, machine
from fedsim.hardware.pricing import seconds
from fedsim.hardware.profiles import load_profile
from fedsim.learning.plan import DEVICE, MODEL, SERVER_BLOCK
from tests.experiment.toys import TOY

LINK = {"up": "8 MB/s", "down": "4 MB/s", "rate": "goodput", "latency": "1 ms"}
SERVER_LINK = {"up": "1 GB/s", "down": "1 GB/s", "rate": "goodput"}
ALONE: dict[str, Any] = {
    "model": {"name": "mlp", "hidden": [12, 8], "cut": 1},
    "fleet": [{"profile": "pi-tier-1", "link": LINK}],
    "server": {"profile": "cpu-60g", "link": SERVER_LINK},
    "learning": False,
    "until": {"rounds": 1},
}


def study(**updates: Any) -> Study:
    """One device, and a server that nobody else uses."""
    return build(load_scenario(TOY, updates=ALONE | updates))


@pytest.mark.parametrize("scheduler", ["fedavg", "splitfed"])
def test_the_least_memory_is_what_a_run_then_holds(scheduler: str) -> None:
    """At least: a run adds the messages that wait, and never needs less."""
    made = study(scheduler={"name": scheduler, "local_steps": 2})
    device, server = made.needs()
    summary = run(TOY, **ALONE, scheduler={"name": scheduler, "local_steps": 2}).summary
    message = 64 + max(plan.weights.nbytes for plan in made.assembly.blocks().values())
    assert device.total <= summary["devices"]["peak_memory_bytes"] <= device.total + 2 * message
    assert server.total <= summary["server"]["peak_memory_bytes"] <= server.total + 4 * message


def test_memory_is_process_model_and_step() -> None:
    """Weights, a gradient and an optimizer slot each; the batch, its labels and what the backward needs."""
    optimizer = {"name": "sgd", "momentum": 0.9}
    made = study(scheduler="fedavg", training={"batch": 8, "optimizer": optimizer})
    plan = made.assembly.blocks()[MODEL]
    device, server = made.needs()
    assert device.process == 250e6
    assert device.model == 3 * plan.weights.nbytes
    assert device.step == plan.train_part(8).memory
    assert (server.model, server.step) == (plan.weights.nbytes, 0), "it holds the global model, and trains nothing"


def test_a_split_server_holds_a_copy_a_device() -> None:
    """The global model, and for each participant a block with its gradients."""
    fleet = [{"profile": "pi-tier-1", "link": LINK, "count": 3}]
    made = study(scheduler="splitfed", fleet=fleet)
    device, server = (made.assembly.blocks()[name] for name in (DEVICE, SERVER_BLOCK))
    assert made.needs()[-1].model == device.weights.nbytes + (1 + 3 * 2) * server.weights.nbytes


@pytest.mark.parametrize(
    ("scheduler", "selection", "copies"),
    [
        ({"name": "oafl"}, {}, 6),
        ({"name": "oafl", "concurrency": 1}, {}, 1),
        ({"name": "oafl"}, {"kind": "over", "count": 2, "over": 3}, 2),
        ({"name": "oafl", "server_block": "shared"}, {}, 1),
        ({"name": "splitfed"}, {"kind": "over", "count": 2, "over": 3}, 5),
        ({"name": "splitfed", "version": 2}, {}, 1),
    ],
)
def test_a_server_holds_as_many_copies_as_train_at_once(
    scheduler: dict[str, Any], selection: dict[str, Any], copies: int
) -> None:
    """Of those asked in a round, or of an asynchronous system's places; one where it is shared."""
    fleet = [{"profile": "pi-tier-1", "count": 6, "link": LINK}]
    more = {"selection": selection} if selection else {}
    made = study(scheduler=scheduler, fleet=fleet, training={"batch": 8, "optimizer": {"name": "sgd"}}, **more)
    device, server = (made.assembly.blocks()[name] for name in (DEVICE, SERVER_BLOCK))
    held = made.needs()[-1].model - device.weights.nbytes - server.weights.nbytes
    assert held == copies * 2 * server.weights.nbytes


def test_a_step_without_contention_takes_what_a_run_takes() -> None:
    """Forward, up, server, down, backward: two batches of one device are two steps and the weights each way."""
    made = study(scheduler={"name": "splitfed", "local_steps": 2})
    fleet, blocks = made.assembly.fleet, made.assembly.blocks()
    step = device_step(fleet.groups[0], fleet.server, fleet.server_link, blocks, 16, 0.97)
    assert [name for name, _ in step.phases] == ["forward", "up", "server", "down", "backward"]
    done = run(TOY, **ALONE, scheduler={"name": "splitfed", "local_steps": 2})
    averaging = sum(seconds(fleet.server, plan.average_part(1).cost) for plan in blocks.values())
    envelopes = (2 + 1) * 64 / 8e6 + (2 + 1) * 64 / 4e6
    assert done.summary["seconds"] == pytest.approx(2 * step.seconds + step.model + averaging + envelopes, rel=1e-6)


ACTIVATIONS, GRADIENT, LABEL, BLOCK = 12 * 4, 12 * 4, 8, 4 * (64 * 12 + 12)
"""Bytes a sample at the first cut of `ALONE`, and of its device block."""


def goodput(up: float, down: float, latency: float = 0.0) -> Link:
    """A link of so many B/s."""
    rates = {"up": f"{up!r} B/s", "down": f"{down!r} B/s", "rate": "goodput", "latency": f"{latency!r} s"}
    return Link.model_validate(rates)


def machine_of(speed: float, **more: Any) -> Machine:
    """A machine of so many MAC/s, backward twice that, with 250 MB for its process."""
    return machine(load_profile("pi-tier-1").model_copy(update={"speed": speed, **more}))


@cache
def split() -> Assembly:
    """What `splitfed` makes of `ALONE`."""
    return study(scheduler="splitfed").assembly


def first(
    groups: list[Group], server: Machine, link: Link, *, steps: int | None = None, efficiency: float = 1
) -> Candidate:
    """The first cut, for devices that hold 20, 33 and 50 samples."""
    made, samples = split(), np.array([20, 33, 50])
    fleet = Fleet(tuple(groups), server, link)
    return candidates(fleet, made.model, made.training, samples, steps, efficiency)[0]


FAST, NEAR = machine_of(1e15), goodput(1e12, 1e12)


def test_a_cut_takes_as_long_as_the_slowest_device() -> None:
    """Its batches one after the other, and the weights both ways; whichever group it is in."""
    slow, quick = Group(machine_of(1e6), goodput(2000, 1000, 0.25), 1), Group(FAST, NEAR, 2)
    device = 16 * 64 * 12 * 3 / 1e6  # forward, and twice that backward
    batch = device + 0.25 + 16 * (ACTIVATIONS + LABEL) / 2000 + 0.25 + 16 * GRADIENT / 1000
    model = 0.5 + BLOCK / 2000 + BLOCK / 1000
    assert first([slow, quick], FAST, NEAR).seconds == pytest.approx(2 * batch + model)
    assert first([slow, quick], FAST, NEAR, steps=7).seconds == pytest.approx(7 * batch + model)
    several = first([replace(quick, count=1), replace(slow, count=2)], FAST, NEAR)
    assert several.seconds == pytest.approx(4 * batch + model), "50 samples are four batches"


def test_the_servers_link_may_be_what_limits_a_device() -> None:
    """What it receives at, on the way up; what it sends at, on the way down; of line rates what messages get."""
    made = split()
    group, server = Group(FAST, goodput(1e12, 1e12), 1), goodput(1000, 4000)
    phases = dict(device_step(group, FAST, server, made.blocks(), 16, 0.5).phases)
    assert phases["up"] == pytest.approx(16 * (ACTIVATIONS + LABEL) / 4000)
    assert phases["down"] == pytest.approx(16 * GRADIENT / 1000)
    lines = Link.model_validate({"up": "4 kB/s", "down": "1 kB/s"})
    for one, other in ((lines, NEAR), (NEAR, Link.model_validate({"up": "1 kB/s", "down": "4 kB/s"}))):
        phases = dict(device_step(Group(FAST, one, 1), FAST, other, made.blocks(), 16, 0.5).phases)
        assert phases["up"] == pytest.approx(16 * (ACTIVATIONS + LABEL) / 2000)
        assert phases["down"] == pytest.approx(16 * GRADIENT / 500)


@pytest.mark.parametrize("lanes", [1, 2])
def test_a_cut_takes_as_long_as_the_server_computes(lanes: int) -> None:
    """For 2, 3 and 4 batches, on as many lanes as it has."""
    groups = [Group(FAST, NEAR, 1), Group(FAST, NEAR, 2)]
    server = machine_of(1e3, lanes=lanes)
    batch = 16 * (12 * 8 + 8 * 10) * 3 / 1e3
    assert first(groups, server, NEAR).seconds == pytest.approx(max(9 / lanes, 4) * batch)


def test_a_cut_takes_as_long_as_the_servers_link_is_busy() -> None:
    """With the activations, labels and gradients of all samples, and each device's block both ways."""
    groups = [Group(FAST, NEAR, 1), Group(FAST, NEAR, 2)]
    up, down = 103 * (ACTIVATIONS + LABEL) + 3 * BLOCK, 103 * GRADIENT + 3 * BLOCK
    assert first(groups, FAST, goodput(1e12, 1000)).seconds == pytest.approx(up / 1000)
    found = first(groups, FAST, goodput(1000, 1e12))
    assert found.seconds == pytest.approx(down / 1000)
    assert found.nbytes == up + down
    line = Link.model_validate({"up": "1 TB/s", "down": "2 kB/s"})
    assert first(groups, FAST, line, efficiency=0.5).seconds == pytest.approx(up / 1000)
    trained = 3 * 5 * 16
    found = first(groups, FAST, NEAR, steps=5)
    assert found.nbytes == trained * (ACTIVATIONS + LABEL + GRADIENT) + 6 * BLOCK


def test_a_cut_fits_if_it_fits_every_device() -> None:
    """And is as near to a limit as the device that is nearest, in whatever group."""
    memory = load_profile("pi-tier-1").memory
    small = machine_of(1e9, memory=memory.model_copy(update={"usable": 200e6}))
    large = machine_of(1e9, memory=memory.model_copy(update={"usable": 1e9}))
    for a, b, fits, share in (
        (small, large, False, 1.25),
        (large, small, False, 1.25),
        (large, large, True, 0.25),
    ):
        found = first([Group(a, NEAR, 1), Group(b, NEAR, 2)], FAST, NEAR)
        assert found.fits is fits
        assert found.memory == pytest.approx(share, rel=1e-3)


def test_what_is_needed_to_the_byte_fits() -> None:
    """And a byte more does not."""
    assert Need("pi", 5, 3, 2, usable=10).fits
    assert not Need("pi", 5, 3, 3, usable=10).fits


def test_the_step_of_a_device_block_is_forward_or_backward() -> None:
    """16 inputs, what ReLU keeps of them, and the gradient that comes back beside these."""
    device = study(scheduler="splitfed").needs()[0]
    assert device.step == 16 * (64 * 4 + 12 * 4 + 12 * 4)


def test_a_batch_is_no_larger_than_what_there_is() -> None:
    """200 samples in a batch of 512, on the device and on the server."""
    made = study(scheduler="splitfed", training={"batch": 512, "optimizer": {"name": "sgd"}})
    blocks, held = made.assembly.blocks(), int(made.assembly.samples.max())
    assert held < 512
    device, server = made.needs()
    assert device.step == held * (64 * 4 + 12 * 4 + 12 * 4)
    assert server.step == blocks[SERVER_BLOCK].train_part(held).memory


def test_every_cut_with_work_on_both_sides_is_a_candidate() -> None:
    """With the bytes of the closed form: activations and labels up, gradients down, the device block both ways."""
    made = study(scheduler="splitfed", model={"name": "mlp", "hidden": [12, 8], "cut": "auto"})
    assembly = made.assembly
    found = candidates(assembly.fleet, assembly.model, assembly.training, assembly.samples, None, 0.97)
    assert [candidate.cut for candidate in found] == [1, 2]
    activations, gradient, label = 12 * 4, 12 * 4, 8
    block = 4 * (64 * 12 + 12)
    assert found[0].nbytes == assembly.samples.sum() * (activations + gradient + label) + 2 * block
    assert [(one.macs, one.activation_bytes) for one in found] == [(64 * 12, 12 * 4), (64 * 12 + 12 * 8, 8 * 4)]


def candidate(cut: int, *, time: float = 1, memory: float = 0.5, nbytes: int = 1, fits: bool = True) -> Candidate:
    """A cut with some figures; later ones have more work on the device and fewer values at the cut."""
    return Candidate(cut, time, memory, nbytes, fits, macs=cut, activation_bytes=max(1, 5 - cut))


@pytest.mark.parametrize(
    ("objective", "cut"),
    [("time", 1), ("device_memory", 2), ("device_macs", 1), ("bytes", 3), ("activation_bytes", 5)],
)
def test_the_best_cut_is_the_least_of_what_is_asked_for(objective: Objective, cut: int) -> None:
    """Time, memory, work or bytes; what does not fit is no choice, and of equal ones the first is taken."""
    found = [
        candidate(1, time=1, memory=0.9, nbytes=9),
        candidate(2, time=5, memory=0.1, nbytes=9),
        candidate(3, time=5, memory=0.9, nbytes=1),
        candidate(4, time=0, memory=0, nbytes=0, fits=False),
        candidate(5, time=1, memory=0.1, nbytes=1),
    ]
    assert best(found, objective, "net").cut == cut


def test_no_cut_is_an_error_with_the_nearest() -> None:
    """Nothing to choose from, and nothing that fits."""
    with pytest.raises(UserError, match=r"cut: auto finds no cut of net with work on both sides; choose another model"):
        best([], "time", "net")
    with pytest.raises(UserError, match=r"that fits into the memory of all devices; the nearest, 2, needs 1\.5 times"):
        best([candidate(1, memory=3, fits=False), candidate(2, memory=1.5, fits=False)], "time", "net")


def test_an_automatic_cut_is_chosen_and_written_down() -> None:
    """The resolved scenario holds the index, so that running it again needs no choice."""
    for objective in ("time", "device_memory", "device_macs", "bytes", "activation_bytes"):
        model = {"name": "mlp", "hidden": [12, 8], "cut": "auto", "objective": objective}
        made = study(scheduler="splitfed", model=model)
        assert made.assembly.cut in (1, 2)
        assert made.scenario.model.cut == made.assembly.cut
        assert made.assembly.scenario["model"]["cut"] == made.assembly.cut
    assert study(scheduler="fedavg", model=model).assembly.cut is None, "nothing to cut"
    assert study(scheduler="fedavg", model=model).scenario.model.cut == "auto"


def test_steps_are_the_schedulers_own() -> None:
    """Where it says how many; else a pass over the data."""
    assert steps_of(study(scheduler={"name": "fedavg", "local_steps": 5}).assembly.scheduler) == 5
    assert steps_of(study(scheduler="fedavg").assembly.scheduler) is None


def small_board(bytes_usable: str) -> dict[str, Any]:
    """A board that may use so much."""
    return {
        "schema": 1,
        "id": "small",
        "name": "A small board",
        "kind": "board",
        "cost_model": "scalar",
        "speed": "1 GMAC/s",
        "memory": {"capacity": "1 GB", "usable": bytes_usable, "runtime": "250 MB"},
        "power": {"idle": "1 W", "busy": "2 W"},
    }


@pytest.fixture
def board(tmp_path: Any) -> str:
    """A board with 10 kB left for a model."""
    import yaml

    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(small_board("250.01 MB")))
    return str(path)


def test_a_run_that_cannot_fit_is_refused_before_it_starts(board: str) -> None:
    """The message says who needs what, and the way out; `check` says the same."""
    updates = ALONE | {"fleet": [{"profile": board, "link": LINK}], "scheduler": "fedavg"}
    with pytest.raises(UserError, match=r"^small needs at least 250 MB \(process 250 MB, weights and training state "):
        run(TOY, **updates)
    findings = check(load_scenario(TOY, updates=updates))
    assert not findings.fits
    assert findings.document()["fleet"][0]["memory"]["fits"] is False
    assert shortage(findings.groups[0].need).endswith("but may use 250 MB")


@pytest.mark.parametrize(("policy", "left"), [("leave", 1), ("record", 0)])
def test_what_cannot_fit_may_be_looked_at(board: str, policy: str, left: int) -> None:
    """The device leaves, or goes on with a mark of it."""
    groups = [{"profile": board, "link": LINK}, {"profile": "pi-tier-1", "link": LINK}]
    done = run(TOY, **ALONE | {"fleet": groups, "scheduler": "fedavg", "on_oom": policy})
    marks = [mark for mark in done.trace.marks if mark[2] == "out_of_memory"]
    assert marks
    assert {mark[0] for mark in marks} == {0}
    assert len([mark for mark in done.trace.marks if mark[2] == "leave"]) == left
    then = {"leave": "left because of it", "record": "went on all the same"}[policy]
    assert done.remarks()[0].startswith(f"device 0 needed more memory than there was to use and {then}")


def test_the_workspace_of_operators_is_part_of_the_process(tmp_path: Any) -> None:
    """It counts before a run, and during it."""
    import yaml

    board = small_board("500 MB")
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(board | {"memory": board["memory"] | {"workspace": "100 MB"}}))
    updates = ALONE | {"fleet": [{"profile": str(path), "link": LINK}], "scheduler": "fedavg"}
    need = build(load_scenario(TOY, updates=updates)).needs()[0]
    assert need.process == 350e6
    assert run(TOY, **updates).summary["devices"]["peak_memory_bytes"] >= need.total
