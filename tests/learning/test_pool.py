"""Pools of activations: which rows make a batch, what they count as held, and the same bits wherever they lie."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedsim.learning.context import Server
from fedsim.learning.learners import Node
from fedsim.learning.operations.pooling import _InFile, _InMemory
from fedsim.learning.plan import DEVICE, SERVER_BLOCK
from fedsim.learning.pool import Pool, Store
from fedsim.script import SERVER, Payload
from tests.learning.test_handles import FakePort, job
from tests.learning.toys import MLP, Bench, Federation, bits

PLAN = MLP.bench(split=True).plans[DEVICE]
STORES: tuple[Store, ...] = ("ram", "disk", "mmap")
SENT = ((2, 8), (0, 8), (2, 5), (1, 8), (0, 3))
"""Batches in order of arrival: who sent them, and how many samples they have."""


def filled(store: Store = "ram", *, drop_last: bool = False) -> tuple[FakePort, Pool]:
    """A pool of these batches, without a host."""
    port = FakePort(SERVER)
    pool = Pool(Node(port), store, drop_last=drop_last)
    for number, (source, size) in enumerate(SENT):
        pool.add(source, Payload(source, number, PLAN.activations(size)), Payload(source, 9, PLAN.labels(size)))
    return port, pool


SOURCE = np.repeat([source for source, _ in SENT], [size for _, size in SENT])
"""Of each row, who sent it."""


def rng(seed: int = 0) -> np.random.Generator:
    """A generator."""
    return np.random.default_rng(seed)


# ------------------------------------------------------------------------------------------ which rows


def test_rows_are_known_by_batch_and_by_device() -> None:
    """In order of arrival; devices by number."""
    _, pool = filled()
    assert len(pool) == 32
    assert [rows.tolist() for rows in pool.batches()] == [
        [*range(8)],
        [*range(8, 16)],
        [*range(16, 21)],
        [*range(21, 29)],
        [29, 30, 31],
    ]
    own = pool.by_source()
    assert list(own) == [0, 1, 2]
    for k, rows in own.items():
        assert rows.tolist() == np.flatnonzero(k == SOURCE).tolist()


def test_a_pooled_pass_mixes_devices() -> None:
    """Every row once, in full batches but for the last; nearly all batches are of several devices; no two are alike."""
    _, pool = filled()
    passes = [[*pool.epoch(rng(seed), 6, "pooled")] for seed in range(20)]
    for batches in passes:
        assert [len(rows) for rows in batches] == [6] * 5 + [2]
        assert sorted(np.concatenate(batches).tolist()) == [*range(32)]
    mixed = [len(set(SOURCE[rows])) > 1 for batches in passes for rows in batches if len(rows) == 6]
    assert np.mean(mixed) > 0.9
    assert len({tuple(np.concatenate(batches).tolist()) for batches in passes}) == 20


def test_a_pass_per_device_mixes_none() -> None:
    """Every row once; each batch is of one device, whose batches come one after the other; devices in any order."""
    _, pool = filled()
    orders = set()
    for seed in range(40):
        batches = [*pool.epoch(rng(seed), 6, "per_device")]
        assert sorted(np.concatenate(batches).tolist()) == [*range(32)]
        sources = [set(SOURCE[rows].tolist()) for rows in batches]
        assert all(len(source) == 1 for source in sources)
        order = [source.pop() for source in sources]
        assert [order.count(k) for k in range(3)] == [2, 2, 3]
        orders.add(tuple(dict.fromkeys(order)))
        assert sum(a != b for a, b in pairwise(order)) == 2
    assert len(orders) == 6
    first, second = ([*pool.epoch(rng(seed), 6, "per_device")] for seed in (0, 0))
    assert all(one.tolist() == two.tolist() for one, two in zip(first, second, strict=True))


def test_some_of_the_rows_are_shuffled_alone() -> None:
    """Those given, and no others."""
    _, pool = filled()
    own = pool.by_source()[2]
    batches = [*pool.shuffled(rng(), 4, own)]
    assert [len(rows) for rows in batches] == [4, 4, 4, 1]
    assert sorted(np.concatenate(batches).tolist()) == own.tolist()
    assert np.concatenate(batches).tolist() != own.tolist()


@pytest.mark.parametrize(
    ("rows", "kept", "dropped"), [(0, 0, 0), (5, 1, 1), (6, 1, 1), (7, 2, 1), (12, 2, 2), (13, 3, 2)]
)
def test_a_last_batch_that_is_not_full_may_be_left_out(rows: int, kept: int, dropped: int) -> None:
    """Unless it is the only one, as with passes over a device's data."""
    _, pool = filled()
    _, other = filled(drop_last=True)
    assert (pool.steps(rows, 6), other.steps(rows, 6)) == (kept, dropped)
    some = np.arange(rows)
    assert len([*other.shuffled(rng(), 6, some)]) == dropped
    assert [len(batch) for batch in other.epoch(rng(), 6, "pooled")] == [6] * 5


