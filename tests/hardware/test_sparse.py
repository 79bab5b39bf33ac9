"""Kernels that skip zeros: what a curve says between, below and above its points, and what prices make of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from fedsim.costs import Cost, OpClass, Operator, Phase
from fedsim.documents.problems import DocumentError
from fedsim.hardware import sources
from fedsim.hardware.machines import machine
from fedsim.hardware.pricing import seconds
from fedsim.hardware.profiles import Profile, load_profile
from fedsim.hardware.sparse import Curve, SparseKernels
from tests.hardware.test_profiles import ROOFLINE

CSR = Curve(sparsity=(0.5, 0.8, 0.9, 0.95), speed=(0.15, 0.5, 1.02, 2.4))
"""Of torch's CSR format on a matrix of 1536 by 576, one sample, one thread of an x86-64 machine."""


@pytest.mark.parametrize(
    ("sparsity", "speed"),
    [
        (0.0, 1.0),
        (0.49, 1.0),  # below the first point: dense
        (0.5, 1.0),  # slower, so dense
        (0.85, 1.0),
        (0.9, 1.02),
        (0.925, 1.71),  # half of the way from 1.02 to 2.4
        (0.95, 2.4),
        (0.999, 2.4),  # above the last point: as there
    ],
)
def test_a_curve(sparsity: float, speed: float) -> None:
    """On lines between the points, never beyond them; and never slower than dense."""
    assert CSR.at(sparsity) == pytest.approx(speed)


def test_a_curve_is_of_one_class() -> None:
    """What no curve is given for is dense, and so is what has no zeros."""
    kernels = SparseKernels(linear=CSR)
    assert kernels.speed(OpClass.LINEAR, 0.95) == 2.4
    assert kernels.speed(OpClass.CONV, 0.95) == 1.0
    assert kernels.speed(OpClass.LINEAR, 0.0) == 1.0
    two, three, four = (Curve(sparsity=(0.5,), speed=(speed,)) for speed in (2.0, 3.0, 4.0))
    every = SparseKernels(linear=two, conv=three, pointwise=four)
    classes = (OpClass.LINEAR, OpClass.CONV, OpClass.POINTWISE)
    assert [every.speed(kind, 0.5) for kind in classes] == [2.0, 3.0, 4.0]


def test_a_curve_that_ends_below_dense_stays_dense() -> None:
    """Above its last point, too, no operator is slower than it would be with its zeros."""
    assert Curve(sparsity=(0.5,), speed=(0.25,)).at(0.9) == 1.0


def board(**sparse: Any) -> Profile:
    """A machine of 20 MMAC/s with 1 s an operator; memory is no matter."""
    given = load_profile("raspberry-pi-4b").model_dump(mode="json", by_alias=True)
    cpu = {"gemm": "20 MMAC/s", "bandwidth": "1 TB/s", "overhead": "1 s", "efficiency": {"linear": 0.5}}
    return Profile.model_validate(
        given | {"processors": {"cpu": cpu | ({"sparse": sparse} if sparse else {})}, "modes": {}, "sources": []}
    )


def test_zeros_shorten_what_is_computed_and_not_the_overhead() -> None:
    """10 M MACs take 1 s and 1 s of overhead; with a kernel twice as fast 0.5 s and 1 s."""
    sparse, dense = machine(board(linear={"sparsity": ["90 %"], "speed": [2]})), machine(board())
    for share, expected in ((0.0, 2.0), (0.89, 2.0), (0.9, 1.5), (1.0, 1.5)):
        work = Cost((Operator(OpClass.LINEAR, Phase.FORWARD, 10_000_000, 0, sparsity=share),))
        assert seconds(sparse, work) == pytest.approx(expected)
        assert seconds(dense, work) == pytest.approx(2.0)


def test_a_profile_gives_a_curve_and_its_source(tmp_path: Path) -> None:
    """As any other figure, and it is written and read back unchanged."""
    curve = "sparse: {linear: {sparsity: [80 %, 95 %], speed: [0.5, 2.4]}}"
    text = ROOFLINE.replace("half_batch: 4}", f"half_batch: 4, {curve}}}")
    text += "  - {field: processors.gpu.sparse, confidence: measured, ref: torch CSR on my desk}\n"
    (tmp_path / "my-board.yaml").write_text(text)
    profile = load_profile("./my-board.yaml", relative_to=tmp_path)
    assert profile.processors is not None
    assert profile.processors.gpu is not None
    assert profile.processors.gpu.sparse.speed(OpClass.LINEAR, 0.95) == 2.4
    numbers = [number for number in sources.numbers(profile) if ".sparse." in number]
    assert numbers == [f"processors.gpu.sparse.linear.{key}" for key in ("sparsity", "speed")]
    assert not set(numbers) & set(sources.uncovered(profile, profile.sources))
    assert Profile.model_validate(profile.model_dump(mode="json", by_alias=True)) == profile


@pytest.mark.parametrize(
    ("curve", "message"),
    [
        ("{sparsity: [50 %, 80 %], speed: [1]}", "1 speeds for 2 shares; give one for each of [0.5, 0.8]"),
        ("{sparsity: [80 %, 50 %], speed: [1, 2]}", "[0.8, 0.5] does not rise; sort them, each share once"),
        ("{sparsity: [80 %, 80 %], speed: [1, 2]}", "[0.8, 0.8] does not rise; sort them, each share once"),
        ("{sparsity: [0, 80 %], speed: [1, 2]}", "[0.0, 0.8] must lie between 0 and 1; leave the ends out"),
        ("{sparsity: [80 %, 1], speed: [1, 2]}", "[0.8, 1.0] must lie between 0 and 1; leave the ends out"),
    ],
)
def test_a_wrong_curve_is_refused(curve: str, message: str, tmp_path: Path) -> None:
    """With the reason."""
    text = ROOFLINE.replace("half_batch: 4}", f"half_batch: 4, sparse: {{linear: {curve}}}}}")
    (tmp_path / "my-board.yaml").write_text(text)
    with pytest.raises(DocumentError) as caught:
        load_profile("./my-board.yaml", relative_to=tmp_path)
    assert message in str(caught.value)


def test_a_speed_is_more_than_zero() -> None:
    """Or nothing would ever end."""
    with pytest.raises(ValidationError):
        Curve(sparsity=(0.5,), speed=(0.0,))
