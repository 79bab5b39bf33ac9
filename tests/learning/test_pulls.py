"""Bent gradients: proximal terms and control variates against hand-written steps; what they cost and hold."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedsim.costs import Phase
from fedsim.learning.context import Device
from fedsim.learning.learners import Batch, Controlled, Learner, Node, Proximal, Pull
from fedsim.learning.operations.controlling import own_control
from fedsim.learning.optimizers import Schedule, Sgd
from fedsim.learning.plan import MODEL
from fedsim.learning.sums import Combining
from fedsim.script import SERVER, Payload
from tests.learning.test_handles import FakePort, job
from tests.learning.toys import MLP, Bench, Federation, bits, furthest

BATCHES = (Batch(0, 0, 8), Batch(0, 8, 8), Batch(0, 16, 8))
PRECISE = dataclasses.replace(MLP, dtype="float64", optimizer=Sgd(lr=0.1))


def named(bench: Bench, payload: Payload) -> dict[str, Tensor]:
    """A copy of the tensors behind a handle."""
    return {name: tensor.clone() for name, tensor in bench.flat(payload).named().items()}


def control(bench: Bench, value: float) -> Payload:
    """A control variate of the server with the same value everywhere."""
    zeros = Combining(bench.node(SERVER), bench.plans.values()).zeros(bench.plans[MODEL])
    for view in bench.flat(zeros).views():
        view.fill_(value)
    return zeros


def by_hand(
    bench: Bench, start: dict[str, Tensor], batches: tuple[Batch, ...], lr: float, bend: Any, decay: float = 0.0
) -> dict[str, Tensor]:
    """Plain steps of device 0 along the gradients that `bend(name, gradient, weight)` makes."""
    what = bench.federation
    model, data = what.network(), what.data()
    model.load_state_dict(start)
    x, y = torch.tensor(data.train.inputs, dtype=torch.float64), torch.tensor(data.train.labels)
    for batch in batches:
        rows = bench.host.core.indices(0, batch)
        loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():
            for (name, weight), gradient in zip(model.named_parameters(), gradients, strict=True):
                weight.sub_(lr * (bend(name, gradient, weight) + decay * weight))
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("mu", [0.01, 1.0])
def test_a_proximal_term_pulls_towards_its_anchor(mu: float) -> None:
    """Steps along g + mu·(w − anchor)."""
    bench = PRECISE.bench()
    learner = bench.learner()
    anchor = learner.weights()
    start = named(bench, anchor)
    bench.do(learner.train(BATCHES, Proximal(anchor, mu)))
    expected = by_hand(bench, start, BATCHES, 0.1, lambda name, g, w: g + mu * (w - start[name]))
    assert furthest(named(bench, learner.weights()), expected) < 1e-12
    assert bits(named(bench, anchor)) == bits(start)


def test_control_variates_are_zeros_at_first_and_renewed_by_the_way_a_device_went() -> None:
    """g − c_k + c with c_k = 0; then c_k⁺ = c_k − c + (w_t − w_k)/(H·lr), round after round."""
    bench = PRECISE.bench()
    learner, lr = bench.learner(), 0.1
    mine = {name: torch.zeros_like(tensor) for name, tensor in named(bench, learner.weights()).items()}
    for round, (value, batches) in enumerate(((0.0, BATCHES), (0.25, BATCHES[:2]), (-0.5, BATCHES[1:]))):
        c = control(bench, value)
        since = learner.weights()
        before = named(bench, since)
        if round == 0:
            assert own_control(bench.host.core, 0) is None, "nothing is remembered of a device that never trained so"
        bench.do(learner.train(batches, Controlled(c)))
        expected = by_hand(
            bench, before, batches, lr, lambda name, g, _, value=value, mine=dict(mine): g - mine[name] + value
        )
        after = named(bench, learner.weights())
        assert furthest(after, expected) < 1e-12
        moved = named(bench, learner.renew_control(c, since, steps=len(batches)))
        for name, held in mine.items():
            renewed = held - value + (before[name] - after[name]) / (len(batches) * lr)
            torch.testing.assert_close(moved[name], renewed - held, rtol=0, atol=1e-12)
            mine[name] = renewed
        kept = own_control(bench.host.core, 0)
        assert kept is not None
        assert furthest(kept, mine) < 1e-12


def test_a_renewed_control_is_the_mean_gradient_of_a_round() -> None:
    """Which is what the formula stands for; with weight decay, that of the loss with its penalty."""
    for decay in (0.0, 0.1):
        bench = dataclasses.replace(PRECISE, optimizer=Sgd(lr=0.1, weight_decay=decay)).bench()
        learner = bench.learner()
        since, c = learner.weights(), control(bench, 0.0)
        bench.do(learner.train(BATCHES, Controlled(c)))
        moved = named(bench, learner.renew_control(c, since, steps=len(BATCHES)))
        gradients: dict[str, list[Tensor]] = {}

        def note(name: str, g: Tensor, w: Tensor, decay: float = decay, to: Any = gradients) -> Tensor:
            to.setdefault(name, []).append(g + decay * w.detach())
            return g

        by_hand(bench, named(bench, since), BATCHES, 0.1, note, decay)
        for name, each in gradients.items():
            torch.testing.assert_close(moved[name], torch.stack(each).mean(0), rtol=0, atol=1e-12)


def test_a_control_belongs_to_its_device_for_good() -> None:
    """Through closing, and through leaving and coming back; another device has its own."""
    bench = PRECISE.bench()
    learner, c = bench.learner(0), control(bench, 0.5)
    since = learner.weights()
    bench.do(learner.train(BATCHES, Controlled(c)))
    learner.renew_control(c, since, steps=3)
    learner.close()
    kept = own_control(bench.host.core, 0)
    assert kept is not None
    bench.host.forget(0)
    again = own_control(bench.host.core, 0)
    assert again is not None
    assert bits(again) == bits(kept)
    assert own_control(bench.host.core, 1) is None


def test_a_renewed_control_goes_by_the_learning_rate_of_its_round() -> None:
    """A schedule that halves it each round: the same gradients, the same control variates."""
    what = dataclasses.replace(PRECISE, optimizer=Sgd(lr=0.4, schedule=Schedule(kind="exponential", factor=0.5)))
    bench = what.bench()
    learner, c = bench.learner(), control(bench, 0.0)
    since = learner.weights()
    learner.load(since, 2)
    bench.do(learner.train(BATCHES, Controlled(c)))
    moved = named(bench, learner.renew_control(c, since, steps=3))
    start, after = named(bench, since), named(bench, learner.weights())
    for name in moved:
        torch.testing.assert_close(moved[name], (start[name] - after[name]) / (3 * 0.1), rtol=0, atol=1e-12)


def test_a_learning_rate_of_nothing_renews_nothing() -> None:
    """Where a schedule has come to 0, c_k stays as it is."""
    what = dataclasses.replace(PRECISE, optimizer=Sgd(lr=0.1, schedule=Schedule(kind="cosine", rounds=2)))
    bench = what.bench()
    learner, c = bench.learner(), control(bench, 0.5)
    since = learner.weights()
    bench.do(learner.train(BATCHES, Controlled(c)))
    learner.renew_control(c, since, steps=3)
    kept = own_control(bench.host.core, 0)
    learner.load(since, 2)
    bench.do(learner.train(BATCHES, Controlled(c)))
    assert bits(named(bench, learner.weights())) == bits(named(bench, since))
    moved = named(bench, learner.renew_control(c, since, steps=3))
    assert not any(tensor.any() for tensor in moved.values())
    assert bits(own_control(bench.host.core, 0) or {}) == bits(kept or {})


def test_controls_know_no_buffers() -> None:
    """Batch norm's statistics are in no control variate, and nothing corrects them."""
    bench = Federation(cut=1).bench()
    learner, c = bench.learner(), control(bench, 0.0)
    plain = Federation(cut=1).bench()
    other = plain.learner()
    since = learner.weights()
    bench.do(learner.train(BATCHES, Controlled(c)))
    plain.do(other.train(BATCHES))
    assert bits(named(bench, learner.weights())) == bits(named(plain, other.weights()))
    moved = named(bench, learner.renew_control(c, since, steps=3))
    parameters = {shape.name for shape in bench.plans[MODEL].parameters.shapes}
    assert moved.keys() == parameters < named(bench, since).keys()


