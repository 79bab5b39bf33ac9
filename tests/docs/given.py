"""What blocks of Python presuppose: a page says `<!-- given: NAME -->` above such a block."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from tests.docs.running import called, words


def small() -> dict[str, Any]:
    """The folder of a pruned model."""
    command = "prune lenet5 --input 1x28x28 --set 'budget.params=50 %' --set iterations=2 --out small"
    status, said = called(words(command))
    assert status == 0, said
    return {"Path": Path}


def pictures() -> dict[str, Any]:
    """A network for images."""
    import torch

    from fedsim.models.building import build
    from fedsim.models.options import Plain

    shape = (1, 28, 28)
    model = build("lenet5", Plain(), input=shape, classes=10, kind="image", device="cpu", seed=0)
    return {"model": model, "example": torch.zeros(2, *shape)}


def language() -> dict[str, Any]:
    """A language model, and pieces of a text."""
    import torch

    from fedsim.models.building import build
    from fedsim.models.options import Llama
    from fedsim.pruning import mosaic

    options = Llama(blocks=1, width=16, heads=2)
    model = build("llama", options, input=(16,), classes=64, kind="text", device="cpu", seed=0)
    windows = torch.randint(0, 64, (4, 16), generator=torch.Generator().manual_seed(0))
    return {"model": model, "windows": windows, "mosaic": mosaic, "ranking": mosaic.rank(model, windows)}


GIVEN: Final[dict[str, Callable[[], dict[str, Any]]]] = {"small": small, "pictures": pictures, "language": language}
"""By name; each answers with what is known by then."""
