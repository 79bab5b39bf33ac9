"""What devices answered, worked out by hand."""

from __future__ import annotations

from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from fedsim.report.html import Run, render
from fedsim.report.measures import measure
from fedsim.report.requests import inference, lines
from fedsim.report.show import figures, show
from fedsim.report.summary import summarise
from tests.report.hand_made_traces import Tape, fedavg

SECOND = 10**9


def answering() -> Tape:
    """Device 0 answers two requests of three tokens, the second of which waited for half a second; it draws 2 W idle
    and 6 W busy. Device 2, of the same group, leaves in the middle of its second. Device 1 never had the memory.

    Device 0: prefill 1-2, decode 2-3 and 3-4; asleep until 5 at the latest, prefill 5-6, decode 6-8 and 8-10.
    """
    tape = Tape(3, 12 * SECOND)

    def span(node: int, start: float, end: float, kind: str, **more: Any) -> None:
        tape.span(node, round(start * SECOND), round(end * SECOND), kind, **more)

    def mark(node: int, time: float, name: str, value: float = 0.0) -> None:
        tape.trace.mark(node, round(time * SECOND), name, value)

    mark(0, 1, "asked", 1.0)
    for start, end, kind in ((1, 2, "prefill"), (2, 3, "decode"), (3, 4, "decode")):
        span(0, start, end, kind)
    mark(0, 4, "answered", 3)
    mark(0, 5, "asked", 4.5)
    for start, end, kind in ((5, 6, "prefill"), (6, 8, "decode"), (8, 10, "decode")):
        span(0, start, end, kind)
    mark(0, 10, "answered", 3)
    mark(1, 1, "out_of_memory")
    mark(2, 1, "asked", 1.0)
    for start, end, kind in ((1, 5, "prefill"), (5, 6, "decode"), (6, 7, "decode")):
        span(2, start, end, kind)
    mark(2, 7, "answered", 3)
    mark(2, 7, "asked", 7.0)
    span(2, 7, 7.5, "prefill", wasted=True)
    mark(2, 7.5, "leave")
    mark(0, 12, "memory.peak", 900)
    mark(1, 12, "memory.peak", 400)
    mark(2, 12, "memory.peak", 950)
    return tape


def test_a_row_for_each_group() -> None:
    """Latency from the moment of the request, first tokens, tokens of decoding alone, joules between first and last."""
    rows = inference(measure(answering().trace))
    assert rows is not None
    first, second = rows
    assert (first["devices"], first["requests"], first["tokens"], first["out_of_memory"]) == (2, 3, 9, 0)
    assert first["latency_s"] == pytest.approx({"p50": 5.5, "p95": 5.5 + 0.9 * 0.5})  # of 3, 5.5 and 6
    assert first["first_token_s"] == pytest.approx({"p50": 1.5, "p95": 1.5 + 0.9 * 2.5})  # of 1, 1.5 and 4
    assert first["tokens_per_s"] == pytest.approx(6 / 8)
    joules = (9 * 2 + 8 * 4) + (6 * 2 + 6 * 4)
    assert first["joules_per_request"] == pytest.approx(joules / 3)
    assert first["joules_per_token"] == pytest.approx(joules / 9)
    assert first["peak_memory_bytes"] == 950
    assert (second["devices"], second["out_of_memory"], second["requests"]) == (1, 1, 0)
    assert second["latency_s"] is second["tokens_per_s"] is second["joules_per_request"] is None


def test_answers_of_one_forward() -> None:
    """No tokens: a latency, and joules a request."""
    tape = Tape(1, 4 * SECOND)
    for start in (0, 2):
        tape.trace.mark(0, start * SECOND, "asked", start)
        tape.span(0, start * SECOND, (start + 1) * SECOND, "infer")
        tape.trace.mark(0, (start + 1) * SECOND, "answered")
    rows = inference(measure(tape.trace))
    assert rows is not None
    (row,) = rows
    assert row["latency_s"] == {"p50": 1.0, "p95": 1.0}
    assert row["first_token_s"] is row["tokens"] is row["tokens_per_s"] is row["joules_per_token"] is None
    assert row["joules_per_request"] == pytest.approx((3 * 2 + 2 * 4) / 2)
    heads, _ = lines(rows)
    assert heads == ["devices", "requests", "latency p50 / p95", "J/request"]


def test_runs_that_train_have_no_such_part() -> None:
    """Nobody is asked anything."""
    trace = fedavg().trace
    assert inference(measure(trace)) is None
    assert "inference" not in summarise(trace, status="done", wall_seconds=1.0)


def test_what_people_see() -> None:
    """A line for each group on the screen and in the report; no updates and no samples that were trained."""
    trace = answering().trace
    summary = summarise(trace, status="done", wall_seconds=1.0)
    console = Console(record=True, width=120, file=StringIO())
    show([summary], console=console)
    text = console.export_text()
    assert "2 x pi" in text
    assert "5.5 s / 5.95 s" in text
    assert "does not fit" in text
    assert "J/token" in text
    assert "J/request" not in text
    labels = [figure.label for figure in figures([summary])]
    assert not {"updates a device", "samples a second, end to end"} & set(labels)
    html = render([Run(summary, measure(trace), trace.scenario)])
    assert "Requests answered" in html
    assert "J/request" in html
