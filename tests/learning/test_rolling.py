"""Sums of variants whose windows move: each round by its own coordinates."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from fedsim.learning.host import Host
from fedsim.learning.learners import Node
from fedsim.learning.plan import BlockPlan, plans, variant_plan
from fedsim.learning.rolling import Rolling
from fedsim.learning.sums import Mean
from fedsim.models.counting import measure
from fedsim.payload.tensors import FlatTensors
from fedsim.payload.windows import Channels, Windows
from fedsim.script import SERVER, Payload
from tests.learning.toys import SEED, DirectPort, Federation
from tests.learning.variants import smaller, support

KEPT = 5
ALL = np.arange(32)[:, None]
PLACES = {
    **{(f"conv1.{name}", 0): ALL for name in ("0.weight", "0.bias", "1.weight", "1.bias")},
    **{(f"conv1.1.{name}", 0): ALL for name in ("running_mean", "running_var")},
    ("conv2.0.weight", 1): ALL,
}


class Marking(DirectPort):
    """Keeps what is marked."""

    def __init__(self, node: int, host: Host) -> None:
        super().__init__(node, host)
        self.marks: list[tuple[str, float]] = []

    def mark(self, name: str, value: float = 0.0, detail: Any = None) -> None:
        """Keep it."""
        self.marks.append((name, value))


class Server:
    """A server's sums, with one variant that moves by three channels a round."""

    def __init__(self) -> None:
        toy = Federation(dtype="float64")
        network = toy.network()
        shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
        self.windows = Windows([Channels(32, KEPT, PLACES)], shapes, step=3)
        first = self.windows.support(0)
        part = smaller(network, first)
        self.whole = plans(measure(network), None, toy.training())["model"]
        self.part: BlockPlan = variant_plan(1, measure(part), None, toy.training(), None, first, windows=self.windows)
        held = {plan.name: plan for plan in (self.whole, self.part)}
        self.host = Host(network, held, toy.samples(), SEED, None, {self.part.name: part})
        self.port = Marking(SERVER, self.host)
        self.node = Node(self.port)
        self.rolling = Rolling(self.whole)

    def model(self, plan: BlockPlan, value: float) -> Payload:
        """Weights that are all the same."""
        made = self.host.core.layout(plan.name, "weights").zeros()
        for buffer in made.buffers:
            buffer.fill_(int(value))
        payload = self.node.payload(plan.weights)
        self.host.core.values[payload] = made
        return payload

    def named(self, payload: Payload) -> dict[str, torch.Tensor]:
        """The tensors behind a handle."""
        value = self.host.value(payload)
        assert isinstance(value, FlatTensors)
        return value.named()


@pytest.mark.parametrize("round", [0, 1, 10])
def test_a_mean_is_of_the_windows_of_its_round(round: int) -> None:
    """Three channels further each: from the first, the fourth, and behind the last with the first again."""
    server = Server()
    mean = Mean(
        server.node,
        server.whole,
        [0, 1, 2],
        "samples",
        variants=[server.part],
        base=server.model(server.whole, 1),
        rolling=server.rolling,
    )
    for member, (plan, value, samples) in enumerate([(server.part, 4, 1), (server.part, 7, 2), (server.whole, 2, 3)]):
        mean.put(member, server.model(plan, value), samples)
    server.rolling.round = round  # a mean may be opened before its round
    work = mean.result()
    server.host.run(work.command)
    inside = [(3 * round + n) % 32 for n in range(KEPT)]
    wanted = torch.full((32,), 2.0, dtype=torch.float64)
    wanted[inside] = (4 * 1 + 7 * 2 + 2 * 3) / 6
    made = server.named(work.result)
    torch.testing.assert_close(made["conv1.0.bias"], wanted)
    torch.testing.assert_close(made["conv2.0.weight"][5, :, 1, 1], wanted)
    torch.testing.assert_close(made["conv3.0.bias"], torch.full_like(made["conv3.0.bias"], 4.0))


def test_a_variant_is_given_the_window_of_the_round() -> None:
    """The same handle's weights, round after round."""
    server = Server()
    network = server.host.core.blocks["model"].initial.named()
    whole = server.node.payload(server.whole.weights)
    server.host.core.values[whole] = server.host.core.blocks["model"].initial
    for round in (0, 1, 10, 1):
        made = server.node.payload(server.part.weights)
        server.node.queue(0, "fit", whole, server.part.name, "weights", round, output=made)
        inside = sorted((3 * round + n) % 32 for n in range(KEPT))
        assert server.named(made)["conv1.0.weight"].equal(network["conv1.0.weight"][inside])
        assert server.named(made)["conv2.0.weight"].equal(network["conv2.0.weight"][:, inside])
        assert server.windows.support(round) == support(inside)


def test_what_has_been_reached_grows_to_all() -> None:
    """Of this round and of all rounds so far, as the trace has it."""
    server = Server()
    parameters = {shape.name: shape.elements for shape in server.whole.parameters.shapes}
    each = sum(parameters[name] // 32 for name, _ in PLACES if name in parameters)
    total = sum(parameters.values())
    for round in range(11):
        server.rolling.round = round
        base = server.model(server.whole, 1)
        mean = Mean(
            server.node, server.whole, [0], "samples", variants=[server.part], base=base, rolling=server.rolling
        )
        mean.put(0, server.model(server.part, 2), 1)
        mean.result()
        reached = min(32, KEPT + 3 * round)
        (first, reached_now), (second, covered) = server.port.marks[-2:]
        assert (first, second) == ("reached", "covered")
        assert reached_now == pytest.approx(1 - (32 - reached) * each / total)
        assert covered == pytest.approx(1 - (32 - KEPT) * each / total)
    assert server.port.marks[-2] == ("reached", 1.0)
