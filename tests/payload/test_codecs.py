"""What payloads weigh on a link and in memory, by codec."""

from __future__ import annotations

import pytest

from fedsim.payload.codecs import PLAIN, Codec, Codecs, Half, Int8, TopK
from fedsim.payload.meta import Shape, TensorMeta
from fedsim.script import Purpose

WEIGHTS = (Shape("w", (6, 10)), Shape("var", (6,)), Shape("count", (), "int64"))


@pytest.mark.parametrize(
    ("codec", "nbytes"),
    [
        (PLAIN, 4 * 66 + 8),
        (Half(), 2 * 66 + 8),
        (Int8(), (60 + 8) + (6 + 8) + 8),
        (TopK(fraction=0.25), 15 * 8 + 2 * 8 + 8),
    ],
)
def test_bytes_of_a_payload(codec: Codec, nbytes: int) -> None:
    """Scale and low once a tensor; whole numbers as they are; memory does not change."""
    meta = TensorMeta(Purpose.WEIGHTS, WEIGHTS, codec)
    assert meta.nbytes == nbytes
    assert meta.memory_bytes == 4 * 66 + 8


@pytest.mark.parametrize(
    ("codec", "nbytes"),
    [(PLAIN, 80), (Half(), 20), (Int8(), 10 + 16), (TopK(fraction=0.3), 3 * 12)],
)
def test_bytes_of_double_precision(codec: Codec, nbytes: int) -> None:
    """Header and values have the tensor's own precision."""
    assert TensorMeta(Purpose.GRADIENTS, (Shape("g", (2, 5), "float64"),), codec).nbytes == nbytes


@pytest.mark.parametrize(
    ("fraction", "elements", "kept"), [(0.1, 100, 10), (0.1, 30, 3), (0.1, 4, 1), (0.1, 0, 0), (0.5, 3, 2), (1.0, 7, 7)]
)
def test_entries_that_are_kept(fraction: float, elements: int, kept: int) -> None:
    """At least one, where there is one."""
    assert TopK(fraction=fraction).kept(elements) == kept


def test_a_codec_for_each_purpose() -> None:
    """Labels and control have none."""
    codecs = Codecs(activations=Int8(), gradients=TopK(), weights=Half())
    assert [codecs.of(purpose) for purpose in Purpose] == [Half(), Int8(), TopK(), PLAIN, PLAIN]
    assert {Codecs().of(purpose) for purpose in Purpose} == {PLAIN}
