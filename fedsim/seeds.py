"""Random generators from (seed, node, purpose, number): no global generator is ever used.

Two generators with different keys are independent; the same key gives the same stream on every machine.
"""

from __future__ import annotations

import hashlib

import numpy as np


def derive(seed: int, node: int, purpose: str, number: int = 0) -> int:
    """A 63-bit seed for the stream named by (seed, node, purpose, number)."""
    key = f"{seed}/{node}/{purpose}/{number}".encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") >> 1


def generator(seed: int, node: int, purpose: str, number: int = 0) -> np.random.Generator:
    """A fresh NumPy generator for the stream named by (seed, node, purpose, number)."""
    return np.random.Generator(np.random.PCG64(derive(seed, node, purpose, number)))
