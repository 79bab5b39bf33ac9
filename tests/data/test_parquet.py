"""Image data sets in Hugging Face's Parquet schema."""

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fedsim.data import describe, load
from fedsim.errors import UserError

from .conftest import encoded, some_pictures, write_parquet

PICTURES = some_pictures(10)
LABELS = [0, 1, 2, 0, 1, 2, 0, 1, 2, 0]


def write_both(folder: Path, train: str = "tiny-train.parquet", test: str = "tiny-test.parquet", **extra: Any) -> None:
    """A training part of ten and a test part of four samples."""
    write_parquet(folder / train, PICTURES, LABELS, **extra)
    short: dict[str, Any] = {key: value[:4] if isinstance(value, list) else value for key, value in extra.items()}
    write_parquet(folder / test, PICTURES[:4], LABELS[:4], **short)


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("tiny-train.parquet", "tiny-test.parquet"),
        ("tiny-train-00000-of-00001.parquet", "tiny-test-00000-of-00001.parquet"),
        ("train-00000-of-00001.parquet", "test-00000-of-00001.parquet"),
        ("tiny/train-00000-of-00001.parquet", "tiny/test-00000-of-00001.parquet"),
        ("data/train-00000-of-00001.parquet", "data/validation-00000-of-00001.parquet"),
    ],
)
def test_layouts(tmp_path: Path, train: str, test: str) -> None:
    """Files are found in every layout that is common, and hold what was written."""
    write_both(tmp_path, train, test)
    data = load("tiny", path=tmp_path)
    np.testing.assert_array_equal(data.train.inputs, np.stack(PICTURES).transpose(0, 3, 1, 2))
    assert data.train.labels.tolist() == LABELS
    assert not data.train.inputs.flags.writeable
    assert data.info == describe("tiny", path=tmp_path)
    assert (data.info.train, data.info.test, data.info.shape, data.info.classes) == (10, 4, (3, 6, 5), 3)


def test_shards_are_joined_in_order(tmp_path: Path) -> None:
    """A part in several files is read as one, subsets included."""
    for shard in range(2):
        rows = slice(shard * 5, shard * 5 + 5)
        write_parquet(tmp_path / f"train-{shard:05}-of-00002.parquet", PICTURES[rows], LABELS[rows])
    write_parquet(tmp_path / "test-00000-of-00001.parquet", PICTURES[:2], LABELS[:2])
    whole = load("tiny", path=tmp_path)
    np.testing.assert_array_equal(whole.train.inputs, np.stack(PICTURES).transpose(0, 3, 1, 2))


