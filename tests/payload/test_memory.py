"""Blocks of memory for weights: shared with nobody, and used again only when nobody looks."""

from __future__ import annotations

import gc

import torch

from fedsim.payload.memory import SMALL, Recycler, trim

LARGE = SMALL // 4 + 16  # float32 elements


def test_a_block_is_used_again_when_its_last_tensor_is_gone() -> None:
    """The same address comes back, so a run needs no more blocks than it holds at once."""
    memory = Recycler()
    first = memory.empty(LARGE, torch.float32)
    address = first.data_ptr()
    del first
    gc.collect()
    assert memory.empty(LARGE, torch.float32).data_ptr() == address


def test_a_view_keeps_its_block() -> None:
    """A tensor made of a part of another one is not overwritten by whoever asks next."""
    memory = Recycler()
    whole = memory.empty(LARGE, torch.float32).fill_(1)
    part = whole.as_strided((4, 4), (4, 1), 8)
    address = whole.data_ptr()
    del whole
    gc.collect()
    other = memory.empty(LARGE, torch.float32).fill_(2)
    assert other.data_ptr() != address
    assert part.eq(1).all()


def test_blocks_of_two_sizes_and_types_do_not_mix() -> None:
    """A float64 tensor of half the elements may have a float32 tensor's block; a longer one may not."""
    memory = Recycler()
    single = memory.empty(LARGE, torch.float32)
    address = single.data_ptr()
    del single
    gc.collect()
    longer = memory.empty(2 * LARGE, torch.float32)
    assert longer.data_ptr() != address
    assert memory.empty(LARGE // 2, torch.float64).data_ptr() == address


def test_small_tensors_come_from_the_heap_and_all_are_aligned() -> None:
    """64 bytes, as PyTorch's own; and no two that live at once overlap."""
    memory = Recycler()
    tensors = [memory.empty(n, torch.float32) for n in (1, 100, SMALL // 4, LARGE, LARGE)]
    assert all(tensor.data_ptr() % 64 == 0 for tensor in tensors)
    for value, tensor in enumerate(tensors):
        tensor.fill_(value)
    assert all(tensor.eq(value).all() for value, tensor in enumerate(tensors))


def test_trimming_changes_no_values() -> None:
    """It gives back what is free, nothing else."""
    held = torch.arange(1_000_000)
    trim()
    assert held.sum() == 499_999_500_000
