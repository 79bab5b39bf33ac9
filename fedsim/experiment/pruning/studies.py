"""What a method has learnt of a model before it plans, in a file: written, and read again for other targets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedsim.errors import UserError
from fedsim.pruning.mosaic.options import Mosaic
from fedsim.pruning.reconvene.options import Reconvene

if TYPE_CHECKING:
    from torch import nn


def check_kept(options: Any, file: Path) -> None:
    """Refuse a file for a study that cannot be kept.

    Raises:
        UserError: it is of a method of the user's own.
    """
    if not isinstance(options, Mosaic | Reconvene):
        raise UserError(
            f"--ranking {file}: what {type(options).__name__} studies is not kept in files; leave --ranking out"
        )


def save(known: Any, file: Path) -> None:
    """Keep a study.

    Raises:
        UserError: the file cannot be written.
    """
    from safetensors import SafetensorError

    from fedsim.pruning.mosaic.ranking import Ranking
    from fedsim.pruning.reconvene import keeping

    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(known, Ranking):
            known.save(file)
        else:
            keeping.save(known, file)
    except (OSError, SafetensorError) as error:
        raise UserError(f"--ranking {file} cannot be written ({error}); name another file") from error


def load(file: Path, options: Any, model: nn.Module) -> Any:
    """A study that was kept.

    Raises:
        UserError: it is none, of another model, or was made with other options.
    """
    from fedsim.pruning.mosaic.ranking import Ranking
    from fedsim.pruning.pruned import fingerprint
    from fedsim.pruning.reconvene import keeping

    check_kept(options, file)
    known: Any = Ranking.load(file) if isinstance(options, Mosaic) else keeping.load(file)
    if known.parent != fingerprint(model):
        raise UserError(
            f"--ranking {file} was made of a model with other weights; name a file that does not exist, and it is made"
        )
    if isinstance(options, Reconvene):
        for name, there, asked in (
            ("score", known.score, options.score),
            ("iterations", known.steps, options.iterations),
            ("lowest_density", known.lowest, options.lowest_density),
        ):
            if there != asked:
                raise UserError(
                    f"--ranking {file} was made with {name} {there}, and now {name} is {asked}; set it as it was, or "
                    "name a file that does not exist"
                )
    return known
