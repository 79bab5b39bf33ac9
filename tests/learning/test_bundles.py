"""Variants that are models of their own: each is what its own devices make of it, and nothing of the others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fedsim.experiment.assembly import Assembly
from fedsim.experiment.fleet import Fleet, Group
from fedsim.hardware.links import load_link
from fedsim.hardware.machines import machine
from fedsim.hardware.profiles import load_profile
from fedsim.learning.bundles import Bundle, bare, of_member, prefix
from fedsim.learning.host import Host
from fedsim.learning.learners import Node
from fedsim.learning.plan import BlockPlan, plans, variant_plan
from fedsim.learning.sums import Changes, Combining, Mean
from fedsim.models.counting import measure
from fedsim.models.options import Auxiliary
from fedsim.payload.supports import WHOLE, Support
from fedsim.payload.tensors import FlatTensors
from fedsim.schedulers.catalogue import SCHEDULERS
from fedsim.schedulers.fedavg import FedAvg
from fedsim.script import SERVER, Quality
from fedsim.simulation import Inline
from fedsim.simulation.engine import Limits
from tests.learning.toys import SEED, DirectPort, Federation, bits
from tests.learning.variants import Sums, federation, smaller, support

NARROW = support([1, 4, 5, 9, 30])
SPARSE = support([1, 4, 5, 9, 30], masked=0.6)


class Server(Sums):
    """A server's sums on a host that has models of their own with these supports."""

    draw = staticmethod(torch.rand)  # nothing below zero

    def __init__(self, *supports: Support) -> None:
        toy = Federation(dtype="float64")
        network = toy.network()
        parts = [smaller(network, each) for each in supports]
        self.members: list[BlockPlan] = []
        for number, (part, each) in enumerate(zip(parts, supports, strict=True), 1):
            self.members.append(variant_plan(number, measure(part), None, toy.training(), None, each, apart=True))
        bundle = Bundle(tuple(self.members), tuple(range(1, 1 + len(self.members))))
        self.plans = plans(measure(network), None, toy.training(), bundle=bundle)
        (self.whole,) = self.plans.values()
        self.plans |= {plan.name: plan for plan in self.members}
        named = {plan.name: part for plan, part in zip(self.members, parts, strict=True)}
        self.host = Host(network, self.plans, toy.samples(), SEED, None, named)
        self.node = Node(DirectPort(SERVER, self.host))


