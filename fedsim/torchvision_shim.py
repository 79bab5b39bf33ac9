"""Imports torchvision where its C++ operators cannot load.

PyPI's torchvision wheels for Linux are CUDA builds. Beside a CPU-only torch their extension `_C` does not load, and
`import torchvision` then raises `operator torchvision::nms does not exist`, because the package registers fake
kernels for operators that nobody declared. Models, data sets and transforms need none of them. So this module
declares the schemas of the missing operators (`nms`, `qnms`) through `torch.library` when, and only when, the
extension did not load. The operators stay without a kernel: calling one still raises.

Whatever imports torchvision by itself (transformers does) has to come after `import_torchvision()`.
"""

from __future__ import annotations

import importlib
import sys
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, FileFinder
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Final

SCHEMAS: Final = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
"""The operators for which torchvision registers fake kernels at import, as its C++ source declares them."""

_declared: Final[list[Any]] = []  # torch drops the operators of a library that nobody refers to


def import_torchvision() -> ModuleType:
    """`torchvision`, imported so that it works beside any build of torch; cheap to call again.

    Raises:
        ImportError: torchvision is not installed.
    """
    if "torchvision" not in sys.modules and not _extension_loads():
        _declare_missing()
    return importlib.import_module("torchvision")


def _extension_loads() -> bool:
    """Load torchvision's C++ operators as torchvision would, and say whether that worked."""
    import torch

    package = find_spec("torchvision")  # locates the package without running it
    if package is None or not package.submodule_search_locations:
        return True  # nothing to mend; the import itself says what is wrong
    folder = package.submodule_search_locations[0]
    extension = FileFinder(folder, (ExtensionFileLoader, EXTENSION_SUFFIXES)).find_spec("_C")
    if extension is None or extension.origin is None:
        return False
    try:
        torch.ops.load_library(extension.origin)
    except OSError:
        return False
    return True


def _declare_missing() -> None:
    import torch

    missing = [schema for name, schema in SCHEMAS.items() if not hasattr(torch.ops.torchvision, name)]
    if missing:
        define: Any = torch.library.Library  # Any: torch leaves this class without types
        library = define("torchvision", "FRAGMENT")
        for schema in missing:
            library.define(schema)
        _declared.append(library)
