"""Errors of a scenario's parts, which know nothing of scenarios, with the line that named them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fedsim.errors import UserError
from fedsim.scenario import Scenario


@contextmanager
def placed(scenario: Scenario, *path: str | int) -> Iterator[None]:
    """Errors from inside end with where the scenario gave the value at `path`."""
    try:
        yield
    except UserError as error:
        where = scenario.where(*path)
        text = str(error)
        raise UserError(text if text.endswith(where) else f"{text} {where}") from error