def test_each_chosen_picture_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A subset decodes its own pictures and the test part, nothing else, and they are rows of the whole."""
    write_both(tmp_path)
    whole = load("tiny", path=tmp_path)
    info = describe("tiny", path=tmp_path, samples=4)
    opened = []
    real_open = Image.open

    def counting(file: BytesIO, *args: Any, **kwargs: Any) -> Image.Image:
        opened.append(file)
        return real_open(file, *args, **kwargs)

    monkeypatch.setattr(Image, "open", counting)
    data = load("tiny", path=tmp_path, samples=4, seed=5)
    headers = len(PICTURES)  # looked at for the shape, not decoded
    assert len(opened) == headers + 4 + 4
    assert data.info == info
    rows = [next(i for i in range(10) if np.array_equal(whole.train.inputs[i], image)) for image in data.train.inputs]
    assert rows == sorted(rows)
    assert data.train.labels.tolist() == [LABELS[row] for row in rows]


def test_resize(tmp_path: Path) -> None:
    """Pictures of several sizes load when a size is set; without one the odd picture is named."""
    write_parquet(tmp_path / "tiny-train.parquet", [*PICTURES[:4], *some_pictures(1, (8, 8, 3))], [0, 1, 0, 1, 0])
    write_parquet(tmp_path / "tiny-test.parquet", PICTURES[:4], LABELS[:4])
    data = load("tiny", path=tmp_path, resize=12)
    assert data.info == describe("tiny", path=tmp_path, resize=12)
    assert data.train.inputs.shape == (5, 3, 12, 12)
    assert load("tiny", path=tmp_path, resize=6).train.inputs.shape == (5, 3, 6, 6)
    with pytest.raises(UserError, match=r"tiny-train.parquet: picture 4 of this part is 8 x 8 and not 5 x 6"):
        load("tiny", path=tmp_path)


def test_columns_by_name_type_and_option(tmp_path: Path) -> None:
    """fine_label wins over coarse_label; options choose otherwise; owners are numbered."""
    people = ["zoe", "adam"] * 5
    write_both(tmp_path, image="image", label="fine_label", coarse_label=[0, 1] * 5, writer_id=people)
    data = load("tiny", path=tmp_path)
    assert data.train.labels.tolist() == LABELS
    assert data.train.owners is not None
    assert data.train.owners.tolist() == [1, 0] * 5
    assert load("tiny", path=tmp_path, options={"label": "coarse_label"}).info.classes == 2
    with pytest.raises(UserError, match="unknown column 'coarse'; did you mean coarse_label"):
        load("tiny", path=tmp_path, options={"label": "coarse"})
    with pytest.raises(UserError, match="unknown option of data set tiny 'lable'; did you mean label"):
        load("tiny", path=tmp_path, options={"lable": "coarse_label"})


def test_ambiguous_columns(tmp_path: Path) -> None:
    """Two columns that could be the label are an error that names both."""
    write_both(tmp_path, label="a", b=LABELS)
    with pytest.raises(UserError, match=r"which column is the label. a or b of img, a, b could be it"):
        load("tiny", path=tmp_path)


def test_class_names_in_the_metadata(tmp_path: Path) -> None:
    """The number of classes is that of the names, even where the samples show fewer."""
    features = {"img": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": list("abcdefg")}}
    write_both(tmp_path, metadata={b"huggingface": json.dumps({"info": {"features": features}}).encode()})
    assert describe("tiny", path=tmp_path).classes == load("tiny", path=tmp_path).info.classes == 7


def test_plain_binary_column(tmp_path: Path) -> None:
    """Pictures may lie in a binary column instead of a struct."""
    for part in ("train", "test"):
        table = pa.table({"picture": [encoded(p) for p in PICTURES], "digit": LABELS})
        pq.write_table(table, tmp_path / f"tiny-{part}.parquet")
    np.testing.assert_array_equal(load("tiny", path=tmp_path).test.inputs[3], PICTURES[3].transpose(2, 0, 1))


def test_catalogued_names_have_to_agree(tmp_path: Path) -> None:
    """A file of another size does not pass for the data set of the catalogue."""
    write_both(tmp_path, "mnist-train.parquet", "mnist-test.parquet")
    with pytest.raises(UserError, match=r"mnist-train.parquet: 10 samples, but mnist has 60,000 there"):
        load("mnist", path=tmp_path)


def test_broken_files(tmp_path: Path) -> None:
    """A missing test part, empty bytes, unlabelled samples and a file that is no Parquet are told apart."""
    write_parquet(tmp_path / "a-train.parquet", PICTURES, LABELS)
    with pytest.raises(UserError, match=r"a-train.parquet has no test part beside it; add .*a-test.parquet"):
        load("a", path=tmp_path)
    write_parquet(tmp_path / "a-test.parquet", PICTURES, [-1] * 10)
    with pytest.raises(UserError, match="a label is -1, so this part is not labelled"):
        load("a", path=tmp_path)
    for part in ("train", "test"):
        structs = [{"bytes": encoded(PICTURES[0]), "path": ""}, {"bytes": b"\xff\xd8\xffnothing", "path": ""}]
        pq.write_table(
            pa.table({"img": structs[:1] * 20 + structs[1:], "label": [0] * 21}), tmp_path / f"b-{part}.parquet"
        )
        (tmp_path / f"c-{part}.parquet").write_bytes(b"no parquet")
        pq.write_table(
            pa.table({"img": structs[:1], "label": pa.array([None], pa.int64())}), tmp_path / f"d-{part}.parquet"
        )
    with pytest.raises(UserError, match=r"b-train.parquet: picture 20 of this part cannot be decoded"):
        load("b", path=tmp_path)
    with pytest.raises(UserError, match="a Parquet file cannot be read"):
        load("c", path=tmp_path)
    with pytest.raises(UserError, match="column 'label' has empty places"):
        load("d", path=tmp_path)


@pytest.mark.data
@pytest.mark.slow
def test_cifar10(real_data: Path) -> None:
    """The real CIFAR-10 loads, a subset of it decoded; mean and deviation are the published ones."""
    data = load("cifar10", path=real_data, samples=2000, seed=1)
    assert data.info == describe("cifar10", samples=2000)
    assert data.test.inputs.shape == (10_000, 3, 32, 32)
    assert np.bincount(data.test.labels).tolist() == [1000] * 10
    assert data.mean is not None
    assert data.std is not None
    np.testing.assert_allclose(data.mean / 255, [0.4914, 0.4822, 0.4465], atol=0.01)
    np.testing.assert_allclose(data.std / 255, [0.2470, 0.2435, 0.2616], atol=0.01)
