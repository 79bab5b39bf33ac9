"""Message classes by number, and their fields as values and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Optional, Union

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.errors import ScriptError, UserError
from fedsim.payload.meta import Shape, TensorMeta
from fedsim.schedulers.catalogue import SCHEDULERS
from fedsim.script import Message, Payload, Purpose, Role, payloads
from fedsim.wire.fields import Values
from fedsim.wire.refusals import WireError
from fedsim.wire.registry import Registry
from tests.wire.links import Plain, Rich, Sample


def payload() -> Payload:
    """Some payload."""
    return Payload(3, 1, TensorMeta(Purpose.LABELS, (Shape("y", (2,), "int64"),)))


integers = st.integers(-(2**63), 2**63 - 1)
handles = st.builds(payload)

rich = st.builds(
    Rich,
    number=integers,
    maybe=st.none() | integers,
    share=st.floats(allow_nan=False),
    word=st.text(),
    open=st.booleans(),
    one=handles,
    other=st.none() | handles,
    many=st.lists(handles, max_size=4).map(tuple),
    several=st.lists(handles, max_size=4),
    by_node=st.dictionaries(integers, handles, max_size=4),
    by_name=st.dictionaries(st.text(max_size=5), st.lists(integers, max_size=3).map(tuple), max_size=3),
    pairs=st.lists(st.tuples(integers, st.floats(allow_nan=False)), max_size=3).map(tuple),
    corner=st.tuples(st.text(), st.booleans(), st.none() | handles),
    sender=st.integers(-1, 10**6),
)


@pytest.mark.slow
@settings(max_examples=50)
@given(rich)
def test_whatever_fits_comes_back(message: Rich) -> None:
    """Every kind of field, nested ones too, with the values and the types that it had, and handles in their places."""
    registry = Registry((Plain, Rich))
    values = registry.taken_apart(message)
    assert values.payloads == payloads(message)
    assert registry.put_together(Rich, values, message.sender) == message


def test_numbers_are_places() -> None:
    """From 1, so that a header that is nothing names no class; the same class twice is one."""
    registry = Registry((Sample, Plain, Sample, Rich))
    assert [registry.number(kind) for kind in (Sample, Plain, Rich)] == [1, 2, 3]
    assert [registry.kind(number) for number in (1, 2, 3)] == [Sample, Plain, Rich]
    assert len(registry) == 3
    for number in (0, 4, -1):
        with pytest.raises(WireError, match=rf"class {number}; there are 1 to 3"):
            registry.kind(number)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_s_messages_can_travel(name: str) -> None:
    """Shipped ones are never refused, and their payloads are taken in the order in which a simulation weighs them."""
    kinds = SCHEDULERS[name].messages
    registry = Registry(kinds)
    for kind in kinds:
        message = registry.put_together(kind, _some(registry, kind), 5)
        assert message.sender == 5
        assert registry.taken_apart(message).payloads == payloads(message)


def _some(registry: Registry, kind: type[Message]) -> Values:
    """Values for a class: so many numbers and payloads that it is content."""
    for integers in range(9):
        for handles in range(5):
            values = Values([1] * integers, [], [], [payload() for _ in range(handles)])
            try:
                registry.put_together(kind, values, 0)
            except WireError:
                continue
            return values
    raise AssertionError(kind)


def test_what_is_not_declared_is_not_sent() -> None:
    """The error says where to declare it."""
    with pytest.raises(ScriptError, match=r"Plain is sent, but not among .* \(Sample\); add it to `messages`"):
        Registry((Sample,)).taken_apart(Plain(1))


def test_the_digest_tells_classes_apart() -> None:
    """By their names, fields, types and order."""
    digests = [Registry(kinds).digest for kinds in [(Plain,), (Plain, Sample), (Sample, Plain), (Rich,), ()]]
    assert len(set(digests)) == len(digests)
    assert Registry((Plain, Sample)).digest == Registry([Plain, Sample]).digest


# ------------------------------------------------------------------------------- what cannot travel


class Opaque:
    """Something."""


@dataclass(frozen=True, slots=True)
class WithObject(Message):
    role: ClassVar[Role] = Role.CONTROL
    thing: Opaque


@dataclass(frozen=True, slots=True)
class WithSet(Message):
    role: ClassVar[Role] = Role.CONTROL
    nodes: frozenset[int]


@dataclass(frozen=True, slots=True)
class WithUnion(Message):
    role: ClassVar[Role] = Role.CONTROL
    rate: int | float


@dataclass(frozen=True, slots=True)
class WithNothing(Message):
    role: ClassVar[Role] = Role.CONTROL
    nothing: tuple[tuple[()], ...]


@dataclass(frozen=True, slots=True)
class WithBareTuple(Message):
    role: ClassVar[Role] = Role.CONTROL
    nodes: tuple  # type: ignore[type-arg]


@dataclass(frozen=True, slots=True)
class WithFloatKeys(Message):
    role: ClassVar[Role] = Role.CONTROL
    rates: Mapping[float, int]


@dataclass(frozen=True, slots=True)
class WithAny(Message):
    role: ClassVar[Role] = Role.CONTROL
    thing: Any


@dataclass(frozen=True, slots=True)
class WithNested(Message):
    role: ClassVar[Role] = Role.CONTROL
    things: tuple[tuple[int, Opaque], ...]


REFUSED = [
    (WithObject, "thing", "Opaque"),
    (WithSet, "nodes", r"frozenset\[int\]"),
    (WithUnion, "rate", r"int \| float"),
    (WithNothing, "nothing", r"tuple\[tuple\[\(\)\], \.\.\.\]"),
    (WithBareTuple, "nodes", "tuple"),
    (WithFloatKeys, "rates", r"Mapping\[float, int\]"),
    (WithAny, "thing", "Any"),
    (WithNested, "things", r"tuple\[tuple\[int, Opaque\], \.\.\.\]"),
]


@pytest.mark.parametrize(("kind", "name", "declared"), REFUSED)
def test_a_field_that_cannot_travel_is_named(kind: type[Message], name: str, declared: str) -> None:
    """With its class, its type and all that is allowed."""
    allowed = "a field of a message may be int, float, bool, str and Payload, each also with None, and tuples, lists"
    with pytest.raises(UserError, match=rf"{kind.__name__}\.{name} is of type {declared}, .*; {allowed}"):
        Registry((Plain, kind))


@dataclass(frozen=True, slots=True)
class WithoutArgument(Message):
    role: ClassVar[Role] = Role.CONTROL
    count: int = field(default=0, init=False)


@dataclass(frozen=True, slots=True)
class Unresolved(Message):
    role: ClassVar[Role] = Role.CONTROL
    thing: Missing  # type: ignore[name-defined]  # noqa: F821


def test_classes_that_are_none_are_refused() -> None:
    """Each with what is wrong with it."""
    with pytest.raises(UserError, match=r"WithoutArgument\.count is no argument of its class"):
        Registry((WithoutArgument,))
    with pytest.raises(UserError, match=r"the fields of Unresolved cannot be told \(name 'Missing' is not defined\)"):
        Registry((Unresolved,))
    with pytest.raises(UserError, match="is no message class; derive it from Message"):
        Registry((Opaque,))  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Old(Message):
    role: ClassVar[Role] = Role.CONTROL
    first: Optional[int]  # noqa: UP045
    second: Union[str, None]  # noqa: UP007
    third: Sequence[int] | None = None


def test_types_may_be_written_as_they_used_to_be() -> None:
    """But a sequence is neither a tuple nor a list, so it is not known what should arrive."""
    with pytest.raises(UserError, match=r"Old\.third is of type Sequence\[int\] \| None"):
        Registry((Old,))


# ---------------------------------------------------------------------- values that are not what is declared


@dataclass(frozen=True, slots=True)
class Loose(Message):
    role: ClassVar[Role] = Role.CONTROL
    number: int = 0
    share: float = 0.0
    word: str = ""
    open: bool = False
    nodes: tuple[int, ...] = ()
    pair: tuple[int, int] = (0, 0)
    table: Mapping[int, int] = field(default_factory=dict)
    one: Payload | None = None


UNFIT: list[tuple[str, Any]] = [
    ("number", 1.5),
    ("number", "1"),
    ("number", None),
    ("number", 2**63),
    ("share", "1.5"),
    ("share", None),
    ("word", 1),
    ("word", b"bytes"),
    ("word", "\ud800"),
    ("open", 1),
    ("open", None),
    ("nodes", 5),
    ("nodes", "12"),
    ("nodes", (1, "2")),
    ("nodes", {1, 2}),
    ("pair", (1,)),
    ("pair", [1, 2]),
    ("table", [(1, 2)]),
    ("table", {"a": 1}),
    ("one", 7),
]


@pytest.mark.parametrize(("name", "value"), UNFIT)
def test_a_value_that_does_not_fit_is_the_script_s_mistake(name: str, value: Any) -> None:
    """Nothing is bent into shape on its way: a receiver would get something else than was sent."""
    with pytest.raises(ScriptError, match=rf"Loose\.{name} is declared as .*, but holds .*; only what is declared"):
        Registry((Loose,)).taken_apart(Loose(**{name: value}))


def test_numbers_of_numpy_are_numbers() -> None:
    """Scripts count with arrays."""
    registry = Registry((Loose,))
    sent = Loose(number=np.int64(7), share=np.float32(0.5), open=np.bool_(True), nodes=(np.int32(2),))  # type: ignore[arg-type]
    got = registry.put_together(Loose, registry.taken_apart(sent), 4)
    assert got == Loose(number=7, share=0.5, open=True, nodes=(2,), sender=4)
    assert isinstance(got, Loose)
    assert [type(value) for value in (got.number, got.share, got.open)] == [int, float, bool]


# ------------------------------------------------------------------------------------ what peers may say


BAD: list[tuple[type[Message], Values, str]] = [
    (Plain, Values(), "fewer values"),
    (Plain, Values([1, 2]), "more integers"),
    (Plain, Values([1], [0.0]), "more reals"),
    (Plain, Values([1], [], ["x"]), "more texts"),
    (Plain, Values([1], [], [], [payload()]), "more payloads"),
    (Loose, Values([0, 2], [0.0], [""]), "2 where a message says whether something is so"),
    (Loose, Values([0, 0, -1], [0.0], [""]), "a length of -1"),
    (Loose, Values([0, 0, 2**62, 1], [0.0], [""]), "fewer values"),
    (Loose, Values([0, 0, 0, 1, 1, 2, 5, 6, 5, 7, 0], [0.0], [""]), "the key 5 twice"),
]


@pytest.mark.parametrize(("kind", "values", "text"), BAD)
def test_values_that_are_no_message_are_refused(kind: type[Message], values: Values, text: str) -> None:
    """However long they say they are."""
    with pytest.raises(WireError, match=text):
        Registry((kind,)).put_together(kind, values, 0)


@dataclass(frozen=True, slots=True)
class Strict(Message):
    role: ClassVar[Role] = Role.CONTROL
    share: float

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"a share of {self.share}")


def test_what_a_class_checks_itself_is_a_refusal() -> None:
    """A peer cannot raise what it likes in here."""
    with pytest.raises(WireError, match=r"values that Strict refuses: a share of 2\.0"):
        Registry((Strict,)).put_together(Strict, Values([], [2.0]), 0)
