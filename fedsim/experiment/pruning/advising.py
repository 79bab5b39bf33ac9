"""The kind and the share of pruning that a device needs, in the place of those that Mosaic's options say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fedsim.errors import UserError
from fedsim.experiment.pruning.settings import built
from fedsim.pruning.mosaic.options import Mosaic
from fedsim.units import BYTES, SECONDS

if TYPE_CHECKING:
    from torch import nn

    from fedsim.experiment.pruning.running import Asked
    from fedsim.hardware.machines import Machine
    from fedsim.pruning.mosaic.calibration import Calibration
    from fedsim.pruning.mosaic.platforms import Advice, Needs
    from fedsim.pruning.mosaic.ranking import Ranking

_UNITS = {"seconds": SECONDS, "download": BYTES}


def needs(asked: Asked, options: Any) -> Needs | None:
    """What a device is asked to do with the model; None where no advice is wanted.

    Raises:
        UserError: it is wanted for another method or without a device, or it is not, and needs are given.
    """
    given = dict(asked.settings.needs)
    if not asked.advise:
        if given:
            raise UserError(f"--set needs.{next(iter(given))} is for advice, and none is asked for; add --advise")
        return None
    if not isinstance(options, Mosaic):
        raise UserError(
            f"--advise is for method mosaic, not for {type(options).__name__}; leave it out, and set a budget of "
            "memory or latency"
        )
    if asked.profile is None:
        raise UserError("--advise says what suits a device, and none is named; give --profile NAME")
    from fedsim.pruning.mosaic.platforms import Needs

    for key, unit in _UNITS.items():
        if given.get(key) is not None:
            try:
                value = unit.parse(given[key])
            except ValueError as error:
                raise UserError(f"--set needs.{key}: {error}") from error
            given[key] = round(value) if key == "download" else value
    found: Needs = built("device", "needs", {"needs": Needs}, given, prefix="needs.")
    return found


def advised(
    wanted: Needs,
    options: Mosaic,
    model: nn.Module,
    ranking: Ranking,
    device: Machine,
    text: Calibration | None,
    *,
    asked: Asked,
) -> Advice:
    """What suits the device. An `alpha` that was set is kept, so it is the kind that is taken whatever binds.

    Raises:
        UserError: no share does.
    """
    from fedsim.pruning.mosaic import advise
    from fedsim.pruning.mosaic.platforms import kind_of

    kind = kind_of(options.alpha) if "alpha" in asked.settings.method else None
    return advise(model, ranking, device, wanted, options, kind=kind, windows=text)
