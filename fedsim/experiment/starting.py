"""Trained weights that a network starts from: those of a run folder, or of a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from fedsim.errors import UserError

if TYPE_CHECKING:
    from fedsim.models.units import UnitList

WEIGHTS: Final = "model.safetensors"
"""The file of a run folder that holds the trained model."""

_LISTED: Final = 3  # differences that a message names


def fill(network: UnitList, path: Path) -> None:
    """Put trained weights into a network; on the device `meta`, only see whether they would fit.

    Args:
        path: a run folder, or a file in safetensors format with all tensors of the network by name.

    Raises:
        UserError: nothing is there, it cannot be read, or it holds the weights of another network.
    """
    from safetensors import SafetensorError, safe_open

    file = path
    try:
        if path.is_dir():
            file = path / WEIGHTS
        if not file.is_file():
            raise UserError(f"there are no weights in {path}; give the folder of a run with learning: on, or a file")
        with safe_open(file, framework="pt") as opened:
            names = list(opened.keys())
            _compare(network, file, {name: tuple(opened.get_slice(name).get_shape()) for name in names})
            if not any(tensor.is_meta for tensor in network.parameters()):
                network.load_state_dict({name: opened.get_tensor(name) for name in names})
    except (OSError, SafetensorError) as error:
        raise UserError(f"the weights in {file} cannot be read ({error}); save them again") from error


def _compare(network: UnitList, file: Path, found: dict[str, tuple[int, ...]]) -> None:
    """Refuse weights that are not, by name and shape, those of the network."""
    wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    wrong = []
    for name, shape in wanted.items():
        if name not in found:
            wrong.append(f"{name} is not there")
        elif found[name] != shape:
            wrong.append(f"{name} is {found[name]} there, but {shape} here")
    wrong += [f"there is no {name} here" for name in found if name not in wanted]
    if wrong:
        more = f"; and {len(wrong) - _LISTED} more" if len(wrong) > _LISTED else ""
        raise UserError(
            f"the weights in {file} are not those of this {network.name}: {'; '.join(wrong[:_LISTED])}{more}; "
            "give those of the same model, with the same options, norm and kind of data"
        )
