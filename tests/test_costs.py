"""Sums over the operators of a work."""

from __future__ import annotations

from fedsim.costs import Cost, OpClass, Operator, Phase, total


def operator(phase: Phase, macs: int, unit: str = "", count: int = 1) -> Operator:
    """`count` equal operators of a unit."""
    return Operator(OpClass.LINEAR, phase, macs, 3, count, unit=unit)


def test_an_auxiliary_head_is_told_by_the_names_of_its_units() -> None:
    """Forward 2·10 + 7 + 1, of which 20 are the model's own; the head takes 7 + 1 forward and 14 backward."""
    cost = Cost(
        (
            operator(Phase.FORWARD, 10, "conv", count=2),
            operator(Phase.FORWARD, 7, "aux_head"),
            operator(Phase.FORWARD, 1, "aux_loss"),
            operator(Phase.BACKWARD, 14, "aux_head"),
            operator(Phase.BACKWARD, 40, "conv"),
            operator(Phase.OPTIMIZER, 5),
        ),
        batch=1,
    )
    assert (cost.macs, cost.forward_macs, cost.own_forward_macs, cost.head_macs) == (87, 28, 20, 22)
    assert cost.bytes == 7 * 3


def test_what_is_added_is_summed() -> None:
    """`total` and `+` sum every figure."""
    one, other = Cost((operator(Phase.FORWARD, 3, "a"),), 4, "m"), Cost((operator(Phase.FORWARD, 5, "aux_a"),), 4, "m")
    for both in (one + other, total((one, other))):
        assert (both.macs, both.own_forward_macs, both.head_macs) == (8, 3, 5)
        assert (both.batch, both.model) == (4, "m")
