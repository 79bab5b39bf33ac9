"""What scripts say, stepped by hand: effects are values, and no runtime is needed to read one."""

from __future__ import annotations

from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from fedsim.script import (
    SERVER,
    UNSENT,
    Command,
    Compute,
    Disconnected,
    Message,
    Part,
    Payload,
    Purpose,
    Recv,
    Role,
    Send,
    Sleep,
    Work,
    broadcast,
    compute,
    gather,
    payload_fields,
    payloads,
    recv,
    send,
    sleep,
)


@dataclass(frozen=True)
class Bytes:
    """A meta."""

    purpose: Purpose
    nbytes: int


Weights = Payload  # an alias, which hides the word


@dataclass(frozen=True, slots=True)
class Update(Message):
    """A message with payloads of every sort."""

    role: ClassVar[Role] = Role.CONTRIBUTION
    weights: Weights
    labels: Payload | None
    parts: tuple[Payload, ...]
    named: dict[str, list[Payload]]
    samples: int
    rate: float | None = None
    text: str = ""


@dataclass(frozen=True, slots=True)
class Note(Message):
    """A message without payloads."""

    role: ClassVar[Role] = Role.CONTROL
    number: int = 0


def handle(number: int) -> Payload:
    """A payload."""
    return Payload(0, number, Bytes(Purpose.WEIGHTS, 4 * number))


def steps(script: Coroutine[Any, Any, Any], *answers: Any) -> tuple[list[Any], Any]:
    """The effects that a script awaits when it is given these answers, and what it returns."""
    effects, value = [], None
    for answer in (*answers, None):
        try:
            effects.append(script.send(value))
        except StopIteration as end:
            return effects, end.value
        value = answer
    script.close()
    return effects, None


def test_awaiting_an_effect_hands_it_over_and_answers() -> None:
    """One await, one effect, one answer."""
    work = Work(Command(0, 1, "train"), (), "w")

    async def script() -> tuple[Any, ...]:
        a = await compute(work)
        b = await compute(work, work)
        c = await recv(Note, source=3, until=2.5)
        await sleep(1.5)
        await send(SERVER, Note(7))
        return a, b, c

    effects, result = steps(script(), "w", ("w", "w"), Note(1), None, None)
    assert effects == [
        Compute((work,), single=True),
        Compute((work, work), single=False),
        Recv((Note,), 3, None, 2.5),
        Sleep(1.5),
        Send((SERVER,), Note(7)),
    ]
    assert result == ("w", ("w", "w"), Note(1))


def test_a_message_is_a_frozen_value_without_a_sender() -> None:
    """The sender is the runtime's business."""
    assert Note(3).sender == UNSENT
    assert Note(3) == Note(3) != Note(3, sender=1)
    with pytest.raises(AttributeError):
        Note(3).number = 4  # type: ignore[misc]


def test_the_payloads_of_a_message_are_found_wherever_they_are() -> None:
    """Alone, under an alias, in tuples, lists and mappings, in order; nothing that carries bytes is overlooked."""
    message = Update(handle(1), None, (handle(2), handle(3)), {"a": [handle(4)]}, samples=5)
    assert [p.number for p in payloads(message)] == [1, 2, 3, 4]
    assert [p.number for p in payloads(Update(handle(1), handle(9), (), {}, samples=5))] == [1, 9]
    assert sum(p.nbytes for p in payloads(message)) == 40
    assert payloads(Note(1)) == []


def test_plain_scalars_are_not_looked_into() -> None:
    """The fields that may hold a payload, by their declaration."""
    assert payload_fields(Update) == ("weights", "labels", "parts", "named")
    assert payload_fields(Note) == ()
    assert payload_fields(Disconnected) == ()


def test_a_payload_is_compared_by_identity() -> None:
    """Two handles on the same number are two handles: the host drops tensors with the last one."""
    one = handle(1)
    assert one != handle(1)
    assert len({one, one, handle(1)}) == 2


def test_broadcast_of_one_message_is_one_send() -> None:
    """And of a function one a node, in order."""
    assert steps(broadcast([2, 0], Note(1)), None)[0] == [Send((2, 0), Note(1))]
    assert steps(broadcast((k for k in (2, 0)), Note), None, None)[0] == [Send((2,), Note(2)), Send((0,), Note(0))]


def test_gather_asks_until_all_have_delivered_or_left() -> None:
    """Repeats and strangers are passed over; messages come back by node number."""
    answers = [
        Note(1, sender=2),
        Note(2, sender=2),
        Note(3, sender=9),
        Disconnected(1, sender=1),
        Disconnected(8, sender=8),
        Note(4, sender=0),
    ]
    effects, result = steps(gather([2, 1, 0], Note), *answers)
    assert effects == [Recv((Note, Disconnected), None, None, None)] * 6
    assert result == [Note(4, sender=0), Note(1, sender=2)]


def test_gather_into_a_collector_gives_it_every_message_as_it_comes() -> None:
    """Only the numbers of the nodes come back."""

    class Collected:
        numbers: ClassVar[list[int]] = []

        def add(self, message: Note) -> None:
            self.numbers.append(message.number)

    effects, result = steps(gather({0, 1}, Note, into=Collected()), Note(5, sender=1), Note(6, sender=0))
    assert (len(effects), Collected.numbers, result) == (2, [5, 6], [0, 1])


def test_a_part_has_no_samples_unless_it_says_so() -> None:
    """Only training counts samples."""
    from fedsim.costs import Cost

    assert Part("mix", Cost(())).samples == 0
