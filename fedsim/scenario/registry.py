"""What a scenario may name, handed in by the layer above, and the import of `module:Class` names.

Knows names and types, nothing of what a scheduler, a model or a data set does.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from fedsim.errors import UserError, nearest, shown

_IMPORTED: Final = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*:[^\W\d]\w*(?:\.[^\W\d]\w*)*")


def import_object(name: str) -> object:
    """The object of a name such as `my_package.schedulers:Mine`.

    Raises:
        UserError: the name is malformed, the module cannot be imported, or the object is not in it.
    """
    if not _IMPORTED.fullmatch(name):
        raise UserError(f"{shown(name)} is no name to import; write module:Class, as in my_package.systems:Mine")
    module_name, _, attributes = name.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
    except ImportError as error:
        way_out = "install it, or put its folder on PYTHONPATH"
        raise UserError(f"{shown(name)}: module {module_name} cannot be imported ({error}); {way_out}") from error
    except Exception as error:  # the user's module may raise anything while it is imported
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"{shown(name)}: importing {module_name} failed with {reason}; mend the module") from error
    for attribute in attributes.split("."):
        if not hasattr(found, attribute):
            public = [word for word in dir(found) if not word.startswith("_")]
            hint = nearest(attribute, public) or "check the spelling"
            raise UserError(f"{shown(name)}: there is no {attribute} in {module_name}; {hint}")
        found = getattr(found, attribute)
    return found


@dataclass(frozen=True, kw_only=True)
class Registry:
    """The names a scenario may use, each with the dataclass type whose fields are its options."""

    schedulers: Mapping[str, type]
    """A scheduler is a frozen dataclass; its fields are its options."""
    models: Mapping[str, type]
    """The dataclass of a model's options."""
    partitions: Mapping[str, type]
    """The dataclass of a partition's options; `iid`, the default, should be among them."""
    optimizers: Mapping[str, type]
    """The dataclass of an optimizer's options; `sgd`, the default, should be among them."""
    data: Collection[str]
    """Data sets take no options."""
    auxiliary: type | None = None
    """The dataclass of an auxiliary head's options, each with a default; None: heads have none."""
    pruners: Mapping[str, type] = field(default_factory=dict)
    """The dataclass of a pruning method's options."""
    resolve: Callable[[str], object] = field(default=import_object)
    """The object of a `module:Class` name; raises `UserError`."""


@dataclass(frozen=True)
class Arguments:
    """The options of an imported model that is a function or a class, not a dataclass; checked by name only."""

    values: tuple[tuple[str, Any], ...] = ()

    def keywords(self) -> dict[str, Any]:
        """The options as keyword arguments."""
        return dict(self.values)
