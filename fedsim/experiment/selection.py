"""How many devices a round asks, how many complete it, and when it ends without the others."""

from __future__ import annotations

from typing import NamedTuple

from fedsim.scenario import Selection


class Asked(NamedTuple):
    """What a selection comes to in a fleet."""

    participants: int
    """Devices that a round asks."""
    need: int | None
    """Contributions that complete it; None: all of them."""
    window: float | None
    """Seconds after which it ends with those that came; None: it has no such end."""


def asked(selection: Selection, devices: int) -> Asked:
    """What a selection comes to in a fleet of so many devices."""
    participants, need = devices, None
    match selection.kind:
        case "uniform":
            assert selection.count is not None
            participants = selection.count
        case "fraction":
            assert selection.fraction is not None
            participants = max(1, round(selection.fraction * devices))
        case "over":
            assert selection.count is not None and selection.over is not None
            participants, need = selection.count + selection.over, selection.count
        case "all":
            pass
    return Asked(participants, need, selection.window)