def test_a_change_is_of_parameters_and_buffers_are_as_they_are() -> None:
    """What FedBuff's devices send."""
    bench = Federation(cut=1).bench()
    learner = bench.learner()
    since = learner.weights()
    start = named(bench, since)
    bench.do(learner.train(BATCHES))
    after = named(bench, learner.weights())
    change = named(bench, learner.change(since))
    parameters = {shape.name for shape in bench.plans[MODEL].parameters.shapes}
    for name, tensor in change.items():
        assert tensor.equal(after[name] - start[name] if name in parameters else after[name])
    assert bits(named(bench, learner.weights())) == bits(after), "the learner is where it was"
    assert bits(named(bench, since)) == bits(start)


@pytest.mark.parametrize("pull", [Proximal, Controlled])
def test_a_pull_costs_one_mac_a_parameter_and_two_kernels_a_step(pull: Any) -> None:
    """A difference, and its addition: each reads two values a parameter and writes one."""
    plan = MLP.bench().plans[MODEL]
    learner = Learner(Node(FakePort(0)), plan)
    anchor = Node(FakePort(SERVER)).payload(plan.weights)
    bent: Pull = Proximal(anchor, 0.1) if pull is Proximal else Controlled(anchor)
    plain, pulled = learner.train(BATCHES).parts, learner.train(BATCHES, bent).parts
    for before, after in zip(plain, pulled, strict=True):
        assert after.cost.macs - before.cost.macs == plan.trainable
        assert after.cost.bytes - before.cost.bytes == 2 * 3 * plan.trainable * 4
        more = [op for op in after.cost.operators if op.phase is Phase.OPTIMIZER]
        assert [op.tensors for op in more] == [len(plan.parameters.shapes)] * 3


