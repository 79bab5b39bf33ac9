"""Plans: what is to be removed from which model, before anything is. Plain data without tensors.

The same model, scores and options give the same plan, byte for byte.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final, Literal

Kind = Literal["filters", "features", "kv_groups", "query_heads", "mlp_channels"]
"""What is kept or removed as a whole: output channels of a convolution, outputs of a linear layer, groups of heads
with their key and value head, the same number of query heads in every group, channels of a gated MLP."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What stays of the units of one layer."""

    layer: str
    """The module's name in the parent; of several that are coupled, the first."""
    kind: Kind
    of: int
    """How many units the parent has there."""
    indices: tuple[int, ...]
    """The units that stay, ascending."""


Privacy = Literal["data-free", "public", "device-private"]
_PRIVACY: Final[tuple[Privacy, ...]] = ("data-free", "public", "device-private")
"""From what reveals least to what reveals most."""


def most_private(*found: Privacy) -> Privacy:
    """What something depends on that depends on all of these."""
    return max(found, key=_PRIVACY.index)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What one pruning does to one parent.

    First the units that `kept` does not list are cut out; then, where `sparsity` names a matrix, that share of the
    weights that are left in it is set to zero.
    """

    method: str
    """`reconvene`, `mosaic`, or the name of a user's own."""
    parent: str
    """Fingerprint of the model that it was made for."""
    seed: int
    options: Mapping[str, Any]
    """The resolved options, as JSON takes them."""
    source: str
    """Hash of the scores or the ranking that it was made from."""
    kept: tuple[Kept, ...]
    sparsity: Mapping[str, float] = field(default_factory=dict)
    """By matrix: the share of the weights left after the cut that become zero."""
    protected: tuple[str, ...] = ()
    """Layers whose outputs must stay whole."""
    parameters: int
    """Parameters after the cut, counted before it."""
    macs: int | None = None
    """Forward MACs of a sample after the cut; None where the planner does not predict them."""
    privacy: Privacy
    """What the choice depends on: no data, public data, or data of the devices."""

    def depending(self, privacy: Privacy) -> Plan:
        """The same, where it depends on that, too."""
        return replace(self, privacy=most_private(self.privacy, privacy))

    @property
    def cuts(self) -> bool:
        """Whether units are removed."""
        return any(len(kept.indices) < kept.of for kept in self.kept)

    def text(self) -> str:
        """The plan as JSON, in one form only."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), allow_nan=False)

    @classmethod
    def parse(cls, text: str) -> Plan:
        """The plan of a JSON text that `text` has made."""
        said = json.loads(text)
        kept = tuple(Kept(**{**each, "indices": tuple(each["indices"])}) for each in said.pop("kept"))
        return cls(**{**said, "kept": kept, "protected": tuple(said["protected"])})

    @property
    def digest(self) -> str:
        """A hash of the plan, in hexadecimal digits."""
        return hashlib.sha256(self.text().encode()).hexdigest()
