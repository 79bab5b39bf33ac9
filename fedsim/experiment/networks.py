"""Networks with their initial weights, seeded or trained: those of the catalogue, and the user's own.

The user's own is `module:name` or an object, called with the keyword arguments `input`, `classes` and `norm` besides
its own options; it returns a `UnitList`. A dataclass holds its options as fields and is called itself.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from fedsim.data import DataInfo
from fedsim.errors import UserError
from fedsim.experiment.placing import placed
from fedsim.experiment.starting import fill
from fedsim.models.catalogue import ENTRIES
from fedsim.scenario import Arguments, Scenario, import_object

if TYPE_CHECKING:
    from fedsim.models.measure import ModelMeasure
    from fedsim.models.units import UnitList

NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


def build_network(
    name: str,
    options: Any,
    *,
    input: tuple[int, ...],
    classes: int,
    kind: str,
    norm: str,
    dtype: str,
    seed: int = 0,
    objects: Mapping[str, Any] = NOTHING,
    device: str = "cpu",
    weights: Path | None = None,
) -> UnitList:
    """A network; `objects` holds what names of the form `module:name` stand for, if not an import.

    On the device `meta` it has shapes only. Trained `weights`, of a run folder or a file, replace the seeded ones.

    Raises:
        UserError: no such network, it does not take this data or these options, or the weights are not its own.
    """
    from fedsim.models.building import build

    maker: str | Callable[..., UnitList] = name
    if ":" in name:
        maker = _own(name, options, objects)
    network = build(
        maker, options, input=input, classes=classes, kind=kind, norm=norm, dtype=dtype, device=device, seed=seed
    )
    if weights is not None:
        fill(network, weights)
    return network


def scenario_network(
    scenario: Scenario, info: DataInfo, objects: Mapping[str, Any], device: str = "cpu", *, pruned: bool = False
) -> UnitList:
    """The scenario's network with its initial weights, trained ones if it names some; on `meta`, its shapes.

    With `learning: off` trained weights are read only where it is `pruned`, for what a method keeps depends on them.
    """
    with placed(scenario, "model"):
        return build_network(
            scenario.model.name,
            scenario.model.options,
            input=info.shape,
            classes=info.classes,
            kind=info.kind,
            norm=scenario.norm,
            dtype=scenario.training.dtype,
            seed=scenario.seed,
            objects=objects,
            device=device,
            weights=scenario.model.weights if scenario.learning or pruned else None,
        )


def is_heavy(name: str) -> bool:
    """Whether a model is better counted on the device `meta`; those of the user's own may not work there."""
    return name in ENTRIES and ENTRIES[name].heavy


def counting_device(scenario: Scenario) -> str:
    """Where the scenario's network is counted."""
    return "meta" if is_heavy(scenario.model.name) else "cpu"


def measured(network: UnitList) -> ModelMeasure:
    """What a network costs."""
    from fedsim.models.counting import measure

    return measure(network)


class Counted:
    """What networks of one architecture cost, each shape of them counted once.

    On the `meta` device where that is cheaper, as for the scenario's own model, whose measure is given.
    """

    def __init__(self, scenario: Scenario, info: DataInfo, objects: Mapping[str, Any], whole: ModelMeasure) -> None:
        self._scenario, self._info, self._objects = scenario, info, objects
        shapes = tuple((s.name, s.shape) for unit in whole.units for s in (*unit.parameters, *unit.buffers))
        self._known = {frozenset(shapes): whole}

    def __call__(self, network: UnitList) -> ModelMeasure:
        """The costs of a network."""
        from fedsim.pruning.resizing import resize

        shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
        key = frozenset(shapes.items())
        if key not in self._known:
            if counting_device(self._scenario) == "meta":
                network = scenario_network(self._scenario, self._info, self._objects, "meta")
                resize(network, shapes)
            self._known[key] = measured(network)
        return self._known[key]


def _own(name: str, options: Any, objects: Mapping[str, Any]) -> Callable[..., UnitList]:
    target = objects.get(name)
    if target is None:
        target = import_object(name)
    given = options.keywords() if isinstance(options, Arguments) else {}
    if is_dataclass(options) and not isinstance(options, Arguments):
        target = options
    if not callable(target):
        raise UserError(f"model {name} cannot be called; give it __call__(*, input, classes, norm)")

    def make(*, options: Any, **shape: Any) -> UnitList:
        try:
            inspect.signature(target).bind(**{**given, **shape})
        except TypeError as error:
            raise UserError(
                f"model {name} cannot be called with {', '.join({**given, **shape})}: {error}; "
                "it takes the keyword arguments input, classes and norm, and its own options"
            ) from error
        made: UnitList = target(**{**given, **shape})
        return made

    make.__name__ = name
    return make
