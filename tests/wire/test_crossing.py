"""The wire in simulation: every scheduler's toy run with a host a node and nothing but frames between them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from fedsim import testing
from fedsim.experiment.assembly import Assembly
from fedsim.learning.host import Host
from fedsim.models.auxiliary import build_head
from fedsim.models.options import Auxiliary
from fedsim.payload.codecs import Codecs, Half, Int8, TopK
from fedsim.payload.meta import Shape, TensorMeta
from fedsim.runtime.envelopes import ENVELOPE_BYTES
from fedsim.schedulers.catalogue import SCHEDULERS
from fedsim.schedulers.fedavg import FedAvg
from fedsim.schedulers.fedoptima import FedOptima
from fedsim.schedulers.splitfed import SplitFed
from fedsim.script import Message, Payload, Purpose
from fedsim.simulation import Fault
from fedsim.wire.codec import Cargo, Encoder
from fedsim.wire.fields import Values
from fedsim.wire.refusals import WireError
from fedsim.wire.registry import Registry
from tests.learning.toys import SEED, Federation
from tests.schedulers import federations
from tests.wire import crossing

pytestmark = pytest.mark.slow

LONG = 60.0


def check(assembly: Assembly) -> crossing.Crossing:
    """Both runs end alike, to the nanosecond, byte and bit."""
    one = testing.simulate(assembly)
    other, crossed = crossing.simulate(assembly)
    assert testing._records(other) == testing._records(one)
    assert one.weights is not None
    assert other.weights is not None
    assert other.weights.keys() == one.weights.keys()
    for name, tensor in one.weights.items():
        assert tensor.equal(other.weights[name]), name
    return crossed


@pytest.mark.parametrize("pruned", [False, True])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_run_across_the_wire_is_the_same_run(name: str, pruned: bool) -> None:
    """The same trace and the same weights; the bytes of every message are those charged, and its header fits in.

    Also where a device has a pruned variant, of which only what its mask leaves travels.
    """
    crossed = check(testing.toy(SCHEDULERS[name](), time=LONG, pruned=pruned))
    assert crossed.weights
    for message in crossed.weights:
        assert message.body == message.charged, message
        assert message.header <= ENVELOPE_BYTES, message
    assert not crossed.forwarded, "a payload of somebody else is sent on, so it would be coded twice"
    described = [message for message in crossed.weights if message.definitions]
    assert len(described) < len(crossed.weights)


@pytest.mark.parametrize("scheduler", [FedAvg(), SplitFed(), FedOptima()], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("channels_last", [False, True])
def test_convolutions_and_their_statistics_cross(scheduler: Any, channels_last: bool) -> None:
    """In float32, whose kernels depend on how tensors lie, with batch normalisation and its counters."""
    what = Federation(dtype="float32", channels_last=channels_last)
    head = Auxiliary(ratio=0.5) if isinstance(scheduler, FedOptima) else None
    one = federations.run(what, scheduler, rounds=2, head=head)
    model = what.network()
    made = None if head is None else build_head(model, what.cut, head, SEED)
    other, crossed = crossing.simulate(
        one.assembly, lambda: Host(model, one.assembly.blocks(), what.samples(), SEED, made)
    )
    assert other.simulation.trace.transfers == one.simulation.trace.transfers
    assert other.weights is not None
    for name, tensor in one.weights.items():
        assert tensor.equal(other.weights[name]), name
    assert all(message.body == message.charged for message in crossed.weights)


CODED: list[tuple[str, Codecs]] = [
    ("fedavg", Codecs(weights=Half())),
    ("fedasync", Codecs(weights=Int8())),
    ("scaffold", Codecs(weights=Int8())),
    ("splitfed", Codecs(activations=Int8(), gradients=TopK(fraction=0.3, feedback=True), weights=Int8())),
    ("pipar", Codecs(activations=TopK(fraction=0.3), gradients=Half())),
    ("mergesfl", Codecs(activations=Half(), gradients=Int8())),
    ("oafl", Codecs(activations=TopK(fraction=0.2, feedback=True), gradients=TopK(fraction=0.2), weights=Half())),
    ("fedoptima", Codecs(activations=Int8(), weights=Int8())),
    ("ampere", Codecs(activations=Int8(), weights=Half())),
    ("fsl_sage", Codecs(activations=TopK(fraction=0.5), weights=Int8())),
]


@pytest.mark.parametrize(("name", "codecs"), [pytest.param(*each, id=each[0]) for each in CODED])
def test_codecs_act_on_the_wire_as_they_do_in_a_simulation(name: str, codecs: Codecs) -> None:
    """A host sees of another one's tensors what it would see of its own, error feedback included."""
    assembly = testing.toy(SCHEDULERS[name](), time=LONG)
    crossed = check(replace(assembly, training=replace(assembly.training, codecs=codecs)))
    plain = crossing.simulate(assembly)[1]
    assert all(message.body == message.charged for message in crossed.weights)
    assert sum(message.body for message in crossed.weights) < sum(message.body for message in plain.weights)


@pytest.mark.parametrize("name", ["fedavg", "splitfed", "fedoptima", "oafl"])
def test_a_device_that_leaves_and_is_back_changes_nothing(name: str) -> None:
    """Its host forgets what it held, and so do the others what they owe it."""
    codecs = Codecs(gradients=TopK(fraction=0.3, feedback=True))
    assembly = testing.toy(SCHEDULERS[name](), time=LONG)
    length = testing.simulate(assembly, learning=False).simulation.trace.end / 1e9
    faults = [Fault(device=1, leave=length / 3, back=length / 2), Fault(device=2, leave=length / 2)]
    training = replace(assembly.training, codecs=codecs)
    check(replace(testing.toy(SCHEDULERS[name](), time=LONG, faults=faults), training=training))


# ------------------------------------------------------------------------------------- headers at their longest


def longest(kind: type[Message], registry: Registry, payload: Payload) -> Values:
    """Values for a class, all of them large: so many numbers and payloads that it is content."""
    for integers in range(9):
        for handles in range(5):
            for large in (2**31 - 1, 1):  # truth values are at most 1
                values = Values([large] * integers, [], [], [payload] * handles)
                try:
                    registry.put_together(kind, values, 0)
                except WireError:
                    continue
                return values
    raise AssertionError(kind)


KINDS: list[Any] = [(name, kind) for name, scheduler in SCHEDULERS.items() for kind in scheduler.messages]


@pytest.mark.parametrize(("name", "kind"), [pytest.param(*each, id=f"{each[0]}-{each[1].__name__}") for each in KINDS])
def test_a_header_fits_into_its_envelope(name: str, kind: type[Message]) -> None:
    """At a million devices, a terabyte a message, two billion rounds and batches of a million, with a checksum."""
    registry = Registry(SCHEDULERS[name].messages)
    encoder = Encoder(registry)
    meta = TensorMeta(Purpose.ACTIVATIONS, (Shape("z", (10**6, 256)),))
    values = longest(kind, registry, Payload(0, 1, meta))
    cargo = Cargo(registry.number(kind), 10**6, values, (), 10**12, 2**32 - 1)
    encoder.address(cargo, 1)
    encoded = encoder.address(cargo, 10**12)
    assert not encoded.definitions
    assert len(encoded.header) <= ENVELOPE_BYTES
