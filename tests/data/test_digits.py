"""The embedded digits."""

import subprocess
import sys

import numpy as np
import pytest

from fedsim.data import load
from fedsim.data.digits import LEVELS, MEAN, STD


def test_counts_are_those_of_the_source() -> None:
    """All 1,797 digits are there, with the class counts that UCI gives."""
    data = load("digits")
    labels = np.concatenate([data.train.labels, data.test.labels])
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert (len(data.train), len(data.test)) == (data.info.train, data.info.test) == (1437, 360)


def test_normalised_with_the_constants() -> None:
    """The constants are the moments of the training part, and pixels come back from them."""
    data = load("digits")
    assert data.train.inputs.dtype == np.float32
    assert data.mean is None
    assert data.train.inputs.mean(dtype=np.float64) == pytest.approx(0, abs=1e-6)
    assert data.train.inputs.std(dtype=np.float64) == pytest.approx(1, abs=1e-6)
    pixels = (data.train.inputs * STD + MEAN) * LEVELS
    np.testing.assert_allclose(pixels, np.rint(pixels), atol=1e-4)
    assert (np.rint(pixels).min(), np.rint(pixels).max()) == (0, 16)


def test_split_does_not_follow_the_seed() -> None:
    """The test part is the same for every seed of a run; the subset is not."""
    one, two = load("digits", samples=100, seed=1), load("digits", samples=100, seed=2)
    np.testing.assert_array_equal(one.test.inputs, two.test.inputs)
    assert not np.array_equal(one.train.inputs, two.train.inputs)
    np.testing.assert_array_equal(one.train.inputs, load("digits", samples=100, seed=1).train.inputs)


def test_subset_of_a_seed_grows() -> None:
    """A larger subset of the same seed contains the smaller one."""
    small, large = (
        {row.tobytes() for row in load("digits", samples=count, seed=3).train.inputs} for count in (50, 200)
    )
    assert small < large


def test_resized() -> None:
    """Digits fitted to 32 x 32 keep their mean."""
    data = load("digits", resize=32)
    assert data.train.inputs.shape == (1437, 1, 32, 32)
    assert data.train.inputs.dtype == np.float32
    assert float(data.train.inputs.mean()) == pytest.approx(0, abs=0.02)


@pytest.mark.slow
def test_importing_and_loading_stay_light() -> None:
    """Neither the package nor the digits import torch, torchvision, scikit-learn or pyarrow."""
    program = (
        "import sys, fedsim.data; heavy = ('torch', 'torchvision', 'sklearn', 'pyarrow', 'PIL');"
        "print([m for m in heavy if m in sys.modules]); fedsim.data.load('digits');"
        "print([m for m in heavy[:4] if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["[]", "[]"]
