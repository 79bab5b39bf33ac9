"""FSL-SAGE: gradients that a frozen head estimates, heads that the server fits to its block, and what that costs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedsim.hardware.machines import machine
from fedsim.hardware.pricing import seconds
from fedsim.hardware.profiles import load_profile
from fedsim.learning.aligning import Alignment, Fitting
from fedsim.learning.host import Host
from fedsim.learning.learners import Batch, Learner
from fedsim.learning.optimizers import Sgd
from fedsim.learning.plan import DEVICE, SERVER_BLOCK, plans
from fedsim.models.auxiliary import Head as Module
from fedsim.models.auxiliary import build_head
from fedsim.models.building import build
from fedsim.models.counting import measure
from fedsim.models.options import Auxiliary, Llama, MobileNet, Plain, ResNet, Swin, TextTransformer, VisionTransformer
from fedsim.schedulers.fsl_sage import Activations, FslSage, Head, Train, Trained
from fedsim.script import SERVER, Compute, Payload, Recv, Send
from fedsim.testing import DEVICES, Steps, by_hand, check_scheduler, simulate, toy
from tests.learning.test_oracles import batches, weighted_mean
from tests.learning.toys import MLP, SEED, Bench, Federation, bits, furthest
from tests.schedulers.closed_forms import LABEL, all_batches, macs, measured, state
from tests.schedulers.local_losses import (
    HEAD,
    Parts,
    device_side,
    first_of,
    idle_of,
    marks,
    server_side,
    spans,
    trained,
    transfers,
    units_of,
)

QUICK: dict[str, Any] = {"align_epochs": 3}
SMALL = replace(MLP, sizes=(20, 9, 14), dtype="float64")


class HeadBench(Bench):
    """A host whose device block has a head, and learners on it."""

    def __init__(self, what: Federation, options: Auxiliary = HEAD) -> None:
        super().__init__(what, split=True)
        network = what.network()
        self.head: Module = build_head(network, what.cut, options, SEED)
        measured_head = self.head.measure(network.block(0, what.cut))
        self.plans = plans(measure(network), what.cut, what.training(), measured_head)
        self.host = Host(network, self.plans, what.samples(), SEED, self.head)
        self.server = self.learner(SERVER, SERVER_BLOCK)
        self.device = self.learner(0, DEVICE)

    def alignment(self, keep: int = 1000) -> Alignment:
        """Of the server's."""
        return Alignment(self.node(SERVER), lambda _: self.plans[DEVICE], self.server, keep)

    def batch(self, size: int, start: int = 0) -> tuple[Payload, Payload]:
        """Activations and labels of the device."""
        where = Batch(0, start, size)
        return self.do(self.device.infer(where, "train")), self.device.labels(where)

    def copy_of_server(self) -> Payload:
        """A head with the tensors of the server block, which has the same shapes."""
        values = self.flat(self.server.weights()).views()
        made = self.host.core.layout(DEVICE, "head").zeros()
        for mine, theirs in zip(made.views(), values, strict=True):
            mine.copy_(theirs)
        return self.give(Payload(SERVER, 10_000, self.plans[DEVICE].head), made)

    def parts(self, learner: Learner) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """A device's d and a."""
        found = (learner.weights(part) for part in ("block", "head"))
        d, a = ({n: t.clone() for n, t in self.flat(payload).named().items()} for payload in found)
        return d, a


# ------------------------------------------------------------------------------- estimated gradients


@pytest.mark.parametrize("optimizer", [Sgd(lr=0.05), Sgd(lr=0.05, momentum=0.9, weight_decay=0.01)])
def test_with_a_head_that_is_a_copy_of_the_server_block_the_gradient_is_the_true_one(optimizer: Sgd) -> None:
    """Then a step is SplitFed's, whose gradient comes from the server; the head itself is left as it is."""
    bench = HeadBench(replace(SMALL, cut=2, optimizer=optimizer), Auxiliary(kind="linear"))
    copy = bench.copy_of_server()
    bench.device.adopt(copy)
    other = bench.learner(1, DEVICE)
    other.load(bench.device.weights())
    for start in (0, 8):
        batch = Batch(0, start, 8)
        z = bench.do(bench.device.estimated_step(batch))
        true = bench.do(bench.server.gradient(z, bench.device.labels(batch)))
        step_by(bench, other, bench.host.core.indices(0, batch), bench.tensor(true))
    (d, a), (expected, _) = bench.parts(bench.device), bench.parts(other)
    assert furthest(d, expected) < 1e-12
    assert bits(a) == bits(bench.flat(copy).named())
    assert furthest(d, bench.parts(bench.learner(2, DEVICE))[0]) > 1e-4, "and it did move"


