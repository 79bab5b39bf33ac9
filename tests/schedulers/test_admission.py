"""Who may send activations: three policies against a plain account of every batch, whatever the devices do."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.errors import UserError
from fedsim.learning.context import Device
from fedsim.mailbox import Mailbox
from fedsim.schedulers.admission import (
    Admission,
    Credit,
    FirstCome,
    Grant,
    Notice,
    Permission,
    Policy,
    Slots,
    admission,
)
from fedsim.script import Message
from tests.learning.test_handles import FakePort, job


@dataclass
class World:
    """A server and its devices, each batch in one place: a credit, in flight, queued, in training."""

    policy: Admission
    devices: int
    credits: Counter[int] = field(default_factory=Counter)
    flying: Counter[int] = field(default_factory=Counter)
    queued: list[int] = field(default_factory=list)
    training: list[int] = field(default_factory=list)
    consumed: Counter[int] = field(default_factory=Counter)
    present: set[int] = field(default_factory=set)
    told: dict[int, bool] = field(default_factory=dict)
    refused: int = 0

    def permit(self, outstanding: int | None = None) -> None:
        """What is due comes to the devices; each credit to the one that has given least, where so many are allowed."""
        for k, message in self.policy.due():
            assert k in self.present, "a permission for nobody"
            if outstanding is not None:
                given = {j: self.consumed[j] + self.slots(j) for j in self.present if self.unsent(j) < outstanding}
                assert k == min(given, key=lambda j: (given[j], j))
            if isinstance(message, Credit):
                assert message.batches >= 1
                self.credits[k] += message.batches
            else:
                assert isinstance(message, Notice)
                assert self.told.get(k, False) is not message.open, "nothing new"
                self.told[k] = message.open
        assert not [*self.policy.due()], "all of it was due at once"

    def slots(self, device: int) -> int:
        """Granted, in flight, queued or in training."""
        return self.unsent(device) + self.queued.count(device) + self.training.count(device)

    def unsent(self, device: int) -> int:
        """Granted or in flight."""
        return self.credits[device] + self.flying[device]

    @property
    def held(self) -> int:
        """Queued or in training."""
        return len(self.queued) + len(self.training)

    def act(self, what: str, k: int) -> None:
        """One event, if it is possible."""
        match what:
            case "join" if k not in self.present:
                self.present.add(k)
                self.policy.join(k)
            case "leave" if k in self.present:
                self.present.discard(k)
                self.credits[k] = self.flying[k] = 0
                self.told.pop(k, None)
                self.policy.leave(k)
            case "send" if k in self.present and (self.credits[k] or self.told.get(k)):
                self.credits[k] -= bool(self.credits[k])
                self.flying[k] += 1
            case "arrive" if self.flying[k]:
                self.flying[k] -= 1
                if self.policy.arrive(k):
                    self.queued.append(k)
                else:
                    self.refused += 1
            case "train" if self.queued and not self.training:
                self.training.append(self.queued.pop(k % len(self.queued)))
            case "end" if self.training:
                done = self.training.pop()
                self.consumed[done] += 1
                self.policy.free(done)
            case _:
                pass


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["join", "send", "arrive", "train", "end", "leave", "send", "arrive", "train", "end"]),
        st.integers(0, 3),
    ),
    min_size=60,  # few events hardly ever fill a server
    max_size=120,
)
ALL = [("join", k) for k in range(4)]


@settings(max_examples=80)
@given(st.integers(1, 9), st.integers(1, 3), EVENTS)
def test_grants_keep_the_cap_and_leave_no_room(cap: int, outstanding: int, events: list[tuple[str, int]]) -> None:
    """At most ω in all, at most so many unsent of a device; and room is left only if every device has that many."""
    policy = Grant(cap, outstanding)
    world = World(policy, 4)
    for what, k in ALL + events:
        world.act(what, k)
        world.permit(outstanding)
        total = sum(world.slots(k) for k in range(4))
        assert total == policy.slots <= cap
        assert all(world.unsent(k) <= outstanding for k in range(4))
        assert total == cap or all(world.unsent(k) == outstanding for k in world.present)
        assert policy.unsent == +world.credits + world.flying
    for k in range(4):
        world.act("leave", k)
    while world.queued or world.training:
        world.act("train", 0)
        world.act("end", 0)
    assert policy.slots == 0


def test_a_grant_goes_to_the_one_that_has_given_least() -> None:
    """Counting what it has been promised; of equals the first by number. By a table."""
    policy = Grant(5, 2)
    for k in (2, 0, 1):
        policy.join(k)

    def due() -> list[int]:
        found = []
        for k, message in policy.due():
            assert message == Credit(1)
            found.append(k)
        return found

    assert due() == [0, 1, 2, 0, 1]
    for _ in range(2):  # device 0 sends two, the server trains them
        policy.arrive(0)
        policy.free(0)
    assert due() == [2, 0], "2 has one, 0 and 1 have two"
    policy.arrive(1)
    policy.free(1)
    assert due() == [1], "0 has three with its promise, 2 has two, but none to spare: both of them are unsent"
    policy.arrive(2)
    assert due() == [], "no room"
    policy.free(2)
    assert due() == [2], "0 has three, 1 three, 2 two"


def test_contributions_are_kept_while_a_device_is_away() -> None:
    """Its credits go to others; once it is back it is as far ahead as it was."""
    policy = Grant(4, 2)
    for k in (0, 1):
        policy.join(k)
    assert [k for k, _ in policy.due()] == [0, 1, 0, 1]
    for _ in range(2):
        policy.arrive(0)
        policy.free(0)
    policy.leave(1)
    assert policy.slots == 0
    assert [k for k, _ in policy.due()] == [0, 0]
    policy.join(1)
    assert [k for k, _ in policy.due()] == [1, 1]
    policy.leave(0)
    policy.join(0)
    policy.leave(1)
    policy.join(1)
    assert [k for k, _ in policy.due()] == [1, 1, 0, 0], "0 has two, and 1 has none"


@settings(max_examples=80)
@given(st.integers(4, 13), st.integers(1, 3), EVENTS)
def test_slots_are_a_quota_each(cap: int, outstanding: int, events: list[tuple[str, int]]) -> None:
    """⌊ω/K⌋ of a device in all, of which so many unsent; and each present device has as many as that leaves."""
    world, quota = World(Slots(cap, 4, outstanding), 4), cap // 4
    for what, k in ALL + events:
        world.act(what, k)
        world.permit()
        for j in range(4):
            assert world.slots(j) <= quota
            room = quota - world.queued.count(j) - world.training.count(j)
            assert world.unsent(j) == (min(room, outstanding) if j in world.present else 0)
        assert sum(world.slots(k) for k in range(4)) <= cap


@settings(max_examples=80)
@given(st.integers(1, 6), EVENTS)
def test_first_come_refuses_what_there_is_no_room_for(cap: int, events: list[tuple[str, int]]) -> None:
    """At most ω queued or in training; devices know whether there is room; what finds none is refused."""
    world = World(FirstCome(cap), 4)
    for what, k in ALL + events:
        full, flying, refused = world.held == cap, world.flying[k], world.refused
        world.act(what, k)
        assert world.refused - refused == (what == "arrive" and flying > 0 and full)
        assert world.held <= cap
        world.permit()
        assert all(world.told.get(k, False) is (world.held < cap) for k in world.present)


@pytest.mark.parametrize(("policy", "kind"), [("grant", Grant), ("slot", Slots), ("fcfs", FirstCome)])
def test_policies_have_names(policy: Policy, kind: type[Any]) -> None:
    """A slot needs ω of at least one a device; the others do with less."""
    assert type(admission(policy, 4, 4, 2)) is kind
    if policy == "slot":
        with pytest.raises(UserError, match="activation_cap 3 gives 4 devices no slot each; give at least 4"):
            admission(policy, 3, 4, 2)
    else:
        assert type(admission(policy, 1, 4, 2)) is kind


# ------------------------------------------------------------------------------------- a device's side


class Port(FakePort):
    """A device's port, with a mailbox."""

    def __init__(self) -> None:
        super().__init__(0)
        self.mailbox = Mailbox()

    def poll(self, *kinds: type[Message]) -> Message | None:
        """The first that waits."""
        return self.mailbox.take(kinds)


def test_a_credit_is_used_once() -> None:
    """Those that wait are counted together; without one, nothing is welcome."""
    port = Port()
    me, permission = Device(port, job()), Permission(2)
    assert not permission.used(me, 0)
    for batches in (1, 2):
        port.mailbox.put(Credit(batches))
    assert [permission.used(me, under_way) for under_way in (0, 5, 9, 0)] == [True, True, True, False]
    permission.take(Credit(1))
    assert [permission.used(me, 0) for _ in range(2)] == [True, False]
    assert port.mailbox.waiting() == {}


def test_the_last_notice_counts() -> None:
    """While there is room anything is welcome, but not more than so many batches of a device at a time."""
    port = Port()
    me, permission = Device(port, job()), Permission(2)
    for open_ in (False, True):
        port.mailbox.put(Notice(open_))
    assert [permission.used(me, under_way) for under_way in (0, 1, 2, 3, 1)] == [True, True, False, False, True]
    for open_ in (True, False):
        port.mailbox.put(Notice(open_))
    assert not permission.used(me, 0)
