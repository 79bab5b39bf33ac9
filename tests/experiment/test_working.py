"""Pools of workers: the same run as in one process, whatever the number of shares, whoever dies, under every system."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from numpy.typing import NDArray

import fedsim
from fedsim.errors import RunError, UserError
from fedsim.experiment.assembly import Assembly
from fedsim.experiment.registry import registry
from fedsim.learning.optimizers import AdamW, Schedule, Sgd
from fedsim.learning.shares.keeper import Keeper
from fedsim.payload.codecs import Codecs, Int8, TopK
from fedsim.report import check_identity
from fedsim.runtime.cluster import session
from fedsim.runtime.encoding import GiveSums
from fedsim.schedulers.fedavg import FedAvg
from fedsim.script import SERVER, Command
from fedsim.simulation import Fault
from fedsim.simulation.pool import Pool
from fedsim.simulation.rays import EVERY, RayCrew, RayLane, gpu_share
from fedsim.testing import Outcome, host, simulate, toy
from tests.experiment.toys import TOY, rolled

DEVICES = {"devices": 11, "participants": 10}
"""Several runs of a mean; and somebody sits out."""


class Here:
    """A lane to a share in this process: arguments and answers are copied, as between processes."""

    def __init__(self, keeper: Keeper) -> None:
        self.keeper = keeper
        self.given: list[int] = []
        """Bytes of each payload that has left it."""
        self.calls: Counter[str] = Counter()
        """By what is called."""

    def call(self, method: str, *args: Any, answers: int = 1, nbytes: int = 0) -> list[Any]:
        """Carry it out at once."""
        self.calls[method] += 1
        made = getattr(self.keeper, method)(*self.carried(args))
        found = made if answers > 1 else [made]
        assert len(found) == answers
        payloads = [value for value in found[1:] if isinstance(value, list) and isinstance(value[0], np.ndarray)]
        self.given += [sum(part.nbytes for part in value) for value in payloads]
        copied: list[Any] = pickle.loads(pickle.dumps(found))
        return copied

    def carried(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Arguments as they are on the other side."""
        copied: tuple[Any, ...] = pickle.loads(pickle.dumps(args))
        return copied

    def answer(self, token: Any) -> Any:
        """The answer is its own token."""
        return token


class Watched(Here):
    """One that remembers what it was told, and the values as they came, which are not to be written to."""

    def __init__(self, keeper: Keeper) -> None:
        super().__init__(keeper)
        self.orders: list[Any] = []
        self.came: list[tuple[NDArray[Any], bytes]] = []

    def carried(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """See `Here`."""
        copied = super().carried(args)
        if isinstance(copied[0], list):
            self.orders += copied[1]
        self.came += [(array, array.tobytes()) for array in arrays(copied)]
        return copied


def arrays(value: Any) -> Iterator[NDArray[Any]]:
    """All arrays in nested values."""
    if isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, dict | list | tuple):
        for each in value.values() if isinstance(value, dict) else value:
            yield from arrays(each)


class Reborn(Here):
    """One whose share is another one after every call, which goes on from what the one before has held."""

    def __init__(self, keeper: Keeper, make: Callable[[], Keeper]) -> None:
        super().__init__(keeper)
        self._make = make
        self.births = 0

    def call(self, method: str, *args: Any, answers: int = 1, nbytes: int = 0) -> list[Any]:
        """Carry it out, and begin anew."""
        found = super().call(method, *args, answers=answers, nbytes=nbytes)
        held = self.keeper.snapshot()
        if held is not None:
            self.births += 1
            self.keeper = self._make()
            self.keeper.restore(held)
        return found


def pooled(
    assembly: Assembly,
    shares: int,
    *,
    reborn: bool = False,
    lane: type[Here] = Here,
    processor: torch.device | None = None,
) -> tuple[Outcome, Pool, list[Any]]:
    """A run of so many shares, whose blocks compute on a processor."""
    blocks = assembly.blocks()

    def make() -> Keeper:
        return Keeper(host(assembly, assembly.blocks(), processor))

    lanes = [Reborn(make(), make) if reborn else lane(make()) for _ in range(shares)]
    loads = {device: float(samples) for device, samples in enumerate(assembly.samples)}
    pool = Pool(lanes, loads | {SERVER: 1.0})
    simulation = assembly.simulation(pool, blocks=blocks)
    ending = simulation.run()
    pool.close()
    check_identity(simulation.trace)
    weights = None if simulation.published is None else pool.model_tensors(simulation.published.model)
    return Outcome(simulation, ending, weights), pool, lanes


