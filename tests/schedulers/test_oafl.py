"""OAFL: a device waits for gradients and for no other device; both halves are mixed in when it is done."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Literal

import pytest
import torch

from fedsim.learning.context import Server
from fedsim.learning.host import Host
from fedsim.learning.optimizers import Schedule, Sgd
from fedsim.learning.plan import DEVICE, SERVER_BLOCK
from fedsim.report import summarise
from fedsim.schedulers.fedasync import FedAsync
from fedsim.schedulers.oafl import Activations, Block, Gradient, Oafl, Trained
from fedsim.schedulers.staleness import mixing
from fedsim.script import SERVER, Compute, Connected, Disconnected, Message, Payload, Recv, Send
from fedsim.simulation import Ending, Fault, Simulation
from fedsim.testing import DEVICES, Hand, Outcome, Steps, by_hand, check_scheduler, simulate, toy
from fedsim.trace import Mark, Span, Transfer
from tests.learning.toys import Federation, furthest
from tests.schedulers.asynchronous import at_once, idle_of_devices
from tests.schedulers.closed_forms import LABEL, batches, loss, macs, state
from tests.schedulers.halves import Half, Split, train
from tests.schedulers.plain import Plain, State, contributions, finished, mean, stalenesses, state_of
from tests.schedulers.test_fedasync import replayed

ROUNDS = 3
Kept = Literal["copies", "shared"]
BOTH = pytest.mark.parametrize("kept", ["copies", "shared"])
PLANS = toy(Oafl()).blocks()


# ------------------------------------------------------------------------------------------------ by hand


@dataclass
class Served:
    """A server's script that is told what comes; whatever it computes is done at once."""

    steps: Steps
    blocks: list[tuple[int, Block]] = field(default_factory=list)
    gradients: list[tuple[int, Gradient]] = field(default_factory=list)
    works: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._settle()

    def _settle(self) -> None:
        while not isinstance(effect := self.steps.effect, Recv | None):
            if isinstance(effect, Compute):
                (work,) = effect.works
                self.works.append(work)
                self.steps.answer(work.result)
                continue
            assert isinstance(effect, Send)
            (to,) = effect.to
            if isinstance(effect.message, Block):
                self.blocks.append((to, effect.message))
            else:
                assert isinstance(effect.message, Gradient)
                self.gradients.append((to, effect.message))
            self.steps.answer(None)

    def tell(self, message: Message) -> None:
        """Answer its wait."""
        assert isinstance(self.steps.effect, Recv), "it has returned"
        self.steps.answer(message)
        self._settle()

    def block_of(self, device: int) -> Block:
        """The last block that a device was sent."""
        return next(block for to, block in reversed(self.blocks) if to == device)

    def batch(self, device: int, turn: int | None = None) -> list[str]:
        """A batch comes; answers with what the server computes on it."""
        z, y = Payload(device, 1, PLANS[DEVICE].activations(8)), Payload(device, 2, PLANS[DEVICE].labels(8))
        known = len(self.works)
        self.tell(Activations(z, y, self.block_of(device).turn if turn is None else turn, sender=device))
        return [work.command.method for work in self.works[known:]]

    def trained(self, device: int, turn: int | None = None) -> list[str]:
        """A device block comes; answers with what the server computes on it."""
        block, known = self.block_of(device), len(self.works)
        weights = Payload(device, 3, self.steps.port.published[0][0].meta)
        self.tell(Trained(weights, block.version, block.turn if turn is None else turn, sender=device))
        return [work.command.method for work in self.works[known:]]

    def commands(self, method: str) -> list[int]:
        """The learners that a command was queued for."""
        return [command.learner for command in self.steps.port.commands if command.method == method]

    @property
    def open(self) -> set[int]:
        """Copies that have been made and not been closed."""
        return set(self.commands("copy")) - set(self.commands("close"))


def server(scheduler: Oafl | None = None, *, devices: int = 3, rounds: int | None = None) -> Served:
    """The server's script, which has sent its first blocks."""
    return Served(by_hand(scheduler or Oafl(), "server", devices=devices, rounds=rounds))


def mixtures(served: Served) -> list[float]:
    """The weights of all mixtures."""
    return [work.command.args[2] for work in served.works if work.command.method == "mix"]


