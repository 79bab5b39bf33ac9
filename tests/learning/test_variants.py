"""Devices with pruned variants of one model: what they get, what is made of what they send, and what stays zero."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fedsim.costs import Phase
from fedsim.errors import ScriptError
from fedsim.learning.blocks import layout_of
from fedsim.learning.host import Host
from fedsim.learning.learners import Node
from fedsim.learning.optimizers import AdamW, Sgd
from fedsim.learning.plan import MODEL, BlockPlan, plans, variant_plan
from fedsim.learning.sums import Changes, Combining, Mean
from fedsim.models.counting import measure
from fedsim.models.options import Auxiliary
from fedsim.payload.codecs import Codecs, Half, Int8
from fedsim.payload.coding import Arrivals
from fedsim.payload.supports import Support
from fedsim.payload.tensors import FlatTensors
from fedsim.schedulers.catalogue import SCHEDULERS
from fedsim.schedulers.fedavg import FedAvg
from fedsim.script import SERVER, Payload
from fedsim.wire import tensors as wired
from tests.learning.toys import SEED, DirectPort, Federation, bits
from tests.learning.variants import Sums, federation, smaller, support

NARROW = support([1, 4, 5, 9, 30])
WIDE = support([0, 1, 2, 4, 5, 7, 9, 11, 20, 30, 31])
SPARSE = support([1, 4, 5, 9, 30], masked=0.6)


class Server(Sums):
    """A server's sums on a host that has two variants."""

    def __init__(self, *supports: Support) -> None:
        toy = Federation(dtype="float64")
        network = toy.network()
        parts = [smaller(network, each) for each in supports]
        self.plans: dict[str, BlockPlan] = plans(measure(network), None, toy.training())
        for number, (part, each) in enumerate(zip(parts, supports, strict=True), 1):
            plan = variant_plan(number, measure(part), None, toy.training(), None, each)
            self.plans[plan.name] = plan
        self.whole, *self.variants = self.plans.values()
        named = {plan.name: part for plan, part in zip(self.variants, parts, strict=True)}
        self.host = Host(network, self.plans, toy.samples(), SEED, None, named)
        self.node = Node(DirectPort(SERVER, self.host))


def at(what: Support, name: str, whole: Tensor) -> Tensor:
    """What a support has of a tensor, zeros where it has a mask."""
    found = torch.from_numpy(np.array(whole.numpy()[what.index(name, tuple(whole.shape))]))
    return found * torch.from_numpy(what.masks[name]) if name in what.masks else found


def put(what: Support, name: str, into: np.ndarray[Any, Any], value: Any) -> None:
    """Add a value where a support has coordinates; straight from the definition, coordinate by coordinate."""
    axes = what.axes.get(name, (None,) * into.ndim)
    index = [np.arange(n) if kept is None else kept for n, kept in zip(into.shape, axes, strict=True)]
    mask = what.masks.get(name)
    for place in np.ndindex(*(len(each) for each in index)):
        if mask is None or mask[place]:
            into[tuple(each[i] for each, i in zip(index, place, strict=True))] += (
                value[place] if isinstance(value, np.ndarray) else value
            )


@pytest.mark.slow
def test_a_coordinate_is_the_mean_of_those_who_have_it() -> None:
    """θ[j] = Σ n_k w_k[j] / Σ n_k over the members whose support has j; others keep what they were."""
    server = Server(NARROW, SPARSE)
    first, second = server.variants
    base = server.model(server.whole, 1)
    members = [
        (first, server.model(first, 2), 3),
        (second, server.model(second, 3), 5),
        (second, server.model(second, 4), 2),
    ]
    mean = Mean(server.node, server.whole, range(3), "samples", variants=server.variants, base=base)
    for number, (_, payload, samples) in enumerate(members):
        mean.put(number, payload, samples)
    work = mean.result()
    held = sum(plan.trainable for plan, _, _ in members)
    assert sum(part.cost.macs for part in work.parts) == held, "each member by what it holds"
    made = server.do(work)
    for name, before in server.named(base).items():
        if not before.is_floating_point():
            assert made[name].item() == 4
            continue
        sums, weights = np.zeros(before.shape), np.zeros(before.shape)
        for plan, payload, samples in members:
            put(plan.support, name, sums, server.named(payload)[name].numpy() * samples)
            put(plan.support, name, weights, float(samples))
        wanted = np.where(weights > 0, sums / np.maximum(weights, 1e-300), before.numpy())
        np.testing.assert_allclose(made[name].numpy(), wanted, rtol=1e-12, atol=1e-12)


