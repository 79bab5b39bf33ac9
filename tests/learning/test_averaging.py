"""Mixtures, moves and sums of changes against the same arithmetic on plain tensors, buffers and whole numbers too."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from fedsim.learning.plan import MODEL
from fedsim.learning.sums import Changes, Combining
from fedsim.script import SERVER, Payload
from tests.learning.toys import Bench, Federation, bits

NORMED = Federation(cut=1)
"""Batch norm: running statistics, which are no parameters, and a count of batches, which is a whole number."""


class Server:
    """A server's sums on a host, with models of random values."""

    def __init__(self) -> None:
        self.bench: Bench = NORMED.bench()
        self.plan = self.bench.plans[MODEL]
        self.node = self.bench.node(SERVER)
        self.combining = Combining(self.node, self.bench.plans.values())
        self.parameters = {shape.name for shape in self.plan.parameters.shapes}

    def model(self, seed: int, batches: int = 0) -> Payload:
        """Weights that nobody has trained, with so many batches counted."""
        generator = torch.Generator().manual_seed(seed)
        value = self.bench.host.core.blocks[MODEL].layout.zeros()
        for view in value.views():
            if view.is_floating_point():
                view.copy_(torch.randn(view.shape, generator=generator, dtype=view.dtype))
            else:
                view.fill_(batches)
        return self.bench.give(self.node.payload(self.plan.weights), value)

    def named(self, payload: Payload) -> dict[str, Tensor]:
        """The tensors behind a handle, by name."""
        return {name: tensor.clone() for name, tensor in self.bench.flat(payload).named().items()}

    def do(self, work: Any) -> dict[str, Tensor]:
        """Run a work; the tensors of its result."""
        return self.named(self.bench.do(work))


@pytest.fixture
def server() -> Server:
    """A fresh one."""
    return Server()


@pytest.mark.parametrize("weight", [0.1, 0.5, 0.9])
def test_a_mixture_is_a_mixture_of_everything(server: Server, weight: float) -> None:
    """(1 − weight)·one + weight·other of parameters and running statistics; of counts the larger."""
    one, other = server.model(1, 7), server.model(2, 4)
    before, theirs = server.named(one), server.named(other)
    mixed = server.do(server.combining.mix(one, other, weight))
    for name, tensor in mixed.items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, (1 - weight) * before[name] + weight * theirs[name], rtol=0, atol=1e-12)
        else:
            assert int(tensor) == 7
    assert bits(server.named(one)) == bits(before), "neither of the two is touched"
    assert bits(server.named(other)) == bits(theirs)


def test_a_mixture_is_exact_at_its_ends(server: Server) -> None:
    """All of one, or all of the other, to the bit."""
    one, other = server.model(1, 3), server.model(2, 3)
    assert bits(server.do(server.combining.mix(one, other, 1.0))) == bits(server.named(other))
    assert bits(server.do(server.combining.mix(one, other, 0.0))) == bits(server.named(one))


@pytest.mark.parametrize("rate", [0.3, 1.0, 1.7])
def test_moving_towards_another_model_moves_parameters_alone(server: Server, rate: float) -> None:
    """one + rate·(other − one); running statistics and counts are those of the other, even beyond it."""
    one, other = server.model(1, 7), server.model(2, 4)
    before, theirs = server.named(one), server.named(other)
    moved = server.do(server.combining.toward(one, other, rate))
    for name, tensor in moved.items():
        expected = before[name] + rate * (theirs[name] - before[name]) if name in server.parameters else theirs[name]
        torch.testing.assert_close(tensor, expected, rtol=0, atol=1e-12)
    assert any(name not in server.parameters for name in moved)
    assert bits(server.named(other)) == bits(theirs)


def test_a_shift_is_of_parameters(server: Server) -> None:
    """one + factor·other, of control variates: they begin as zeros and have no buffers."""
    zero = server.combining.zeros(server.plan)
    named = server.named(zero)
    assert named.keys() == server.parameters
    assert not any(tensor.any() for tensor in named.values())
    change = server.combining.part(server.plan, server.model(3), "parameters")
    once = server.bench.do(server.combining.shift(zero, change, 0.5))
    twice = server.do(server.combining.shift(once, change, -2.0))
    for name, tensor in server.named(change).items():
        torch.testing.assert_close(twice[name], -1.5 * tensor, rtol=0, atol=1e-12)
    assert not any(tensor.any() for tensor in server.named(zero).values()), "the one before is not touched"