def test_a_turn_by_hand() -> None:
    """A step and a gradient a batch; then both halves are mixed, by the same weight, and the device goes on."""
    served = server()
    assert [(to, block.version, block.round) for to, block in served.blocks] == [(k, 0, 0) for k in range(3)]
    assert served.batch(1) == served.batch(1) == ["train_step"]
    assert [(to, gradient.turn) for to, gradient in served.gradients] == [(1, served.block_of(1).turn)] * 2
    copy = served.works[0].command.learner
    before = len(served.steps.port.commands)
    assert served.trained(1) == ["mix", "mix"]
    device, block = served.works[-2:]
    assert device.command.args[2] == block.command.args[2] == 0.6
    queued = served.steps.port.commands[before:]
    (taken,) = (c for c in queued if c.method == "weights" and c.learner == copy)
    assert block.command.args[1] is taken.output, "what the copy has learnt goes into the mixture"
    assert [c.method for c in queued if c.learner == copy] == ["weights", "close"]
    (loaded,) = (c for c in queued if c.method == "load")
    assert loaded.args == (block.result,)
    (fresh,) = (c for c in queued if c.method == "copy")
    assert fresh.args == (loaded.learner,)
    assert queued.index(loaded) < queued.index(fresh), "its new copy is one of the new mixture"
    to, sent = served.blocks[-1]
    assert (to, sent.version, sent.weights) == (1, 1, device.result)
    assert served.steps.port.published[-1][0] is device.result


def test_staleness_counts_from_the_download() -> None:
    """Two slow devices beside a fast one, by a table: the versions that were made since each got its block."""
    served = server(Oafl(staleness="polynomial", a=1.0, alpha=1.0))
    table = [(0, 0), (0, 0), (0, 0), (1, 3), (0, 1), (2, 5), (2, 0), (0, 2), (1, 4), (1, 0)]
    for device, _ in table:
        assert served.trained(device) == ["mix", "mix"]
    assert mixtures(served)[::2] == mixtures(served)[1::2] == pytest.approx([1 / (1 + tau) for _, tau in table])


def test_a_thousand_updates_do_not_wear_alpha_down() -> None:
    """Two devices in turns: α_t is the same each time, for both halves, and no copy is left behind."""
    served = server(devices=2)
    for number in range(1000):
        served.trained(number % 2)
    assert set(mixtures(served)[2:]) == {0.6 * 2**-0.5}
    assert len(mixtures(served)) == 2000
    assert len(served.open) == 2


@pytest.mark.parametrize(
    "options",
    [{"staleness": "hinge"}, {"staleness": "hinge", "a": 0.5, "b": 1}, {"staleness": "constant", "alpha": 0.3}],
    ids=str,
)
def test_options_of_the_mixture_arrive(options: dict[str, Any]) -> None:
    """Those of FedAsync."""
    served = server(Oafl(**options), devices=2)
    taus = [0, 0, 0, 0, 0, 0, 6]
    for device in (0, 0, 0, 0, 0, 0, 1):
        served.trained(device)
    scheduler = Oafl(**options)
    found = [mixing(scheduler.alpha, scheduler.staleness, tau, scheduler.a, scheduler.b) for tau in taus]
    assert mixtures(served)[::2] == found


def test_a_shared_block_is_not_mixed() -> None:
    """All batches train the one block, and only the device's half is put together."""
    served = server(Oafl(server_block="shared"))
    for device in (0, 2, 1):
        assert served.batch(device) == ["train_step"]
    assert len({work.command.learner for work in served.works}) == 1
    assert served.trained(2) == ["mix"]
    assert served.works[-1].result is served.block_of(2).weights
    assert not served.commands("copy")
    assert not served.commands("load")


def test_copies_are_several_blocks() -> None:
    """One a device that trains, and each is closed at the end of its turn."""
    served = server()
    for device in range(3):
        served.batch(device)
    assert len({work.command.learner for work in served.works}) == 3
    first = served.works[0].command.learner
    served.trained(0)
    assert first not in served.open
    assert len(served.open) == 3


