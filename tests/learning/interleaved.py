"""Devices that train their blocks on one host, step by step in turn. Run as a program for one host of its own.

python -m tests.learning.interleaved OUT NODE...
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from fedsim import seeds
from fedsim.learning.learners import Batch
from fedsim.learning.optimizers import Sgd
from tests.learning.toys import SEED, Federation, bits

WHAT = Federation(
    sizes=(24, 24), batch=8, dtype="float32", optimizer=Sgd(lr=0.05, momentum=0.9), channels_last=True, cut=3
)
STEPS = 3


def train(nodes: Sequence[int]) -> dict[int, dict[str, bytes]]:
    """Forward of every node, then backward of every node, as often as there are steps; the bytes of what comes out."""
    bench = WHAT.bench(split=True)
    learners = {node: bench.learner(node) for node in nodes}
    activations: dict[int, list[bytes]] = {node: [] for node in nodes}
    for step in range(STEPS):
        batch = Batch(0, 8 * step, 8)
        for node in nodes:
            z = bench.tensor(bench.do(learners[node].forward(batch)))
            activations[node] += bits({"z": z}).values()
        for node in nodes:
            meta = bench.plans["device"].activations(8)
            rng = seeds.generator(SEED, node, "made-up gradient", step)
            g = torch.from_numpy(rng.normal(size=meta.shapes[0].shape).astype("float32"))
            gradient = bench.node(node).payload(meta)
            bench.give(gradient, g)
            bench.do(learners[node].backward(gradient))
    found = {}
    for node in nodes:
        flat = bench.flat(learners[node].weights())
        found[node] = bits(flat.named()) | {f"z{i}": z for i, z in enumerate(activations[node])}
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    Path(sys.argv[1]).write_bytes(pickle.dumps(train([int(node) for node in sys.argv[2:]])))
