"""What the five checks after a cut have found. Plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Checks:
    """A cut that passed: whoever has one of these has a verified model. Failures are raised."""

    gradients: int
    """How many tensors the backward reached, behind a forward on the example."""
    difference: float
    """The greatest difference between an output of a layer and that of the parent with what was removed held at zero,
    as a share of the greatest output of the layer there."""
    compared: int
    """How many outputs of layers that compares, the model's own included."""
    tolerance: float
    parameters: int
    """As counted, and as the plan has predicted."""
    removed: int
    """Parameters that the parent has more."""
    shared: tuple[tuple[str, ...], ...]
    """Names of the tensors that are one and the same, in the parent and in the smaller model."""

    def rows(self) -> tuple[tuple[str, str], ...]:
        """Name and finding of each check, for people."""
        ties = ", ".join(" = ".join(names) for names in self.shared)
        return (
            ("runs", f"forward, and backward to {self.gradients} tensors"),
            ("equivalent", f"{self.difference:.1g} at most over {self.compared} outputs, {self.tolerance:g} allowed"),
            ("predicted size", f"{self.parameters:,} parameters, as planned"),
            ("something removed", f"{self.removed:,} parameters" if self.removed else "nothing, as was asked for"),
            ("shared weights", ties or "none in the parent, none now"),
        )

    def data(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self)

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Checks:
        """What `data` has given.

        Raises:
            ValueError: fields are missing or unknown.
        """
        known = {field.name for field in fields(cls)}
        if data.keys() != known:
            raise ValueError(f"checks have {', '.join(sorted(known))}, not {', '.join(sorted(data)) or 'none'}")
        return cls(**{**data, "shared": tuple(tuple(names) for names in data["shared"])})