def equal(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    """Whether they have the same tensors."""
    return ours.keys() == theirs.keys() and all(tensor.equal(theirs[name]) for name, tensor in ours.items())


def close(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    """See to it that they are equal but for rounding."""
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def average(*members: tuple[dict[str, Tensor], int]) -> dict[str, Tensor]:
    """Σ n·w / Σ n, and the largest of whole numbers."""
    total = sum(count for _, count in members)
    return {
        name: sum((each[name] * count for each, count in members), torch.zeros(())) / total
        if first.is_floating_point()
        else torch.stack([each[name] for each, _ in members]).amax(0)
        for name, first in members[0][0].items()
    }


# --------------------------------------------------------------------------------------------- the sums


def test_two_variants_have_two_means() -> None:
    """Each over its own members, by their samples; one that has no member stays as it was."""
    server = Server(NARROW, SPARSE, WHOLE)
    narrow, sparse, _ = server.members
    base = server.model(server.whole, 1)
    given = [(narrow, 2, 3), (sparse, 3, 5), (sparse, 4, 2), (narrow, 5, 4)]
    payloads = [server.model(plan, seed) for plan, seed, _ in given]
    mean = Mean(server.node, server.whole, range(4), "samples", variants=server.members, base=base)
    for number, (payload, (_, _, samples)) in enumerate(zip(payloads, given, strict=True)):
        mean.put(number, payload, samples)
    work = mean.result()
    assert sum(part.cost.macs for part in work.parts) == sum(plan.trainable for plan, _, _ in given)
    made = server.do(work)
    values = [server.named(payload) for payload in payloads]
    close(of_member(1, made), average((values[0], 3), (values[3], 4)))
    close(of_member(2, made), average((values[1], 5), (values[2], 2)))
    assert equal(of_member(3, made), of_member(3, server.named(base)))


def test_mixing_and_moving_change_one_model() -> None:
    """(1 − a)·one + a·other for the model that the other one is of, and its control variates; the rest is untouched."""
    server = Server(NARROW, SPARSE)
    _, sparse = server.members
    combining = Combining(server.node, server.plans.values())
    one, other = server.model(server.whole, 1), server.model(sparse, 2)
    before, given = server.named(one), server.named(other)
    made = server.do(combining.mix(one, other, 0.25))
    assert equal(of_member(1, made), of_member(1, before))
    moved = of_member(2, made)["conv2.0.weight"]
    wanted = 0.75 * of_member(2, before)["conv2.0.weight"] + 0.25 * given["conv2.0.weight"]
    mask = torch.from_numpy(SPARSE.masks["conv2.0.weight"])
    torch.testing.assert_close(moved[mask], wanted[mask])
    control, change = server.model(server.whole, 3, "parameters"), server.model(sparse, 4, "parameters")
    before, made = server.named(control), server.do(combining.shift(control, change, -0.5))
    assert equal(of_member(1, made), of_member(1, before))
    shifted = of_member(2, before)["head.bias"] - 0.5 * server.named(change)["head.bias"]
    torch.testing.assert_close(of_member(2, made)["head.bias"], shifted)


def test_changes_move_the_models_that_they_are_of() -> None:
    """By their own mean, as if all changes were alike; a model without any stays, running statistics too."""
    server = Server(NARROW, SPARSE, WHOLE)
    narrow, sparse, _ = server.members
    model = server.model(server.whole, 1)
    changes = Changes(server.node, server.whole, server.members)
    for plan, seed, weight in ((narrow, 2, 1.0), (narrow, 3, 1.0), (sparse, 4, 1.0)):
        changes.add(server.model(plan, seed), weight)
    first, second = (server.named(server.model(narrow, seed)) for seed in (2, 3))
    before, made = server.named(model), server.do(changes.applied(model, rate=1.0, denominator=3.0))
    step = (first["head.bias"] + second["head.bias"]) / 2
    torch.testing.assert_close(of_member(1, made)["head.bias"], of_member(1, before)["head.bias"] + step)
    running = "conv1.1.running_mean"
    torch.testing.assert_close(of_member(1, made)[running], (first[running] + second[running]) / 2)
    close(of_member(3, made), of_member(3, before))


def test_variants_of_one_shape_are_two_models() -> None:
    """Also where they have the same of their parent, such as what two folders hold."""
    server = Server(NARROW, NARROW)
    one, two = server.members
    assert one.weights != two.weights
    assert one.weights.nbytes == two.weights.nbytes
    assert len(one.weights.support) == 64, "as long as what may cross the wire"
    mean = Mean(
        server.node, server.whole, [0, 1], "samples", variants=server.members, base=server.model(server.whole, 1)
    )
    payloads = server.model(one, 2), server.model(two, 3)
    for number, payload in enumerate(payloads):
        mean.put(number, payload, 1)
    made = server.do(mean.result())
    for number, payload in enumerate(payloads, 1):
        close(of_member(number, made), server.named(payload))


def test_names_of_a_bundle() -> None:
    """A member's prefix stands before its tensors; what has none is everybody's."""
    tensors = {f"{prefix(1)}conv.weight": 1, f"{prefix(12)}conv.weight": 2, "head.weight": 3}
    assert of_member(1, tensors) == {"conv.weight": 1, "head.weight": 3}
    assert of_member(12, tensors) == {"conv.weight": 2, "head.weight": 3}
    assert [bare(name) for name in tensors] == ["conv.weight", "conv.weight", "head.weight"]


def test_the_quality_of_all_is_what_a_device_has_on_average() -> None:
    """Each variant counts by the devices that hold it; those of each stand beside."""
    server = Server(NARROW, WHOLE)  # one device, and two
    bundle = server.whole.bundle
    assert bundle is not None
    each = (Quality(0.25, 2.0, 10), Quality(1.0, 0.5, 10))
    assert bundle.quality(each) == Quality(0.75, 1.0, 10, each)


@pytest.mark.slow
def test_each_model_is_measured_by_itself() -> None:
    """As a model without others is."""
    server = Server(NARROW, SPARSE)
    model = server.model(server.whole, 1)
    quality = server.host.evaluate((model,), "test")
    alone = []
    for plan in server.members:
        part = server.node.payload(plan.weights)
        server.node.queue(0, "fit", model, plan.name, "weights", output=part)
        alone.append(server.host.evaluate((part,), "test"))
    assert quality.variants == tuple(alone)
    assert quality.variants[0] != quality.variants[1]


# --------------------------------------------------------------------------------------------- whole runs


def alone(toy: Federation, what: Support, devices: int) -> dict[str, Tensor]:
    """Plain FedAvg of a pruned model on the first devices of a federation."""
    network = smaller(toy.network(), what)
    assembly = Assembly(
        scheduler=FedAvg(),
        model=measure(network),
        cut=None,
        training=toy.training(),
        fleet=Fleet(
            (Group(machine(load_profile("pi-tier-1")), load_link("wifi5"), devices),),
            machine(load_profile("cpu-60g")),
            load_link("ethernet-1g"),
        ),
        samples=toy.shards().sizes()[:devices],
        support=Support(masks=what.masks),
        participants=devices,
        rounds=2,
        limits=Limits(every=1e9),
        seed=SEED,
    )
    blocks = assembly.blocks()
    host = Host(network, blocks, toy.samples(), SEED)
    simulation = assembly.simulation(Inline(host), blocks=blocks)
    simulation.run()
    assert simulation.published is not None
    return host.model_tensors(simulation.published.model)


def run(scheduler: Any, supports: list[Support | None], **more: Any) -> dict[str, Tensor]:
    """What is published in the end, with models of their own."""
    host, simulation, _ = federation(scheduler, supports, apart=True, **more)
    simulation.run()
    assert simulation.published is not None
    return host.model_tensors(simulation.published.model)


@pytest.mark.slow
@pytest.mark.parametrize("what", [WHOLE, NARROW, SPARSE], ids=["whole", "narrow", "sparse"])
def test_one_variant_learns_the_bits_of_fedavg(what: Support) -> None:
    """A bundle of one is that model."""
    toy = Federation(sizes=(24, 7, 40))
    made = run(FedAvg(), [None if what.whole else what] * 3, toy=toy)
    assert all(name.startswith(prefix(1)) for name in made)
    assert bits(of_member(1, made)) == bits(alone(toy, what, 3))


@pytest.mark.slow
@pytest.mark.parametrize("what", [NARROW, SPARSE], ids=["narrow", "sparse"])
def test_a_variant_learns_what_it_would_without_the_others(what: Support) -> None:
    """Those who have it alone, as a fleet of theirs."""
    toy = Federation(sizes=(24, 7, 40, 13))
    made = run(FedAvg(), [what, what, None, None], toy=toy)
    assert bits(of_member(1, made)) == bits(alone(toy, what, 2))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fedavg", "scaffold", "fedasync", "fedbuff"])
def test_nothing_leaks_between_models(name: str) -> None:
    """Under every system without a common server block: other data of the others change nothing of a model."""
    toy = Federation(sizes=(24, 7, 40, 13))
    other = Poisoned(sizes=(24, 7, 40, 13))
    supports = [NARROW, SPARSE, NARROW, None]
    first, second = (run(SCHEDULERS[name](), supports, toy=each, rounds=4) for each in (toy, other))
    assert bits(of_member(1, first)) == bits(of_member(1, second))
    assert bits(of_member(2, first)) == bits(of_member(2, second))
    assert bits(of_member(3, first)) != bits(of_member(3, second))


class Poisoned(Federation):
    """The last device has other data."""

    def data(self) -> Any:
        """The same but for those."""
        found = super().data()
        x = np.array(found.train.inputs)
        x[self.shards()[len(self.sizes) - 1]] += 3
        return replace(found, train=replace(found.train, inputs=x))


@pytest.mark.slow
def test_heads_of_variants_are_their_own() -> None:
    """Though all are of one shape: a device block's head is averaged with the heads of its own kind."""
    toy = Federation(sizes=(24, 7, 40))
    host, simulation, _ = federation(
        SCHEDULERS["fedoptima"](), [NARROW, None, None], toy=toy, head=Auxiliary(), apart=True
    )
    simulation.run()
    assert simulation.published is not None
    value = host.value(simulation.published.model[0])
    assert isinstance(value, FlatTensors)
    named = value.named()
    heads = [{name: view for name, view in of_member(n, named).items() if name.startswith("aux")} for n in (1, 2)]
    assert heads[0].keys() == heads[1].keys() != set()
    assert not equal(*heads)
