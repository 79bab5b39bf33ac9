"""FedAvg and SplitFed cost exactly what schedulers.md says (oracle 5), for every way to size a round."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from fedsim.hardware.machines import Machine, machine
from fedsim.hardware.profiles import load_profile
from fedsim.report import summarise
from fedsim.schedulers.ampere import Ampere
from fedsim.schedulers.cse_fsl import CseFsl
from fedsim.schedulers.ecofed import EcoFed
from fedsim.schedulers.fedavg import FedAvg
from fedsim.schedulers.fedprox import FedProx
from fedsim.schedulers.fsl_sage import FslSage
from fedsim.schedulers.locsplitfed import LocSplitFed
from fedsim.schedulers.mergesfl import MergeSFL
from fedsim.schedulers.scaffold import Scaffold
from fedsim.schedulers.splitfed import SplitFed
from fedsim.testing import DEVICES, Outcome, simulate, toy
from fedsim.trace import Transfer
from tests.schedulers.closed_forms import LABEL, all_batches, loss, macs, measured, state

ROUNDS = 3
LOCAL: tuple[dict[str, Any], ...] = (
    {},
    {"local_steps": 1},
    {"local_steps": 7},
    {"local_epochs": 2},
    {"local_steps": 2, "local_epochs": 5},
)


def given(local: dict[str, Any]) -> dict[str, Any]:
    """The same for the closed forms: steps win over epochs."""
    return {"steps": local.get("local_steps"), "epochs": local.get("local_epochs", 1)}


@pytest.mark.parametrize("weighting", ["samples", "uniform"])
@pytest.mark.parametrize("local", LOCAL, ids=str)
def test_fedavg_costs_its_closed_form(local: dict[str, Any], weighting: Any) -> None:
    """Up and down P|w| each; (m + m_bwd)·S on devices; P·θ on the server."""
    assembly = toy(FedAvg(weighting=weighting, **local), rounds=ROUNDS)
    found = measured(simulate(assembly, learning=False))
    units, model = assembly.model.units, assembly.model
    sizes = all_batches(assembly, **given(local))
    size = ROUNDS * DEVICES * state(units)
    assert found.up == found.down == {"weights": size, "activations": 0, "gradients": 0, "labels": 0}
    assert found.device_macs == macs(units, sizes, to_input=False) + loss(model, sizes)
    assert found.server_macs == 0
    assert found.aggregate_macs == ROUNDS * DEVICES * model.parameters


@pytest.mark.parametrize("weighting", ["samples", "uniform"])
@pytest.mark.parametrize("local", LOCAL, ids=str)
def test_splitfed_costs_its_closed_form(local: dict[str, Any], weighting: Any) -> None:
    """Up S(z+y) + P|d|, down Sz + P|d|; (m + m_bwd) of d without input gradient, of s with one."""
    assembly = toy(SplitFed(weighting=weighting, **local), rounds=ROUNDS)
    found = measured(simulate(assembly, learning=False))
    model, cut = assembly.model, assembly.cut
    assert cut is not None
    d, s = model.units[:cut], model.units[cut:]
    sizes = all_batches(assembly, **given(local))
    samples, z, size = sum(sizes), model.activation_bytes(cut), ROUNDS * DEVICES * state(d)
    assert found.up == {"weights": size, "activations": samples * z, "gradients": 0, "labels": samples * LABEL}
    assert found.down == {"weights": size, "activations": 0, "gradients": samples * z, "labels": 0}
    assert found.device_macs == macs(d, sizes, to_input=False)
    assert found.server_macs == macs(s, sizes, to_input=True) + loss(model, sizes)
    assert found.aggregate_macs == ROUNDS * DEVICES * model.parameters


def test_fewer_participants_cost_their_share() -> None:
    """With P of K devices a round moves P models, and every round asks for exactly P."""
    assembly = toy(FedAvg(), rounds=8, participants=2)
    outcome = simulate(assembly, learning=False)
    assert measured(outcome).up["weights"] == 8 * 2 * state(assembly.model.units)
    rounds = chosen(outcome)
    assert len(rounds) == 8
    assert all(len(nodes) == 2 for nodes in rounds)
    assert len({k for nodes in rounds for k in nodes}) == DEVICES, "over eight rounds each device has its turn"
    assert rounds == chosen(simulate(toy(SplitFed(), rounds=8, participants=2), learning=False)), "of the seed alone"


def chosen(outcome: Outcome) -> list[list[int]]:
    """The devices of each round."""
    return [json.loads(mark[4])["nodes"] for mark in outcome.simulation.trace.marks if mark[2] == "round.open"]


@pytest.mark.parametrize("scheduler", [FedAvg(), SplitFed()], ids=lambda s: type(s).__name__)
def test_idle_times_by_cause(scheduler: Any) -> None:
    """Oracle 8: only SplitFed's devices wait for gradients; the causes add up to all idle time."""
    outcome = simulate(toy(scheduler, rounds=ROUNDS), learning=False)
    summary = summarise(outcome.simulation.trace, status="done", wall_seconds=1.0)
    for side in ("server", "devices"):
        idle = summary[side]["idle_by_cause"]
        assert sum(idle.values()) == pytest.approx(summary[side]["idle"], abs=1e-12)
        assert idle["flow"] == idle["unselected"] == idle["load"] == idle["sleep"] == 0
    dependency = summary["devices"]["idle_by_cause"]["dependency"]
    assert dependency > 0 if scheduler.splits else dependency == 0
    assert summary["devices"]["idle_by_cause"]["straggler"] > 0, "both have a barrier, and the devices are unequal"


