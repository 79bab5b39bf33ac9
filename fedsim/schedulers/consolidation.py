"""Ways to train a server block on a pool of activations that came from many devices."""

from __future__ import annotations

from typing import Literal

import numpy as np

from fedsim.learning.context import Server
from fedsim.learning.pool import Pool
from fedsim.script import compute


async def epoch_of_one(
    me: Server, pool: Pool, rng: np.random.Generator, *, by: Literal["pooled", "per_device"], done: int = 0
) -> None:
    """A pass of the one server block, but for the first `done` steps."""
    for rows in list(pool.epoch(rng, me.batch, by=by))[done:]:
        await compute(pool.step(me.block, rows))


async def epoch_of_copies(
    me: Server, pool: Pool, rng: np.random.Generator, weighting: Literal["samples", "uniform"]
) -> None:
    """A pass of a copy of the server block for each device, one after the other; the block becomes their average."""
    rows_of = pool.by_source()
    total = me.mean(expected=tuple(rows_of), weighting=weighting, of="copies")
    for k, own in rows_of.items():
        copy = me.block.clone()
        for rows in pool.shuffled(rng, me.batch, own):
            await compute(pool.step(copy, rows))
        total.put(k, copy.take(), len(own))
    me.block.load(await compute(total.result()))
