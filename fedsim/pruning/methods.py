"""Pruning methods behind one seam: study the model once, plan for a size, cut and verify, finish.

A method is a frozen dataclass whose fields are its options. Ours (`METHODS`) are implemented by the packages that they
are named after; one of the user's own has the functions of `Method` itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Protocol, runtime_checkable

from fedsim.errors import UserError
from fedsim.pruning.mosaic.options import Mosaic
from fedsim.pruning.reconvene.options import Reconvene

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fedsim.hardware.machines import Machine
    from fedsim.pruning.checks import Checks
    from fedsim.pruning.mosaic.calibration import Calibration
    from fedsim.pruning.plans import Plan
    from fedsim.pruning.pruned import Pruned


@dataclass(frozen=True, kw_only=True)
class Material:
    """What a method may look at beside the model.

    Everything that takes data is a function, so that methods without need of it look at none.
    """

    example: Tensor
    """One or two samples: what checks and counts run on."""
    scope: tuple[str, ...] = ()
    """Units whose tensors may shrink; empty: all of the model's."""
    protected: tuple[str, ...] = ()
    """Modules whose outputs keep their width."""
    batch: Callable[[int], tuple[Tensor, Tensor]] | None = None
    """Inputs and labels of so many samples of each class; None: there are no data."""
    windows: Callable[[], Tensor | Calibration] | None = None
    """Pieces of text, `windows length` tokens, maybe with what is known of them; None: there is no text."""
    private: bool = True
    """Whether these are data of the devices, rather than public."""
    pretrained: bool = False
    """Whether the model has been trained already."""
    machine: Machine | None = None
    """The device that the model is for, by which time and memory are priced; None: none is known."""
    slots: int = 0
    """Values of optimizer state a parameter."""
    units: int | None = None
    """How many of the first units the device has; None: all, and the loss behind them."""
    memory: Callable[[nn.Module], int] | None = None
    """Bytes of model, training state and a step that the device needs for the model; None: no device is known."""
    trains: bool = True
    """Whether the device trains it."""
    samples: int = 1
    """Samples of a step, for budgets of memory."""
    seed: int = 0


@runtime_checkable
class Method(Protocol):
    """How a model is pruned."""

    def study(self, model: nn.Module, material: Material) -> Any:
        """What all plans for a model need: scores, or a ranking. It takes the time, and is done once."""
        ...

    def plan(self, model: nn.Module, study: Any, material: Material, within: Plan | None = None) -> Plan:
        """What is to go, by the options. `within` is the plan of a larger variant, of whose units some stay."""
        ...

    def apply(self, model: nn.Module, plan: Plan, material: Material) -> tuple[Pruned, Checks]:
        """The cut, verified; the model stays as it is."""
        ...

    def finish(self, pruned: Pruned, material: Material) -> Pruned:
        """What comes behind the cut: new initial values, or weights that are set to zero."""
        ...

    def renew(self, model: nn.Module, layers: Iterable[str], material: Material) -> None:
        """New initial values for layers of a model, in place, if that is what `finish` gives to layers that were cut.

        For a model of which several variants are parts: they share its values.
        """
        ...

    def macs(self, model: nn.Module, plan: Plan, material: Material, *, study: bool = True) -> int:
        """What making this variant takes: multiply-accumulates in closed form, not as measured.

        Args:
            study: whether the study is counted, too; variants that share one take it once.
        """
        ...

    def sized(self, share: float) -> Method:
        """The same method, asked to leave this share of the parameters in scope."""
        ...

    @property
    def studied(self) -> str:
        """What of the options a study depends on: those for which this is equal can share one."""
        ...


_FUNCTIONS: Final = ("study", "plan", "apply", "finish", "renew", "macs", "sized", "studied")

METHODS: Final[Mapping[str, type[Any]]] = MappingProxyType({"reconvene": Reconvene, "mosaic": Mosaic})
"""The options of our methods, by name."""


def method(options: Any) -> Method:
    """Whoever prunes as these options say.

    Raises:
        UserError: they are of nobody's.
    """
    match options:
        case Reconvene():
            from fedsim.pruning.reconvene.method import ReconveneMethod

            return ReconveneMethod(options)
        case Mosaic():
            from fedsim.pruning.mosaic.method import MosaicMethod

            return MosaicMethod(options)
        case Method():
            return options
        case _:
            pass
    kind = type(options)
    missing = [name for name in _FUNCTIONS if not hasattr(kind, name)]
    raise UserError(
        f"pruning method {kind.__module__}:{kind.__qualname__} has no {' and no '.join(missing)}; a method has the "
        f"functions {', '.join(_FUNCTIONS)} (fedsim.pruning.methods.Method)"
    )