def faster(kind: Machine) -> Machine:
    """The same at three times the speed."""
    speed = kind.profile.speed
    assert speed is not None
    return machine(kind.profile.model_copy(update={"speed": speed * 3}))


SYNCHRONOUS: list[Any] = [
    FedAvg(),
    FedProx(),
    Scaffold(),
    SplitFed(),
    SplitFed(version=2),
    LocSplitFed(),
    CseFsl(),
    Ampere(),
    FslSage(),
    MergeSFL(),
    EcoFed(),
]


@pytest.mark.parametrize("scheduler", SYNCHRONOUS, ids=lambda s: f"{type(s).__name__}{getattr(s, 'version', '')}")
def test_better_hardware_is_never_slower(scheduler: Any) -> None:
    """Oracle 11: more bandwidth or more speed, for anyone, does not lengthen a run of fixed steps."""
    base = toy(scheduler, rounds=ROUNDS)
    length = simulate(base, learning=False).simulation.trace.end
    for index, group in enumerate(base.fleet.groups):
        link = group.link.model_copy(update={"up": group.link.up * 3, "down": group.link.down * 3})
        for better in (replace(group, link=link), replace(group, machine=faster(group.machine))):
            groups = (*base.fleet.groups[:index], better, *base.fleet.groups[index + 1 :])
            changed = replace(base, fleet=replace(base.fleet, groups=groups))
            assert simulate(changed, learning=False).simulation.trace.end <= length
    changed = replace(base, fleet=replace(base.fleet, server=faster(base.fleet.server)))
    assert simulate(changed, learning=False).simulation.trace.end <= length


def test_a_busy_server_makes_no_transfer_longer() -> None:
    """What waits for the server's script has arrived: a transfer takes as long whether it is idle or far behind."""
    base = toy(SplitFed(), rounds=ROUNDS)
    slow = machine(load_profile("pi-tier-1").model_copy(update={"speed": 1e4}))
    idle, busy = (
        simulate(replace(base, fleet=replace(base.fleet, server=server)), learning=False)
        for server in (base.fleet.server, slow)
    )
    assert busy.simulation.trace.end > 3 * idle.simulation.trace.end
    lengths = []
    for outcome in (idle, busy):
        rows = [Transfer(*row) for row in outcome.simulation.trace.transfers]
        lengths.append({(r.source, r.activations, r.arrived - r.started) for r in rows if r.message == "Activations"})
    assert lengths[0] == lengths[1]
