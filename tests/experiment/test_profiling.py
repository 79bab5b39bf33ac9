"""PiPar's profiler: the rule for M, pipelines by hand and as graphs, and its predictions against runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fedsim
from fedsim.cli.checking import check_command
from fedsim.errors import UserError
from fedsim.experiment.assembly import Assembly
from fedsim.experiment.building import Study, build
from fedsim.experiment.checking import check
from fedsim.experiment.fleet import Fleet, Group
from fedsim.experiment.loading import load_scenario
from fedsim.experiment.profiling import Plan, Profiler, Stages, micro_batches
from fedsim.hardware.links import load_link
from fedsim.hardware.machines import Machine, machine
from fedsim.hardware.profiles import Variation, load_profile
from fedsim.learning.optimizers import Sgd, Training
from fedsim.models.counting import measure
from fedsim.models.measure import ModelMeasure
from fedsim.network.topology import AccessPoint, NetworkOptions
from fedsim.scenario import dump
from fedsim.schedulers.pipar import PiPar
from fedsim.schedulers.splitfed import SplitFed
from fedsim.script import SERVER
from fedsim.simulation import Limits
from fedsim.testing import toy
from tests.experiment.toys import TOY
from tests.learning.toys import Federation


def whole(between: int, forward: int, backward: int) -> Stages:
    """A batch as one: so much passes between its forward and its backward on the device."""
    return Stages(forward, between - 30, 10, 20, backward, 10, backward)


@pytest.mark.parametrize(
    ("between", "forward", "backward", "batch", "number"),
    [
        (200, 100, 300, 32, 3),  # ⌈200/100⌉ + 1
        (200, 300, 100, 32, 3),  # the lesser of both counts
        (201, 100, 300, 32, 4),  # ⌈2.01⌉ + 1
        (2900, 100, 100, 100, 33),  # 30, of which ⌊100/⌊100/30⌋⌋ = 33 are used
        (10**9, 100, 100, 32, 16),  # ⌊B/2⌋ at most
        (10**9, 100, 100, 1000, 100),  # 100 at most
        (10**9, 100, 100, 3, 1),
        (10**9, 100, 100, 1, 1),
    ],
)
def test_the_number_of_micro_batches(between: int, forward: int, backward: int, batch: int, number: int) -> None:
    """min(⌈(up + s_f + s_b + down)/min(c_f, c_b)⌉ + 1, ⌊B/2⌋, 100), then ⌊B/⌊B/M⌋⌋."""
    assert micro_batches(whole(between, forward, backward), batch) == number


def test_latency_is_a_part_of_what_is_hidden() -> None:
    """A message that flows at once and one that comes as late are the same to the rule."""
    late = Stages(100, 10, 10, 10, 100, 10, 100, lag_up=250, lag_down=250)
    assert micro_batches(late, 32) == micro_batches(whole(530, 100, 100), 32) == 8


def test_one_micro_batch_takes_the_sum_of_its_stages() -> None:
    """Nothing overlaps, whether it is sent in the background or not."""
    stages = Stages(1, 10, 100, 1000, 10_000, 200, 20_000, lag_up=100_000, lag_down=200_000)
    for background in (True, False):
        assert stages.pipeline(1, background=background) == 1 + 10 + 200 + 1000 + 20_000 + 300_000


@pytest.mark.parametrize(
    ("stages", "seconds"),
    [
        (Stages(4, 1, 1, 1, 4, 1, 4), 6 * 4),  # D_0 is there before F_2 ends
        (Stages(9, 1, 1, 1, 9, 1, 9), 6 * 9),  # B_0 waits for F_2
        (Stages(1, 9, 1, 1, 1, 1, 1), 1 + 3 * 9 + 1 + 1 + 1),  # uploads one after the other
        (Stages(1, 1, 9, 1, 1, 9, 1), 1 + 1 + 3 * 9 + 1 + 1),  # one server
        (Stages(1, 1, 1, 9, 1, 1, 1), 1 + 1 + 1 + 3 * 9 + 1),  # downloads do not overlap each other
        (Stages(1, 1, 1, 1, 9, 5, 12), 3 * 1 + 1 + 9 + 9 + 12),  # the last ones bring the steps
    ],
)
def test_three_micro_batches_by_hand(stages: Stages, seconds: int) -> None:
    """Whatever is the bottleneck, three times; the rest once."""
    assert stages.pipeline(3) == seconds


def test_a_blocking_device_computes_nothing_while_it_sends() -> None:
    """F and U take turns, and the first backward comes after the last U."""
    stages = Stages(2, 3, 1, 1, 1, 1, 1, lag_up=5)
    assert stages.pipeline(3, background=False) == 3 * (2 + 5 + 3) + 1 + 1 + 1
    assert stages.pipeline(3) == 2 + 5 + 3 * 3 + 1 + 1 + 1
    slow = replace(stages, backward=9, backward_last=9)
    assert slow.pipeline(3, background=False) == 3 * (2 + 5 + 3) + 3 * 9


def longest_path(stages: Stages, number: int, *, background: bool) -> int:
    """The same from a graph: every stage with all that it has to follow, and how much later."""
    durations = {
        "F": [stages.forward] * number,
        "U": [stages.up] * number,
        "S": [*[stages.server] * (number - 1), stages.server_last],
        "D": [stages.down] * number,
        "B": [*[stages.backward] * (number - 1), stages.backward_last],
    }
    after: dict[tuple[str, int], list[tuple[str, int, int]]] = {}
    for i in range(number):
        chain = [("F", "U", stages.lag_up), ("U", "S", 0), ("S", "D", stages.lag_down), ("D", "B", 0)]
        for one, other, lag in chain:
            after.setdefault((other, i), []).append((one, i, lag))
        for stage in "FUSDB" if i else "":
            after.setdefault((stage, i), []).append((stage, i - 1, 0))
        if not background and i:
            after.setdefault(("F", i), []).append(("U", i - 1, 0))
    after[("B", 0)] += [("F" if background else "U", number - 1, 0)]

    @cache
    def end(stage: str, i: int) -> int:
        return durations[stage][i] + max((end(one, j) + lag for one, j, lag in after.get((stage, i), [])), default=0)

    return end("B", number - 1)


DURATION = st.integers(0, 50)


@given(st.tuples(*[DURATION] * 9), st.integers(1, 8), st.booleans())
def test_a_pipeline_is_the_longest_path(durations: tuple[int, ...], number: int, background: bool) -> None:
    """Any stages, any number of micro-batches."""
    stages = Stages(*durations)
    expected = longest_path(stages, number, background=background)
    assert stages.pipeline(number, background=background) == expected


# -------------------------------------------------------------------------------- predicted and simulated


@cache
def vgg5() -> ModelMeasure:
    """At 8 x 8 pixels."""
    return measure(Federation().network())


def steady(profile: str) -> Machine:
    """A machine of a profile, each like the other and every day the same."""
    return machine(load_profile(profile).model_copy(update={"variation": Variation(), "thermal": None}))


def alone(
    scheduler: Any,
    *,
    profile: str = "pi-tier-1",
    server: str = "cpu-60g",
    link: Any = "wifi5",
    batch: int = 32,
    cut: int = 1,
    access: Mapping[str, AccessPoint] | None = None,
    **network: Any,
) -> Assembly:
    """One device that has one batch."""
    group = Group(steady(profile), load_link(link), 1, access="cell" if access else None)
    return Assembly(
        scheduler=scheduler,
        model=vgg5(),
        cut=cut,
        training=Training(batch=batch, optimizer=Sgd(lr=0.1, momentum=0.9), channels_last=False),
        fleet=Fleet((group,), steady(server), load_link("ethernet-1g")),
        samples=np.array([batch]),
        participants=1,
        rounds=1,
        limits=Limits(),
        network=NetworkOptions(jitter=False, loss="off", **network),
        access=access or {},
    )


def simulated(assembly: Assembly) -> int:
    """Nanoseconds from the first forward to the end of the last backward."""
    simulation = assembly.simulation()
    simulation.run()
    spans = [(span[3], span[4]) for span in simulation.trace.spans if span[0] == 0]
    return int(max(end for _, end in spans) - min(start for start, _ in spans))


SLOW = {"up": "2 Mbit/s", "down": "3 Mbit/s", "latency": "7 ms"}
CASES: tuple[dict[str, Any], ...] = (
    {},
    {"link": "lte"},
    {"link": SLOW},
    {"link": SLOW, "latency": False},
    {"link": {"up": "90 Mbit/s", "down": "90 Mbit/s", "rtt": "80 ms"}, "window": 65536.0},
    {"link": SLOW, "access": {"cell": AccessPoint(2e4, 5e4)}},
    {"profile": "raspberry-pi-4b", "server": "rtx-a6000"},
    {"profile": "jetson-nano", "server": "rtx-a6000", "link": SLOW, "batch": 100},
    {"cut": 2, "link": SLOW},
    {"cut": 4, "profile": "jetson-nano", "server": "rtx-a6000"},
    {"batch": 1},
    {"batch": 3, "link": SLOW},
)


@pytest.mark.slow
@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_predicted_is_simulated(case: dict[str, Any], background: bool) -> None:
    """One batch of one device, to the nanosecond: with the number that is found, with others, and with too many."""
    numbers: tuple[int | Literal["auto"], ...] = ("auto", 1, 2, 3, 5, 7, 16)
    for number in numbers:
        scheduler = PiPar(micro_batches=number, background=background)
        assembly = alone(scheduler, **case)
        assert assembly.profiler.plan(assembly.cut or 0, assembly.scheduler).seconds * 1e9 == pytest.approx(
            simulated(assembly), rel=1e-14
        )


@pytest.mark.parametrize("link", ["wifi5", "lte", SLOW], ids=str)
def test_the_number_that_is_found_is_not_far_from_the_best(link: Any) -> None:
    """The rule is a rule of thumb: within a fifth of the best number, and better than none."""
    times = {n: simulated(alone(PiPar(micro_batches=n), link=link)) for n in (1, 2, 3, 4, 5, 6, 8, 10, 16, 32)}
    found = simulated(alone(PiPar(), link=link))
    assert found <= 1.2 * min(times.values())
    assert found < times[1]


def test_it_plans_for_the_slowest_device() -> None:
    """Whichever group it is in, however many the others are."""
    fast, slow = (Group(machine(load_profile(p)), load_link("wifi5"), 1) for p in ("jetson-tier-1", "pi-tier-4"))
    base = alone(SplitFed())
    plans = []
    for groups in ((fast, slow), (slow, fast), (slow,), (fast,)):
        fleet = replace(base.fleet, groups=groups)
        plans.append(Profiler(model=base.model, training=base.training, fleet=fleet).plan(1, PiPar()))
    one, other, only_slow, only_fast = plans
    assert one == other == only_slow
    assert only_fast.seconds < only_slow.seconds
    assert only_fast.micro_batches != only_slow.micro_batches


# ------------------------------------------------------------------------------------------ in a scenario


def built(scheduler: Any, **model: Any) -> Study:
    """The toy scenario, whose devices are unequal."""
    given = {"name": "mlp", "hidden": [8, 8], "cut": 1} | model
    return build(load_scenario(TOY, updates={"learning": False, "scheduler": scheduler, "model": given}))


def test_what_was_found_is_written_down() -> None:
    """The resolved scenario holds numbers, so that running it again needs no profiler, and plans the same."""
    made = built("pipar", cut="auto")
    number, cut = made.assembly.scheduler.micro_batches, made.assembly.cut
    assert isinstance(number, int)
    assert made.scenario.scheduler.options.micro_batches == number
    assert made.assembly.scenario["scheduler"]["micro_batches"] == number
    assert made.assembly.scenario["model"]["cut"] == made.scenario.model.cut == cut
    assert f"micro_batches: {number}" in dump(made.scenario)
    again = build(made.scenario)
    assert (again.assembly.scheduler, again.assembly.cut) == (made.assembly.scheduler, cut)


@pytest.mark.slow
def test_a_run_is_repeated_from_its_own_scenario(tmp_path: Path) -> None:
    """Whose cut and number of micro-batches were chosen: the same trace and weights, byte for byte."""
    updates: dict[str, Any] = {"scheduler": "pipar", "model": {"name": "mlp", "hidden": [8, 8], "cut": "auto"}}
    one = fedsim.run(TOY, **updates, out=tmp_path / "one")
    fedsim.run(tmp_path / "one/scenario.yaml", out=tmp_path / "two")
    for name in ("trace.parquet", "scenario.yaml", "model.safetensors"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    made = load_scenario(tmp_path / "one/scenario.yaml").scheduler.options
    assert made == one.scenario.scheduler.options
    assert made.micro_batches == built("pipar", cut="auto").assembly.scheduler.micro_batches != "auto"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (0, "micro_batches 0 must be 1 or more, or auto"),
        (-3, "micro_batches -3 must be 1 or more, or auto"),
        (2.5, "scheduler.micro_batches: 2.5 does not fit; give a whole number or auto"),
        ("many", "scheduler.micro_batches: 'many' does not fit; give a whole number or auto"),
        (None, "scheduler.micro_batches: no value is given; give a whole number or auto"),
    ],
)
def test_numbers_that_are_none(value: object, message: str) -> None:
    """By key, value and rule."""
    with pytest.raises(UserError, match=message):
        load_scenario(TOY, updates={"scheduler": {"name": "pipar", "micro_batches": value}})


def test_a_number_that_is_given_stands() -> None:
    """With a cut that is chosen for it."""
    made = built({"name": "pipar", "micro_batches": 3}, cut="auto")
    assert made.assembly.scheduler.micro_batches == 3
    profiler = made.assembly.profiler
    plans = [profiler.plan(cut, PiPar(micro_batches=3)) for cut in (1, 2)]
    assert made.assembly.cut == min(plans, key=lambda plan: plan.seconds).cut
    assert {plan.micro_batches for plan in plans} == {3}


def test_the_profiler_chooses_the_cut_of_least_time() -> None:
    """Its own time, not that of whole batches one after the other; other objectives are met as for others."""
    made = built("pipar", cut="auto")
    plans = [made.assembly.profiler.plan(cut, PiPar()) for cut in (1, 2)]
    assert plans[0].seconds != plans[1].seconds
    assert made.assembly.cut == min(plans, key=lambda plan: plan.seconds).cut
    for objective in ("bytes", "device_memory"):
        cuts = [built(name, cut="auto", objective=objective).assembly.cut for name in ("pipar", "splitfed")]
        assert cuts[0] == cuts[1]


def test_an_assembly_is_planned_when_it_is_made() -> None:
    """Without any scenario; other schedulers stay as they are."""
    assembly = toy(PiPar())
    plan = assembly.profiler.plan(1, PiPar())
    assert assembly.scheduler == PiPar(micro_batches=plan.micro_batches)
    other = SplitFed()
    assert replace(assembly, scheduler=other).scheduler is other
    assert replace(assembly, scheduler=PiPar(micro_batches=5)).scheduler.micro_batches == 5


@pytest.mark.parametrize("number", [1, 4, 16])
def test_memory_is_that_of_all_micro_batches(number: int) -> None:
    """M' activation sets on a device, one micro-batch at a time on the server; never more than a run then takes."""
    made = built({"name": "pipar", "micro_batches": number})
    blocks, b = made.assembly.blocks(), 16 // number
    forward, backward = blocks["device"].forward_part(b), blocks["device"].backward_part(b)
    first, *_, server = made.needs()
    assert first.step == max(
        (number - 1) * forward.keeps + forward.memory,
        number * forward.keeps + backward.memory,
    )
    assert server.step == blocks["server"].train_part(b).memory
    simulation = made.assembly.simulation()
    simulation.run()
    peaks = {mark[0]: mark[3] for mark in simulation.trace.marks if mark[2] == "memory.peak"}
    assert peaks[0] >= first.total
    assert peaks[SERVER] >= server.total


def test_check_shows_what_the_profiler_found(capsys: pytest.CaptureFixture[str]) -> None:
    """Every cut, where one is chosen, with its number of micro-batches and the time of a batch."""
    updates = {"learning": False, "scheduler": "pipar", "model": {"name": "mlp", "hidden": [8, 8], "cut": "auto"}}
    findings = check(load_scenario(TOY, updates=updates))
    profiler = findings.study.assembly.profiler
    assert findings.pipelines == (profiler.plan(1, PiPar()), profiler.plan(2, PiPar()))
    (first, _) = findings.document()["model"]["pipelines"]
    assert Plan(**first) == findings.pipelines[0]
    fixed = check(load_scenario(TOY, updates=updates | {"model": TOY["model"]}))
    assert fixed.pipelines == findings.pipelines[:1]
    assert not check(load_scenario(TOY, updates=updates | {"scheduler": "splitfed"})).pipelines

    overrides = ["scheduler.name=pipar", "model.cut=auto"]
    check_command("quickstart", overrides, as_json=False)
    shown = capsys.readouterr().out
    assert "cuts, if batches were not cut into micro-batches" in shown
    assert "micro-batches, by the profiler" in shown
