"""`nodes.csv` and `curves.csv`: a row a node, and a row an evaluation.

An empty cell is a figure that this run does not have.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from fedsim.report.columns import SECOND
from fedsim.report.contributions import STEPS
from fedsim.report.idle import CAUSES
from fedsim.report.measures import Measures, finite
from fedsim.report.traffic import DIRECTIONS
from fedsim.trace import PURPOSES

CURVES: Final = ("time", "round", "version", "accuracy", "loss", "samples")
BYTES: Final = tuple(f"bytes_{direction}_{purpose}" for direction in DIRECTIONS for purpose in PURPOSES)
NODES: Final = (
    *("node", "name", "profile", "group", "active_s", "busy_s"),
    *(f"{cause}_s" for cause in CAUSES),
    *("idle", "idle_whole_run"),
    *BYTES,
    *("macs", "macs_forward", "macs_backward", "macs_head", "macs_wasted"),
    *("samples", "peak_memory_bytes", "joules", "contributions"),
    *STEPS,
)


def node_rows(measures: Measures, limit: int | None = None) -> list[tuple[Any, ...]]:
    """The rows of `nodes.csv` in the order of `NODES`: of all nodes, or of the first `limit`."""
    count = len(measures.columns.nodes) if limit is None else min(limit, len(measures.columns.nodes))
    nodes, accounts = measures.columns.nodes[:count], measures.accounts
    seconds = np.vstack((accounts.horizon, accounts.busy, accounts.idle))[:, :count] / SECOND
    amounts = measures.traffic.delivered.reshape(len(BYTES), -1)[:, :count]
    return list(
        zip(
            *([getattr(node, key) for node in nodes] for key in ("number", "name", "profile", "group")),
            *seconds.tolist(),
            *(
                [finite(share) for share in column[:count].tolist()]
                for column in (measures.idle, measures.idle_whole_run)
            ),
            *amounts.tolist(),
            *(column[:count].tolist() for column in (measures.macs, measures.forward_macs, measures.backward_macs)),
            measures.head_macs[:count].tolist() if measures.head_macs.any() else [None] * count,
            measures.wasted_macs[:count].tolist(),
            measures.samples[:count].tolist(),
            [None if math.isnan(peak) else int(peak) for peak in measures.peak_memory[:count].tolist()],
            [finite(joules) for joules in measures.joules[:count].tolist()],
            *(_given(measures, name, count) for name in ("counts", *STEPS)),
            strict=True,
        )
    )


def _given(measures: Measures, name: str, count: int) -> list[int | None]:
    """One of the counts of contributions; the server gives none."""
    given = getattr(measures.contributions, name)
    if given is None:
        return [None] * count
    return [
        number if device else None
        for number, device in zip(given[:count].tolist(), measures.columns.devices[:count].tolist(), strict=True)
    ]


def curve_rows(measures: Measures) -> list[tuple[Any, ...]]:
    """The rows of `curves.csv` in the order of `CURVES`, and of `variant_columns` behind."""
    rows: list[tuple[Any, ...]] = []
    for point in measures.curve:
        order = (None if number < 0 else number for number in (point.round, point.version))
        rows.append((point.time, *order, _known(point.accuracy), _known(point.loss), point.trained))
        rows[-1] += tuple(_known(value) for each in point.variants for value in each)
    return rows


def variant_columns(measures: Measures) -> tuple[str, ...]:
    """What `curves.csv` has beside, where variants are models of their own: two columns each."""
    count = max((len(point.variants) for point in measures.curve), default=0)
    return tuple(f"{name}_{number}" for number in range(1, count + 1) for name in ("accuracy", "loss"))


def write_nodes(path: Path, measures: Measures) -> None:
    """Write `nodes.csv`."""
    _write(path, NODES, node_rows(measures))


def write_curves(path: Path, measures: Measures) -> None:
    """Write `curves.csv`."""
    _write(path, (*CURVES, *variant_columns(measures)), curve_rows(measures))


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _write(path: Path, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(head)
        writer.writerows(rows)
