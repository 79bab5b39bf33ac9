"""Shards: one array, cut at offsets."""

import numpy as np
import pytest

from fedsim.data import Shards


@pytest.mark.parametrize("devices", [4, 70_000])
def test_views_of_one_array(devices: int) -> None:
    """Each device's shard is a read-only view of the same memory; devices without samples have an empty one."""
    shards = Shards.of(np.array([2, 0, 2, 3]), devices)
    assert [shards[k].tolist() for k in range(4)] == [[1], [], [0, 2], [3]]
    assert shards.sizes()[:4].tolist() == [1, 0, 2, 1]
    assert shards.holders().tolist() == [0, 2, 2, 3]
    assert len(shards) == devices
    assert shards.indices.dtype == shards.offsets.dtype == np.int64
    assert np.shares_memory(shards[2], shards.indices)
    assert not shards[2].flags.writeable
    for wrong in (-1, devices):
        with pytest.raises(IndexError, match=f"device {wrong} of {devices}"):
            shards[wrong]
