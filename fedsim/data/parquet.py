"""Image data sets in the Parquet schema of Hugging Face: a column of encoded pictures and one of whole-number labels.

The columns may have any name. Knows nothing of where data sets come from; it reads the files of one folder.
"""

from __future__ import annotations

import glob
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fedsim.data.catalogue import DataInfo
from fedsim.data.dataset import DataSet, Split, assembled
from fedsim.data.images import BadPicture, decode, size_and_channels
from fedsim.errors import UserError, unknown

LAYOUTS: Final = (
    "{name}-{part}.parquet",
    "{name}-{part}-*.parquet",
    "{name}/{part}-*.parquet",
    "{name}/{part}.parquet",
    "{part}-*.parquet",
    "{part}.parquet",
    "data/{part}-*.parquet",
)
"""Where the files of a part lie in the folder; the first layout that has a training part is taken."""

TEST_PARTS: Final = ("test", "validation", "valid", "val")
LABEL_NAMES: Final = ("label", "labels", "fine_label")
OWNER_NAMES: Final = ("writer_id", "client_id", "user_id", "owner")
OPTIONS: Final = ("image", "label", "owner")

_HEADERS: Final = 16  # pictures looked at to tell colour from grey


def find_files(folder: Path, name: str) -> tuple[list[Path], list[Path]] | None:
    """The training and the test files of data set `name` in `folder`, or None where there are none.

    Raises:
        UserError: there is a training part and no test part.
    """

    def files(layout: str, part: str) -> list[Path]:
        return sorted(folder.glob(layout.format(name=glob.escape(name), part=part)))

    for layout in LAYOUTS:
        train = files(layout, "train")
        if train:
            for part in TEST_PARTS:
                test = files(layout, part)
                if test:
                    return train, test
            wanted = folder / layout.format(name=name, part="test")
            raise UserError(f"{train[0]} has no test part beside it; add {wanted}, or `validation` instead of `test`")
    return None


@dataclass(frozen=True)
class ParquetImages:
    """Reads one data set; nothing is opened before it is asked for.

    Attributes:
        name: what reports call it.
        train_files: shards of the training part, in order.
        test_files: shards of the test part.
        expected: what the catalogue says, which the files must agree with; None: found out from the files.
        fit: pictures of another size than the data set's are fitted to it, not refused.
        options: columns by use (`image`, `label`, `owner`) where their types do not tell.
    """

    name: str
    train_files: list[Path]
    test_files: list[Path]
    expected: DataInfo | None = None
    fit: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    def info(self) -> DataInfo:
        """Samples from the files' footers, classes from their metadata (or labels), shape from a picture's header."""
        train, test = self._parts
        if self.expected is not None:
            for part, samples in ((train, self.expected.train), (test, self.expected.test)):
                if part.rows != samples:
                    raise UserError(
                        f"{part.files[0]}: {part.rows:,} samples, but {self.name} has {samples:,} there; "
                        "name a data set of your own otherwise (files NAME-train.parquet and NAME-test.parquet)"
                    )
            return self.expected
        return DataInfo(
            name=self.name,
            kind="image",
            train=train.rows,
            test=test.rows,
            shape=train.shape(),
            classes=train.classes or 1 + int(max(train.labels().max(), test.labels().max())),
        )

    def read(self, info: DataInfo, rows: NDArray[np.int64] | None) -> DataSet:
        """Decode every chosen picture once."""
        train, test = self._parts
        return assembled(info, train.read(info, rows, resize=self.fit), test.read(info, None, resize=self.fit))

    @cached_property
    def _parts(self) -> tuple[_Part, _Part]:
        for key in self.options:
            if key not in OPTIONS:
                raise UserError(unknown(f"option of data set {self.name}", key, OPTIONS))
        return _Part(self.train_files, self.options), _Part(self.test_files, self.options)