def step_by(bench: HeadBench, learner: Learner, rows: Tensor, gradient: Tensor) -> None:
    """A step of a device block by a gradient that is given."""
    core = bench.host.core
    trainee, instance, _ = core.ready(1, learner.number)
    local = core.local[trainee.block.plan.name]
    local.trunk(core.data.train(rows)[0]).backward(gradient)
    instance.step()


@pytest.mark.slow
def test_a_head_is_frozen_with_its_running_statistics() -> None:
    """Batch norm in the head normalises by the batch, as in a step, and keeps none of it."""
    bench = HeadBench(Federation(cut=1, dtype="float32"), Auxiliary(kind="scaled_layer", ratio=0.5))
    assert any("running" in shape.name for shape in bench.plans[DEVICE].head.shapes)
    before = bits(bench.parts(bench.device)[1])
    d = bits(bench.parts(bench.device)[0])
    for start in (0, 8, 16):
        bench.do(bench.device.estimated_step(Batch(0, start, 8)))
    after = bench.parts(bench.device)
    assert bits(after[1]) == before
    assert {name for name, value in bits(after[0]).items() if value != d[name]} == set(d)


def test_a_new_head_leaves_everything_else_as_it_is() -> None:
    """The momentum of the device block outlives it; loading weights would have started it afresh."""
    what = replace(SMALL, optimizer=Sgd(lr=0.05, momentum=0.9))
    found = []
    for adopts in (True, False):
        bench = HeadBench(what)
        for start in (0, 8):
            bench.do(bench.device.estimated_step(Batch(0, start, 8)))
            if adopts:
                bench.device.adopt(bench.device.weights("head"))
        found.append(bits(bench.parts(bench.device)[0]))
    assert found[0] == found[1]


# ----------------------------------------------------------------------------------------- alignment


def distance(bench: HeadBench, head: Payload | None, z: Tensor, y: Tensor) -> float:
    """‖ĝ − g‖ over ‖g‖ of all samples, each with its own loss."""
    core = bench.host.core
    s = core.ready(SERVER, bench.server.number)[2]
    at = z.detach().requires_grad_()
    (true,) = torch.autograd.grad(core.model.loss(s(at), y), at)
    learner = bench.learner(5, DEVICE)
    if head is not None:
        learner.adopt(head)
    trainee, _, _ = core.ready(5, learner.number)
    local = core.local[trainee.block.plan.name]
    (estimate,) = torch.autograd.grad(local.head.loss(at, y, local.trunk), at)
    return float((estimate - true).norm() / true.norm())


def test_the_estimate_comes_nearer_with_every_fit() -> None:
    """More passes, or another fit that goes on from the last one, lower ‖ĝ − g‖."""
    bench = HeadBench(replace(SMALL, sizes=(64, 9, 14)))
    z, y = bench.batch(64)
    d = bench.learner(0, DEVICE).weights("block")
    found = [distance(bench, None, bench.tensor(z), bench.tensor(y))]
    for epochs in (20, 100):
        alignment = bench.alignment()
        alignment.add(0, z, y)
        for _ in range(2):
            head = bench.do(alignment.fit(0, d, Fitting(epochs=epochs, lr=0.01, batch=64)))
            found.append(distance(bench, head, bench.tensor(z), bench.tensor(y)))
    start, once, twice, longer, longest = found
    assert start > once > twice > longer > longest
    assert longest < 0.6 * start


