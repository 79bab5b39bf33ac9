"""Data sets in torchvision's own files."""

from pathlib import Path
from types import SimpleNamespace
from urllib.error import URLError

import numpy as np
import pytest

from fedsim.data import load
from fedsim.data.catalogue import IMAGES, DataInfo
from fedsim.data.torchvision_sets import SETS, TorchvisionImages, split_of
from fedsim.errors import UserError


def write_idx(file: Path, array: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> None:
    """An array in MNIST's file format."""
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
    file.write_bytes(header + array.tobytes())


def test_every_set_is_in_the_catalogue() -> None:
    """What torchvision gives is described."""
    assert set(SETS) <= set(IMAGES)


def test_layouts_of_torchvision() -> None:
    """MNIST has no channel axis, CIFAR has it last, SVHN first and calls its targets labels."""
    grey, last = np.zeros((2, 5, 5), np.uint8), np.zeros((2, 32, 32, 3), np.uint8)
    assert split_of(SimpleNamespace(data=grey, targets=[0, 1])).inputs.shape == (2, 1, 5, 5)
    assert split_of(SimpleNamespace(data=last, targets=[0, 1])).inputs.shape == (2, 3, 32, 32)
    first = split_of(SimpleNamespace(data=last.transpose(0, 3, 1, 2), labels=np.ones(2)))
    assert first.inputs.shape == (2, 3, 32, 32)
    assert first.labels.dtype == np.int64


@pytest.mark.slow
def test_files_that_are_there_are_read(tmp_path: Path) -> None:
    """MNIST's files load through torchvision, without a download."""
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    x, y = np.random.default_rng(0).integers(0, 256, (9, 28, 28), dtype=np.uint8), np.arange(9, dtype=np.uint8)
    for part, rows in (("train", slice(0, 6)), ("t10k", slice(6, 9))):
        write_idx(folder / f"{part}-images-idx3-ubyte", x[rows])
        write_idx(folder / f"{part}-labels-idx1-ubyte", y[rows])
    info = DataInfo(name="mnist", kind="image", train=6, test=3, shape=(1, 28, 28), classes=10)
    data = TorchvisionImages(info, tmp_path).read(info, None)
    np.testing.assert_array_equal(data.train.inputs[:, 0], x[:6])
    assert data.test.labels.tolist() == [6, 7, 8]
    assert not data.train.inputs.flags.writeable
    with pytest.raises(UserError, match="6 samples, but mnist has 60,000 there; remove its files"):
        load("mnist", path=tmp_path)


@pytest.mark.slow
def test_impossible_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without files and network the message says what to put where, and what needs neither."""
    from fedsim.torchvision_shim import import_torchvision

    def refuse(self: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr(import_torchvision().datasets.CIFAR10, "download", refuse)
    with pytest.raises(UserError) as caught:
        load("cifar10", path=tmp_path)
    message = str(caught.value)
    assert message.startswith(f"cifar10 is not in {tmp_path} and cannot be downloaded (<urlopen error no network>)")
    assert "cifar-10-batches-py/data_batch_1" in message
    assert "cifar10-train.parquet and cifar10-test.parquet in Hugging Face's schema" in message
    assert "`name: digits`, which is embedded" in message
