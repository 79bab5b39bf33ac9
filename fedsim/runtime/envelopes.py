"""What a message weighs on the network: its payloads, byte for byte, and an envelope; and what a trace calls it."""

from __future__ import annotations

from dataclasses import fields
from typing import Final, NamedTuple

from fedsim.errors import ScriptError
from fedsim.script import Connected, Disconnected, Message, Purpose, Role, payload_fields, payloads

ENVELOPE_BYTES: Final = 64
"""Charged for the header of every message, as `control`: the bound that the wire format keeps."""

_PURPOSES: Final = (Purpose.WEIGHTS, Purpose.ACTIVATIONS, Purpose.GRADIENTS, Purpose.LABELS, Purpose.CONTROL)


class Parcel(NamedTuple):
    """A message as the network and the trace see it.

    `columns` are those of a transfer from `message` to `control`: class, role, bytes by purpose. `nbytes` is the sum,
    `round` the one that the message says it belongs to, or -1.
    """

    columns: tuple[str, str, int, int, int, int, int]
    nbytes: int
    round: int = -1


class Form:
    """What all messages of one class have in common."""

    __slots__ = ("_fields", "_name", "_of_round", "_role", "_with_payloads", "empty", "loaded")

    def __init__(self, kind: type[Message]) -> None:
        """Look at a class.

        Raises:
            ScriptError: it is no message class.
        """
        self._role = role_of(kind).value
        self._name = kind.__name__
        self._fields = tuple(field.name for field in fields(kind) if field.name != "sender")
        self._with_payloads = payload_fields(kind)
        self.loaded = bool(self._with_payloads)
        """Whether a message of the class may carry payloads."""
        self._of_round = any(field.name == "round" and field.type in (int, "int") for field in fields(kind))
        empty = Parcel((self._name, self._role, 0, 0, 0, 0, ENVELOPE_BYTES), ENVELOPE_BYTES)
        self.empty = None if self._with_payloads or self._of_round else empty
        """The parcel of every message of the class, where they are all alike: no payload, and no round."""

    def stamped(self, message: Message, sender: int) -> Message:
        """The message with its sender filled in (`dataclasses.replace`, three times as fast)."""
        kind = type(message)
        copy: Message = object.__new__(kind)
        fill = object.__setattr__
        for name in self._fields:
            fill(copy, name, getattr(message, name))
        fill(copy, "sender", sender)
        return copy

    def weighed(self, message: Message) -> Parcel:
        """The parcel of a message."""
        sizes = [0, 0, 0, 0, ENVELOPE_BYTES]
        for payload in payloads(message, self._with_payloads):
            sizes[_PURPOSES.index(payload.meta.purpose)] += payload.nbytes
        weights, activations, gradients, labels, control = sizes
        number: int = message.round if self._of_round else -1  # type: ignore[attr-defined]
        return Parcel((self._name, self._role, weights, activations, gradients, labels, control), sum(sizes), number)


def role_of(kind: type[Message]) -> Role:
    """The role that a message class declares.

    Raises:
        ScriptError: it is no message class, or declares none.
    """
    if not (isinstance(kind, type) and issubclass(kind, Message)):
        shown = kind.__name__ if isinstance(kind, type) else repr(kind)
        raise ScriptError(f"{shown} is no message class; derive it from Message, as a frozen dataclass")
    role = getattr(kind, "role", None)
    if not isinstance(role, Role):
        raise ScriptError(f"the message class {kind.__name__} declares no role; give it role: ClassVar[Role] = Role.…")
    return role


def roles(kinds: tuple[type[Message], ...]) -> str:
    """The roles of message classes as a trace names them: `model`, `activations|contribution`.

    Raises:
        ScriptError: there are no classes, or one of them is no message class.
    """
    if not kinds:
        raise ScriptError("recv of nothing; name at least one message class")
    named = dict.fromkeys(role_of(kind).value for kind in kinds if kind not in (Disconnected, Connected))
    return "|".join(named) or Role.CONTROL.value