def test_costs_count_what_takes_part(server: Server) -> None:
    """Two MACs a parameter of a mixture, a move or a shift; one for each of K changes and the model they move."""
    one, other, theta = server.model(1), server.model(2), server.plan.trainable
    zero = server.combining.zeros(server.plan)
    for work in (
        server.combining.mix(one, other, 0.5),
        server.combining.toward(one, other, 0.5),
        server.combining.shift(zero, zero, 0.5),
    ):
        (part,) = work.parts
        assert (part.kind, part.cost.macs) == ("aggregate", 2 * theta)
    changes = Changes(server.node, server.plan)
    for _ in range(3):
        changes.add(one, 1.0)
    (part,) = changes.applied(one, rate=1.0, denominator=3.0).parts
    assert (part.kind, part.cost.macs) == ("aggregate", 4 * theta)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_sum_of_changes_moves_a_model(server: Server, momentum: float) -> None:
    """w + rate·Σ s·Δ / denominator, through a velocity that lives on; statistics become the s-weighted mean."""
    changes = Changes(server.node, server.plan)
    w = server.model(0, 2)
    expected = server.named(w)
    velocity = {name: torch.zeros_like(expected[name]) for name in server.parameters}
    for application, weights in enumerate(((1.0, 0.5, 0.25), (0.5, 1.0))):
        members = [(server.model(10 * application + i + 1, 3 + i), s) for i, s in enumerate(weights)]
        deltas = [(server.named(payload), s) for payload, s in members]
        for payload, s in members:
            changes.add(payload, s)
        assert (changes.members, changes.total) == (len(weights), sum(weights))
        w = server.bench.do(changes.applied(w, rate=0.7, denominator=4.0, momentum=momentum))
        assert (changes.members, changes.total) == (0, 0.0), "the sum begins anew"
        for name, tensor in expected.items():
            if name in server.parameters:
                step = sum(s * delta[name] for delta, s in deltas) / 4.0
                velocity[name] = momentum * velocity[name] + step
                expected[name] = tensor + 0.7 * velocity[name]
            elif tensor.is_floating_point():
                expected[name] = sum(s * delta[name] for delta, s in deltas) / sum(weights)  # type: ignore[assignment]
            else:
                expected[name] = torch.tensor(5)  # the largest that has ever come
        for name, tensor in server.named(w).items():
            torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-12)
        for payload, (delta, _) in zip((payload for payload, _ in members), deltas, strict=True):
            assert bits(server.named(payload)) == bits(delta), "no change is touched"


def test_counts_of_batches_never_fall(server: Server) -> None:
    """The model's own count stays where it is the larger one."""
    changes = Changes(server.node, server.plan)
    changes.add(server.model(1, 3), 1.0)
    moved = server.do(changes.applied(server.model(0, 9), rate=1.0, denominator=1.0))
    counts = [int(tensor) for tensor in moved.values() if not tensor.is_floating_point()]
    assert counts == [9] * len(counts)
    assert counts


def test_a_sum_of_nothing_is_a_mistake(server: Server) -> None:
    """There must be a change in it, every time."""
    changes = Changes(server.node, server.plan)
    w = server.model(0)
    with pytest.raises(AssertionError, match="a sum of nothing"):
        changes.applied(w, rate=1.0, denominator=1.0)
    changes.add(server.model(1), 1.0)
    server.bench.do(changes.applied(w, rate=1.0, denominator=1.0))
    with pytest.raises(AssertionError, match="a sum of nothing"):
        changes.applied(w, rate=1.0, denominator=1.0)


def test_weights_of_two_blocks_do_not_mix() -> None:
    """A device block's and a server block's: refused where they meet."""
    bench = NORMED.bench(split=True)
    node = bench.node(SERVER)
    combining = Combining(node, bench.plans.values())
    d, s = (bench.learner(SERVER, name).weights() for name in bench.plans)
    with pytest.raises(AssertionError, match="weights of two blocks"):
        combining.mix(d, s, 0.5)
