"""Numbers for many nodes at once: keyed by (seed, node, purpose, number), and as random as they should be."""

from __future__ import annotations

import hashlib
import math

import numpy as np

from fedsim.seeds import normals, uniforms

MASK = 2**64 - 1
GOLDEN = [0.7519262437128159, 0.5280167473680352, 0.11028435093940281]


def splitmix64(state: int, outputs: int) -> list[int]:
    """The generator as its authors write it."""
    found = []
    for _ in range(outputs):
        state = (state + 0x9E3779B97F4A7C15) & MASK
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        found.append(z ^ (z >> 31))
    return found


def test_a_node_gets_its_output_of_splitmix64() -> None:
    """Node k the one after k others, from a state that is a hash of the rest; outputs are as published."""
    assert splitmix64(1234567, 3) == [6457827717110365317, 3203168211198807973, 9817491932198370423]
    start = int.from_bytes(hashlib.blake2b(b"7/nodes/link/2", digest_size=8).digest(), "little")
    expected = [((output >> 12) + 0.5) / 2**52 for output in splitmix64(start, 100)]
    assert uniforms(7, np.arange(100), "link", 2).tolist() == expected


def test_a_node_s_number_depends_on_its_key_only() -> None:
    """Not on which nodes are asked for, how many, or in which order; these numbers never change."""
    everyone = uniforms(7, np.arange(1000), "link")
    np.testing.assert_array_equal(uniforms(7, np.array([999, 3]), "link"), everyone[[999, 3]])
    assert everyone[:3].tolist() == GOLDEN


def test_another_seed_purpose_or_number_gives_other_numbers() -> None:
    """Uncorrelated ones."""
    nodes = np.arange(20_000)
    first = uniforms(7, nodes, "link")
    for other in (uniforms(8, nodes, "link"), uniforms(7, nodes, "spread"), uniforms(7, nodes, "link", 1)):
        assert abs(np.corrcoef(first, other)[0, 1]) < 4 / math.sqrt(len(nodes))


def test_uniforms_are_uniform() -> None:
    """Equal counts in 100 cells (chi squared, 99 degrees of freedom), neighbours uncorrelated, never 0 or 1."""
    numbers = uniforms(1, np.arange(100_000), "link")
    counts, _ = np.histogram(numbers, 100, (0, 1))
    assert 60 < ((counts - 1000) ** 2 / 1000).sum() < 150
    assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 0.013
    assert 0 < numbers.min() < numbers.max() < 1


def test_normals_are_normal() -> None:
    """Mean 0, variance 1, no skew, kurtosis 3; a seed beyond 64 bits or a server's number -1 do no harm."""
    numbers = normals(2**70, np.arange(-1, 100_000), "spread")
    moments = [float((numbers**power).mean()) for power in (1, 2, 3, 4)]
    np.testing.assert_allclose(moments, [0, 1, 0, 3], atol=0.08)