def check_same(found: Outcome, wanted: Outcome) -> None:
    """The same records, and the same weights to the bit."""
    for name in ("spans", "transfers", "waits", "marks", "end"):
        assert getattr(found.simulation.trace, name) == getattr(wanted.simulation.trace, name), name
    assert (found.weights is None) == (wanted.weights is None)
    for name, tensor in (wanted.weights or {}).items():
        assert tensor.equal((found.weights or {})[name]), name


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(registry().schedulers))
@pytest.mark.parametrize("more", [DEVICES, {"pruned": True}, {"apart": True}], ids=["whole", "pruned", "apart"])
def test_every_system_gives_the_same_for_any_number_of_shares(name: str, more: dict[str, Any]) -> None:
    """With the devices of a round in other shares than in the round before."""
    made = partial(toy, registry().schedulers[name](), **more)
    wanted = simulate(made())
    for shares in (1, 2, 3):
        check_same(pooled(made(), shares)[0], wanted)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(registry().schedulers))
def test_a_share_goes_on_from_a_snapshot(name: str) -> None:
    """All that matters of it is in there, at any moment at which there is one."""
    assembly = toy(registry().schedulers[name]())
    found, _, lanes = pooled(assembly, 2, reborn=True)
    check_same(found, simulate(toy(registry().schedulers[name]())))
    assert sum(lane.births for lane in lanes) > 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fedavg", "fedprox"])
def test_windows_move_alike_in_any_number_of_shares(name: str) -> None:
    """The server's share says which; the same weights, also from snapshots."""
    made = partial(rolled, registry().schedulers[name]())
    wanted = simulate(made())
    for shares in (1, 3):
        check_same(pooled(made(), shares)[0], wanted)
    check_same(pooled(made(), 2, reborn=True)[0], wanted)
    assert [mark[3] for mark in wanted.simulation.trace.marks if mark[2] == "reached"][-1] == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fedavg", "splitfed", "fedoptima"])
def test_models_of_their_own_go_on_from_a_snapshot(name: str) -> None:
    """Each of them."""
    made = partial(toy, registry().schedulers[name](), apart=True)
    check_same(pooled(made(), 2, reborn=True)[0], simulate(made()))


def trained(name: str, **training: Any) -> Assembly:
    """Another training of the toy."""
    assembly = toy(registry().schedulers[name](), devices=9)
    return replace(assembly, training=replace(assembly.training, **training))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fedavg", "scaffold", "splitfed", "fedoptima", "oafl"])
@pytest.mark.parametrize(
    "training",
    [
        {
            "codecs": Codecs(
                activations=TopK(fraction=0.25), gradients=TopK(fraction=0.5, feedback=True), weights=Int8()
            )
        },
        {"optimizer": Sgd(lr=0.1, momentum=0.9), "keep_optimizer_state": True},
        {"optimizer": AdamW(lr=0.01, schedule=Schedule(kind="exponential", factor=0.5))},
    ],
    ids=["codecs", "momentum kept", "adamw scheduled"],
)
def test_what_outlives_a_round_is_where_its_node_is(name: str, training: dict[str, Any]) -> None:
    """What error feedback owes, momentum, control variates, learning rates; also from snapshots."""
    wanted = simulate(trained(name, **training))
    check_same(pooled(trained(name, **training), 3)[0], wanted)
    check_same(pooled(trained(name, **training), 2, reborn=True)[0], wanted)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fedavg", "splitfed", "fedoptima", "fedasync"])
@pytest.mark.parametrize("back", [None, 0.25])
def test_devices_leave_and_return(name: str, back: float | None) -> None:
    """What they held is gone in every share."""
    faults = [Fault(device=1, leave=0.05, back=back), Fault(device=7, leave=0.12, back=back)]
    made = partial(toy, registry().schedulers[name](), devices=9, faults=faults)
    check_same(pooled(made(), 3)[0], simulate(made()))


def test_a_model_crosses_once_to_each_share_and_members_do_not() -> None:
    """One broadcast a round and share; what comes back are sums of runs, not models."""
    rounds = 3
    assembly = toy(registry().schedulers["fedavg"](), devices=11, rounds=rounds)
    model = assembly.blocks()["model"].weights.memory_bytes
    _, pool, lanes = pooled(assembly, 2)
    given = [nbytes for lane in lanes for nbytes in lane.given]
    assert len(given) == rounds + 1, "the last one, too: that nobody goes on from it is not known"
    assert all(model <= nbytes < 2 * model for nbytes in given), "a model with its padding"
    assert len(pool._values) <= 2, "what nobody can name is gone"


LEAVING = [Fault(device=2, leave=0.05), Fault(device=7, leave=0.12, back=0.25)]