def adam_fit(bench: HeadBench, z: Tensor, y: Tensor, how: Fitting) -> dict[str, Tensor]:
    """The same with torch.optim.Adam and plain modules, in one batch."""
    s = bench.host.core.ready(SERVER, bench.server.number)[2]
    true = []
    for some, labels in zip(z.split(8), y.split(8), strict=True):
        at = some.detach().requires_grad_()
        true.append(torch.autograd.grad(nn.functional.cross_entropy(s(at), labels, reduction="sum"), at)[0])
    g = torch.cat(true)
    a = build_head(bench.federation.network(), bench.federation.cut, HEAD, SEED).body
    adam = torch.optim.Adam(a.parameters(), lr=how.lr)
    for _ in range(how.epochs):
        at = z.detach().requires_grad_()
        loss = nn.functional.cross_entropy(a(at), y, reduction="sum")
        (estimate,) = torch.autograd.grad(loss, at, create_graph=True)
        adam.zero_grad()
        ((estimate - g) ** 2).sum().div(len(z)).backward()
        adam.step()
    return {name: tensor.detach() for name, tensor in a.state_dict().items()}


@pytest.mark.slow
def test_a_fit_is_adam_on_the_squared_error_with_second_derivatives() -> None:
    """Against torch.optim.Adam and plain modules, to 1e-9 in float64; the server block is not touched."""
    bench = HeadBench(replace(SMALL, sizes=(28, 9, 14)))
    z, y = bench.batch(28)
    before = bits(bench.flat(bench.server.weights()).named())
    alignment, how = bench.alignment(), Fitting(epochs=7, lr=0.01, batch=1000)
    alignment.add(0, z, y)
    head = bench.flat(bench.do(alignment.fit(0, bench.device.weights("block"), how)))
    assert furthest(head.named(), adam_fit(bench, bench.tensor(z), bench.tensor(y), how)) < 1e-9
    assert bits(bench.flat(bench.server.weights()).named()) == before


def test_the_last_samples_are_stored() -> None:
    """Of 20 + 8 with room for 12, the last 12; each device has its own."""
    bench = HeadBench(replace(SMALL, sizes=(28, 9, 14)))
    first, second = bench.batch(20), bench.batch(8, 20)
    how = Fitting(epochs=2, lr=0.01, batch=1000)
    d = bench.device.weights("block")
    some, last = bench.alignment(keep=12), bench.alignment()
    for batch in (first, second):
        some.add(0, *batch)
    some.add(1, *first)
    z = torch.cat([bench.tensor(first[0]), bench.tensor(second[0])])[-12:]
    y = torch.cat([bench.tensor(first[1]), bench.tensor(second[1])])[-12:]
    meta = bench.plans[DEVICE]
    last.add(
        0,
        bench.give(Payload(0, 20_000, meta.activations(12)), z),
        bench.give(Payload(0, 20_001, meta.labels(12)), y),
    )
    heads = [bits(bench.flat(bench.do(one.fit(0, d, how))).named()) for one in (some, last)]
    assert heads[0] == heads[1]
    work = some.fit(0, d, how)
    assert sum(part.cost.batch for part in work.parts if part.kind == "gradient") == 12


