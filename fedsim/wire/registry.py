"""The message classes of a scheduler by number, and messages as values and back.

Classes are numbered by their place, so both sides need the same tuple; `digest` tells whether they have it. How the
fields of a class travel follows from their declared types. Knows nothing of bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints

from fedsim.errors import ScriptError, UserError, shown
from fedsim.script import Message
from fedsim.wire.fields import TRAVELS, Kind, Reading, UnfitError, Values, kind_of
from fedsim.wire.refusals import WireError


class Registry:
    """Every message class that may travel.

    Args:
        messages: what a scheduler declares, `Scheduler.messages`.

    Raises:
        UserError: one of them has a field that cannot travel.
    """

    def __init__(self, messages: Sequence[type[Message]]) -> None:
        self._kinds = tuple(dict.fromkeys(messages))
        self._numbers = {kind: number for number, kind in enumerate(self._kinds, start=1)}
        self._fields = {kind: _fields(kind) for kind in self._kinds}
        described = ((kind.__name__, [(f.name, str(f.type)) for f in fields(kind)]) for kind in self._kinds)
        self.digest = hashlib.sha256(repr(list(described)).encode()).digest()
        """The same on both sides if they have the same classes."""

    def __len__(self) -> int:
        """How many classes there are."""
        return len(self._kinds)

    def number(self, kind: type[Message]) -> int:
        """The place of a class, from 1.

        Raises:
            ScriptError: it is not among those declared.
        """
        number = self._numbers.get(kind)
        if number is None:
            known = ", ".join(each.__name__ for each in self._kinds) or "none"
            raise ScriptError(
                f"{kind.__name__} is sent, but not among the messages that its scheduler declares ({known}); "
                "add it to `messages`"
            )
        return number

    def kind(self, number: int) -> type[Message]:
        """The class of a number.

        Raises:
            WireError: there is none.
        """
        if not 1 <= number <= len(self._kinds):
            raise WireError(f"a message of class {number}; there are 1 to {len(self._kinds)}")
        return self._kinds[number - 1]

    def taken_apart(self, message: Message) -> Values:
        """The values of a message's fields; its payloads are those of `script.payloads`, in the same order.

        Raises:
            ScriptError: its class is not declared, or a value is not what its field is declared as.
        """
        kind = type(message)
        self.number(kind)
        values = Values()
        for name, (declared, how) in self._fields[kind].items():
            value = getattr(message, name)
            try:
                how.put(value, values)
            except UnfitError as error:
                because = f": {error}" if error.args else ""
                raise ScriptError(
                    f"{kind.__name__}.{name} is declared as {declared}, but holds {shown(value)} "
                    f"({type(value).__name__}){because}; only what is declared can travel"
                ) from error
        return values

    def put_together(self, kind: type[Message], values: Values, sender: int) -> Message:
        """The message that has these values.

        Raises:
            WireError: they are not those of such a message.
        """
        out = Reading(values)
        taken = {name: how.take(out) for name, (_, how) in self._fields[kind].items()}
        out.finish()
        try:
            return kind(**taken, sender=sender)
        except Exception as error:  # what a class checks of itself may raise anything
            raise WireError(f"values that {kind.__name__} refuses: {error}") from error


def _fields(kind: type[Message]) -> dict[str, tuple[str, Kind]]:
    """The fields of a class but its sender: as what they are declared, and how that travels."""
    if not (isinstance(kind, type) and issubclass(kind, Message) and is_dataclass(kind)):
        raise UserError(f"{shown(kind)} is no message class; derive it from Message, as a frozen dataclass")
    try:
        hints = get_type_hints(kind)
    except Exception as error:  # whatever evaluating somebody's annotations raises
        raise UserError(
            f"the types of the fields of {kind.__name__} cannot be told ({error}); they are needed to send it, so "
            "import them at the top of the module, not under TYPE_CHECKING"
        ) from error
    found: dict[str, tuple[str, Kind]] = {}
    for each in fields(kind):
        if each.name == "sender":
            continue
        declared = each.type if isinstance(each.type, str) else _written(each.type)
        how = kind_of(hints[each.name])
        if how is None:
            raise UserError(
                f"{kind.__name__}.{each.name} is of type {declared}, which cannot travel; a field of a message may be "
                f"{TRAVELS}"
            )
        if not each.init:
            raise UserError(f"{kind.__name__}.{each.name} is no argument of its class (init=False); leave that out")
        found[each.name] = (declared, how)
    return found


def _written(declared: Any) -> str:
    return declared.__name__ if isinstance(declared, type) and not hasattr(declared, "__origin__") else str(declared)
