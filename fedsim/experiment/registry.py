"""What a scenario may name: the catalogues of all layers, and what third-party packages registered."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points
from typing import Any, Final

from fedsim.data import PARTITIONS, names
from fedsim.errors import UserError
from fedsim.learning.optimizers import OPTIMIZERS
from fedsim.models.catalogue import option_types
from fedsim.models.options import Auxiliary
from fedsim.pruning.methods import METHODS
from fedsim.scenario import Registry
from fedsim.schedulers.catalogue import SCHEDULERS


def _with_plugins(own: Mapping[str, type[Any]], group: str) -> dict[str, type[Any]]:
    """Our own names and those of installed packages; ours win."""
    found = dict(own)
    for point in entry_points(group=group):
        if point.name in found:
            continue
        try:
            found[point.name] = point.load()
        except Exception as error:  # a broken plug-in may raise anything
            raise UserError(
                f"the {group} entry point {point.name} = {point.value} cannot be loaded ({error}); "
                "mend or uninstall the package that declares it"
            ) from error
    return found


FILES: Final = ("numpy", "text")
"""Data sets that are a file: `path` says which."""


@cache
def registry() -> Registry:
    """The registry of this installation."""
    return Registry(
        schedulers=_with_plugins(SCHEDULERS, "fedsim.schedulers"),
        models=option_types(),
        partitions=PARTITIONS,
        optimizers=OPTIMIZERS,
        data=(*names(), *FILES),
        auxiliary=Auxiliary,
        pruners=_with_plugins(METHODS, "fedsim.pruners"),
    )
