"""Parts put together into a simulation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedsim.costs import Cost, OpClass, Operator, Phase
from fedsim.errors import UserError
from fedsim.experiment.assembly import Assembly
from fedsim.experiment.building import build
from fedsim.experiment.loading import load_scenario
from fedsim.hardware.links import load_link
from fedsim.schedulers.fedavg import FedAvg
from fedsim.simulation import Fault
from fedsim.testing import simulate, toy
from tests.experiment.toys import SPLIT, TOY
from tests.network.networks import Message, S, run
from tests.schedulers.closed_forms import batches

WIDE = {"up": "1 TB/s", "down": "1 TB/s"}


def test_a_device_that_returns_goes_on_with_its_order_of_batches() -> None:
    """Else its first samples would be trained again and again, and its last ones never."""
    scheduler = FedAvg(local_steps=1)
    whole = simulate(toy(scheduler, rounds=6), learning=False).simulation.trace
    device = next(k for k, held in enumerate(toy(scheduler).samples.tolist()) if held > 8 and held % 8)
    leave = next(t[12] for t in whole.transfers if t[1] == device) + 1  # its first contribution has just arrived
    fault = Fault(device=device, leave=leave / 1e9, back=leave / 1e9 + 1e-6)
    trace = simulate(toy(scheduler, rounds=6, faults=[fault]), learning=False).simulation.trace
    assert sum(mark[2] == "return" for mark in trace.marks) == 1
    trained = [span[7] for span in trace.spans if span[0] == device]
    assert len(trained) > 3
    held = int(toy(scheduler).samples[device])
    assert trained == batches(held, 8, steps=len(trained))


def assembled(link: Any = "wifi5", *, seed: int = 3, first: Any = "wifi5", **updates: Any) -> Assembly:
    """One device with the link `first`, then two that have `link` and what is said of them in `fleet`."""
    second = {"profile": "pi-tier-1", "count": 2, "link": link} | updates.pop("group", {})
    fleet = [{"profile": "pi-tier-1", "link": first}, second]
    server = {"profile": "cpu-60g", "link": WIDE}
    made = {"learning": False, "seed": seed, "fleet": fleet, "server": server} | updates
    return build(load_scenario(TOY, updates=made)).assembly


def sent(assembly: Assembly, nbytes: int) -> list[tuple[int, int]]:
    """Start and arrival of a message of each of the last two devices."""
    return run(assembly.flows(), [Message(0, device, nbytes=nbytes) for device in (1, 2)])


def recorded(tmp_path: Path) -> dict[str, Any]:
    """A link of 1 and 2 MB/s on the wire in turn, ten seconds each."""
    path = tmp_path / "rates.csv"
    path.write_text("time_s,up_bit_s,down_bit_s\n0,8e6,8e6\n10,16e6,16e6\n20,,\n")
    return WIDE | {"trace": {"path": str(path)}}


def test_each_device_begins_at_its_own_moment_of_a_recording(tmp_path: Path) -> None:
    """Drawn from the seed and its own number, for whatever group; above TCP by the scenario's efficiency."""
    link = recorded(tmp_path)
    assembly = assembled(link, network={"efficiency": "50 %"})
    trace = assembly.fleet.groups[1].link.rate_trace(0.5)
    assert trace is not None
    begin = trace.offsets(3, np.array([1, 2]))
    assert begin[0] != begin[1]
    expected = [round(1e9 / trace.at(0, offset)[0]) for offset in begin]  # a byte, at the rate of that moment
    starts = [(arrival - start) for start, arrival in sent(assembly, 1)]
    assert starts == expected
    assert set(starts) <= {1000, 2000}
    longer = [arrival for _, arrival in sent(assembly, 20_000_000)]
    assert longer[0] != longer[1], "they meet the changes at different moments"


