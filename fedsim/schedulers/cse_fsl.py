"""CSE-FSL: federated split learning on local losses with one server block and few uploads.

Mu, Shen, "Federated Split Learning with Improved Communication and Storage Efficiency", arXiv 2507.15816. What differs
from `locsplitfed`, where the scripts stand: the server has one block, which takes a step on whatever arrives, and
devices send the activations of every h-th batch only. The default h is that of the code of FSL-SAGE, which compares
with CSE-FSL.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fedsim.schedulers.locsplitfed import LocSplitFed


@dataclass(frozen=True, kw_only=True)
class CseFsl(LocSplitFed):
    """Communication and storage efficient federated split learning."""

    upload_every: int = 5  # h
    """Every how many batches of a round the activations are sent, from the first on."""

    shared: ClassVar[bool] = True
