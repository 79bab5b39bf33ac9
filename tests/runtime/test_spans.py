"""Works laid on lanes and cut off, by hand."""

from __future__ import annotations

import pytest

from fedsim.costs import Cost, OpClass, Operator, Phase
from fedsim.errors import ScriptError
from fedsim.runtime.spans import Spans, cut, lay
from fedsim.script import Command, Part, Work
from fedsim.trace import Span
from tests.simulation.toys import S, price, work


def operator(phase: Phase, macs: int, unit: str = "") -> Operator:
    """One of a unit."""
    return Operator(OpClass.LINEAR, phase, macs, 0, unit=unit)


def test_works_are_laid_from_their_start_on() -> None:
    """Parts in a row on a lane, the next work on the lane that is free first."""
    spans: Spans = []
    end = lay(spans, 3, [work(3, 2, 1), work(3, 1), work(3, 1)], 10 * S, 2, price)
    assert [(lane, start // S, end // S) for _, lane, _, start, end, *_ in spans] == [
        (0, 10, 12),
        (0, 12, 13),
        (1, 10, 11),
        (1, 11, 12),
    ]
    assert end == 13 * S


def test_a_span_tells_forward_and_head_apart() -> None:
    """The head's forward is the head's; what is neither is backward."""
    operators = (operator(Phase.FORWARD, 3, "a"), operator(Phase.FORWARD, 5, "aux_b"), operator(Phase.BACKWARD, 6, "a"))
    spans: Spans = []
    lay(spans, 0, [Work(Command(0, 1, "train"), (Part("step", Cost(operators, 2), 2),), None)], 0, 1, price)
    span = Span._make(spans[0])
    assert (span.macs, span.forward_macs, span.head_macs, span.samples) == (14, 3, 5, 2)


def test_what_is_cut_off_stands_up_to_there_and_is_wasted() -> None:
    """Whole parts keep their samples; a part that would begin at the cut leaves no record."""
    spans: Spans = []
    lay(spans, 0, [work(0, 1, 2, 1, samples=4)], 0, 1, price)
    assert [(s[3] // S, s[4] // S, s[7], s[8]) for s in cut(spans, 3 * S)] == [(0, 1, 4, True), (1, 3, 4, True)]
    assert [(s[3] // S, s[4] // S, s[5], s[7]) for s in cut(spans, 2 * S)] == [(0, 1, S, 4), (1, 2, S, 0)]
    assert cut(spans, 0) == []


def test_the_share_of_a_part_that_was_cut_is_rounded_down() -> None:
    """MACs are whole: a third of 10 is 3; forward and head are cut as the whole is."""
    spans: Spans = [(0, 0, "step", 0, 30, 10, 5, 1, False, 4)]
    assert cut(spans, 10) == [(0, 0, "step", 0, 10, 3, 1, 0, True, 1)]
    assert cut(spans, 30) == [(0, 0, "step", 0, 30, 10, 5, 1, True, 4)]


@pytest.mark.parametrize("others", [[], [work(0, 1)]])
def test_bad_works_are_refused_alone_and_in_company(others: list[Work[None]]) -> None:
    """Another node's work, and one without parts."""
    with pytest.raises(ScriptError, match="work of device 1"):
        lay([], 0, [*others, work(1, 1)], 0, 2, price)
    with pytest.raises(ScriptError, match="no parts"):
        lay([], 0, [*others, work(0)], 0, 2, price)
