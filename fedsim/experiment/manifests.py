"""Variants of a scenario that `fedsim prune` has made before: `pruning: {manifest: FOLDER}`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fedsim.scenario import Scenario

if TYPE_CHECKING:
    from fedsim.models.units import UnitList
    from fedsim.pruning.methods import Method


def overruled(variants: Iterable[tuple[Method, UnitList, Sequence[int]]]) -> Iterator[str]:
    """What to say of folders whose values are not those that their devices begin with.

    Args:
        variants: of a run: the method, the network that its devices get, their groups.
    """
    for method, network, groups in variants:
        values = getattr(method, "values", None)  # of a folder
        found = network.state_dict()
        if values and not all(tensor.equal(found[name]) for name, tensor in values.items()):
            named = ", ".join(str(group) for group in groups)
            yield (
                f"the devices of group {named} begin with other values than {getattr(method, 'folder', 'their folder')}"
                " has: variants are parts of one model, which has the values of the largest of them"
            )


def from_manifest(scenario: Scenario, network: UnitList, place: Path) -> Method:
    """The variant of a folder, as a method that has been carried out.

    A run that learns needs the very weights that were pruned; one that does not only sees shapes, and opens no tensors.

    Raises:
        UserError: the folder is damaged, or of another model.
    """
    from fedsim.pruning.installing import installed

    return installed(place, network, values=scenario.learning)
