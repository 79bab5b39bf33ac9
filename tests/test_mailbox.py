"""Waiting messages and rankings, against linear scans that do the same in the plainest way."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.mailbox import Mailbox, Ranking
from fedsim.script import Message, Role


@dataclass(frozen=True, slots=True)
class A(Message):
    """One class."""

    role: ClassVar[Role] = Role.CONTROL
    number: int = 0


@dataclass(frozen=True, slots=True)
class B(Message):
    """Another class."""

    role: ClassVar[Role] = Role.CONTROL
    number: int = 0


@dataclass
class Scan:
    """The model: one list, looked through from its beginning."""

    waiting: list[Message] = field(default_factory=list)

    def put(self, message: Message) -> None:
        """At the end."""
        self.waiting.append(message)

    def take(
        self, kinds: tuple[type[Message], ...], source: int | None = None, by: Callable[[Any], Any] | None = None
    ) -> Message | None:
        """The first, or the first of the lowest."""
        fits = [m for m in self.waiting if type(m) in kinds and (source is None or m.sender == source)]
        if not fits:
            return None
        taken = fits[0] if by is None else min(fits, key=by)
        self.waiting = [m for m in self.waiting if m is not taken]
        return taken


ACTIONS = st.one_of(
    st.tuples(st.just("put"), st.sampled_from([A, B]), st.integers(0, 3)),
    st.tuples(
        st.just("take"),
        st.sampled_from([(A,), (B,), (A, B), (B, A), ()]),
        st.one_of(st.none(), st.integers(0, 3)),
        st.integers(0, 5),
    ),
    st.tuples(st.just("grow"), st.integers(0, 3), st.integers(1, 3)),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(ACTIONS, max_size=60))
def test_a_mailbox_gives_what_a_linear_scan_gives(actions: list[Any]) -> None:
    """Whatever the order of puts, plain takes, takes by source and takes by keys that grow while messages wait."""
    consumed = [0, 0, 0, 0]

    def by_sender(m: Any) -> Any:
        return consumed[m.sender]

    def by_class_and_sender(m: Any) -> Any:
        return (type(m) is A, consumed[m.sender] // 2)

    keys: list[Callable[[Any], Any] | None] = [None, by_sender, by_class_and_sender]
    box, scan = Mailbox(), Scan()
    for number, action in enumerate(actions):
        match action:
            case ("put", kind, sender):
                message = kind(number, sender=sender)
                box.put(message)
                scan.put(message)
            case ("take", kinds, source, which):
                # The last three keys are made anew for each take, as a script with a lambda in its recv does.
                key = keys[which % 3]
                fresh = key if which < 3 or key is None else (lambda m, key=key: key(m))
                assert box.take(kinds, source, fresh) is scan.take(kinds, source, fresh)
            case ("grow", sender, amount):
                consumed[sender] += amount
            case _:
                raise AssertionError(action)
        names = [type(m).__name__ for m in scan.waiting]
        assert box.waiting() == {name: names.count(name) for name in sorted(set(names))}


LOOKS = st.one_of(
    st.tuples(st.sampled_from(["put", "bring", "drop"]), st.sampled_from([A, B]), st.integers(0, 3)),
    st.tuples(st.sampled_from(["take", "ranked", "arrived"]), st.sampled_from([A, B]), st.just(0)),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(LOOKS, max_size=50))
def test_what_has_arrived_is_told_once(actions: list[Any]) -> None:
    """Whether it waits, was taken or refused meanwhile, or never had to wait; the first time, of those that wait."""
    box, scan = Mailbox(), Scan()
    fresh: dict[Any, list[Message]] = {}

    def key(m: Any) -> int:
        return int(m.sender)

    for number, (action, kind, sender) in enumerate(actions):
        match action:
            case "put" | "bring":
                message = kind(number, sender=sender)
                if kind in fresh:
                    fresh[kind].append(message)
                if action == "put":
                    box.put(message)
                    scan.put(message)
                else:
                    box.note(message)  # it goes to a script that waits for it
            case "drop":
                waiting = [m for m in scan.waiting if type(m) is kind and m.sender == sender]
                for message in waiting[1:2] or waiting[:1]:
                    assert box.drop(message)
                    assert not box.drop(message)
                    scan.waiting = [m for m in scan.waiting if m is not message]
            case "arrived":
                expected = fresh.get(kind, [m for m in scan.waiting if type(m) is kind])
                found = box.arrived(kind)
                assert [id(m) for m in found] == [id(m) for m in expected]
                fresh[kind] = []
            case _:
                by = key if action == "ranked" else None
                assert box.take((kind,), by=by) is scan.take((kind,), by=by)


def test_refusing_looks_for_the_very_message() -> None:
    """Equal ones are others, and one that was taken, or never came, is not there."""
    box = Mailbox()
    one, other = A(1, sender=2), A(1, sender=2)
    assert not box.drop(one)
    box.put(one)
    box.put(other)
    assert box.drop(other)
    assert box.take((A,)) is one
    assert not box.drop(one)
    assert box.waiting() == {}


def test_equal_keys_go_by_arrival() -> None:
    """Across classes, and when a key has grown to be equal."""
    grown = {0: 0, 1: 1}
    box = Mailbox()
    for number, sender in enumerate((0, 1, 0, 1)):
        box.put((A if number % 2 else B)(number, sender=sender))

    def key(m: Any) -> int:
        return grown[m.sender]

    assert box.take((A, B), by=key) == B(0, sender=0)
    grown[0] = 1
    assert [box.take((A, B), by=key).number for _ in range(3)] == [1, 2, 3]  # type: ignore[union-attr]


def test_a_key_need_not_be_a_number_and_may_be_none() -> None:
    """NaN compares with nothing; it neither hangs nor loses a message."""
    box = Mailbox()
    for number in range(3):
        box.put(A(number))
    assert {box.take((A,), by=lambda m: float("nan")) for _ in range(3)} == {A(0), A(1), A(2)}


def test_a_key_is_asked_only_by_a_take() -> None:
    """A key that knew the messages of its time must not be asked about later ones."""
    known = {1: 1, 2: 2}
    box = Mailbox()
    for number in known:
        box.put(A(number))

    def key(m: Any) -> int:
        return known[m.number]

    assert box.take((A,), by=key) == A(1)
    box.put(A(3))
    assert box.take((A,)) == A(2)
    with pytest.raises(KeyError):
        box.take((A,), by=key)
    known[3] = 0
    assert box.take((A,), by=key) == A(3)


def entries(box: Mailbox) -> int:
    """How many entries a mailbox holds in all its structures."""
    rankings = box._rankings or {}
    return sum(map(len, box._queues.values())) + sum(map(len, rankings.values()))


@pytest.mark.parametrize("taken", ["plain", "source", "ranked"])
def test_memory_stays_bounded(taken: str) -> None:
    """Entries of messages that are gone do not pile up, in whatever way messages are taken."""
    box = Mailbox()

    def key(m: Any) -> int:
        return int(m.number)

    for number in range(10):
        box.put(A(number, sender=number % 2))
    box.take((A,), by=key)
    box.take((A, B), by=key)
    largest = 0
    for number in range(10, 3_000):
        box.put(A(number, sender=number % 2))
        match taken:
            case "plain":
                box.take((A,))
            case "source":
                box.take((A,), source=number % 2)
            case _:
                box.take((A,), by=key)
        largest = max(largest, entries(box))
    assert largest < 300


def test_key_functions_made_for_each_take_do_not_pile_up() -> None:
    """A lambda in a loop is a new key each time."""
    box = Mailbox()
    for number in range(500):
        box.put(A(number))
        box.put(A(number))
        box.take((A,), by=lambda m: m.number)
    assert entries(box) < 500 + 4 * 1200
    assert len(box._rankings or ()) <= 4


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Heavy(Message):
    """A message whose end can be seen."""

    role: ClassVar[Role] = Role.CONTROL


def test_a_message_that_was_taken_is_not_kept_alive() -> None:
    """Payloads are dropped with their last handle, so a mailbox must hold none that it has given away."""
    box = Mailbox()

    def key(m: Any) -> int:
        return 0

    box.put(Heavy(sender=1))
    box.put(Heavy(sender=2))
    box.put(Heavy(sender=3))
    box.take((Heavy,), by=key)
    seen = weakref.ref(box.take((Heavy,)) or box)
    assert seen() is None
    (last,) = box.arrived(Heavy)
    refused = weakref.ref(last)
    box.drop(last)
    del last
    assert refused() is None


@pytest.mark.slow
def test_ranked_takes_scale() -> None:
    """100,000 waiting messages, two a sender: a take asks its key a few times, not once a message."""
    asked = 0

    def key(m: Any) -> int:
        nonlocal asked
        asked += 1
        return consumed[int(m.sender)]

    consumed = [0] * 50_000
    box = Mailbox()
    for number in range(100_000):
        box.put(A(number, sender=number % 50_000))
    box.take((A,), by=key)
    asked = 0
    for _ in range(1000):
        message = box.take((A,), by=key)
        assert message is not None
        consumed[message.sender] += 1
    assert asked < 1_000 * 5


# -------------------------------------------------------------------------------------------- rankings


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["add", "discard", "grow", "lowest", "reset"]), st.integers(0, 5)), max_size=80)
)
def test_a_ranking_gives_what_a_linear_scan_gives(actions: list[tuple[str, int]]) -> None:
    """Keys grow while their members are in, and start anywhere when they come back; ties go by order of adding."""
    keys = [0] * 6
    ranking: Ranking[int] = Ranking(lambda member: keys[member])
    members: list[int] = []
    for action, member in actions:
        match action:
            case "add":
                ranking.add(member)
                if member not in members:
                    members.append(member)
            case "discard":
                ranking.discard(member)
                members = [m for m in members if m != member]
            case "grow":
                keys[member] += 1
            case "reset" if member not in members:
                keys[member] = 0
            case _:
                assert ranking.lowest() == min(members, key=keys.__getitem__, default=None)
        assert len(ranking) == len(members)
        assert [m in ranking for m in range(6)] == [m in members for m in range(6)]


def test_a_ranking_needs_no_order_among_its_members() -> None:
    """Objects that cannot be compared may be ranked."""
    first, second = object(), object()
    assert Ranking(lambda _: 1, [first, second]).lowest() is first


def test_a_ranking_stays_small() -> None:
    """Members that come and go leave nothing behind."""
    ranking = Ranking(lambda k: k, range(3))
    for _ in range(1_000):
        ranking.discard(1)
        ranking.add(1)
    assert len(ranking._heap) < 100
