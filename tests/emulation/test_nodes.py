"""Whole runs of nodes over gRPC: every system in both modes, devices that leave and crash, how a run ends."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import Any

import pytest

from fedsim.emulation.outcome import Outcome, fidelity_of
from fedsim.emulation.records.replay import replay
from fedsim.errors import RunError
from fedsim.experiment.assembly import Assembly
from fedsim.experiment.nodes import assembled
from fedsim.learning.threads import intra_op_threads
from fedsim.report import summarise
from fedsim.runtime.conditions import Ending, Fault, Limits
from fedsim.schedulers.catalogue import SCHEDULERS
from fedsim.schedulers.fedasync import FedAsync
from fedsim.schedulers.fedavg import FedAvg
from fedsim.schedulers.splitfed import SplitFed
from fedsim.script import SERVER
from fedsim.testing import host, simulate, toy
from fedsim.trace import Trace, Transfer
from tests.emulation.nodes import Nodes, built
from tests.experiment.toys import rolled

pytestmark = pytest.mark.slow

DESCRIPTIONS = 1024
"""Bytes that describe what is sent, once in each direction of a connection: of little weight in any run but a toy."""

SYNCHRONOUS = {"fedavg", "fedprox", "scaffold", "splitfed", "pipar", "locsplitfed"}


def same(ours: Any, theirs: Any) -> bool:
    """Whether two models are the same bits."""
    return ours.keys() == theirs.keys() and all(tensor.equal(theirs[name]) for name, tensor in ours.items())


def replayed(assembly: Assembly, outcome: Outcome) -> dict[str, Any]:
    """The last model that a replay of a run publishes."""
    parts = assembled(assembly, host(assembly))
    scripts = dict.fromkeys(range(assembly.fleet.devices), parts.device) | {SERVER: parts.server}
    hosts = {node: host(assembly) for node in scripts}
    models: list[dict[str, Any]] = []
    with intra_op_threads(1):
        replay(
            outcome.rows,
            scripts,
            hosts,
            parts.terms,
            lambda _, model: models.append(hosts[SERVER].model_tensors(model)),
        )
    return models[-1]


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_system_in_both_modes(name: str) -> None:
    """Synchronous ones end with the bits of the simulation, all with those of their own journal; no byte is amiss."""
    assembly = toy(SCHEDULERS[name]())
    nodes = Nodes(assembly)
    outcome = nodes.run()
    assert not nodes.errors
    assert outcome.weights is not None
    assert same(dict(outcome.weights), replayed(assembly, outcome))
    trace = nodes.trace(outcome)
    lost = [row for row in map(Transfer._make, trace.transfers) if row.outcome not in ("delivered", "in flight")]
    assert not lost
    wire = fidelity_of(outcome)["wire"]
    payload = sum(sum(row[5:9]) for row in trace.transfers)
    described = 2 * 4 * DESCRIPTIONS
    assert 0 <= wire["bytes"] - payload <= 64 * wire["messages"] + 30 * wire["frames"] + described
    if name in SYNCHRONOUS:
        simulated = simulate(assembly)
        assert same(dict(outcome.weights), simulated.weights)
        assert bytes_of(trace) == bytes_of(simulated.simulation.trace)


def test_the_server_tells_how_far_a_run_is() -> None:
    """Nothing before it has begun; at its end the bytes of the trace, and who computed for how long, nearly."""
    nodes = Nodes(toy(SplitFed()))
    assert nodes.server.so_far() is None
    trace = nodes.trace(nodes.run())
    found = nodes.server.so_far()
    assert found is not None
    delivered = [row for row in map(Transfer._make, trace.transfers) if row.outcome == "delivered"]
    carried = {up: sum(sum(row[5:10]) for row in delivered if (row.target == SERVER) is up) for up in (True, False)}
    assert (found.up, found.down) == (carried[True], carried[False])
    assert found.rounds == [mark[2] for mark in trace.marks].count("round.close") > 0
    assert found.now >= trace.end
    assert 0 < (found.server_idle or 0) < 1
    assert 0 < (found.devices_idle or 0) < 1
    assert trace.stays == sorted(trace.stays, key=lambda stay: (stay[1], stay[2], stay[0]))


@pytest.mark.parametrize("name", ["fedavg", "splitfed", "fedoptima"])
@pytest.mark.parametrize("apart", [False, True], ids=["parts of one", "apart"])
def test_pruned_devices_on_the_wall_clock(name: str, apart: bool) -> None:
    """A variant crosses as what its mask leaves; synchronous systems end with the simulation's bits and bytes."""
    assembly = toy(SCHEDULERS[name](), pruned=True, apart=apart)
    nodes = Nodes(assembly)
    outcome = nodes.run()
    assert not nodes.errors
    assert same(dict(outcome.weights or {}), replayed(assembly, outcome))
    if name in SYNCHRONOUS:
        simulated = simulate(assembly)
        assert same(dict(outcome.weights or {}), simulated.weights)
        assert bytes_of(nodes.trace(outcome)) == bytes_of(simulated.simulation.trace)


def test_windows_that_move_on_the_wall_clock() -> None:
    """Every device is sent its channels of the round; the bits and bytes are the simulation's."""
    assembly = rolled(FedAvg())
    nodes = Nodes(assembly)
    outcome = nodes.run()
    assert not nodes.errors
    simulated = simulate(assembly)
    assert same(dict(outcome.weights or {}), simulated.weights)
    assert same(dict(outcome.weights or {}), replayed(assembly, outcome))
    assert bytes_of(nodes.trace(outcome)) == bytes_of(simulated.simulation.trace)