class _Part:
    """The training or the test part: its files with their columns told apart."""

    def __init__(self, files: list[Path], options: Mapping[str, Any]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.files = files
        try:
            self._opened = [pq.ParquetFile(file) for file in files]
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{files[0].parent}: a Parquet file cannot be read ({error}); fetch it again") from error
        self._schema = self._opened[0].schema_arrow
        self._chosen = options
        self.rows = sum(file.metadata.num_rows for file in self._opened)
        if self.rows == 0:
            raise UserError(f"{files[0]} has no samples")
        self._features = _features(self._schema)
        self._image = self._column("image", self._images())
        self._label = self._column("label", self._labels())

    @property
    def classes(self) -> int | None:
        """Number of class names in the metadata; None where there are none."""
        names = self._features.get(self._label, {}).get("names")
        return len(names) if names else None

    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width), from the headers of the first pictures."""
        batch = next(self._opened[0].iter_batches(_HEADERS, columns=[self._image_leaf]))
        try:
            return size_and_channels(self._encoded(batch.column(0)))
        except BadPicture as error:
            raise UserError(f"{self.files[0]}: picture {error.row} {error.reason}") from error

    def labels(self) -> NDArray[np.int64]:
        """All labels of the part; no picture is read for it."""
        labels: NDArray[np.int64] = self._read_column(self._label).astype(np.int64)
        if labels.min() < 0:
            raise UserError(f"{self.files[0]}: a label is {labels.min()}, so this part is not labelled; take another")
        return labels

    def owners(self) -> NDArray[np.int64] | None:
        """Natural ids, numbered from 0, where a column names them."""
        name = self._chosen.get("owner") or next((n for n in OWNER_NAMES if n in self._schema.names), None)
        if name is None or name not in self._schema.names:
            return None
        return np.unique(self._read_column(name), return_inverse=True)[1].astype(np.int64)

    def read(self, info: DataInfo, rows: NDArray[np.int64] | None, *, resize: bool) -> Split:
        """Labels and decoded pictures of the chosen (ascending) rows, in the shape of `info`."""
        labels, owners = self.labels(), self.owners()
        if labels.max() >= info.classes:
            raise UserError(f"{self.files[0]}: label {labels.max()}, but {info.name} has {info.classes} classes")
        if rows is not None:
            labels, owners = labels[rows], None if owners is None else owners[rows]
        inputs = np.empty((len(labels), *info.shape), np.uint8)
        done = 0
        for file, first, column in self._columns(rows):
            encoded = self._encoded(column)
            try:
                decode(encoded, inputs[done : done + len(encoded)], resize=resize)
            except BadPicture as error:
                row = first + error.row if rows is None else int(rows[done + error.row])
                raise UserError(f"{file}: picture {row} of this part {error.reason}") from error
            done += len(encoded)
        assert done == len(labels), (done, len(labels))
        return Split(inputs, labels, owners)

    def _columns(self, rows: NDArray[np.int64] | None) -> Iterator[tuple[Path, int, Any]]:
        """Encoded pictures a row group at a time, so that memory holds few; groups without chosen rows are skipped."""
        import pyarrow as pa

        first = 0
        for path, file in zip(self.files, self._opened, strict=True):
            for group in range(file.metadata.num_row_groups):
                size = file.metadata.row_group(group).num_rows
                wanted = None
                if rows is not None:
                    low, high = np.searchsorted(rows, (first, first + size))
                    wanted = rows[low:high] - first
                if wanted is None or len(wanted):
                    column = file.read_row_group(group, columns=[self._image_leaf]).column(0)
                    yield path, first, column if wanted is None else column.take(pa.array(wanted))
                first += size

    def _encoded(self, column: Any) -> list[bytes | None]:  # Any: pyarrow has no types
        values: list[Any] = column.to_pylist()
        return [value["bytes"] if isinstance(value, dict) else value for value in values]

    def _read_column(self, name: str) -> NDArray[Any]:
        columns = [file.read(columns=[name]).column(0) for file in self._opened]
        if any(column.null_count for column in columns):
            raise UserError(f"{self.files[0]}: column {name!r} has empty places; every sample needs a value")
        return np.concatenate([column.to_numpy() for column in columns])

    @property
    def _image_leaf(self) -> str:
        import pyarrow as pa

        is_struct = pa.types.is_struct(self._schema.field(self._image).type)
        return f"{self._image}.bytes" if is_struct else self._image

    def _images(self) -> list[str]:
        import pyarrow as pa

        def holds_pictures(kind: Any) -> bool:
            if pa.types.is_struct(kind):
                return any(kind.field(i).name == "bytes" for i in range(kind.num_fields))
            return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))

        return [column.name for column in self._schema if holds_pictures(column.type)]

    def _labels(self) -> list[str]:
        import pyarrow as pa

        owners = (self._chosen.get("owner"), *OWNER_NAMES)
        whole = [c.name for c in self._schema if pa.types.is_integer(c.type) and c.name not in owners]
        named = [name for name in LABEL_NAMES if name in whole]
        classes = [name for name in whole if self._features.get(name, {}).get("_type") == "ClassLabel"]
        return named[:1] or (classes if len(classes) == 1 else whole)

    def _column(self, use: str, candidates: list[str]) -> str:
        chosen = self._chosen.get(use)
        if chosen is not None:
            if chosen not in self._schema.names:
                raise UserError(f"{self.files[0]}: {unknown('column', str(chosen), self._schema.names)}")
            return str(chosen)
        if len(candidates) != 1:
            found = "none" if not candidates else " or ".join(candidates)
            raise UserError(
                f"{self.files[0]}: which column is the {use}? {found} of {', '.join(self._schema.names)} "
                f"could be it; name one with `options: {{{use}: COLUMN}}`"
            )
        return candidates[0]


def _features(schema: Any) -> dict[str, Any]:
    """What Hugging Face's metadata say of each column; empty where there are none."""
    text = (schema.metadata or {}).get(b"huggingface")
    if text is None:
        return {}
    features: dict[str, Any] = json.loads(text).get("info", {}).get("features", {})
    return features
