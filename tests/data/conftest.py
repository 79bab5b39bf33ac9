"""What the tests of data sets share."""

from __future__ import annotations

import os
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with the real data sets; the test is skipped where there is none."""
    folder = Path(os.environ.get("FEDSIM_DATA") or REPOSITORY.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip("the real data sets are absent")
    return folder


def encoded(pixels: NDArray[np.uint8]) -> bytes:
    """A picture as PNG, which loses nothing."""
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def write_parquet(
    file: Path,
    pictures: list[NDArray[np.uint8]],
    labels: list[int],
    *,
    image: str = "img",
    label: str = "label",
    metadata: dict[bytes, bytes] | None = None,
    **columns: list[Any],
) -> None:
    """A tiny data set in Hugging Face's schema, three samples a row group."""
    structs = [{"bytes": encoded(picture), "path": f"{i}.png"} for i, picture in enumerate(pictures)]
    table = pa.table({image: structs, label: labels, **columns}).replace_schema_metadata(metadata)
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, file, row_group_size=3)


def some_pictures(count: int, shape: tuple[int, ...] = (6, 5, 3), seed: int = 0) -> list[NDArray[np.uint8]]:
    """Pictures of noise."""
    return list(np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8))