def test_it_ends_after_so_many_updates_a_device() -> None:
    """until.rounds times K, whoever they come from; rounds of the learning rate are K updates."""
    served = server(rounds=2)
    for number in range(6):
        assert served.steps.effect is not None, number
        assert served.block_of(0).round == number // 3
        served.trained(0)
    assert served.steps.effect is None


def test_a_round_is_so_many_updates_as_there_are_devices() -> None:
    """Learning rates follow it: on a device by what its block says, on the server for the next copies."""
    assembly, port = toy(Oafl(), devices=2, rounds=None), Hand(SERVER)
    optimizer = Sgd(lr=0.1, schedule=Schedule(kind="exponential", factor=0.5))
    job = replace(assembly, training=replace(assembly.training, optimizer=optimizer)).job()
    served = Served(Steps(Oafl().server(Server(port, job, 2)), port))
    for _ in range(4):
        served.trained(0)
    assert [c.args for c in port.commands if c.method == "pace"] == [(0,), (1,), (1,), (2,)]
    assert [block.round for to, block in served.blocks if to == 0] == [0, 0, 1, 1, 2]


def test_what_comes_of_an_earlier_life_is_told_apart() -> None:
    """Batches and a block from before the device left are neither trained on nor mixed in; its copy is closed."""
    served = server()
    old = served.block_of(1).turn
    served.batch(1)
    copy = served.works[-1].command.learner
    served.tell(Disconnected(1, sender=1))
    assert copy not in served.open
    assert len(served.open) == 2
    assert served.batch(1) == served.trained(1) == [], "nobody is there"
    served.tell(Connected(1, sender=1))
    fresh = served.block_of(1)
    assert fresh.turn != old
    assert fresh.version == 0
    assert served.batch(1, old) == served.trained(1, old) == []
    assert served.batch(1) == ["train_step"]
    assert served.works[-1].command.learner != copy
    assert served.trained(1) == ["mix", "mix"]
    assert mixtures(served) == [0.6, 0.6]
    assert [to for to, _ in served.gradients] == [1, 1]


def test_a_device_that_is_back_is_as_old_as_the_version_it_gets() -> None:
    """Versions that were made while it was away do not count against it."""
    served = server()
    served.tell(Disconnected(1, sender=1))
    for _ in range(4):
        served.trained(0)
    served.tell(Connected(1, sender=1))
    assert served.block_of(1).version == 4
    served.trained(1)
    assert mixtures(served)[-1] == 0.6


def test_a_turn_that_the_server_gives_up_is_closed_once() -> None:
    """A block sent to a device whose leaving and return still wait: both notices end that turn, the last begins one."""
    served = server(devices=2)
    served.trained(1)
    stale = served.block_of(1).turn
    served.tell(Disconnected(1, sender=1))
    served.tell(Connected(1, sender=1))
    closed = Counter(served.commands("close"))
    assert all(closed[copy] == 1 for copy in set(served.commands("copy")) & set(closed))
    assert len(served.open) == 2
    assert served.batch(1, stale) == []
    assert served.batch(1) == ["train_step"]


def test_with_few_places_the_next_one_is_called() -> None:
    """Whoever is done sits out, a place that is left is taken, and who is back finds one or waits."""
    served = server(Oafl(concurrency=1), devices=2)
    ((first, _),) = served.blocks
    served.trained(first)
    assert [to for to, _ in served.blocks] == [first, 1 - first]
    served.tell(Disconnected(1 - first, sender=1 - first))
    assert served.blocks[-1][0] == first
    served.tell(Connected(1 - first, sender=1 - first))
    assert len(served.blocks) == 3, "no place for it yet"
    assert len(served.open) == 1
    served.trained(first)
    assert served.blocks[-1][0] == 1 - first
    assert len(served.open) == 1


def device_in_its_turn(scheduler: Oafl, turn: int) -> Steps:
    """A device's script that has been sent a block and waits for its first gradient."""
    device = by_hand(scheduler, 1)
    device.answer(Block(Payload(SERVER, 1, PLANS[DEVICE].weights), 5, 2, turn, sender=SERVER))
    _forward(device, turn)
    return device


def _forward(device: Steps, turn: int) -> None:
    assert isinstance(device.effect, Compute)
    (work,) = device.effect.works
    assert work.command.method == "forward"
    device.answer(work.result)
    assert isinstance(device.effect, Send)
    assert isinstance(device.effect.message, Activations)
    assert device.effect.message.turn == turn
    assert device.effect.message.values is work.result
    device.answer(None)


