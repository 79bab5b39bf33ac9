"""Data sets and tokenizers of the user's own: `module:Class`, found and called with clear errors.

Errors raised inside the user's code pass through as they are.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.data.arrays import chosen
from fedsim.data.catalogue import DataInfo
from fedsim.data.dataset import DataSet, from_arrays, read_only
from fedsim.errors import UserError, nearest


def resolve(reference: str, what: str) -> Callable[..., Any]:
    """The callable that `module:attribute` names; dots in the attribute reach inside classes.

    Raises:
        UserError: the module or the attribute does not exist, or it cannot be called.
    """
    module_name, _, attribute = reference.partition(":")
    if not module_name or not attribute:
        raise UserError(f"{what} {reference!r}: write it as module:Class, like mypackage.data:Readings")
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the user's module exists; something that it imports does not
        raise UserError(
            f"{what} {reference!r}: there is no module {error.name!r}; install it or put its folder on PYTHONPATH"
        ) from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            hint = nearest(part, [name for name in dir(found) if not name.startswith("_")])
            raise UserError(f"{what} {reference!r}: {module_name} has no {part!r}; {hint or 'check the name'}")
        found = getattr(found, part)
    if not callable(found):
        raise UserError(f"{what} {reference!r} is a {type(found).__name__}; it must be a class or a function")
    target: Callable[..., Any] = found
    return target


def call(target: Callable[..., Any], reference: str, arguments: Mapping[str, Any]) -> Any:
    """`target(**arguments)`; arguments that its signature does not take are the user's error."""
    try:
        inspect.signature(target).bind(**arguments)
    except TypeError as error:
        raise UserError(f"{reference} cannot be called with {dict(arguments)}: {error}; mend `options`") from error
    except ValueError:  # a callable without a signature, written in C
        pass
    return target(**arguments)


@dataclass(frozen=True)
class Custom:
    """Takes the data set that the user's callable returns, made once."""

    target: Callable[..., Any]
    reference: str
    arguments: Mapping[str, Any]

    def info(self) -> DataInfo:
        """Of the data set itself, which has to be made for it."""
        return self._made.info

    def read(self, info: DataInfo, rows: NDArray[np.int64] | None) -> DataSet:
        """The user's data set, cut and fitted as wanted; its mean and deviation stay."""
        return replace(chosen(self._made, info, rows), mean=self._made.mean, std=self._made.std)

    @cached_property
    def _made(self) -> DataSet:
        made = call(self.target, self.reference, self.arguments)
        if not isinstance(made, DataSet):
            raise UserError(
                f"data set {self.reference} returned a {type(made).__name__}; "
                "it must return a fedsim.data.DataSet, which fedsim.data.from_arrays makes"
            )
        checked = from_arrays(
            made.train.inputs,
            made.train.labels,
            made.test.inputs,
            made.test.labels,
            made.train.owners,
            name=made.info.name,
            classes=made.info.classes,
        )
        if made.mean is None or made.std is None:
            return checked
        return replace(checked, mean=read_only(made.mean), std=read_only(made.std))