IMAGE = (3, 16, 16)
NETWORKS: dict[str, tuple[Any, tuple[int, ...], str, str]] = {
    "vgg5": (Plain(), IMAGE, "image", "bn"),
    "resnet18": (ResNet(width_ratio=0.125), IMAGE, "image", "gn"),
    "mobilenetv3_large": (MobileNet(width_ratio=0.25, stem="small", dropout=0.1), IMAGE, "image", "bn"),
    "vit_s": (VisionTransformer(blocks=3, width=24, heads=2), IMAGE, "image", "bn"),
    "swin_t": (Swin(width=12, blocks=[2, 2], heads=[2, 4], patch=2), IMAGE, "image", "bn"),
    "transformer": (TextTransformer(blocks=3, width=16, heads=2), (8,), "text", "bn"),
    "llama": (Llama(blocks=3, width=16, heads=2, kv_heads=1), (8,), "text", "bn"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_heads_of_all_kinds_can_be_fitted(name: str) -> None:
    """Batch and group norm, attention, dropout and embeddings have second derivatives; the error falls."""
    options, shape, kind, norm = NETWORKS[name]
    classes = 40 if kind == "text" else 4
    model = build(name, options, input=shape, classes=classes, kind=kind, norm=norm, device="cpu", seed=3)
    cut, rng = 2, np.random.default_rng(1)
    head = build_head(model, cut, Auxiliary(ratio=0.5), 3)
    training = replace(MLP.training(), batch=8)
    blocks = plans(measure(model), cut, training, head.measure(model.block(0, cut)))
    what = replace(MLP, sizes=(16,))
    bench = what.bench(split=True)
    bench.plans, bench.host = blocks, Host(model, blocks, what.samples(), SEED, head)
    server, device = bench.learner(SERVER, SERVER_BLOCK), bench.learner(0, DEVICE)
    size = tuple(blocks[DEVICE].activations(16).shapes[0].shape)
    z = bench.give(Payload(0, 1, blocks[DEVICE].activations(16)), torch.from_numpy(rng.normal(size=size)).float())
    labels = rng.integers(0, classes, tuple(blocks[DEVICE].labels(16).shapes[0].shape))
    y = bench.give(Payload(0, 2, blocks[DEVICE].labels(16)), torch.from_numpy(labels))
    alignment = Alignment(bench.node(SERVER), lambda _: blocks[DEVICE], server, 1000)
    alignment.add(0, z, y)
    d, before = device.weights("block"), bits(bench.flat(server.weights()).named())
    errors = []
    for epochs in (1, 15):
        fitted = bench.do(alignment.fit(0, d, Fitting(epochs=epochs, lr=0.01, batch=1000)))
        assert all(tensor.isfinite().all() for tensor in bench.flat(fitted).views())
        errors.append(error_of(bench, server, device, fitted, z, y))
    assert errors[1] < errors[0]
    assert bits(bench.flat(server.weights()).named()) == before


def error_of(bench: Any, server: Learner, device: Learner, head: Payload, z: Payload, y: Payload) -> float:
    """‖ĝ − g‖² of a head, by what its own fit goes by."""
    core = bench.host.core
    device.adopt(head)
    trainee, _, _ = core.ready(0, device.number)
    local = core.local[trainee.block.plan.name]
    s = core.ready(SERVER, server.number)[2]
    at = bench.tensor(z).clone().requires_grad_()
    with torch.random.fork_rng():
        torch.manual_seed(1)
        buffers = [buffer.clone() for buffer in s.buffers()]
        (true,) = torch.autograd.grad(core.model.loss(s(at), bench.tensor(y)), at)
        for buffer, value in zip(s.buffers(), buffers, strict=True):
            buffer.data.copy_(value)
        (estimate,) = torch.autograd.grad(local.head.loss(at, bench.tensor(y), local.trunk), at)
    return float((estimate - true).square().sum())


# ------------------------------------------------------------------------------------- a whole run


def plain_loop(what: Federation, scheduler: FslSage, *, rounds: int) -> dict[str, Tensor]:
    """One device with a batch a round, so that its head is there before the next round: in plain modules."""
    parts = Parts(what)
    assert isinstance(what.optimizer, Sgd)
    order = [b for e in range(rounds) for b in batches(len(parts.shards[0]), what.batch, 0, e)][:rounds]
    server = torch.optim.SGD(parts.s.parameters(), lr=what.optimizer.lr)
    z_stored, y_stored = torch.zeros(0, dtype=torch.float64), torch.zeros(0, dtype=torch.int64)
    for t, batch in enumerate(order):
        rows = torch.from_numpy(parts.shards[0][batch])
        y = parts.y[rows]
        device = torch.optim.SGD(parts.d.parameters(), lr=what.optimizer.lr)
        z = parts.d(parts.x[rows])
        at = z.detach().requires_grad_()
        (estimate,) = torch.autograd.grad(nn.functional.cross_entropy(parts.a(at), y), at)
        device.zero_grad()
        z.backward(estimate)
        device.step()
        server.zero_grad()
        nn.functional.cross_entropy(parts.s(z.detach()), y).backward()
        server.step()
        z_stored = z.detach() if not len(z_stored) else torch.cat([z_stored, z.detach()])[-scheduler.keep :]
        y_stored = torch.cat([y_stored, y])[-scheduler.keep :]
        if t % scheduler.align_every == 0:
            adam = torch.optim.Adam(parts.a.parameters(), lr=scheduler.align_lr)
            at = z_stored.clone().requires_grad_()
            (true,) = torch.autograd.grad(nn.functional.cross_entropy(parts.s(at), y_stored, reduction="sum"), at)
            for _ in range(scheduler.align_epochs):
                at = z_stored.clone().requires_grad_()
                loss = nn.functional.cross_entropy(parts.a(at), y_stored, reduction="sum")
                (estimate,) = torch.autograd.grad(loss, at, create_graph=True)
                adam.zero_grad()
                ((estimate - true) ** 2).sum().div(len(at)).backward()
                adam.step()
    return parts.device | parts.server


@pytest.mark.slow
def test_it_equals_a_plain_loop() -> None:
    """Six rounds of a batch, heads fitted in every second one on the last ten samples: to 1e-9 in float64."""
    what = replace(SMALL, sizes=(20,))
    scheduler = FslSage(local_steps=1, align_every=2, keep=10, align_epochs=6, align_lr=0.01)
    ran = trained(what, scheduler, rounds=6)
    expected = plain_loop(what, scheduler, rounds=6)
    ours = ran.weights
    assert furthest(ours, {name: expected[name] for name in ours}) < 1e-9
    learner = next(number for node, number in ran.host.core.learners if node == 0)
    own = ran.host.core.weights(0, learner).named()
    assert furthest(own, {name: expected[name] for name in own}) < 1e-9, "its head, too"


@pytest.mark.slow
def test_device_blocks_are_averaged_with_their_running_statistics() -> None:
    """Oracle 13: a round of one step on each of several devices, by the gradient that the first head gives."""
    what = replace(Federation(), sizes=(5, 8, 3))
    ran = trained(what, FslSage(local_steps=1), rounds=1)
    parts, members = Parts(what), []
    assert isinstance(what.optimizer, Sgd)
    start = parts.device
    for k, n in enumerate(what.sizes):
        parts.load(start)
        rows = torch.from_numpy(parts.shards[k][batches(n, what.batch, k, 0)[0]])
        z = parts.d(parts.x[rows])
        at = z.detach().requires_grad_()
        (estimate,) = torch.autograd.grad(nn.functional.cross_entropy(parts.a(at), parts.y[rows]), at)
        device = torch.optim.SGD(parts.d.parameters(), lr=what.optimizer.lr)
        device.zero_grad()
        z.backward(estimate)
        device.step()
        members.append((parts.device, n))
    expected, ours = weighted_mean(members), device_side(ran)
    assert any(name.endswith("running_mean") for name in ours)
    assert furthest(ours, {name: expected[name] for name in ours}) < 1e-9


def test_heads_are_never_averaged() -> None:
    """After an alignment each device has its own; d is the same for all, and the mean goes over it alone."""
    ran = trained(SMALL, FslSage(align_epochs=20, align_lr=0.01), rounds=2)
    core = ran.host.core
    heads = []
    for k in range(3):
        learner = next(number for node, number in core.learners if node == k)
        value = core.weights(k, learner).named()
        heads.append({name: tensor for name, tensor in value.items() if name.startswith("aux_")})
    assert furthest(heads[0], heads[1]) > 1e-6
    assert furthest(heads[0], heads[2]) > 1e-6
    assert server_side(ran)


# ------------------------------------------------------------------------------------- what it costs


@pytest.mark.parametrize("options", [{}, {"local_steps": 7, "align_every": 2}, {"upload_every": 1, "align_every": 9}])
def test_it_costs_its_closed_form(options: dict[str, Any]) -> None:
    """Up u(z+y) + P|d|, down P|d| and |a| an alignment; (m + m_bwd) of d, forward and input gradient of a; s on u."""
    rounds, every, align = 5, options.get("upload_every", 5), options.get("align_every", 10)
    scheduler = FslSage(**options, align_epochs=4, keep=11, align_batch=6)
    assembly = toy(scheduler, rounds=rounds)
    outcome = simulate(assembly, learning=False)
    found, model = measured(outcome), assembly.model
    d, a, s = units_of(assembly)
    steps = options.get("local_steps")
    sizes = all_batches(assembly, steps=steps)
    sent = first_of(assembly, every, steps=steps)
    assert assembly.cut is not None
    z, times = model.activation_bytes(assembly.cut), len(range(0, rounds, align)) * DEVICES
    weights = rounds * DEVICES * state(d)
    assert found.up == {"weights": weights, "activations": sum(sent) * z, "gradients": 0, "labels": sum(sent) * LABEL}
    assert found.down == {"weights": weights + times * state(a), "activations": 0, "gradients": 0, "labels": 0}
    through = sum(op.macs_each for unit in a for op in unit.backward_frozen)
    forward = sum(unit.macs for unit in a)
    assert through == forward, "its products have weights, so that the input gradient takes as much as the forward"
    assert found.device_macs == macs(d, sizes, to_input=False) + sum(sizes) * (forward + through)
    by_kind: dict[str, int] = {}
    for span in spans(outcome):
        if span.node == SERVER:
            by_kind[span.kind] = by_kind.get(span.kind, 0) + span.macs
    assert by_kind["step"] == macs(s, sent, to_input=False)
    stored = stored_at_fits(outcome, keep=11)
    assert len(stored) == times
    assert by_kind["gradient"] == sum(macs(s, [min(8, n - i) for i in range(0, n, 8)], to_input=True) for n in stored)
    assert by_kind["align"] == 4 * 3 * (forward + through) * sum(stored)
    assert by_kind["aggregate"] == rounds * DEVICES * sum(unit.trainable for unit in d)


def stored_at_fits(outcome: Any, keep: int) -> list[int]:
    """Samples of a device that were stored when its head was fitted, in order, from what was consumed by then."""
    steps = [(span.end, span.samples) for span in spans(outcome) if span.node == SERVER and span.kind == "step"]
    devices = [int(mark.value) for mark in marks(outcome, "consumed")]
    seen = [(end, k, size) for (end, size), k in zip(steps, devices, strict=True)]
    heads = [row for row in transfers(outcome) if row.message == "Head"]
    return [min(keep, sum(size for end, k, size in seen if k == row.target and end <= row.queued)) for row in heads]


def test_a_scalar_machine_takes_three_forwards_of_the_block_and_two_of_the_head() -> None:
    """(3m_d + 2m_a)·S exactly, on a profile with one speed and a backward ratio of 2."""
    plan = toy(FslSage()).blocks()[DEVICE]
    profile = machine(load_profile("pi-tier-1"))
    assert profile.profile.backward_ratio == 2
    speed = profile.profile.speed
    assert speed is not None
    m_d, m_a = (sum(unit.macs for unit in units) for units in (plan.units[: plan.trunk], plan.units[plan.trunk :]))
    assert seconds(profile, plan.estimate_part(8).cost) == pytest.approx(8 * (3 * m_d + 2 * m_a) / speed, rel=1e-9)
    assert plan.estimate_part(8) is plan.estimate_part(8)


def test_devices_wait_for_the_slowest_and_for_blocks_only() -> None:
    """Oracle 8: no gradient travels, so no dependency; heads are taken when they come, never waited for."""
    outcome = simulate(toy(FslSage(align_every=1), rounds=3), learning=False)
    assert {row.message for row in transfers(outcome)} == {"Train", "Head", "Activations", "Trained"}
    assert sum(row.gradients for row in transfers(outcome)) == 0
    idle = idle_of(outcome)
    assert idle["dependency"] == idle["flow"] == idle["unselected"] == 0
    assert idle["straggler"] > 0
    idle_of(outcome, "server")


def test_heads_come_after_the_first_upload_of_every_l_th_round() -> None:
    """Rounds 0, 3, 6: one fit for each device, which begins when the step on its first batch is done."""
    outcome = simulate(toy(FslSage(align_every=3, upload_every=1, align_epochs=1), rounds=7), learning=False)
    opened = [mark.time for mark in marks(outcome, "round.open")]
    heads = [row for row in transfers(outcome) if row.message == "Head"]
    rounds = [int(np.searchsorted(opened, row.queued, "right")) - 1 for row in heads]
    assert sorted(rounds) == [0] * DEVICES + [3] * DEVICES + [6] * DEVICES
    kinds = [span.kind for span in spans(outcome) if span.node == SERVER]
    for at, kind in enumerate(kinds):
        if kind == "gradient" and kinds[at - 1] != "gradient":
            assert kinds[at - 1] == "step"


# ------------------------------------------------------------------------------------------- by hand


def payload(number: int, part: str = "block", node: int = SERVER) -> Payload:
    """A handle on a part of a device's weights."""
    return Payload(node, number, getattr(toy(FslSage()).blocks()[DEVICE], part))


def activations(k: int, t: int, head: int) -> Activations:
    """A batch of a device with a head of some version."""
    plan = toy(FslSage()).blocks()[DEVICE]
    return Activations(Payload(k, 1, plan.activations(8)), Payload(k, 2, plan.labels(8)), t, head, sender=k)


def works(steps: Steps) -> list[Any]:
    """What the script computes and sends until it waits."""
    found: list[Any] = []
    while steps.effect is not None and not isinstance(steps.effect, Recv):
        if isinstance(steps.effect, Compute):
            found.append(steps.effect.works[0].command.method)
            steps.answer(steps.effect.works[0].result)
        else:
            assert isinstance(steps.effect, Send)
            found.append(steps.effect.message)
            steps.answer(None)
    return found


def test_a_device_that_came_back_is_sent_its_head_again() -> None:
    """Its first batch says that it begins with the initial one; later ones of the round change nothing."""
    steps = by_hand(FslSage(align_every=5, **QUICK), "server", devices=1, rounds=3)
    works(steps)
    steps.answer(activations(0, 0, head=0))
    step, fit, head = works(steps)
    assert (step, fit, head.version) == ("step", "align.fit", 1)
    steps.answer(activations(0, 0, head=0))
    assert works(steps) == ["step"], "it is on its way"
    steps.answer(Trained(payload(3, node=0), 8, 0, sender=0))
    works(steps)
    steps.answer(activations(0, 1, head=1))
    assert works(steps) == ["step"]
    steps.answer(Trained(payload(4, node=0), 8, 1, sender=0))
    works(steps)
    steps.answer(activations(0, 2, head=0))
    step, again = works(steps)
    assert (step, again.version, again.weights is head.weights) == ("step", 1, True)
    steps.close()


def test_a_device_takes_a_head_whenever_it_comes() -> None:
    """Between batches, between rounds, and not for a moment waiting for it; only d goes back."""
    device = by_hand(FslSage(local_steps=2, upload_every=1), 1)
    device.answer(Train(payload(1), 0, sender=SERVER))
    assert isinstance(device.effect, Compute)
    device.answer(device.effect.works[0].result)
    assert isinstance(device.effect, Send)
    first: Any = device.effect.message
    device.port.mailbox.put(Head(payload(2, "head"), 1, sender=SERVER))
    device.port.commands.clear()
    device.answer(None)
    assert device.port.commands[0].method == "adopt"
    sent = [message for message in works(device) if not isinstance(message, str)]
    assert [first.head, sent[0].head] == [0, 1]
    assert sent[1].weights.nbytes == payload(1).nbytes
    device.port.commands.clear()
    device.answer(Head(payload(3, "head"), 2, sender=SERVER))
    assert [command.method for command in device.port.commands] == ["adopt"]
    assert isinstance(device.effect, Recv)
    device.answer(Train(payload(1), 1, sender=SERVER))
    assert [message.head for message in works(device) if isinstance(message, Activations)] == [2, 2]


# ------------------------------------------------------------------------------------------- the rest


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{"align_every": 1}, {"upload_every": 1, "keep": 10, "align_batch": 4, "weighting": "uniform"}], ids=str
)
def test_it_conforms(options: dict[str, Any]) -> None:
    """Whatever its options."""
    check_scheduler(FslSage(**options, **QUICK))


def test_what_the_server_stores_is_counted() -> None:
    """As many samples as may be kept of each device."""
    assert FslSage(keep=50).buffered(toy(FslSage()).job()) == 50 * DEVICES


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *(({name: 0}, f"{name} 0 must be 1 or more") for name in ("upload_every", "align_every", "align_epochs")),
        *(({name: 0}, f"{name} 0 must be 1 or more") for name in ("align_batch", "keep", "local_steps")),
        ({"align_lr": 0.0}, r"align_lr 0\.0 must be above 0"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    """By value and rule."""
    with pytest.raises(ValueError, match=message):
        FslSage(**options)
