"""What messages weigh, and what a trace calls them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fedsim.errors import ScriptError
from fedsim.runtime.envelopes import Form, roles
from fedsim.script import Connected, Disconnected, Message, Port, Purpose, send, sleep
from tests.simulation.toys import ENVELOPE, Ask, Cargo, Delay, Done, Go, S, World, payload


def test_every_byte_is_charged_under_its_purpose() -> None:
    """Payloads by purpose, the envelope as control; payloads of purpose control beside it."""
    labels, control = payload(3, Purpose.LABELS), payload(5, Purpose.CONTROL)
    gradients = payload(2, Purpose.GRADIENTS)
    message = Cargo(payload(100, Purpose.ACTIVATIONS), (labels, control, gradients, payload(7)))
    parcel = Form(Cargo).weighed(message)
    assert parcel.columns == ("Cargo", "activations", 7, 100, 2, 3, ENVELOPE + 5)
    assert parcel.nbytes == 117 + ENVELOPE


def test_a_message_that_can_carry_nothing_weighs_its_envelope() -> None:
    """Known once for its class."""
    parcel = Form(Go).empty
    assert parcel is not None
    assert parcel.columns == ("Go", "model", 0, 0, 0, 0, ENVELOPE)
    assert parcel.nbytes == ENVELOPE
    assert Form(Cargo).empty is None


def test_the_network_gets_the_weight_that_the_trace_records() -> None:
    """Bytes by purpose and times of a transfer, to the byte."""

    async def server(me: Port) -> None:
        await send(0, Cargo(payload(936, Purpose.ACTIVATIONS)))
        await sleep(3)

    world = World(server, network=Delay(0.5, per_byte=0.001))
    world.run()
    (sent,) = world.all_transfers()
    assert (sent.activations, sent.control, sent.weights) == (936, ENVELOPE, 0)
    assert (sent.queued, sent.started, sent.arrived) == (0, S // 2, S * 3 // 2)


def test_a_stamped_copy_is_what_replace_would_make() -> None:
    """And the original is left alone."""
    message = Cargo(payload(1), (payload(2),))
    stamped = Form(Cargo).stamped(message, 4)
    assert stamped == replace(message, sender=4)
    assert message.sender == -2


@pytest.mark.parametrize(
    ("kinds", "text"),
    [
        ((Go,), "model"),
        ((Done, Ask), "contribution|credit"),
        ((Ask, Done, Ask, Go), "credit|contribution|model"),
        ((Done, Disconnected), "contribution"),
        ((Disconnected, Connected), "control"),
    ],
)
def test_a_wait_is_named_by_the_roles_it_waits_for(kinds: tuple[type[Message], ...], text: str) -> None:
    """In their order, each once; notices of the runtime count only where nothing else is waited for."""
    assert roles(kinds) == text


def test_a_wait_for_no_class_or_for_what_is_none_is_an_error() -> None:
    """The texts name the class."""
    with pytest.raises(ScriptError, match="name at least one"):
        roles(())
    with pytest.raises(ScriptError, match="int is no message class"):
        roles((int,))  # type: ignore[arg-type]
    with pytest.raises(ScriptError, match="3 is no message class"):
        roles((3,))  # type: ignore[arg-type]
    with pytest.raises(ScriptError, match="Message declares no role"):
        roles((Message,))