def test_the_scenario_says_whether_it_is() -> None:
    """A server's pool knows."""
    for drop_last, batches in ((False, 2), (True, 1)):
        pool = Server(FakePort(SERVER), replace(job(), drop_last=drop_last), 3).pool()
        assert pool.steps(11, 8) == batches


def test_draws_are_uniform() -> None:
    """Of the rows that are there, each at most once a batch; all of them, where there are fewer than a batch."""
    _, pool = filled()
    draw = rng()
    counts = np.zeros(32)
    for _ in range(2000):
        rows = pool.drawn(draw, 8)
        assert len(set(rows.tolist())) == 8
        counts[rows] += 1
    assert abs(counts - 500).max() < 5 * 500**0.5
    assert sorted(pool.drawn(draw, 100).tolist()) == [*range(32)]


# ------------------------------------------------------------------------------------------ what it holds


@pytest.mark.parametrize("store", STORES)
def test_what_is_in_memory_counts_as_held(store: Store) -> None:
    """Activations and labels in `ram`, labels alone otherwise; nothing once it is closed."""
    port, pool = filled(store)
    each = (4 * 6 if store == "ram" else 0) + 8
    assert [c.holds for c in port.commands] == [0, *(each * size for _, size in SENT)]
    pool.close()
    assert port.commands[-1].holds == -32 * each
    assert (port.commands[0].method, port.commands[0].args) == ("pool.open", (store,))


# ---------------------------------------------------------------------------------------------- its rows


def kinds() -> list[Any]:
    """A store of each kind."""
    return [_InMemory(), _InFile(mapped=False), _InFile(mapped=True)]