def test_a_mean_of_variants_needs_a_base() -> None:
    """Else nobody could say what a coordinate that nobody has is."""
    server = Server(NARROW)
    with pytest.raises(ScriptError, match=r"needs base=, the weights that stay .* me.mean\(expected=chosen, base=w\)"):
        Mean(server.node, server.whole, [0], "samples", variants=server.variants)


def test_a_mixture_with_a_variant_changes_what_it_has() -> None:
    """(1 − a)·one + a·other inside, one outside; a move alike."""
    server = Server(SPARSE)
    (variant,) = server.variants
    combining = Combining(server.node, server.plans.values())
    one, other = server.model(server.whole, 1), server.model(variant, 2)
    whole, part = server.named(one), server.named(other)
    results = (
        (server.do(combining.mix(one, other, 0.25)), 0.25),
        (server.do(combining.toward(one, other, 0.5)), 0.5),
    )
    for made, share in results:
        for name in ("conv1.0.weight", "conv2.0.weight", "conv3.0.weight"):
            seen = np.zeros(whole[name].shape)
            put(variant.support, name, seen, 1.0)
            inside = torch.from_numpy(seen > 0)
            assert made[name][~inside].equal(whole[name][~inside])
            wanted = (1 - share) * at(SPARSE, name, whole[name]) + share * part[name]
            torch.testing.assert_close(at(SPARSE, name, made[name]), wanted)


