"""The roofline cost model: an operator takes what its arithmetic or its memory traffic takes, and an overhead.

    t = max(macs / (efficiency x gemm), bytes / bandwidth) + overhead

for the classes that multiply; the others are priced by their bytes alone, whatever MACs they were counted with. Where a
processor computes and moves data one after the other, the larger of the two becomes their sum.
S. Williams, A. Waterman, D. Patterson, "Roofline", Communications of the ACM 52(4), 2009, with sustained rates in
place of peaks. Where the profile has measured kernels that skip zeros, an operator whose weights have some takes less.
"""

from __future__ import annotations

from fedsim.costs import Cost, Operator
from fedsim.errors import RunError
from fedsim.hardware.processors import MATRIX, Processor


def by_operator(processor: Processor, cost: Cost) -> list[float]:
    """Seconds of each operator of `cost`, all of its `count` together.

    Raises:
        RunError: the cost does not say its batch, and the processor's efficiency depends on it.
    """
    return [_once(processor, operator, cost) * operator.count for operator in cost.operators]


def _once(processor: Processor, operator: Operator, cost: Cost) -> float:
    share = processor.efficiency.of(operator.kind)
    overhead = processor.overheads.of(operator.kind)
    if overhead is None:
        overhead = processor.overhead
    if not processor.foreach:
        overhead *= operator.tensors
    if operator.kind not in MATRIX:
        return operator.bytes / (share * processor.bandwidth) + overhead
    if processor.half_batch is not None:
        share *= _filled(processor.half_batch, cost)
    computing, moving = operator.macs / (share * processor.gemm), operator.bytes / processor.bandwidth
    dense = max(computing, moving) if processor.overlap else computing + moving
    return dense / processor.sparse.speed(operator.kind, operator.sparsity) + overhead


def _filled(half_batch: float, cost: Cost) -> float:
    """The part of its efficiency that a processor reaches at a batch size: half of it at `half_batch`."""
    if cost.batch <= 0:
        raise RunError(
            "a cost with matrix products that does not say its batch, on a profile with half_batch; "
            "give the batch where the cost is made"
        )
    return cost.batch / (cost.batch + half_batch)