@settings(max_examples=40)
@given(
    st.lists(st.one_of(st.integers(1, 9), st.lists(st.integers(0, 10**6), min_size=1, max_size=6)), max_size=12),
    st.sampled_from([torch.float32, torch.float64, torch.int64]),
    st.sampled_from([(), (3,), (2, 3, 2)]),
)
def test_stores_give_what_was_put_in(actions: list[Any], dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """Bit for bit, however rows are added and picked in between."""
    stores, plain = kinds(), torch.empty((0, *shape), dtype=dtype)
    for action in actions:
        if isinstance(action, int):
            count = len(plain) * (plain[0].numel() if len(plain) else 1)
            size = action * int(np.prod(shape, dtype=int))
            more = (torch.arange(size, dtype=dtype) + 1000 * count).reshape(action, *shape)
            plain = torch.cat([plain, more])
            for store in stores:
                store.append(more)
        elif len(plain):
            rows = np.array([row % len(plain) for row in action])
            for store in stores:
                picked: Tensor = store.pick(rows)
                assert picked.dtype == dtype
                assert picked.equal(plain[torch.from_numpy(rows)])
                picked.zero_()  # it is the caller's
                assert store.pick(rows).equal(plain[torch.from_numpy(rows)])


def test_the_layout_of_what_comes_does_not_matter() -> None:
    """Channels may lie innermost, or rows apart."""
    x = torch.arange(2 * 3 * 4 * 5, dtype=torch.float32).reshape(2, 3, 4, 5)
    strange = (x.contiguous(memory_format=torch.channels_last), torch.stack([x, -x], 1)[:, 0])
    for store in kinds():
        for one in strange:
            store.append(one)
        assert store.pick(np.array([3, 0])).equal(x[[1, 0]])


def test_what_comes_is_copied() -> None:
    """Whoever sent it may change it afterwards."""
    for store in kinds():
        x = torch.ones(2, 3)
        store.append(x)
        x.zero_()
        assert store.pick(np.array([0, 1])).equal(torch.ones(2, 3))


@pytest.mark.parametrize("mapped", [False, True])
def test_a_file_is_closed_with_its_store(mapped: bool) -> None:
    """Nothing is left open, nor on the disk."""
    store = _InFile(mapped=mapped)
    store.append(torch.ones(2, 3))
    store.pick(np.array([0]))
    file = store._file
    gone = weakref.ref(store)
    del store
    gc.collect()
    assert gone() is None
    assert file.closed


# ------------------------------------------------------------------------------------- steps on its rows


def stepped(what: Federation, store: Store | None, rows: list[int]) -> dict[str, bytes]:
    """The bits of s after a step on rows of a pool; or, without one, on the same activations."""
    bench: Bench = what.bench(split=True)
    node, meta = bench.node(SERVER), bench.plans[DEVICE]
    s = bench.learner(SERVER, SERVER_BLOCK)
    draw = torch.Generator().manual_seed(1)
    pool = None if store is None else Pool(node, store)
    z, y = [], []
    for source, size in ((0, 8), (1, 5)):
        shape = bench.plans[DEVICE].activations(size).shapes[0].shape
        z.append(torch.randn(shape, generator=draw, dtype=getattr(torch, what.dtype)))
        y.append(torch.randint(4, (size,), generator=draw))
        if pool is not None:
            activations = bench.give(node.payload(meta.activations(size)), z[-1])
            pool.add(source, activations, bench.give(node.payload(meta.labels(size)), y[-1]))
    if pool is not None:
        bench.do(pool.step(s, np.array(rows)))
    else:
        some = torch.cat(z)[rows]
        activations = bench.give(node.payload(meta.activations(len(rows))), s_layout(bench, some))
        bench.do(s.step(activations, bench.give(node.payload(meta.labels(len(rows))), torch.cat(y)[rows])))
    return bits(bench.flat(s.weights()).named())


def s_layout(bench: Bench, z: Tensor) -> Tensor:
    """Activations as the server block has them."""
    return bench.host.core.blocks[SERVER_BLOCK].layout.arranged(z)


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize(
    "what", [MLP, Federation(dtype="float32", cut=1, sizes=(8,), channels_last=True)], ids=["vectors", "channels last"]
)
def test_a_step_on_rows_is_a_step_on_their_activations(what: Federation, store: Store) -> None:
    """Wherever they lie, and in whatever memory layout: to the bit."""
    rows = [11, 0, 3, 12, 7, 8]
    assert stepped(what, store, rows) == stepped(what, None, rows)


def test_a_step_on_rows_costs_a_step_without_input_gradient() -> None:
    """Of so many samples."""
    port, pool = filled()
    s = MLP.bench(split=True).learner(SERVER, SERVER_BLOCK)
    work = pool.step(s, np.arange(5))
    assert work.parts == (s.plan.train_part(5, to_input=False),)
    assert work.parts[0].cost.macs < s.plan.train_part(5).cost.macs
    assert work.command.method == "pool.step"
    assert len(port.commands) == 1 + len(SENT), "it is no command that takes no time"
