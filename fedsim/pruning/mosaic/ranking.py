"""Rankings: what one dense forward over the calibration windows says of a model. One serves every target and policy.

The metric follows from the weights and `norms`, so it is not kept, and outliers by another factor need no forward.
A file holds vectors as safetensors, and the rest as JSON in its header: under 1 MB for 30 blocks of width 576.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from torch import Tensor, nn

from fedsim.errors import UserError
from fedsim.pruning.mosaic.adapters import PROJECTIONS, READERS, Adapter, Block, Projection, adapter, found, matrix
from fedsim.pruning.mosaic.calibration import Privacy, Windows, calibrated
from fedsim.pruning.mosaic.options import Mosaic, Score
from fedsim.pruning.mosaic.outliers import Norms, distribution
from fedsim.pruning.mosaic.scores import UnitScores, by_fluctuation, by_loss, by_magnitude, by_metric, gathered
from fedsim.pruning.mosaic.streaming import Stream, reading
from fedsim.pruning.pruned import fingerprint

_FORMAT: Final = "fedsim-ranking-1"


@dataclass(frozen=True, kw_only=True)
class BlockRanking:
    """What is known of one decoder block."""

    name: str
    norms: Norms  # x
    """In float32."""
    outliers: Mapping[Projection, float]  # R[n, p]
    """Percentage of each projection's weights that stand out."""
    all_outliers: float  # R_all[n]
    """Percentage over the seven projections together."""
    units: UnitScores
    """In float32."""


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """What is known of a model, block by block."""

    parent: str
    """Fingerprint of the model."""
    calibration: Mapping[str, Any]
    """What the windows are: sizes, hash, text, tokenizer."""
    outlier_factor: float  # M
    unit_score: Score
    blocks: tuple[BlockRanking, ...]

    @property
    def privacy(self) -> Privacy:
        """Whose data the windows are."""
        return "device-private" if self.calibration["privacy"] == "device-private" else "public"

    @property
    def digest(self) -> str:
        """A hash of all that a file holds, in hexadecimal digits."""
        made = hashlib.sha256(self._text().encode())
        for name, tensor in sorted(self._vectors().items()):
            made.update(name.encode())
            made.update(tensor.numpy().tobytes())
        return made.hexdigest()

    def distribution(
        self, model: nn.Module, blocks: tuple[Block, ...], factor: float
    ) -> list[tuple[Mapping[Projection, float], float]]:
        """Percentages of outliers by block: of each projection, and of all seven. No forward, whatever the factor.

        Raises:
            UserError: a metric is not finite.
        """
        if factor == self.outlier_factor:
            return [(ranked.outliers, ranked.all_outliers) for ranked in self.blocks]
        return [
            distribution(block, partial(matrix, model, block), ranked.norms, factor)
            for block, ranked in zip(blocks, self.blocks, strict=True)
        ]

    def units(self, model: nn.Module, blocks: tuple[Block, ...], score: Score) -> list[UnitScores]:
        """Scores of units by block. Those of metric and magnitude follow from any ranking.

        Raises:
            UserError: others are in the ranking.
        """
        if score == self.unit_score:
            return [ranked.units for ranked in self.blocks]
        if score == "wanda":
            return [by_metric(model, b, ranked.norms) for b, ranked in zip(blocks, self.blocks, strict=True)]
        if score == "magnitude":
            return [by_magnitude(model, block) for block in blocks]
        raise UserError(
            f"unit_score {score} needs a pass of its own over the calibration windows, but the ranking was made for "
            f"{self.unit_score}; rank the model again with unit_score: {score}"
        )

    def save(self, file: Path) -> None:
        """Write a ranking; the same ranking gives the same bytes."""
        from safetensors.torch import save_file

        file.parent.mkdir(parents=True, exist_ok=True)
        save_file(self._vectors(), file, metadata={"ranking": self._text()})

    @classmethod
    def load(cls, file: Path) -> Ranking:
        """Read a ranking.

        Raises:
            UserError: the file is not there or is no ranking.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(file, framework="pt") as opened:
                said = json.loads((opened.metadata() or {}).get("ranking", "null"))
                vectors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  # no mapping
        except (OSError, SafetensorError, ValueError) as error:
            raise UserError(f"{file} cannot be read as a ranking ({error}); rank the model again") from error
        if not isinstance(said, dict) or said.get("format") != _FORMAT:
            raise UserError(f"{file} is no ranking that this version of fedsim has written; rank the model again")
        blocks = tuple(
            BlockRanking(
                name=block["name"],
                norms={reader: vectors[f"{number}.norms.{reader}"] for reader in _readers()},
                outliers=block["outliers"],
                all_outliers=block["all_outliers"],
                units=UnitScores(
                    **{kind: vectors[f"{number}.units.{kind}"] for kind in ("heads", "groups", "channels")}
                ),
            )
            for number, block in enumerate(said["blocks"])
        )
        return cls(
            parent=said["parent"],
            calibration=said["calibration"],
            outlier_factor=said["outlier_factor"],
            unit_score=said["unit_score"],
            blocks=blocks,
        )

    def _text(self) -> str:
        said = {
            "format": _FORMAT,
            "parent": self.parent,
            "calibration": self.calibration,
            "outlier_factor": self.outlier_factor,
            "unit_score": self.unit_score,
            "blocks": [
                {"name": b.name, "outliers": dict(b.outliers), "all_outliers": b.all_outliers} for b in self.blocks
            ],
        }
        return json.dumps(said, sort_keys=True, separators=(",", ":"), allow_nan=False)

    def _vectors(self) -> dict[str, Tensor]:
        vectors: dict[str, Tensor] = {}
        for number, block in enumerate(self.blocks):
            for reader, norms in block.norms.items():
                vectors[f"{number}.norms.{reader}"] = norms
            for kind in ("heads", "groups", "channels"):
                vectors[f"{number}.units.{kind}"] = getattr(block.units, kind)
        return vectors


def rank(model: nn.Module, windows: Windows, options: Mosaic | None = None) -> Ranking:
    """One forward over the windows, block by block; with `unit_score: taylor`, a backward of the model, too.

    The whole model is ranked, whatever the scope. It is left as it was.

    Raises:
        UserError: no decoder blocks; windows that the model cannot take; a metric that is not finite.
    """
    options = options or Mosaic()
    calibration = calibrated(windows)
    chosen = adapter(options.adapter)
    blocks = found(chosen, model)
    losses = (
        by_loss(model, chosen, blocks, calibration.tokens) if options.unit_score == "taylor" else [None] * len(blocks)
    )
    with reading(model):
        stream = Stream(model, chosen, blocks, calibration.tokens)
        ranked = [
            _ranked(model, stream, number, block, options, loss)
            for number, (block, loss) in enumerate(zip(blocks, losses, strict=True))
        ]
    return Ranking(
        parent=fingerprint(model),
        calibration=calibration.described(),
        outlier_factor=options.outlier_factor,
        unit_score=options.unit_score,
        blocks=tuple(ranked),
    )


def current(ranking: Ranking, model: nn.Module, options: Mosaic) -> tuple[Adapter, tuple[Block, ...]]:
    """The blocks of the model that a ranking was made of.

    Raises:
        UserError: it was made of another model.
    """
    chosen = adapter(options.adapter)
    blocks = found(chosen, model)
    names = [block.name for block in ranking.blocks]
    if ranking.parent != fingerprint(model) or [block.name for block in blocks] != names:
        raise UserError(
            f"the ranking was made of another model than this {type(model).__name__} (fingerprint "
            f"{ranking.parent[:12]}...); rank this one"
        )
    return chosen, blocks


def _readers() -> tuple[Projection, ...]:
    return tuple(dict.fromkeys(READERS[p] for p in PROJECTIONS))


def _ranked(
    model: nn.Module,
    stream: Stream,
    number: int,
    block: Block,
    options: Mosaic,
    loss: Mapping[Projection, Tensor] | None,
) -> BlockRanking:
    seen = stream.watch(model, number, block, hessian=False, onwards=True)
    norms = {reader: inputs.norms.float().cpu() for reader, inputs in seen.items()}
    own, together = distribution(block, partial(matrix, model, block), norms, options.outlier_factor)
    match options.unit_score:
        case "wanda":
            units = by_metric(model, block, norms)
        case "magnitude":
            units = by_magnitude(model, block)
        case "fluctuation":
            units = by_fluctuation(model, block, {reader: inputs.variances for reader, inputs in seen.items()})
        case "taylor":
            assert loss is not None
            units = gathered(block, lambda p: loss[p])
    return BlockRanking(name=block.name, norms=norms, outliers=own, all_outliers=together, units=_stored(units))


def _stored(units: UnitScores) -> UnitScores:
    return UnitScores(
        heads=units.heads.float().cpu(), groups=units.groups.float().cpu(), channels=units.channels.float().cpu()
    )
