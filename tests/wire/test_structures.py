"""Structures: described once, referred to by number, with the batch beside."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.payload.codecs import PLAIN, Codec, Half, Int8, TopK
from fedsim.payload.meta import ITEM_BYTES, Shape, TensorMeta
from fedsim.script import Payload, Purpose
from fedsim.wire import protocol_pb2 as pb
from fedsim.wire.refusals import Bounds, WireError
from fedsim.wire.structures import Known, Told, described, of, understood

BOUNDS = Bounds(body=1 << 40, memory=1 << 40, structures=8, tensors=20)

codecs = st.sampled_from([PLAIN, Half(), Int8(), TopK(fraction=0.25), TopK(fraction=1e-9, feedback=True)])
shapes = st.builds(
    Shape, st.text(max_size=20), st.lists(st.integers(0, 50), max_size=4).map(tuple), st.sampled_from(list(ITEM_BYTES))
)
single = st.builds(TensorMeta, st.sampled_from(list(Purpose)), st.tuples(shapes), codecs)
weights = st.builds(TensorMeta, st.just(Purpose.WEIGHTS), st.lists(shapes, max_size=6).map(tuple), codecs)


def payload(meta: TensorMeta) -> Payload:
    """A handle."""
    return Payload(0, 0, meta)


def activations(batch: int, *rest: int, codec: Codec = PLAIN) -> TensorMeta:
    """The meta of a batch."""
    return TensorMeta(Purpose.ACTIVATIONS, (Shape("z", (batch, *rest)),), codec)


@pytest.mark.slow
@settings(max_examples=100)
@given(st.lists(single | weights, max_size=8))
def test_metas_come_back(metas: list[TensorMeta]) -> None:
    """Whatever they are of, through description and reference, and they weigh the same."""
    told, known = Told(8), Known(replace(BOUNDS, tensors=100), lambda meta: meta)
    for meta in metas:
        reference, news = told.refer(payload(meta))
        if news is not None:
            known.learn(pb.Structure.FromString(news.SerializeToString()))
        ((found, layout),) = known.metas(iter(reference))
        assert found == meta
        assert found.nbytes == meta.nbytes
        assert layout == (meta if meta.purpose is Purpose.WEIGHTS else None)


@pytest.mark.slow
@settings(max_examples=30)
@given(single | weights)
def test_a_structure_does_without_the_batch(meta: TensorMeta) -> None:
    """Taken apart and put together it is the same meta; what is not of samples has no batch."""
    structure, batch = of(meta)
    assert structure.meta(batch) == meta
    assert structure.batched or batch == 0
    assert understood(described(structure, 5)) == structure
    if structure.batched:
        assert of(structure.meta(batch + 7)) == (structure, batch + 7)


def test_a_smaller_batch_needs_no_description() -> None:
    """The last batch of a pass is told by its size alone; another width, codec or purpose is another structure."""
    told = Told(8)
    assert told.refer(payload(activations(32, 5)))[1] is not None
    assert told.refer(payload(activations(7, 5))) == ([0, 7], None)
    others = [
        activations(32, 6),
        activations(32, 5, codec=Half()),
        replace(activations(32, 5), purpose=Purpose.GRADIENTS),
        TensorMeta(Purpose.ACTIVATIONS, (Shape("z", (32, 5), "float64"),)),
    ]
    for number, meta in enumerate(others, start=1):
        reference, news = told.refer(payload(meta))
        assert reference == [number, 32]
        assert news is not None


def test_equal_metas_are_one_structure() -> None:
    """Of weights too, whose metas are found by identity first."""
    told = Told(8)
    shapes = (Shape("a", (3,)), Shape("b", (4, 5)))
    first = [TensorMeta(Purpose.WEIGHTS, shapes) for _ in range(100)]
    found = [told.refer(payload(meta)) for meta in first]
    assert found[0][1] is not None
    assert found[1:] == [([0], None)] * 99


def test_numbers_are_used_again() -> None:
    """A sender keeps the structures that it used last; the receiver forgets what a number meant before."""
    told, known = Told(3), Known(BOUNDS, lambda meta: meta)
    described_at: list[int] = []
    for step in range(40):
        width = 1 + (step if step % 3 else 0)  # every third one is the same
        reference, news = told.refer(payload(activations(2, width)))
        if news is not None:
            described_at.append(step)
            known.learn(news)
        ((meta, _),) = known.metas(iter(reference))
        assert meta == activations(2, width)
        assert reference[0] < 3
    assert [step for step in described_at if step % 3 == 0] == [0]


def test_weights_have_to_be_those_of_the_run() -> None:
    """Whoever sends a model of another shape is told so before anything of it comes."""
    mine = TensorMeta(Purpose.WEIGHTS, (Shape("w", (2, 3)),))
    known = Known(BOUNDS, {mine: "layout"}.__getitem__)
    known.learn(described(of(mine)[0], 0))
    assert list(known.metas(iter([0]))) == [(mine, "layout")]
    for other in (Shape("w", (3, 2)), Shape("v", (2, 3)), Shape("w", (2, 3), "float64")):
        with pytest.raises(WireError, match="weights of 1 tensors that no block of this run has"):
            known.learn(described(of(TensorMeta(Purpose.WEIGHTS, (other,)))[0], 1))


def test_definitions_are_bounded() -> None:
    """In numbers and in tensors; what takes the place of another one counts in its place."""
    known = Known(BOUNDS, lambda meta: meta)
    seven = TensorMeta(Purpose.WEIGHTS, tuple(Shape(str(i), (1,)) for i in range(7)))
    for number in (0, 1, 1, 1, 0):
        known.learn(described(of(seven)[0], number))
    with pytest.raises(WireError, match=r"the number 2, which makes 21 tensors; .* 8 structures and 20"):
        known.learn(described(of(seven)[0], 2))
    with pytest.raises(WireError, match="the number 8"):
        known.learn(described(of(activations(2, 3))[0], 8))


def _tensor(*shape: int, dtype: Any = 1) -> pb.Structure.Tensor:
    return pb.Structure.Tensor(name="x", dtype=dtype, shape=shape)


def told(**values: Any) -> pb.Structure:
    """A structure as somebody describes it."""
    return pb.Structure(**values)


IMPOSSIBLE = [
    (told(), "purpose 0"),
    (told(purpose=77), "purpose 77"),
    (told(purpose=2), "activations of 0 tensors"),
    (told(purpose=2, tensors=[_tensor(), _tensor()]), "activations of 2 tensors"),
    (told(purpose=2, batched=True), "0 tensors of activations, in batches"),
    (told(purpose=1, batched=True, tensors=[_tensor()]), "1 tensors of weights, in batches"),
    (told(purpose=2, coding=9, tensors=[_tensor()]), "the coding 9"),
    (told(purpose=2, coding=3, tensors=[_tensor()]), r"the coding 3 with the fraction 0\.0"),
    (told(purpose=2, coding=3, fraction=1.1, tensors=[_tensor()]), r"the coding 3 with the fraction 1\.1"),
    (
        told(purpose=2, coding=3, fraction=float("nan"), tensors=[_tensor()]),
        "the coding 3 with the fraction nan",
    ),
    (told(purpose=2, tensors=[_tensor(dtype=0)]), "the dtype 0"),
    (told(purpose=2, tensors=[_tensor(dtype=9)]), "the dtype 9"),
    (told(purpose=2, tensors=[_tensor(*[1] * 17)]), "a tensor of 17 dimensions"),
    (told(purpose=2, tensors=[_tensor(*[2**64 - 1] * 100_000)]), "a tensor of 100000 dimensions"),
    (told(purpose=2, tensors=[_tensor(2**49)]), "a tensor of 1 dimensions"),
    (told(purpose=2, tensors=[_tensor(2**25, 2**25)]), "a tensor of 2 dimensions"),
]


@pytest.mark.parametrize(("structure", "text"), IMPOSSIBLE)
def test_what_can_be_no_structure_is_refused(structure: pb.Structure, text: str) -> None:
    """At once, and by name."""
    with pytest.raises(WireError, match=text):
        Known(BOUNDS, lambda meta: meta).learn(structure)


def test_references_that_lead_nowhere_are_refused() -> None:
    """An unknown number, a batch that is missing, and payloads beyond the bounds, in memory alone too."""
    known = Known(replace(BOUNDS, body=1000, memory=2000), lambda meta: meta)
    known.learn(described(of(activations(2, 10))[0], 0))
    known.learn(described(of(activations(2, 10, codec=TopK(fraction=1e-9)))[0], 1))
    for references, text in [
        ([5], "the structure 5, which was never described"),
        ([0], "does not say how many samples"),
        ([0, 26], "a payload of 1040 bytes, 1040 in memory; messages of this run have at most 1000 and 2000"),
        ([1, 51], "a payload of 8 bytes, 2040 in memory"),
        ([0, 2**60], f"a payload of {2**60} samples"),
    ]:
        with pytest.raises(WireError, match=text):
            list(known.metas(iter(references)))
    assert [meta.shapes[0].shape[0] for meta, _ in known.metas(iter([0, 25, 0, 0, 1, 50]))] == [25, 0, 50]


def test_a_meta_without_tensors_is_our_mistake() -> None:
    """Toys of other tests have such."""

    class Other:
        purpose, nbytes = Purpose.CONTROL, 5

    with pytest.raises(AssertionError, match="a payload whose meta is Other has no tensors"):
        Told(3).refer(Payload(0, 0, Other()))


def test_weights_are_found_by_identity_without_end() -> None:
    """However many metas come and go."""
    told, sizes = Told(300), count(1)
    for _ in range(200):
        size = next(sizes)
        meta = TensorMeta(Purpose.WEIGHTS, (Shape("a", (size,)), Shape("b", (size,))))
        assert told.refer(payload(meta))[0] == [size - 1]