def gradient(turn: int) -> Gradient:
    """One that a device may get."""
    return Gradient(Payload(SERVER, 2, PLANS[SERVER_BLOCK].gradients(8)), turn, sender=SERVER)


def test_a_device_by_hand() -> None:
    """Forward, send, wait, backward with its step; then its block, with the version that it had."""
    device = device_in_its_turn(Oafl(local_steps=2), 4)
    for step in range(2):
        assert isinstance(device.effect, Recv)
        device.answer(gradient(3))
        assert isinstance(device.effect, Recv), "a gradient of an earlier turn is none"
        device.answer(gradient(4))
        assert isinstance(device.effect, Compute)
        (work,) = device.effect.works
        assert (work.command.method, work.command.args[2]) == ("backward", True)
        device.answer(None)
        if step == 0:
            _forward(device, 4)
    assert isinstance(device.effect, Send)
    message = device.effect.message
    assert isinstance(message, Trained)
    assert (message.version, message.turn) == (5, 4)
    assert device.port.commands[-1].method == "close"
    device.answer(None)
    assert isinstance(device.effect, Recv)
    assert device.effect.kinds == (Block,)
    device.close()


def test_a_device_goes_over_to_a_newer_turn() -> None:
    """While it waits for a gradient of a turn that the server has given up: else it would wait for ever."""
    device = device_in_its_turn(Oafl(), 4)
    device.port.commands.clear()
    device.answer(Block(Payload(SERVER, 3, PLANS[DEVICE].weights), 6, 2, 5, sender=SERVER))
    assert [command.method for command in device.port.commands][:2] == ["abandon", "load"]
    _forward(device, 5)
    device.answer(gradient(5))
    assert isinstance(device.effect, Compute)
    device.close()


def test_a_short_absence_that_the_server_notices_late() -> None:
    """Away for two nanoseconds while the server mixes its block: it goes on in the turn that its return begins."""
    whole = simulate(toy(Oafl(), devices=1, rounds=2), learning=False)
    mixing_ = next(span for span in whole.simulation.trace.spans if span[2] == "aggregate")
    moment = mixing_[3] / 1e9 + 1e-9
    fault = Fault(device=0, leave=moment, back=moment + 2e-9)
    outcome = simulate(toy(Oafl(), devices=1, rounds=2, faults=[fault]))
    assert outcome.ending is Ending.SERVER
    sent = [t for t in outcome.simulation.trace.transfers if t[3] == "Block"]
    assert len(sent) == 4, "at the start, to one who is back, to the same on its return, and at the end"


# --------------------------------------------------------------------------------------------- whole runs


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "optimizer", "cut"),
    [
        ({}, Sgd(lr=0.05), 2),
        ({"staleness": "hinge", "a": 0.5, "b": 1}, Sgd(lr=0.03, momentum=0.5), 1),
        (
            {"alpha": 0.9, "staleness": "constant"},
            Sgd(lr=0.1, schedule=Schedule(kind="exponential", factor=0.5)),
            3,
        ),
    ],
    ids=["polynomial", "hinge-momentum", "constant-schedule"],
)
def test_copies_are_fedasync_on_the_whole_model(options: dict[str, Any], optimizer: Sgd, cut: int) -> None:
    """Oracle 2: replaying its order of arrivals, with running statistics, momentum and learning rates by rounds."""
    what = Federation(optimizer=optimizer, cut=cut)
    host, simulation = what.simulation(Oafl(**options), rounds=ROUNDS)
    finished(simulation)
    arrivals = [t.source for t in contributions(simulation)][: ROUNDS * 4]
    assert len(set(stalenesses(arrivals))) > 2, "some are older than others"
    assert simulation.published is not None
    expected = replayed(what, FedAsync(**options), arrivals)
    assert furthest(host.model_tensors(simulation.published.model), expected) < 1e-9


