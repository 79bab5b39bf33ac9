"""Variants of a scenario that `fedsim prune` has made before: `pruning: {manifest: FOLDER}`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fedsim.scenario import Scenario

if TYPE_CHECKING:
    from fedsim.models.units import UnitList
    from fedsim.pruning.methods import Method


def from_manifest(scenario: Scenario, network: UnitList, place: Path) -> Method:
    """The variant of a folder, as a method that has been carried out.

    A run that learns needs the very weights that were pruned; one that does not only sees shapes, and opens no tensors.

    Raises:
        UserError: the folder is damaged, or of another model.
    """
    from fedsim.pruning.installing import installed

    return installed(place, network, values=scenario.learning)
