"""Training of what Mosaic has pruned, on the text that it was pruned by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fedsim.errors import UserError
from fedsim.experiment.pruning.settings import built
from fedsim.pruning.mosaic.options import Mosaic, Recovery

if TYPE_CHECKING:
    from fedsim.experiment.pruning.running import Asked
    from fedsim.pruning.mosaic.calibration import Calibration
    from fedsim.pruning.pruned import Pruned


def recovery(asked: Asked, options: Any) -> Recovery | None:
    """How it is trained; None where it is not.

    Raises:
        UserError: another method has pruned it, or the options are wrong or for nothing.
    """
    given = asked.settings.recover
    if asked.recover is None:
        if given:
            raise UserError(
                f"--set recover.{next(iter(given))} is for training what was pruned, and that is not asked for; add "
                "--recover lora, or --recover full"
            )
        return None
    if not isinstance(options, Mosaic):
        raise UserError(f"--recover is for method mosaic, not for {type(options).__name__}; leave it out")
    if "kind" in given:
        raise UserError(f"--recover {asked.recover} says the kind already; leave --set recover.kind out")
    said = {"seed": asked.model.seed, **given, "kind": asked.recover}
    found: Recovery = built("recovery", asked.recover, {asked.recover: Recovery}, said, prefix="recover.")
    return found


def recovered(pruned: Pruned, text: Calibration, options: Recovery) -> Pruned:
    """It, trained.

    Raises:
        UserError: a loss is not finite.
    """
    from fedsim.pruning.mosaic import recover

    return recover(pruned, text, options)