def test_rates_are_drawn_in_every_group_that_asks_for_it() -> None:
    """From the population of its link, by the numbers of its own devices."""
    assembly = assembled("lte", group={"population": True})
    rates = load_link("lte").drawn_rates(3, np.array([1, 2]))[:, 0]
    kept = 1 - load_link("lte").loss
    took = [arrival - start for start, arrival in sent(assembly, 10_000)]
    assert took == [pytest.approx(10_000 / (rate * kept) * 1e9, abs=2) for rate in rates]
    assert took[0] != took[1]


def test_what_chance_decides_in_the_network_and_in_machines_follows_from_the_seed() -> None:
    """Delays and prices: the same again, others with another seed."""
    shaken = WIDE | {"jitter": "50 ms"}
    messages = [Message(k * S, 1, nbytes=1) for k in range(20)]
    starts = [run(assembled(shaken, seed=seed).flows(), messages) for seed in (3, 3, 4)]
    assert starts[0] == starts[1] != starts[2]
    cost = Cost((Operator(OpClass.LINEAR, Phase.FORWARD, 10**9, 0),), 1)
    group = {"profile": "raspberry-pi-4b"}
    prices = [assembled(seed=seed, group=group).simulation()._price(1, cost, 0) for seed in (3, 3, 4)]
    assert prices[0] == prices[1] != prices[2]


@pytest.mark.parametrize("wrap", [True, False])
def test_devices_come_and_go_as_recorded(tmp_path: Path, wrap: bool) -> None:
    """Those of the group that says so: again and again, or for good a microsecond after the start."""
    path = tmp_path / "online.csv"
    path.write_text("time_s,online\n0,0\n1e-3,1\n60,\n" if wrap else "time_s,online\n0,1\n1e-6,0\n60,\n")
    recording = {"path": str(path), "wrap": wrap}
    of_group = assembled(group={"availability": recording}, until={"time": "1 s"} if wrap else {"rounds": 1})
    assert [group.attendance is None for group in of_group.fleet.groups] == [True, False]
    member = of_group.fleet.groups[1].attendance
    assert member is not None
    assert [one.wrap for one in member.members] == [wrap]
    assert sorted(of_group.churn()) == [1, 2]
    if not wrap:
        simulation = of_group.simulation()
        simulation.run()
        assert {(m[0], m[1]) for m in simulation.trace.marks if m[2] == "leave"} == {(1, 1000), (2, 1000)}


def test_a_clock_and_a_mode_reach_the_machine() -> None:
    """Of the group that has them."""
    group = {"profile": "jetson-nano", "power_mode": "5w", "clock": "0.5 GHz"}
    machines = [one.machine.id for one in assembled(group=group).fleet.groups]
    assert machines == ["pi-tier-1", "jetson-nano@5w@0.5GHz"]


def test_what_a_node_draws_between_two_works_is_in_its_row() -> None:
    """The server's profile says it: a GPU with everything loaded draws more than an empty one."""
    assembly = assembled(server={"profile": "rtx-a6000", "link": WIDE})
    machine = assembly.fleet.server
    row = assembly.fleet.table(assembly.samples)[0]
    assert (row.idle_watts, row.ready_watts, row.busy_watts) == (
        machine.idle_watts,
        machine.ready_watts,
        machine.busy_watts,
    )


def test_no_group_may_know_whole_steps_only_where_the_model_is_cut(tmp_path: Path) -> None:
    """Also where it is not the first."""
    path = tmp_path / "whole.yaml"
    path.write_text(
        "schema: 1\nid: whole\nname: Whole\nkind: phone\ncost_model: fedscale_scalar\nsample_time: 1 ms\n"
        "memory: {capacity: 4 GB, usable: 2 GB, runtime: 250 MB}\npower: {idle: 1 W, busy: 2 W}\n"
    )
    with pytest.raises(UserError, match="profile whole knows times of whole training steps only"):
        assembled(group={"profile": str(path)}, scheduler=SPLIT)