def along_the_trace(split: Split, simulation: Simulation, scheduler: Oafl) -> State:
    """Plain modules along what a run's server did, event by event: steps on batches, and mixtures."""
    d, server = state_of(split.first), split.server()
    devices = len(split.shards)
    passes = [split.passes(k) for k in range(devices)]
    born = dict.fromkeys(range(devices), 0)
    halves: dict[int, Half] = {k: split.device(d) for k in range(devices)}
    copies = {k: split.server() for k in range(devices)}
    data = {k: next(passes[k]) for k in range(devices)}
    arrived = iter(contributions(simulation))
    rows = map(Mark._make, simulation.trace.marks)
    version = 0
    for mark in [mark for mark in rows if mark.name in ("consumed", "publish")][1:]:
        if mark.name == "consumed":
            k = int(mark.value)
            train(halves[k], server if scheduler.shared else copies[k], next(data[k]))
            continue
        k = next(arrived).source
        assert next(data[k], None) is None, "it has trained all of its batches"
        alpha = mixing(scheduler.alpha, scheduler.staleness, version - born[k], scheduler.a, scheduler.b)
        version += 1
        d = mean([(d, 1 - alpha), (state_of(halves[k].block), alpha)])
        if not scheduler.shared:
            s = mean([(state_of(server.block), 1 - alpha), (state_of(copies[k].block), alpha)])
            server.block.load_state_dict(s)
            copies[k] = split.server()
            copies[k].block.load_state_dict(s)
        halves[k], data[k], born[k] = split.device(d), next(passes[k]), version
    return {**d, **state_of(server.block)}


@pytest.mark.slow
@BOTH
def test_a_run_equals_its_batches_in_order(kept: Kept) -> None:
    """Of both kinds of server block: a shared one keeps its momentum, and has learnt of batches not mixed in yet."""
    what = Federation(optimizer=Sgd(lr=0.05, momentum=0.5))
    scheduler = Oafl(server_block=kept)
    host, simulation = what.simulation(scheduler, rounds=ROUNDS)
    finished(simulation)
    assert simulation.published is not None
    expected = along_the_trace(Split.of(what), simulation, scheduler)
    assert furthest(host.model_tensors(simulation.published.model), expected) < 1e-9


@pytest.mark.slow
def test_a_weight_of_one_and_one_device_is_centralised_sgd() -> None:
    """K = 1, alpha 1, constant, plain SGD: each turn goes on exactly where the last one ended."""
    what = Federation(sizes=(24,))
    plain = Plain(what)
    w = plain.start
    for _ in range(4):
        w = plain.train(0, w)
    for kept in ("copies", "shared"):
        ours = what.run(Oafl(alpha=1.0, staleness="constant", server_block=kept), rounds=4)
        assert furthest(ours, w) < 1e-12


@pytest.mark.slow
def test_running_statistics_are_mixed_like_weights() -> None:
    """Oracle 13, on both sides of the cut: after one update they are (1 − α)·first + α·what was learnt."""
    what = Federation(sizes=(16,), cut=1)
    start = what.network().state_dict()
    alone = what.run(Oafl(alpha=1.0), rounds=1)
    mixed = what.run(Oafl(alpha=0.25), rounds=1)
    names = [name for name in start if "running_var" in name]
    assert len(names) > 1
    for name in names:
        assert not alone[name].equal(start[name])
        torch.testing.assert_close(mixed[name], 0.75 * start[name] + 0.25 * alone[name], rtol=1e-12, atol=0)


LOCAL: tuple[dict[str, int], ...] = ({}, {"local_steps": 1}, {"local_steps": 7}, {"local_epochs": 2})


