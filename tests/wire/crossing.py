"""A run on the virtual clock in which every node has a host of its own, and messages cross between them as frames.

The script of a node is wrapped: what it sends is encoded, cut, put together and decoded for each receiver, and the
message that comes of that is sent in its place. So nothing but bytes passes from one node's tensors to another's, as
between processes, and the engine notices nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator, Mapping, Sequence
from copy import copy
from functools import partial
from itertools import count
from typing import Any, NamedTuple

from fedsim import testing
from fedsim.experiment.assembly import Assembly
from fedsim.learning.host import Host
from fedsim.learning.threads import intra_op_threads
from fedsim.report import check_identity
from fedsim.runtime.envelopes import ENVELOPE_BYTES, Form
from fedsim.script import SERVER, Command, Effect, Message, Payload, Quality, Send, payloads
from fedsim.simulation import Inline
from fedsim.testing import Outcome
from fedsim.wire.codec import Decoder, Encoder, Incoming
from fedsim.wire.frames import Assembly as Assembling
from fedsim.wire.frames import split
from fedsim.wire.refusals import Bounds
from fedsim.wire.registry import Registry


class Weight(NamedTuple):
    """What a message weighed on the wire, and what a simulation charges for it."""

    kind: str
    header: int
    definitions: int
    body: int
    charged: int


class Way:
    """One direction of a connection."""

    def __init__(self, registry: Registry, sender: int, host: Host, numbers: count[int], channels_last: bool) -> None:
        self.encoder = Encoder(registry)
        self.decoder = Decoder(
            registry, sender, host.layout_of, numbers, Bounds(body=1 << 30, memory=1 << 30), channels_last=channels_last
        )
        self.assembly: Assembling[Incoming] = Assembling(self.decoder.begin)
        self.messages = 0


class Apart:
    """Workers of a run in which each node has a host of its own."""

    def __init__(self, hosts: Mapping[int, Host]) -> None:
        self._workers = {node: Inline(host) for node, host in hosts.items()}

    def start(self, node: int, commands: Sequence[Command]) -> None:
        self._workers[node].start(node, commands)

    def finish(self, node: int) -> None:
        self._workers[node].finish(node)

    def queue(self, command: Command) -> None:
        self._workers[command.node].queue(command)

    def forget(self, node: int) -> None:
        for workers in self._workers.values():
            workers.forget(node)  # what others owe it by error feedback

    def evaluate(self, model: Sequence[Payload], split: str) -> Quality | None:
        return self._workers[SERVER].evaluate(model, split)


class Relayed:
    """A script of which every effect goes through a function before it is awaited."""

    def __init__(self, script: Coroutine[Any, Any, None], change: Callable[[Effect[Any]], Effect[Any]]) -> None:
        self._script = script
        self._change = change

    def __await__(self) -> Generator[Effect[Any], Any, None]:
        value: Any = None
        try:
            while True:
                try:
                    effect = self._script.send(value)
                except StopIteration:
                    return
                value = yield self._change(effect)
        finally:
            self._script.close()


class Crossing:
    """A scheduler whose messages cross; it looks like the one that it is made of.

    Args:
        assembly: the run.
        host: makes a host of the run, independent of others.
        frame_size: bytes of the body in a frame.
    """

    def __init__(self, assembly: Assembly, host: Callable[[], Host], frame_size: int = 50) -> None:
        self._scheduler = assembly.scheduler
        self._frame_size = frame_size
        self._registry = Registry(assembly.scheduler.messages)
        self._channels_last = assembly.training.channels_last
        self._numbers = count(1_000_000)
        self._ways: dict[tuple[int, int], Way] = {}
        self.hosts = {node: host() for node in range(-1, assembly.fleet.devices)}
        self.weights: list[Weight] = []
        self.forwarded: set[str] = set()
        """Classes of messages that carried payloads of another node."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._scheduler, name)

    def device(self, me: Any) -> Any:
        """The device's script."""
        return _relay(self._scheduler.device(me), partial(self._changed, me.number))

    def server(self, me: Any) -> Any:
        """The server's script."""
        return _relay(self._scheduler.server(me), partial(self._changed, SERVER))

    def _changed(self, node: int, effect: Effect[Any]) -> Effect[Any]:
        if not isinstance(effect, Send) or not effect.to:
            return effect
        message = Form(type(effect.message)).stamped(effect.message, node)
        first, *others = [self._cross(node, target, message) for target in effect.to]
        for other, target in zip(others, effect.to[1:], strict=True):
            # A message to many is one in a simulation: its handles stand for what each of them has got.
            values = [self.hosts[target].value(payload) for payload in payloads(other)]
            self.hosts[target].incoming(dict(zip(payloads(first), values, strict=True)))
        return Send(effect.to, first, effect.blocking)

    def _cross(self, node: int, target: int, message: Message) -> Message:
        way = self._ways.get((node, target))
        if way is None:
            way = Way(self._registry, node, self.hosts[target], self._numbers, self._channels_last)
            self._ways[node, target] = way
        if any(payload.node != node for payload in payloads(message)):
            self.forwarded.add(type(message).__name__)
        encoded = way.encoder.encode(message, partial(self.hosts[node].outgoing, reader=target), len(self.weights) + 1)
        body = b"".join(encoded.body)
        assert len(body) == encoded.nbytes
        charged = Form(type(message)).weighed(message).nbytes - ENVELOPE_BYTES
        self.weights.append(
            Weight(type(message).__name__, len(encoded.header), len(encoded.definitions), len(body), charged)
        )
        way.messages += 1
        whole: list[Incoming] = []
        header = encoded.header + encoded.definitions
        for frame in split(way.messages, header, encoded.body, self._frame_size):
            assert not whole
            done = way.assembly.add(frame)
            if done is not None:
                whole.append(done)
        (incoming,) = whole
        assert incoming.number == len(self.weights)
        arrived, values = way.decoder.finish(incoming)
        self.hosts[target].incoming(values)
        assert (type(arrived), arrived.sender) == (type(message), node)
        for sent, got in zip(payloads(message), payloads(arrived), strict=True):
            assert (got.node, got.meta, got.nbytes) == (node, sent.meta, sent.nbytes)
        return arrived


async def _relay(script: Any, change: Callable[[Effect[Any]], Effect[Any]]) -> None:
    await Relayed(script, change)


def simulate(assembly: Assembly, host: Callable[[], Host] | None = None) -> tuple[Outcome, Crossing]:
    """Run an assembly with learning, and every message across the wire; by default one of `testing.toy`."""
    crossing = Crossing(assembly, partial(testing.host, assembly) if host is None else host)
    wired = copy(assembly)
    object.__setattr__(wired, "scheduler", crossing)
    simulation = wired.simulation(Apart(crossing.hosts))
    with intra_op_threads(1):
        ending = simulation.run()
    check_identity(simulation.trace)
    weights = None
    if simulation.published is not None:
        weights = crossing.hosts[SERVER].model_tensors(simulation.published.model)
    return Outcome(simulation, ending, weights), crossing