def mixed(**more: Any) -> Assembly:
    """A toy in which neighbours are unlike, so that members of several runs come in turns."""
    made = toy(FedAvg(), devices=12, participants=11, **more)
    groups = [replace(group, count=1) for group in made.fleet.groups for _ in range(group.count)]
    order = np.random.default_rng(4).permutation(12).tolist() if not made.variants else range(12)
    return replace(made, fleet=replace(made.fleet, groups=tuple(groups[i] for i in order)))


@pytest.mark.parametrize("more", [{}, {"pruned": True}, {"faults": LEAVING}], ids=["whole", "pruned", "leaving"])
def test_sums_leave_as_soon_as_their_runs_are_complete(more: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where they are large: run by run, read where they come in, and none before all of its members are there."""
    made = partial(mixed, **more)
    wanted = simulate(made())
    for largest in (2**30, 1):
        monkeypatch.setattr("fedsim.simulation.pool.LARGE", largest)
        for shares in (2, 3):
            found, _, lanes = pooled(made(), shares, lane=Watched)
            check_same(found, wanted)
            early = [order for lane in lanes for order in lane.orders if isinstance(order, GiveSums) and order.runs]
            assert bool(early) == (largest == 1)
            assert all(array.tobytes() == before for lane in lanes for array, before in lane.came)
            hosts = [lane.keeper._host for lane in lanes]
            assert not any(key[0] == "mean" for each in hosts for key in each.core.memory)
            assert not any(each._means for each in hosts)


def test_a_round_is_a_few_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes from one share to another goes with calls that are made anyway."""
    monkeypatch.setattr("fedsim.simulation.calls.GRAIN", 1e9)
    rounds = 6
    _, _, (first, second) = pooled(toy(FedAvg(), devices=11, participants=10, rounds=rounds), 2)
    assert first.calls.keys() == {"run", "evaluate", "model_tensors"}
    assert first.calls["run"] <= 3 * rounds + 3
    assert second.calls.keys() == {"run"}
    assert second.calls["run"] <= 2 * rounds + 1


def test_work_is_spread_by_what_it_costs() -> None:
    """Runs of a mean stay together; the heaviest go first, to where least is to do."""
    lanes = [Here(Keeper(host(toy(FedAvg())))) for _ in range(3)]
    loads = dict.fromkeys(range(80), 1.0) | dict.fromkeys(range(8, 16), 10.0) | {SERVER: 50.0}
    pool = Pool(lanes, loads)
    homes = [{pool._home[device] for device in range(first, first + 8)} for first in range(0, 80, 8)]
    assert all(len(home) == 1 for home in homes)
    heavy, others = homes.pop(1), [home.copy().pop() for home in homes]
    assert heavy == {1}, "the heavy run is alone, and not beside the server"
    assert sorted(others) == [0] + [2] * 8, "so much is to do for the server already"


class Remote:
    """A method of a process that never answers; it counts how often it is called."""

    def __init__(self) -> None:
        self.calls = 0

    def options(self, num_returns: int) -> Remote:
        """Nothing to set."""
        self.answers = num_returns
        return self

    def remote(self, *_: Any) -> list[int]:
        """Call it."""
        self.calls += 1
        return [0] * self.answers


class Silent:
    """A crew of one such process; a snapshot is there as soon as it was asked for."""

    room = 1000.0

    def __init__(self) -> None:
        self.carry, self.snapshot = Remote(), Remote()

    def actor(self, *_: Any) -> Silent:
        """The process."""
        return self

    def number(self) -> int:
        """Of a call."""
        return 1

    def done(self, _: Any) -> bool:
        """It is there."""
        return True


def test_snapshots_are_made_by_calls_and_by_what_their_answers_hold() -> None:
    """So that what is kept for a process that may die does not fill the object store."""
    crew: Any = Silent()
    lane = RayLane(crew, 0)
    for _ in range(EVERY + 1):
        lane.call("run", nbytes=1)
    assert crew.snapshot.calls == 1
    for _ in range(7):
        lane.call("run", nbytes=400)
    assert crew.snapshot.calls == 3
    assert len(lane.log) < EVERY


# ---------------------------------------------------------------------------------------------- Ray


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """A small Ray on the loopback, for all tests here."""
    with session(None, store=256 * 2**20):
        import ray as found

        yield found


TWO = {"kind": "ray", "count": 2}


@pytest.mark.slow
def test_a_session_of_our_own_listens_on_the_loopback_alone(ray: Any) -> None:
    """Whoever could reach it could run code."""
    ours = [psutil.Process(), *psutil.Process().children(recursive=True)]
    found = [each.laddr.ip for process in ours for each in process.net_connections("tcp") if each.status == "LISTEN"]
    assert len(found) > 2
    assert {ip.removeprefix("::ffff:") for ip in found} == {"127.0.0.1"}


def test_processes_share_gpus_so_that_all_find_room() -> None:
    """In the ten-thousandths that Ray counts in, rounded as Ray rounds; and no card is left idle."""
    for cards in range(1, 9):
        for count in range(1, 65):
            share = gpu_share(count, cards)
            on_a_card = 1 if share == 1 else 10_000 // round(share * 10_000)
            assert on_a_card * cards >= count
            assert (on_a_card - 1) * cards < count, "fewer on a card would do"


@pytest.mark.slow
def test_a_pool_on_gpus_needs_some(ray: Any) -> None:
    """Before any process begins."""
    with pytest.raises(UserError, match=r"workers.processor: cuda, but Ray finds no GPU on this host; give cpu, or"):
        fedsim.run(TOY, workers={**TWO, "processor": "cuda"})


@pytest.mark.long
def test_a_process_whose_machine_is_gone_shares_the_cores_that_are_left(
    ray: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It would wait for ever for a core of its own; the weights are the same."""
    monkeypatch.setattr("fedsim.simulation.rays.PATIENCE", 1.0)
    make = Toy("fedavg", devices=11, rounds=6)
    crew = _crew(make)
    crew._options["num_cpus"] = 1000.0  # as if all others had gone
    _kill_at(crew, {9: 1}, monkeypatch)
    try:
        check_same(_play(crew, make.assembly()), simulate(make.assembly()))
        assert sorted(lane.deaths for lane in crew.lanes) == [0, 1]
        assert "the cluster has fewer cores than workers now; worker 1 shares one" in caplog.text
    finally:
        for lane in crew.lanes:
            lane.kill()


@pytest.mark.slow
def test_a_process_is_not_moved_to_where_no_gpu_is(ray: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run stops and says so, rather than wait."""
    monkeypatch.setattr("fedsim.simulation.rays.PATIENCE", 0.1)
    crew = _crew(dict)
    try:
        crew._options["num_gpus"] = 1.0
        crew.lanes[1].rebuild()
        with pytest.raises(RunError, match="a machine of the cluster is gone, and no GPU is left for worker 1; start"):
            crew._see_to_room(crew.lanes[1])
    finally:
        for lane in crew.lanes:
            lane.kill()


_CARDS = """
import os
from fedsim.runtime.cluster import session
from fedsim.simulation.rays import RayCrew

os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
import ray

ray.init(num_cpus=8, num_gpus=2, include_dashboard=False, object_store_memory=2**27, _node_ip_address="127.0.0.1",
         log_to_driver=False, logging_level="ERROR", configure_logging=False)
with session(None, store=2**27) as local:
    for count in (None, 7):
        crew = RayCrew(dict, count, threads=1, local=local, store=2**27, gpus=True)
        print(sorted(lane.ask(lambda _: os.environ["CUDA_VISIBLE_DEVICES"]) for lane in crew.lanes))
        for lane in crew.lanes:
            lane.kill()
ray.shutdown()
"""


@pytest.mark.long
def test_processes_are_told_which_gpu_is_theirs() -> None:
    """One a card if nothing is said, else as many as are asked for; Ray takes our word for it that there are two."""
    command = [sys.executable, "-c", _CARDS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.splitlines() == [str(["0", "1"]), str([*"0000", *"111"])]


@pytest.mark.slow
def test_workers_of_our_own_are_no_nicer_than_we_are(ray: Any) -> None:
    """Nodes that keep to a clock would be late whenever anything else of this host is busy."""
    there = ray.remote(lambda: psutil.Process().nice()).remote()
    assert ray.get(there) == psutil.Process().nice()


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", ["fedavg", "splitfed"])
def test_a_scenario_runs_in_processes(scheduler: str, ray: Any, tmp_path: Path) -> None:
    """With the records, curves and weights of one that runs in this process."""
    updates: dict[str, Any] = {"scheduler": scheduler, "until": {"rounds": 2}}
    wanted = fedsim.run(TOY, **updates)
    found = fedsim.run(TOY, out=tmp_path / "run", workers=TWO, **updates)
    assert (found.trace.spans, found.trace.marks) == (wanted.trace.spans, wanted.trace.marks)
    assert found.weights is not None
    assert wanted.weights is not None
    assert all(tensor.equal(found.weights[name]) for name, tensor in wanted.weights.items())
    assert found.curves == wanted.curves
    assert (tmp_path / "run" / "model.safetensors").exists()


class Toy:
    """Makes shares of a toy run, in their own processes."""

    def __init__(self, name: str, **more: Any) -> None:
        self._made = partial(toy, registry().schedulers[name](), **more)

    def assembly(self) -> Assembly:
        """The run."""
        return self._made()

    def __call__(self) -> Keeper:
        """A share."""
        torch.set_num_threads(1)
        return Keeper(host(self.assembly()))


class Deadly(Toy):
    """Makes processes that die of any order."""

    def __call__(self) -> Keeper:
        """A share."""
        return Fatal(host(self.assembly()))


class Fatal(Keeper):
    """Takes its process along."""

    def run(self, *_: Any) -> float | list[Any]:
        """See `Keeper`."""
        os._exit(1)


def _crew(make: Callable[[], Any]) -> RayCrew:
    return RayCrew(make, 2, threads=1, local=True, store=256 * 2**20)


def _play(crew: RayCrew, assembly: Assembly) -> Outcome:
    pool = Pool(crew.lanes, dict.fromkeys(range(-1, assembly.fleet.devices), 1.0))
    simulation = assembly.simulation(pool)
    ending = simulation.run()
    pool.close()
    assert simulation.published is not None
    return Outcome(simulation, ending, pool.model_tensors(simulation.published.model))


def _kill(crew: RayCrew, lane: int) -> None:
    actor: Any = crew.lanes[lane]._actor
    process = psutil.Process(crew._ray.get(actor.__ray_call__.remote(lambda _: os.getpid())))
    process.send_signal(signal.SIGKILL)
    process.wait(10)


def _kill_at(crew: RayCrew, lanes: dict[int, int], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Kill the process of a lane when a call has a number; those numbers, as they come."""
    count, killed = crew.number, []

    def number() -> int:
        made = count()
        if made in lanes:
            killed.append(made)
            _kill(crew, lanes[made])
        return made

    monkeypatch.setattr(crew, "number", number)
    return killed


@pytest.mark.long
@pytest.mark.parametrize("name", ["fedavg", "splitfed", "fedoptima"])
def test_a_process_is_killed(name: str, ray: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice, each process once: what it did is done again, and the run ends with the same weights."""
    monkeypatch.setattr("fedsim.simulation.rays.EVERY", 7)
    monkeypatch.setattr("fedsim.simulation.calls.MOST", 12)
    make = Toy(name, devices=11, rounds=6)
    wanted = simulate(make.assembly())
    crew = _crew(make)
    killed = _kill_at(crew, {20: 1, 55: 0}, monkeypatch)
    try:
        check_same(_play(crew, make.assembly()), wanted)
        assert killed == [20, 55]
        assert sorted(lane.deaths for lane in crew.lanes) == [1, 1]
        assert all(len(lane.log) < lane.log[-1].turn for lane in crew.lanes), "snapshots shorten what is kept"
        assert print.__module__ == "builtins", "Ray tells of the death without changing this process"
    finally:
        for lane in crew.lanes:
            lane.kill()


@pytest.mark.long
def test_a_process_that_dies_again_and_again_ends_the_run(ray: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what may be done about it."""
    monkeypatch.setattr("fedsim.simulation.rays.RETRIES", 1)
    make = Deadly("fedavg", devices=3)
    crew = _crew(make)
    with pytest.raises(RunError, match=r"worker \d has died 2 times .*; give it more memory, or run with fewer"):
        _play(crew, make.assembly())
    for lane in crew.lanes:
        lane.kill()


@pytest.mark.slow
def test_what_a_work_raises_reaches_the_user(ray: Any) -> None:
    """As it was raised, and no other error that follows from it."""
    make = Toy("fedavg", devices=3)
    crew = _crew(make)
    try:
        pool = Pool(crew.lanes, dict.fromkeys(range(-1, 3), 1.0))
        pool.start(SERVER, [Command(SERVER, 1, "no such method")])
        pool.start(SERVER, [Command(SERVER, 1, "open", ("model",))])
        with pytest.raises(KeyError, match="no such method"):
            pool.close()
    finally:
        for lane in crew.lanes:
            lane.kill()


@pytest.mark.parametrize(
    ("workers", "message"),
    [
        ({"kind": "ray", "count": 0}, "workers.count: 0 does not fit; give 1 or more"),
        ({"kind": "ray", "count": "many"}, "workers.count: .*a number, or auto"),
        ({"kind": "dask"}, "workers.kind"),
    ],
)
def test_what_cannot_be_a_pool(workers: dict[str, Any], message: str) -> None:
    """Is said before anything starts."""
    with pytest.raises(UserError, match=message):
        fedsim.run(TOY, workers=workers)