def test_what_a_learner_is_to_keep_counts_until_it_is_closed() -> None:
    """The weights that a round began from, beside those that change."""
    plan = MLP.bench().plans[MODEL]
    port = FakePort(0)
    node = Node(port)
    learner, w = Learner(node, plan), node.payload(plan.weights)
    size = plan.state_bytes
    learner.load(w, keep=(w,))
    learner.load(w, keep=(w, w))
    learner.load(w)
    learner.load(w, keep=(w,))
    learner.close()
    learner.load(w)
    learner.close()
    held = [command.holds for command in port.commands]
    assert held == [0, 2 * size, size, -2 * size, size, -2 * size, size, -size]


def test_a_control_variate_counts_as_held_from_then_on() -> None:
    """Between rounds, too: it lives on the device."""
    plan = MLP.bench().plans[MODEL]
    port = FakePort(0)
    node = Node(port)
    learner, w, c = Learner(node, plan), node.payload(plan.weights), node.payload(plan.parameters)
    size, theta = plan.state_bytes, plan.parameters.memory_bytes
    for first in (True, False):
        port.commands.clear()
        learner.load(w, keep=(w, c))
        assert port.commands[-1].holds == 2 * size + theta
        work = learner.train(BATCHES, Controlled(c))
        assert work.command.holds == plan.warm_bytes + (theta if first else 0)
        learner.close()
        assert port.commands[-1].holds == -(2 * size + theta + plan.warm_bytes), "all but c_k"


def test_batches_that_were_not_trained_come_next() -> None:
    """Of steps, which go on where they ended; a pass begins afresh all the same."""
    me = Device(FakePort(0), job())
    taken = me.batches(5)
    me.put_back(taken[2:])
    assert me.batches(5) == (*taken[2:], Batch(1, 16, 4), Batch(2, 0, 8))
    again = me.batches(None, 2)
    me.put_back(again[1:])
    assert me.batches()[0] == Batch(again[0].epoch + 1, 0, 8)
    whole = me.batches(None, 2)
    me.put_back(whole[3:])
    assert me.batches()[0] == whole[3], "a pass that was not begun is still to come"
    me.put_back(())
    assert me.batches(1)[0].start == 0