def test_a_shift_by_a_variant_moves_what_it_has() -> None:
    """one + a·other inside, one outside."""
    server = Server(SPARSE)
    (variant,) = server.variants
    one = server.model(server.whole, 1, "parameters")
    other = server.model(variant, 2, "parameters")
    made = server.do(Combining(server.node, server.plans.values()).shift(one, other, -0.25))
    moves = server.named(other)
    for name, before in server.named(one).items():
        wanted = before.numpy().copy()
        put(SPARSE, name, wanted, -0.25 * moves[name].numpy())
        np.testing.assert_allclose(made[name].numpy(), wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.slow
def test_changes_of_variants_count_as_if_all_had_changed_like_those() -> None:
    """A coordinate moves by (Σ weights / Σ weights of those that have it) · Σ weight·change."""
    server = Server(NARROW, WIDE)
    narrow, wide = server.variants
    model = server.model(server.whole, 1)
    changes = Changes(server.node, server.whole, server.variants)
    given = [(narrow, server.model(narrow, 2), 0.5), (wide, server.model(wide, 3), 2.0)]
    for _, payload, weight in given:
        changes.add(payload, weight)
    work = changes.applied(model, rate=1.0, denominator=2.0)
    held = sum(plan.trainable for plan in (narrow, wide, server.whole))
    assert sum(part.cost.macs for part in work.parts) == held, "each change by what it holds, and the model"
    made = server.do(work)
    for name in ("conv1.0.weight", "conv2.0.weight", "hidden.1.weight"):
        before = server.named(model)[name]
        sums, weights = np.zeros(before.shape), np.zeros(before.shape)
        for plan, payload, weight in given:
            put(plan.support, name, sums, server.named(payload)[name].numpy() * weight)
            put(plan.support, name, weights, weight)
        step = np.where(weights > 0, sums * 2.5 / np.maximum(weights, 1e-300), 0.0) / 2.0
        np.testing.assert_allclose(made[name].numpy(), before.numpy() + step, rtol=1e-12, atol=1e-12)
    running = "conv1.1.running_mean"  # a value, not a difference
    before = server.named(model)[running]
    kept = WIDE.axes["conv1.1.bias"][0]
    assert kept is not None
    outside = np.setdiff1d(np.arange(32), kept)
    np.testing.assert_allclose(made[running].numpy()[outside], before.numpy()[outside])


def test_variants_that_have_everything_learn_the_bits_of_fedavg() -> None:
    """One summation tree: index lists over all of an axis change nothing."""
    toy = Federation(sizes=(24, 7, 40))
    plain = toy.run(FedAvg(), rounds=2)
    host, simulation, _ = federation(FedAvg(), [support(range(32))] * 3, toy=toy)
    simulation.run()
    assert simulation.published is not None
    assert bits(host.model_tensors(simulation.published.model)) == bits(plain)


@pytest.mark.parametrize("optimizer", [Sgd(lr=0.1, momentum=0.9, weight_decay=0.1), AdamW(weight_decay=0.1)])
def test_what_a_mask_leaves_out_stays_zero(optimizer: Any) -> None:
    """With momentum and decay, whose states are kept; and the rest is trained."""
    toy = Federation(sizes=(24, 7, 40), optimizer=optimizer, keep=True)
    seen: list[dict[str, Tensor]] = []
    host, simulation, _ = federation(FedAvg(local_steps=2), [SPARSE, SPARSE, None], toy=toy, rounds=3)
    original = host.run

    def watching(command: Any) -> None:
        original(command)
        if command.method == "weights" and command.node in (0, 1):
            value = host.value(command.output)
            assert isinstance(value, FlatTensors)
            seen.append({name: view.clone() for name, view in value.named().items()})

    host.run = watching  # type: ignore[method-assign]
    simulation.run()
    mask = torch.from_numpy(SPARSE.masks["conv2.0.weight"])
    assert len(seen) == 6
    for tensors in seen:
        assert (tensors["conv2.0.weight"][~mask] == 0).all()
    assert not seen[0]["conv2.0.weight"].equal(seen[-1]["conv2.0.weight"])


def test_masked_weights_weigh_what_is_left_of_them() -> None:
    """On a link, in the scenario's codec; in memory they are whole. A mask alone makes them other weights."""
    toy = Federation()
    network = toy.network()
    sparse = variant_plan(1, measure(smaller(network, SPARSE)), None, toy.training(), None, SPARSE)
    dense = variant_plan(2, measure(smaller(network, NARROW)), None, toy.training(), None, NARROW)
    zeros = int((~SPARSE.masks["conv2.0.weight"]).sum())
    assert zeros > 1000
    assert dense.weights.nbytes - sparse.weights.nbytes == 8 * zeros
    assert dense.weights.memory_bytes == sparse.weights.memory_bytes == dense.weights.nbytes
    assert dense.weights != sparse.weights
    assert dense.head == sparse.head  # there is none


def test_operators_know_the_zeros_of_their_weights() -> None:
    """In a forward, by the mask of the very tensor that they multiply by; backwards are dense, as all others are."""
    toy = Federation()
    network = toy.network()
    plan = variant_plan(1, measure(smaller(network, SPARSE)), None, toy.training(), None, SPARSE)
    mask = SPARSE.masks["conv2.0.weight"]
    share = 1 - mask.sum() / mask.size
    (found,) = [op for op in plan.train_part(8).cost.operators if op.sparsity]
    assert (found.unit, found.phase) == ("conv2", Phase.FORWARD)
    assert found.sparsity == pytest.approx(share)
    dense = variant_plan(2, measure(smaller(network, NARROW)), None, toy.training(), None, NARROW)
    assert dense.train_part(8).cost.macs == plan.train_part(8).cost.macs, "zeros are counted"
    assert not any(op.sparsity for op in dense.train_part(8).cost.operators)


@pytest.mark.parametrize("codec", [Codecs(), Codecs(weights=Half()), Codecs(weights=Int8())])
def test_masked_weights_cross_the_wire(codec: Codecs) -> None:
    """As many bytes as are charged, and what arrives has the bits that a simulation's receiver sees."""
    toy = Federation(codecs=codec)
    network = toy.network()
    plan = variant_plan(1, measure(smaller(network, SPARSE)), None, toy.training(), None, SPARSE)
    layout = layout_of(plan, plan.weights)
    value = layout.zeros()
    for view in value.views():
        if view.is_floating_point():
            view.copy_(torch.randn(view.shape, generator=torch.Generator().manual_seed(5), dtype=view.dtype))
    value.mask_()
    sent = b"".join(bytes(each) for each in wired.buffers(plan.weights, value))
    assert len(sent) == plan.weights.nbytes
    came = wired.value(plan.weights, memoryview(bytearray(sent)), layout, channels_last=False)
    seen = Arrivals().seen(Payload(0, 1, plan.weights), value, SERVER)
    assert isinstance(came, FlatTensors)
    assert isinstance(seen, FlatTensors)
    assert bits(came.named()) == bits(seen.named())


def test_devices_of_a_variant_get_one_payload() -> None:
    """Made once for all of them, and one message for neighbours; who has the whole model gets that itself."""
    host, simulation, _ = federation(FedAvg(), [NARROW, NARROW, None, WIDE], rounds=1)
    original, made = host.run, []

    def watching(command: Any) -> None:
        original(command)
        if command.method == "fit":
            made.append(command.args[1])

    host.run = watching  # type: ignore[method-assign]
    simulation.run()
    assert made == ["model#1", "model#2"]


def test_rounds_say_how_much_of_the_model_they_have_reached() -> None:
    """The share of the trained parameters that those who came have together, coordinate by coordinate."""
    _, simulation, assembly = federation(FedAvg(), [SPARSE, NARROW, WIDE, SPARSE], rounds=2)
    simulation.run()
    shares = [mark[3] for mark in simulation.trace.marks if mark[2] == "covered"]
    shapes = {shape.name: shape.shape for shape in assembly.blocks()[MODEL].parameters.shapes}
    together = total = 0.0
    for name, shape in shapes.items():
        seen = np.zeros(shape)
        for what in (SPARSE, NARROW, WIDE):
            put(what, name, seen, 1.0)
        together += np.count_nonzero(seen)
        total += seen.size
    assert shares == [together / total] * 2
    assert 0 < shares[0] < 1
    _, simulation, _ = federation(FedAvg(), [NARROW, None, WIDE, SPARSE], rounds=1)
    simulation.run()
    assert [mark[3] for mark in simulation.trace.marks if mark[2] == "covered"] == [1.0]


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SCHEDULERS))
def test_every_system_trains_variants_together(name: str) -> None:
    """Whole, narrower and sparse devices in one run: it ends, learns finite weights, and is the same every time."""
    kind = SCHEDULERS[name]
    head = Auxiliary(kind="linear") if getattr(kind, "local_loss", False) else None
    found = []
    for _ in range(2):
        host, simulation, assembly = federation(kind(), [None, NARROW, SPARSE, WIDE], head=head)
        simulation.run()
        assert simulation.published is not None
        found.append(bits(host.model_tensors(simulation.published.model)))
        tensors = host.model_tensors(simulation.published.model)
        assert all(bool(tensor.isfinite().all()) for tensor in tensors.values())
        assert tensors["conv1.0.weight"].shape == (32, 3, 3, 3)
    assert found[0] == found[1]
    block = "device" if kind.splits else MODEL
    assert {plan.name for plan in assembly.held(assembly.blocks())} == {block, *(f"{block}#{n}" for n in (1, 2, 3))}
