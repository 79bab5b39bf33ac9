"""Checks of options that several schedulers share."""

from __future__ import annotations


def check_local(local_steps: int | None, local_epochs: int) -> None:
    """Refuse a round in which nothing would be trained.

    Raises:
        ValueError: a count below one.
    """
    if local_steps is not None and local_steps < 1:
        raise ValueError(f"local_steps {local_steps} must be 1 or more")
    if local_epochs < 1:
        raise ValueError(f"local_epochs {local_epochs} must be 1 or more")
