"""What commands do, a table of methods a module: functions of a host's core, a node, a learner and arguments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from fedsim.learning.core import Operation
from fedsim.learning.operations import aligning, averaging, controlling, generating, holding, merging, pooling, stepping

OPERATIONS: Final[Mapping[str, Operation]] = {
    **holding.METHODS,
    **stepping.METHODS,
    **averaging.METHODS,
    **controlling.METHODS,
    **pooling.METHODS,
    **merging.METHODS,
    **generating.METHODS,
    **aligning.METHODS,
}
"""By the method that a command names."""
