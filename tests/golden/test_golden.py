"""Small runs give the very traces that lie beside this file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.golden.make import RUNS, golden, text


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_a_trace_is_what_it_was(name: str) -> None:
    """To the nanosecond, byte and MAC. `python tests/golden/make.py` writes them anew."""
    expected = Path(__file__).with_name(f"{name}.json").read_text(encoding="utf-8")
    found = golden(name)
    for key, rows in json.loads(expected).items():
        assert found[key] == rows, f"{key} of {name} changed"
    assert text(found) == expected