@BOTH
@pytest.mark.parametrize("local", LOCAL, ids=str)
def test_an_update_costs_its_closed_form(local: dict[str, int], kept: Kept) -> None:
    """HB(z + y) + |d| up, HBz + |d| down, (m + m_bwd)·HB on either side of the cut, models mixed on the server."""
    options: Any = local
    assembly = toy(Oafl(server_block=kept, **options), rounds=ROUNDS)
    trace = simulate(assembly, learning=False).simulation.trace
    rows = [Transfer(*row) for row in trace.transfers]
    model, cut = assembly.model, assembly.cut
    assert cut is not None
    d, s = model.units[:cut], model.units[cut:]
    z, updates = model.activation_bytes(cut), ROUNDS * DEVICES
    mixed = [span for span in map(Span._make, trace.spans) if span.kind == "aggregate"]
    theta = sum(unit.trainable for unit in d) if kept == "shared" else model.parameters
    assert sum(span.macs for span in mixed) == updates * 2 * theta
    assert sum(t.message == "Block" for t in rows) == DEVICES + updates
    server_macs = 0
    for k in range(DEVICES):
        done = [t for t in rows if t.source == k and t.message == "Trained" and t.queued < trace.end]
        last = max((t.queued for t in done), default=0)
        steps, epochs = local.get("local_steps"), local.get("local_epochs", 1)
        sizes = batches(int(assembly.samples[k]), 8, steps=steps, epochs=epochs, rounds=len(done))
        up = [t for t in rows if t.source == k and t.queued <= last]
        down = [t for t in rows if t.target == k and t.arrived <= last and t.message == "Gradient"]
        assert sum(t.weights for t in up) == len(done) * state(d)
        assert sum(t.activations for t in up) == sum(t.gradients for t in down) == sum(sizes) * z
        assert sum(t.labels for t in up) == sum(sizes) * LABEL
        assert all(t.weights == state(d) for t in rows if t.target == k and t.message == "Block")
        spent = sum(span[5] for span in trace.spans if span[0] == k and span[4] <= last)
        assert spent == macs(d, sizes, to_input=False)
        begun = [t for t in rows if t.target == k and t.message == "Gradient" and t.queued > last]
        begun_sizes = [t.gradients // z for t in begun]
        server_macs += macs(s, [*sizes, *begun_sizes], to_input=True) + loss(model, [*sizes, *begun_sizes])
    steps_done = [span for span in map(Span._make, trace.spans) if span.kind == "step" and span.node == SERVER]
    assert sum(span.macs for span in steps_done if not span.wasted) == server_macs


@BOTH
def test_nobody_waits_for_a_straggler(kept: Kept) -> None:
    """Oracle 7: devices wait for gradients and models; the server is never short of some but not all."""
    outcome = simulate(toy(Oafl(server_block=kept), rounds=ROUNDS), learning=False)
    idle = idle_of_devices(outcome)
    assert {cause for cause, share in idle.items() if share} == {"dependency", "model"}
    server_idle = summarise(outcome.simulation.trace, status="done", wall_seconds=1.0)["server"]["idle_by_cause"]
    assert {cause for cause, share in server_idle.items() if share} == {"dependency"}
    assert not any(mark[2].startswith("round") for mark in outcome.simulation.trace.marks)


@pytest.mark.parametrize("concurrency", [1, 2, 3])
def test_never_more_than_so_many_train_at_once(concurrency: int) -> None:
    """Those who sit out are unselected; everybody has turns."""
    outcome = simulate(toy(Oafl(concurrency=concurrency), rounds=6), learning=False)
    assert at_once(outcome) == concurrency
    idle = idle_of_devices(outcome)
    assert idle["unselected"] > 0
    assert idle["straggler"] == 0
    assert {t[2] for t in outcome.simulation.trace.transfers if t[3] == "Block"} == set(range(DEVICES))
    assert at_once(simulate(toy(Oafl(), rounds=6), learning=False)) == DEVICES


@pytest.mark.slow
def test_fast_devices_are_not_held_up() -> None:
    """A twentieth of the samples, more than twice the updates: each goes at its own pace."""
    _, simulation = Federation(sizes=(8, 160)).simulation(Oafl(), rounds=10)
    counts = Counter(t.source for t in contributions(finished(simulation)))
    assert counts[0] > 2 * counts[1]


def test_one_gradient_a_batch_in_order() -> None:
    """Each device gets one before it sends the next batch; each is marked as consumed."""
    outcome = simulate(toy(Oafl(), rounds=ROUNDS), learning=False)
    trace = outcome.simulation.trace
    rows = [Transfer(*row) for row in trace.transfers]
    for k in range(DEVICES):
        steps = sorted((t for t in rows if k in (t.source, t.target)), key=lambda t: t.queued)
        steps = [t for t in steps if t.role in ("activations", "gradient")]
        assert all(one.role != two.role and one.arrived <= two.queued for one, two in pairwise(steps))
        gradients = sum(t.role == "gradient" for t in steps)
        assert sum(mark[2] == "consumed" and mark[3] == k for mark in trace.marks) == gradients


def _served(outcome: Outcome, device: int) -> list[int]:
    return [mark[1] for mark in outcome.simulation.trace.marks if mark[2] == "consumed" and mark[3] == device]


@pytest.mark.slow
@BOTH
@pytest.mark.parametrize("back", [None, 2e-9, 0.02], ids=str)
def test_a_device_leaves_in_the_middle(kept: Kept, back: float | None) -> None:
    """Its copy goes with it: of no server learner is more open at the end than the block and one a turn."""
    what = Federation()
    _, whole = what.simulation(Oafl(server_block=kept), rounds=ROUNDS)
    finished(whole)
    moment = next(mark[1] for mark in whole.trace.marks if mark[2] == "consumed" and mark[3] == 2) / 1e9 + 1e-6
    fault = Fault(device=2, leave=moment, back=None if back is None else moment + back)
    host, simulation = what.simulation(Oafl(server_block=kept), rounds=ROUNDS, faults=[fault])
    finished(simulation)
    there = 3 if back is None else 4
    assert servers(host) == (1 if kept == "shared" else 1 + there)
    wanted = Counter(t.source for t in contributions(simulation))
    assert sum(wanted.values()) >= ROUNDS * 4
    assert (wanted[2] > 0) == (back is not None)


def servers(host: Host) -> int:
    """Learners of the server that are open: its block, and copies."""
    return sum(node == SERVER and trainee.block.plan.name == SERVER_BLOCK for (node, _), trainee in _all(host))


def _all(host: Host) -> list[Any]:
    return list(host.core.learners.items())


@pytest.mark.slow
@pytest.mark.parametrize("rounds", [1, 4])
def test_no_copy_is_left_behind(rounds: int) -> None:
    """However many updates there were: one open learner a device and the block itself."""
    host, simulation = Federation().simulation(Oafl(), rounds=rounds)
    finished(simulation)
    assert servers(host) == 5
    host, simulation = Federation().simulation(Oafl(concurrency=2), rounds=rounds)
    finished(simulation)
    assert servers(host) == 3


def test_memory_of_the_server() -> None:
    """That of copies comes on top of the block's; it does not grow by a copy, nor a part of one, an update."""
    found = {}
    for kept in ("copies", "shared"):
        for rounds in (2, 8):
            trace = simulate(toy(Oafl(server_block=kept), rounds=rounds), learning=False).simulation.trace
            found[kept, rounds] = next(m[3] for m in trace.marks if m[2] == "memory.peak" and m[0] == SERVER)
    assert found["copies", 2] > found["shared", 2]
    updates = 6 * DEVICES
    for kept in ("copies", "shared"):
        assert found[kept, 8] - found[kept, 2] < updates * PLANS[SERVER_BLOCK].state_bytes / 4


# ------------------------------------------------------------------------------------------------- its rules


@pytest.mark.slow
@pytest.mark.parametrize(
    "scheduler",
    [
        Oafl(server_block="shared", concurrency=2, local_steps=3),
        Oafl(staleness="hinge", concurrency=1),
        Oafl(alpha=1.0, staleness="constant", local_epochs=2),
    ],
    ids=str,
)
def test_it_conforms(scheduler: Oafl) -> None:
    """With either kind of server block, in turns, whoever leaves when."""
    check_scheduler(scheduler)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 0.0}, "alpha 0.0 must be above 0 and at most 1"),
        ({"alpha": 1.1}, "alpha 1.1 must be above 0 and at most 1"),
        ({"staleness": "constant", "a": 1.0}, "a 1.0 is for staleness: polynomial or hinge"),
        ({"b": -1}, "b -1 must be 0 or more"),
        ({"concurrency": 0}, "concurrency 0 must be 1 or more, or left out for all devices"),
        ({"local_steps": 0}, "local_steps 0 must be 1 or more"),
        ({"local_epochs": 0}, "local_epochs 0 must be 1 or more"),
    ],
    ids=str,
)
def test_options_that_cannot_be(options: dict[str, Any], message: str) -> None:
    """Each with its rule."""
    with pytest.raises(ValueError, match=message):
        Oafl(**options)