def test_a_device_that_prunes_otherwise_may_not_take_part() -> None:
    """As where its processor rounds differently; it is told what to do."""
    nodes = Nodes(toy(FedAvg(), pruned=True))
    device = nodes.devices[0]
    device._build = lambda text, node: built(replace(assembled(toy(FedAvg()), host(toy(FedAvg()))), scenario=text))
    thread = threading.Thread(target=nodes._live, args=(device,))
    thread.start()
    thread.join(20)
    nodes.server.close()
    assert "does not prune the model of device 0 as the server does" in str(nodes.errors)


def bytes_of(trace: Trace) -> Any:
    """By direction and purpose."""
    return summarise(trace, status="done", wall_seconds=1.0)["bytes"]


def test_devices_that_ask_for_the_servers_clock() -> None:
    """As on hosts of their own: it is known to a bound, which the trace has, and the run is the same."""
    assembly = toy(FedAvg())
    nodes = Nodes(assembly, shared=False)
    outcome = nodes.run()
    assert not nodes.errors
    assert 0 < fidelity_of(outcome)["clock_bound_s"] < 0.1
    assert nodes.trace(outcome).clock_bound > 0
    assert same(dict(outcome.weights or {}), simulate(assembly).weights)


def test_a_device_leaves_and_comes_back() -> None:
    """As its scenario says, in both modes: away for the same time, marked by the server, and asked again afterwards."""
    slow = toy(FedAsync(), rounds=25, faults=[Fault(device=1, leave=0.02, back=0.06)])
    nodes = Nodes(slow, dilation=40)
    outcome = nodes.run()
    assert not nodes.errors
    assert not outcome.crashed
    trace = nodes.trace(outcome)
    marks = {mark[2]: mark[1] / 1e9 for mark in trace.marks if mark[0] == 1 and mark[2] in ("leave", "return")}
    assert marks["leave"] == pytest.approx(0.02, abs=0.015)
    assert marks["return"] == pytest.approx(0.06, abs=0.02)
    sent = [row for row in map(Transfer._make, trace.transfers) if row.source == 1]
    assert any(row.queued / 1e9 > marks["return"] for row in sent)
    assert not any(marks["leave"] < row.arrived / 1e9 < marks["return"] and row.outcome == "delivered" for row in sent)
    assert same(dict(outcome.weights or {}), replayed(slow, outcome))


def test_a_script_that_fails_on_a_device_fails_the_run() -> None:
    """With the device and its error, here and there."""

    class Broken(FedAvg):
        async def device(self, me: Any) -> None:
            raise ZeroDivisionError("of no use")

    nodes = Nodes(toy(Broken()))
    with pytest.raises(RunError, match=r"device \d: ZeroDivisionError: of no use"):
        nodes.run()
    assert any(isinstance(error, ZeroDivisionError) for error in nodes.errors)


def test_time_ends_a_run() -> None:
    """At the moment that is given, whatever is under way."""
    nodes = Nodes(toy(FedAsync(), rounds=None, time=0.02), dilation=20)
    outcome = nodes.run()
    assert (outcome.ending, outcome.end) == (Ending.TIME, 20_000_000)
    assert not nodes.errors
    assert all(row[12] <= outcome.end for row in nodes.trace(outcome).transfers)


def test_a_quality_ends_a_run_while_time_stands_still() -> None:
    """The model is measured in a pause, which is no part of the run's length."""
    reached: list[float] = []

    def good(quality: Any) -> bool:
        reached.append(quality.accuracy)
        time.sleep(0.5)
        return len(reached) == 3

    assembly = replace(toy(FedAvg(), rounds=None), limits=Limits(reached=good))
    nodes = Nodes(assembly)
    outcome = nodes.run()
    assert outcome.ending is Ending.QUALITY
    assert outcome.paused >= 1_500_000_000
    wanted = simulate(replace(assembly, limits=Limits(reached=lambda _: False, time=None), rounds=3))
    assert [point.quality.accuracy for point in outcome.points] == reached
    assert outcome.end / 1e9 == pytest.approx(wanted.simulation.now / 1e9, abs=0.7)
    trace = nodes.trace(outcome)
    assert [mark[3] for mark in trace.marks if mark[2] == "evaluate"] == reached


def test_a_run_is_stopped() -> None:
    """From outside: it ends there, and what was noted up to there is there."""
    nodes = Nodes(toy(FedAsync(), rounds=None, time=600.0))
    threading.Timer(1.5, nodes.server.stop).start()  # a loaded machine may gather its nodes for most of that
    outcome = nodes.run()
    assert outcome.ending is Ending.INTERRUPTED
    assert 0 < outcome.end / 1e9 < 60
    assert nodes.trace(outcome).spans


def test_a_device_that_is_known_to_be_dead_is_gone_at_once() -> None:
    """The rest finish by the scheduler's rule; the device itself is told, and fails."""
    nodes = Nodes(toy(SplitFed(), rounds=3), dilation=10)
    nodes.gather()
    timer = threading.Timer(0.8, nodes.server.gone, (2, "its process has died"))
    timer.start()
    try:
        outcome = nodes.server.run()
    finally:
        nodes.close()
    assert outcome.crashed == [2]
    assert outcome.ending is Ending.SERVER
    trace = nodes.trace(outcome)
    assert [mark[2] for mark in trace.marks if mark[0] == 2][:2] == ["join", "leave"]
    assert any("its process has died" in str(error) for error in nodes.errors)
