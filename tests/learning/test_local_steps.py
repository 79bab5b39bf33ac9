"""Steps on a local loss, activations nobody sends a gradient for, and steps on such: against plain PyTorch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedsim.learning.context import Device
from fedsim.learning.host import Host
from fedsim.learning.learners import Batch, Learner, Node
from fedsim.learning.optimizers import Sgd
from fedsim.learning.plan import DEVICE, SERVER_BLOCK, plans
from fedsim.models.auxiliary import build_head
from fedsim.models.counting import measure
from fedsim.models.measure import backward_cost, forward_cost
from fedsim.models.units import UnitList
from fedsim.script import SERVER, Payload
from tests.learning.test_handles import FakePort, job
from tests.learning.test_oracles import batches
from tests.learning.toys import MLP, SEED, DirectPort, Federation, bits
from tests.schedulers.local_losses import HEAD, Parts

BATCH = Batch(0, 0, 8)
CONVOLUTIONS = Federation(dtype="float32", sizes=(20, 12))
"""With batch norm, cut after two convolutions."""


class Bench:
    """A host whose devices have heads, to be told commands by hand."""

    def __init__(self, what: Federation) -> None:
        network = what.network()
        head = build_head(network, what.cut, HEAD, SEED)
        measured = head.measure(network.block(0, what.cut))
        self.head = measured
        self.plans = plans(measure(network), what.cut, what.training(), measured)
        self.host = Host(network, self.plans, what.samples(), SEED, head)
        self.node = Node(DirectPort(0, self.host))
        self.server = Node(DirectPort(SERVER, self.host))
        self.block = Learner(self.node, self.plans[DEVICE])

    def do(self, work: Any) -> Any:
        """Run a work; its result."""
        self.host.run(work.command)
        return work.result

    def tensor(self, payload: Payload) -> Tensor:
        """What is behind a handle."""
        value = self.host.value(payload)
        assert isinstance(value, Tensor)
        return value

    def state(self, payload: Payload | None = None) -> dict[str, Tensor]:
        """The tensors of weights by name; of the device block as it is, if none are given."""
        value = self.host.core.flat(self.block.weights() if payload is None else payload)
        return {name: tensor.clone() for name, tensor in value.named().items()}


def dropping(*, input: tuple[int, ...], classes: int, **_rest: Any) -> UnitList:
    """A device block that draws random numbers."""
    layers = [("first", nn.Sequential(nn.Linear(input[0], 6), nn.Dropout(0.5))), ("middle", nn.Linear(6, 6))]
    return UnitList("dropping", [*layers, ("last", nn.Linear(6, classes))], input=input, classes=classes)


DROPPING = replace(MLP, model=dropping, options=None)


# ----------------------------------------------------------------------------------------- local steps


@pytest.mark.parametrize(
    "what",
    [MLP, CONVOLUTIONS, replace(CONVOLUTIONS, channels_last=True, optimizer=Sgd(lr=0.1, momentum=0.9))],
    ids=["vectors", "convolutions", "channels last"],
)
def test_a_local_step_is_a_plain_step(what: Federation) -> None:
    """Of d and a together: the same weights and running statistics; activations are those of before the step."""
    bench, parts = Bench(what), Parts(what)
    tolerance = 1e-5 if what.channels_last else 0
    for number, (z, y) in enumerate(parts.local(parts.rows(0))):
        batch = Batch(0, 8 * number, len(y))
        sent = bench.do(bench.block.local_step(batch))
        torch.testing.assert_close(bench.tensor(sent), z, rtol=tolerance, atol=tolerance)
        assert bench.tensor(sent).is_contiguous() != (what.channels_last and what is not MLP)
        assert bench.tensor(bench.block.labels(batch)).equal(y)
    ours = bench.state()
    for name, tensor in parts.device.items():
        torch.testing.assert_close(ours[name], tensor, rtol=tolerance, atol=tolerance)


def test_local_steps_are_a_training_that_shows_its_activations() -> None:
    """To the bit, with dropout too: then each step draws numbers of its own."""
    for what in (MLP, CONVOLUTIONS):
        one, other = Bench(what), Bench(what)
        some = (BATCH, Batch(0, 8, 4))
        for batch in some:
            one.do(one.block.local_step(batch))
        other.do(other.block.train(some))
        assert bits(one.state()) == bits(other.state())
    bench = Bench(DROPPING)
    first, second = (bench.tensor(bench.do(bench.block.local_step(BATCH))) == 0 for _ in range(2))
    assert 10 < first.sum() < 38
    assert not first.equal(second)
    again = Bench(DROPPING)
    assert (again.tensor(again.do(again.block.local_step(BATCH))) == 0).equal(first)


def test_activations_stay_what_they_were() -> None:
    """Later steps of the same device, and of another on the same memory, do not write into them."""
    bench = Bench(CONVOLUTIONS)
    sent = bench.do(bench.block.local_step(BATCH))
    before = bench.tensor(sent).clone()
    bench.do(bench.block.local_step(BATCH))
    bench.block.close()
    other = Learner(Node(DirectPort(1, bench.host)), bench.plans[DEVICE])
    bench.do(other.local_step(BATCH))
    assert bench.tensor(sent).equal(before)
    assert not bench.tensor(sent).requires_grad


def test_what_local_steps_cost() -> None:
    """m + m_bwd of d and a, without input gradient; the batch counts as trained; z and y as they are announced."""
    bench = Bench(CONVOLUTIONS)
    units = (*bench.plans[DEVICE].model.units[:2], *bench.head.units)
    work = bench.block.local_step(BATCH)
    (part,) = work.parts
    assert part.cost.macs == (forward_cost(units, 8) + backward_cost(units, 8, to_input=False)).macs
    assert (part.kind, part.samples, part.keeps) == ("step", 8, 0)
    head = forward_cost(bench.head.units, 8) + backward_cost(bench.head.units, 8, to_input=True)
    assert part.cost.head_macs == head.macs > 0
    assert work.result.nbytes == 4 * 8 * 64 * 2 * 2
    assert work.command.holds == bench.plans[DEVICE].state_bytes + bench.plans[DEVICE].warm_bytes


# ------------------------------------------------------------------------------------------- inference


def module(parts: Parts, what: Federation) -> nn.Module:
    """d, with statistics that differ from those of any batch."""
    list(parts.local(parts.rows(0)))
    return parts.d


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_activations_for_nobodys_gradient(mode: Any) -> None:
    """By running statistics, or by those of the batch; in either mode weights and statistics stay what they were."""
    what = CONVOLUTIONS
    bench, parts = Bench(what), Parts(what)
    for batch, rows in (
        (BATCH, parts.peek(0, 0)[0]),
        (Batch(0, 8, 3), torch.from_numpy(what.shards()[0][batches(20, 8, 0, 0)[1][:3]])),
    ):
        list(parts.local(parts.peek(0, 0)))
        bench.do(bench.block.train(tuple(Batch(0, start, min(8, 20 - start)) for start in (0, 8, 16))))
        before = bits(bench.state())
        z = bench.tensor(bench.do(bench.block.infer(batch, mode)))
        assert bits(bench.state()) == before
        twin = Parts(what).d
        twin.load_state_dict(parts.d.state_dict())
        with torch.no_grad():
            assert z.equal(twin.train(mode == "train")(parts.x[rows]))
            assert not z.equal(twin.train(mode == "eval")(parts.x[rows]))
        assert z.equal(bench.tensor(bench.do(bench.block.infer(batch, mode)))), "a second look shows the same"
    assert not z.requires_grad


def test_training_goes_on_after_a_look() -> None:
    """A look leaves the block in training mode: batch statistics count and are kept, as if it had not been."""
    one, other = Bench(CONVOLUTIONS), Bench(CONVOLUTIONS)
    one.do(one.block.infer(BATCH))
    for bench in (one, other):
        bench.do(bench.block.local_step(BATCH))
    assert bits(one.state()) == bits(other.state())
    assert one.state()["conv1.1.num_batches_tracked"] == 1


def test_dropout_is_off_in_eval_and_on_in_train() -> None:
    """Zeros among activations that have none otherwise."""
    bench = Bench(DROPPING)
    assert not (bench.tensor(bench.do(bench.block.infer(BATCH, "eval"))) == 0).any()
    assert (bench.tensor(bench.do(bench.block.infer(BATCH, "train"))) == 0).any()


def test_augmented_activations() -> None:
    """Of images that are shifted and mirrored: each number in its own way, the same each time, another for a batch."""
    bench = Bench(CONVOLUTIONS)
    plain = bench.tensor(bench.do(bench.block.infer(BATCH)))
    made = [bench.tensor(bench.do(bench.block.infer(BATCH, augment=number))) for number in (0, 1, 0)]
    assert made[0].equal(made[2])
    assert not made[0].equal(made[1])
    assert not made[0].equal(plain)
    assert made[0].shape == plain.shape
    other = Bench(CONVOLUTIONS)
    assert other.tensor(other.do(other.block.infer(BATCH, augment=0))).equal(made[0])


def test_what_inference_costs() -> None:
    """A forward of d: no head, no backward, no sample trained; two neighbouring tensors of activations in memory."""
    bench = Bench(CONVOLUTIONS)
    (part,) = bench.block.infer(BATCH).parts
    units = bench.plans[DEVICE].model.units[:2]
    assert part.cost.macs == forward_cost(units, 8).macs == part.cost.forward_macs
    assert (part.kind, part.samples, part.keeps, part.cost.head_macs) == ("infer", 0, 0, 0)
    assert bench.block.infer(BATCH, augment=3).parts == bench.block.infer(BATCH, "train").parts == (part,)
    assert bench.block.infer(BATCH).command.holds == 0


# --------------------------------------------------------------------------- d without a, and a without d


def test_a_block_without_its_head_leaves_the_head() -> None:
    """As the device has trained it; once it is closed there is none but the initial one."""
    bench, initial = Bench(MLP), Bench(MLP).state()
    bare = bench.block.weights("block")
    head = bench.block.weights("head")
    assert bare.nbytes + head.nbytes == bench.block.weights().nbytes
    bench.do(bench.block.train((BATCH,)))
    trained = bench.state()
    names = bench.host.core.flat(head).named().keys()
    bench.block.load(bare)
    assert bits(bench.state()) == bits({n: trained[n] if n in names else t for n, t in initial.items()})
    bench.block.load(head)
    assert bits(bench.state()) == bits(initial)
    bench.do(bench.block.train((BATCH,)))
    bench.block.close()
    bench.block.load(bare)
    assert bits(bench.state()) == bits(initial)


# ------------------------------------------------------------------------------------ steps on activations


def test_a_step_on_activations_is_one_whose_gradient_is_not_asked_for() -> None:
    """The same weights as `train_step`; cheaper by the input gradient of the first unit."""
    bench = Bench(CONVOLUTIONS)
    z, y = bench.do(bench.block.local_step(BATCH)), bench.block.labels(BATCH)
    one, other = (Learner(bench.server, bench.plans[SERVER_BLOCK]) for _ in range(2))
    with_gradient, without = other.train_step(z, y), one.step(z, y)
    bench.do(with_gradient)
    assert bench.do(without) is None
    assert bits(bench.state(one.weights())) == bits(bench.state(other.weights()))
    units = bench.plans[SERVER_BLOCK].units
    assert without.parts[0].cost.macs == (forward_cost(units, 8) + backward_cost(units, 8, to_input=False)).macs
    assert with_gradient.parts[0].cost.macs == (forward_cost(units, 8) + backward_cost(units, 8, to_input=True)).macs
    assert without.parts[0].samples == with_gradient.parts[0].samples == 8
    assert bench.tensor(z).grad is None


# ------------------------------------------------------------------------------- giving up, and holding


def test_what_is_given_up_is_forgotten() -> None:
    """Forwards without backward, and gradients without a step; then the block may be loaded, and trains as ever."""
    what = replace(MLP, sizes=(24, 7))
    bench = what.bench(split=True)
    block, fresh = bench.learner(0), bench.learner(1)
    w = fresh.weights()
    z = bench.do(block.forward(BATCH, 0))
    bench.do(block.forward(BATCH, 1))
    bench.do(block.backward(bench.give(z, torch.ones_like(bench.tensor(z))), 1, step=False))
    with pytest.raises(AssertionError):
        block.load(w)
    block.abandon()
    block.load(w)
    assert bits(bench.flat(block.weights()).named()) == bits(bench.flat(w).named())
    other = bench.learner(0)
    for learner in (block, other):
        sent = bench.do(learner.forward(BATCH))
        bench.do(learner.backward(bench.give(sent, torch.ones_like(bench.tensor(sent)))))
    assert bits(bench.flat(block.weights()).named()) == bits(bench.flat(other.weights()).named())


def test_giving_up_frees_what_was_kept() -> None:
    """As much as the forwards left behind that had no backward yet; a second time, nothing."""
    port = FakePort(0)
    block = Learner(Node(port), MLP.bench(split=True).plans[DEVICE])
    works = [block.forward(BATCH, tag) for tag in range(3)]
    kept = works[0].parts[0].keeps
    assert kept > 0
    back = block.backward(works[0].result, 0)
    assert back.parts[0].keeps == -kept
    port.commands.clear()
    block.abandon()
    block.abandon()
    assert [(c.method, c.holds) for c in port.commands] == [("abandon", -2 * kept), ("abandon", 0)]


def test_a_script_may_hold_bytes() -> None:
    """They count from then on, until it lets go of them."""
    port = FakePort(0)
    me = Device(port, job())
    me.hold(100)
    me.hold(-100)
    assert [(c.method, c.holds) for c in port.commands[-2:]] == [("hold", 100), ("hold", -100)]
    bench = MLP.bench(split=True)
    for command in port.commands[-2:]:
        bench.host.run(command)
