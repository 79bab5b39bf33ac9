"""Prices: every cost model by hand, what none of them may do, and the refusal to let work be free."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim.costs import Cost, OpClass, Operator, Phase
from fedsim.errors import RunError, UserError
from fedsim.hardware.machines import Machine, machine
from fedsim.hardware.pricing import by_operator, nanoseconds, seconds
from fedsim.hardware.profiles import Profile, load_profile
from fedsim.hardware.rounding import whole_nanoseconds

TIER = machine(load_profile("pi-tier-1"))  # 2.2 GMAC/s, backward ratio 2


def tier(**changes: object) -> Machine:
    """The first tier with some fields changed."""
    return machine(Profile.model_validate(TIER.profile.model_dump(mode="json", by_alias=True) | changes))


def forward(macs: int, count: int = 1) -> Operator:
    """A forward convolution."""
    return Operator(OpClass.CONV, Phase.FORWARD, macs, 64, count, forward_macs=macs)


def backward(macs: int, forward_macs: int, count: int = 1) -> Operator:
    """The backward pass of a convolution."""
    return Operator(OpClass.CONV, Phase.BACKWARD, macs, 64, count, forward_macs=forward_macs)


OPTIMIZER = Operator(OpClass.OPTIMIZER, Phase.OPTIMIZER, 0, 1000)


def test_forward_is_macs_over_speed() -> None:
    """VGG-5's 8,488,192 MACs at 2.2 GMAC/s take 3.858… ms."""
    cost = Cost((forward(8_488_192),))
    assert seconds(TIER, cost) == pytest.approx(8_488_192 / 2.2e9)
    assert nanoseconds(TIER, cost) == 3_858_270


def test_a_training_step_costs_three_forward_passes() -> None:
    """With ratio 2 a step is 3m, whatever the counted backward MACs: the first unit has no input gradient."""
    step = Cost((forward(600), forward(400), backward(800, 400), backward(600, 600), OPTIMIZER))
    assert seconds(tier(speed="1 kMAC/s"), step) == pytest.approx(3.0)


def test_the_ratio_is_the_profiles() -> None:
    """Ratio 1.5: 1 s forward, 1.5 s backward."""
    step = Cost((forward(1000), backward(2000, 1000)))
    assert seconds(tier(speed="1 kMAC/s", backward_ratio=1.5), step) == pytest.approx(2.5)


def test_equal_operators_count() -> None:
    """`count` operators take `count` times as long, forward and backward."""
    step = Cost((forward(100, count=3), backward(200, 100, count=3)))
    assert seconds(tier(speed="1 kMAC/s"), step) == pytest.approx(0.9)


def test_aggregation_is_macs_over_speed() -> None:
    """Averaging five models of 200 parameters is 1,000 MACs."""
    mean = Cost((Operator(OpClass.COPY, Phase.AGGREGATE, 1000, 4800),))
    assert seconds(tier(speed="1 kMAC/s"), mean) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("cost", "message"),
    [
        (Cost(()), "work without a cost: it has no operators on pi-tier-1"),
        (Cost((OPTIMIZER,)), "work without a cost: its 1 operators cost nothing on pi-tier-1"),
        (Cost((backward(100, 0),)), "work without a cost: its 1 operators cost nothing"),
    ],
)
def test_work_without_a_cost_is_an_error(cost: Cost, message: str) -> None:
    """Never zero seconds: computing that is free makes a run pure communication."""
    with pytest.raises(RunError, match=message):
        seconds(TIER, cost)
    with pytest.raises(RunError, match=message):
        nanoseconds(TIER, cost)


def test_a_price_is_never_less_than_one_nanosecond() -> None:
    """One MAC on 3 TMAC/s takes a third of a picosecond: one tick of the clock."""
    assert nanoseconds(machine(load_profile("gpu-3t")), Cost((forward(1),))) == 1


def test_a_price_follows_from_profile_and_cost_alone() -> None:
    """Two profiles of one id have their own prices; equal costs have equal ones."""
    cost = Cost((forward(1000),))
    assert nanoseconds(tier(speed="1 kMAC/s"), cost) == 10**9
    assert nanoseconds(tier(speed="2 kMAC/s"), cost) == 5 * 10**8
    assert nanoseconds(tier(speed="1 kMAC/s"), Cost((forward(1000),))) == 10**9
    assert nanoseconds(tier(speed="1 kMAC/s"), Cost((forward(2000),))) == 2 * 10**9


@given(st.lists(st.integers(1, 10**12), min_size=1, max_size=8), st.integers(1, 10**6))
def test_prices_add_up_and_more_work_is_never_shorter(macs: list[int], extra: int) -> None:
    """The price of a sum is the sum of the prices; one more operator never saves time."""
    costs = [Cost((forward(m),)) for m in macs]
    whole = Cost(tuple(op for cost in costs for op in cost.operators))
    assert seconds(TIER, whole) == pytest.approx(sum(seconds(TIER, cost) for cost in costs))
    assert nanoseconds(TIER, whole + Cost((forward(extra),))) >= nanoseconds(TIER, whole)


@given(st.integers(0, 10**15))
def test_whole_nanoseconds_stay_whole(ns: int) -> None:
    """A duration that is whole but for floating-point noise is not pushed to the next nanosecond."""
    assert whole_nanoseconds(ns / 1e9) == ns


@given(st.floats(0, 1e6))
def test_durations_are_rounded_up(duration: float) -> None:
    """Up, and by at most one nanosecond (beyond a double's own precision)."""
    exact = duration * 1e9
    assert -2e-15 * exact <= whole_nanoseconds(duration) - exact <= 1


def test_noise_of_additions_is_not_rounded_up() -> None:
    """0.1 s + 0.2 s is 0.3 s."""
    assert whole_nanoseconds(0.1 + 0.2) == 300_000_000
    assert whole_nanoseconds(1.5e-9) == 2


# ------------------------------------------------------------------------------------------------- roofline

PROCESSOR: dict[str, Any] = {
    "gemm": "20 GMAC/s",
    "bandwidth": "8 GB/s",
    "overhead": "50 us",
    "efficiency": {"linear": 1, "attention": 0.8, "conv": 0.5, "pointwise": 0.25, "elementwise": 2},
}


def board(**changes: Any) -> Machine:
    """20 GMAC/s, 8 GB/s and 50 µs an operator, unless changed."""
    profile = {
        "schema": 1,
        "id": "board",
        "name": "A board",
        "kind": "board",
        "cost_model": "roofline",
        "processors": {"cpu": PROCESSOR | changes},
        "memory": {"capacity": "4 GB", "usable": "3 GB", "runtime": "250 MB"},
        "power": {"idle": "2 W", "busy": "6 W"},
    }
    return machine(Profile.model_validate(profile))


BOARD = board()


def priced(kind: OpClass, macs: int, moved: int, phase: Phase = Phase.FORWARD, count: int = 1, batch: int = 0) -> float:
    """Milliseconds of one operator on the board."""
    return seconds(BOARD, Cost((Operator(kind, phase, macs, moved, count),), batch)) * 1e3


@pytest.mark.parametrize(
    ("kind", "macs", "moved", "milliseconds"),
    [
        (OpClass.LINEAR, 100_000_000, 8_000_000, 5.05),  # 0.1 GMAC at 20 GMAC/s
        (OpClass.ATTENTION, 100_000_000, 8_000_000, 6.3),  # ... at 16
        (OpClass.CONV, 100_000_000, 8_000_000, 10.05),  # ... at 10
        (OpClass.POINTWISE, 100_000_000, 8_000_000, 20.05),  # ... at 5
        (OpClass.CONV, 1_000_000, 80_000_000, 10.05),  # 80 MB at 8 GB/s take longer than 1 MMAC
        (OpClass.DEPTHWISE, 10**12, 8_000_000, 1.05),  # its MACs do not count
        (OpClass.ELEMENTWISE, 0, 8_000_000, 0.55),  # twice the bandwidth: in a cache
        (OpClass.OPTIMIZER, 0, 40_000_000, 5.05),
        (OpClass.COPY, 10**12, 8_000_000, 1.05),  # a mean of models: MACs are free, memory is not
        (OpClass.LINEAR, 0, 0, 0.05),  # nothing but the overhead
    ],
)
def test_an_operator_takes_its_arithmetic_or_its_memory(
    kind: OpClass, macs: int, moved: int, milliseconds: float
) -> None:
    """The longer of the two, and the overhead; by hand for each class, whatever the phase."""
    for phase in Phase:
        assert priced(kind, macs, moved, phase) == pytest.approx(milliseconds)


def test_a_work_is_the_sum_of_its_operators() -> None:
    """Forward, backward and optimizer; an operator that stands for three takes three times as long, overhead too."""
    step = (
        Operator(OpClass.CONV, Phase.FORWARD, 100_000_000, 8_000_000, count=3),  # 30.15 ms
        Operator(OpClass.ELEMENTWISE, Phase.FORWARD, 0, 8_000_000),  # 0.55 ms
        Operator(OpClass.CONV, Phase.BACKWARD, 200_000_000, 8_000_000, 1, 100_000_000),  # 20.05 ms, as counted
        Operator(OpClass.OPTIMIZER, Phase.OPTIMIZER, 0, 8_000_000),  # 1.05 ms
    )
    assert by_operator(BOARD, Cost(step)) == pytest.approx([0.03015, 0.00055, 0.02005, 0.00105])
    assert nanoseconds(BOARD, Cost(step)) == 51_800_000


@pytest.mark.parametrize(
    ("kind", "macs", "moved", "milliseconds"),
    [
        (OpClass.LINEAR, 100_000_000, 8_000_000, 6.05),  # 5 ms and 1 ms
        (OpClass.CONV, 100_000_000, 8_000_000, 11.05),  # 10 ms and 1 ms
        (OpClass.DEPTHWISE, 10**12, 8_000_000, 1.05),  # only its bytes, as ever
    ],
)
def test_a_processor_may_compute_and_move_one_after_the_other(
    kind: OpClass, macs: int, moved: int, milliseconds: float
) -> None:
    """Without overlap both terms count, in place of the longer one."""
    cost = Cost((Operator(kind, Phase.FORWARD, macs, moved),))
    assert seconds(board(overlap=False), cost) == pytest.approx(milliseconds / 1e3)


def test_classes_may_have_overheads_of_their_own() -> None:
    """200 us for convolutions; the others keep the 50 us of the processor. An overhead of zero is one, too."""
    one = board(overheads={"conv": "200 us", "copy": "0 us"})
    conv, linear = (Operator(kind, Phase.FORWARD, 0, 8_000_000) for kind in (OpClass.CONV, OpClass.LINEAR))
    copy = Operator(OpClass.COPY, Phase.AGGREGATE, 0, 8_000_000)
    assert by_operator(one, Cost((conv, linear, copy))) == pytest.approx([1.2e-3, 1.05e-3, 1e-3])


def test_an_optimizer_starts_anew_for_each_tensor_unless_it_takes_all() -> None:
    """Six tensors are six overheads on a CPU, and one on a GPU, whose kernels take all; `foreach` says otherwise."""
    step = Cost((Operator(OpClass.OPTIMIZER, Phase.OPTIMIZER, 0, 8_000_000, tensors=6),))
    assert seconds(BOARD, step) == pytest.approx(1.3e-3)
    assert seconds(board(foreach=True), step) == pytest.approx(1.05e-3)
    profile = BOARD.profile.model_dump(mode="json", by_alias=True) | {"use": "gpu"}
    for said, milliseconds in (({}, 1.05), ({"foreach": False}, 1.3)):
        gpu = Profile.model_validate(profile | {"processors": {"gpu": PROCESSOR | said}})
        assert seconds(machine(gpu), step) == pytest.approx(milliseconds / 1e3)


def test_averaging_models_reads_them_and_writes_one() -> None:
    """Five models of 1 M parameters in fp32: 24 MB at 8 GB/s and one overhead."""
    mean = Cost((Operator(OpClass.COPY, Phase.AGGREGATE, 5_000_000, 24_000_000),))
    assert seconds(BOARD, mean) == pytest.approx(3.05e-3)


def test_small_batches_reach_less() -> None:
    """With `half_batch` 4, a batch of 4 runs at half of the efficiency, one of 12 at three quarters; memory as ever."""
    conv = (Operator(OpClass.CONV, Phase.FORWARD, 100_000_000, 8_000_000),)
    assert seconds(board(half_batch=4), Cost(conv, 4)) == pytest.approx(20.05e-3)
    assert seconds(board(half_batch=4), Cost(conv, 12)) == pytest.approx(10e-3 * 4 / 3 + 50e-6)
    copy = (Operator(OpClass.COPY, Phase.AGGREGATE, 0, 8_000_000),)
    assert seconds(board(half_batch=4), Cost(copy)) == pytest.approx(1.05e-3)
    with pytest.raises(RunError, match=r"does not say its batch, on a profile with half_batch; give the batch where"):
        seconds(board(half_batch=4), Cost(conv))


def test_operators_that_take_no_time_are_refused() -> None:
    """Without an overhead, an operator without MACs and bytes is work without a cost."""
    nothing = Cost((Operator(OpClass.LINEAR, Phase.FORWARD, 0, 0),))
    message = r"its 1 operators cost nothing on board \(cost model roofline\); count its MACs where the work is made"
    with pytest.raises(RunError, match=message):
        nanoseconds(board(overhead="0 s"), nothing)
    with pytest.raises(RunError, match=r"it has no operators on board \(cost model roofline\)"):
        nanoseconds(BOARD, Cost(()))


OPERATORS = st.builds(
    Operator,
    st.sampled_from(OpClass),
    st.sampled_from(Phase),
    st.integers(0, 10**12),
    st.integers(0, 10**10),
    st.integers(1, 5),
)
COSTS = st.lists(OPERATORS, min_size=1, max_size=6)


@given(COSTS, st.integers(0, 5), st.integers(0, 10**9), st.integers(0, 10**9))
def test_more_macs_or_bytes_are_never_faster(operators: list[Operator], index: int, macs: int, moved: int) -> None:
    """Of any operator of a work."""
    old = operators[index % len(operators)]
    more = Operator(old.kind, old.phase, old.macs + macs, old.bytes + moved, old.count)
    changed = [more if op is old else op for op in operators]
    assert seconds(BOARD, Cost(tuple(changed), 8)) >= seconds(BOARD, Cost(tuple(operators), 8))


@given(COSTS, st.sampled_from(["gemm", "bandwidth", "overhead", "efficiency", "half_batch"]), st.floats(1, 100))
def test_a_faster_machine_is_never_slower(operators: list[Operator], key: str, factor: float) -> None:
    """More MAC/s, more bytes/s, less overhead, larger shares or a smaller half batch."""
    better: dict[str, Any] = {
        "gemm": f"{20 * factor} GMAC/s",
        "bandwidth": f"{8 * factor} GB/s",
        "overhead": f"{50 / factor} us",
        "efficiency": {"linear": 1, "attention": 1, "conv": 0.9, "pointwise": 0.8, "elementwise": 3, "depthwise": 1.1},
        "half_batch": 4 / factor,
    }
    cost = Cost(tuple(operators), 8)
    fast, slow = board(**{"half_batch": 4, key: better[key]}), board(half_batch=4)
    assert seconds(fast, cost) <= seconds(slow, cost) * (1 + 1e-12)  # but for rounding


@given(st.integers(1, 64), st.integers(1, 64), st.integers(0, 10**8), st.integers(0, 10**6), st.integers(0, 10**6))
def test_time_is_linear_in_the_batch_or_bent_once(one: int, more: int, macs: int, each: int, fixed: int) -> None:
    """Without weights and overhead time is in proportion; with them a larger batch is never dearer by the sample."""

    def price(batch: int, fixed: int, overhead: str) -> float:
        operator = Operator(OpClass.CONV, Phase.FORWARD, 1 + macs * batch, fixed + each * batch)
        return seconds(board(overhead=overhead), Cost((operator,), batch))

    if macs and each:
        bare = [price(batch, 0, "0 s") / batch for batch in (one, one + more)]
        assert bare[0] == pytest.approx(bare[1], rel=1e-6, abs=1e-9)
    assert price(one + more, fixed, "50 us") / (one + more) <= price(one, fixed, "50 us") / one * (1 + 1e-12)


@given(COSTS, st.lists(OPERATORS, min_size=1, max_size=4))
def test_prices_of_a_roofline_add_up(operators: list[Operator], others: list[Operator]) -> None:
    """The price of two works is the sum of their prices, operator by operator."""
    one, other = Cost(tuple(operators)), Cost(tuple(others))
    assert seconds(BOARD, one + other) == pytest.approx(seconds(BOARD, one) + seconds(BOARD, other))
    assert sum(by_operator(BOARD, one + other)) == seconds(BOARD, one + other)


# ---------------------------------------------------------------------------------------------------- table

TIMES: dict[str, Any] = {
    "conv1": {"forward": ["6 ms", "24 ms", "96 ms"], "backward": ["12 ms", "48 ms", "192 ms"], "optimizer": "1 ms"},
    "pool": {"forward": ["2 ms", "8 ms", "16 ms"], "backward": ["3 ms", "12 ms", "24 ms"], "optimizer": "0 s"},
    "loss": {"forward": ["1 ms", "1 ms", "1 ms"], "backward": ["2 ms", "2 ms", "2 ms"]},
}


def table(**changes: Any) -> Machine:
    """Times of a model `net` at batch 8, 32 and 128."""
    profile = {
        "schema": 1,
        "id": "phone",
        "name": "A phone",
        "kind": "phone",
        "cost_model": "table",
        "times": {"net": {"batches": [8, 32, 128], "units": TIMES}},
        "memory": {"capacity": "4 GB", "usable": "3 GB", "runtime": "250 MB"},
        "power": {"idle": "2 W", "busy": "6 W"},
    }
    return machine(Profile.model_validate(profile | changes))


def of(unit: str, phase: Phase, kind: OpClass = OpClass.CONV) -> Operator:
    """An operator of a unit; a table does not look at its MACs."""
    return Operator(kind, phase, 10**9, 10**9, unit=unit)


STEP = (
    of("conv1", Phase.FORWARD),
    of("conv1", Phase.FORWARD, OpClass.ELEMENTWISE),
    of("pool", Phase.FORWARD),
    of("loss", Phase.FORWARD),
    of("loss", Phase.BACKWARD),
    of("pool", Phase.BACKWARD),
    of("conv1", Phase.BACKWARD),
    of("conv1", Phase.BACKWARD, OpClass.ELEMENTWISE),
    Operator(OpClass.OPTIMIZER, Phase.OPTIMIZER, 0, 1000),
)


def test_a_table_gives_the_measured_times() -> None:
    """Each unit once a phase, the optimizer's step for all units, whatever operators they have."""
    cost = Cost(STEP, 8, "net")
    assert by_operator(table(), cost) == pytest.approx([6e-3, 0, 2e-3, 1e-3, 2e-3, 3e-3, 12e-3, 0, 1e-3])
    assert nanoseconds(table(), cost) == 27_000_000


def test_an_optimizers_step_takes_its_time_in_a_table_once() -> None:
    """Of all units together, even where each unit has an optimizer's operator of its own."""
    each = tuple(of(unit, Phase.OPTIMIZER, OpClass.OPTIMIZER) for unit in ("conv1", "pool"))
    assert by_operator(table(), Cost((*STEP[:-1], *each), 8, "net"))[-2:] == pytest.approx([1e-3, 0])


@pytest.mark.parametrize(
    ("batch", "milliseconds"),
    [(8, 6), (20, 15), (32, 24), (80, 60), (128, 96), (160, 120), (4, 3), (1, 0.75)],
)
def test_times_are_linear_in_the_batch(batch: int, milliseconds: float) -> None:
    """On the line between the two nearest points, beyond the last ones on the line through these."""
    assert seconds(table(), Cost((of("conv1", Phase.FORWARD),), batch, "net")) == pytest.approx(milliseconds / 1e3)


def test_beyond_the_last_points_the_last_line_goes_on() -> None:
    """Pooling takes 8 ms at 32 and 16 ms at 128, so 17 ms at 140, though it began twice as steep."""
    assert seconds(table(), Cost((of("pool", Phase.FORWARD),), 140, "net")) == pytest.approx(17e-3)
    assert seconds(table(), Cost((of("pool", Phase.FORWARD),), 20, "net")) == pytest.approx(5e-3)


def test_times_at_one_batch_size_are_in_proportion() -> None:
    """Half of the samples, half of the time."""
    times = {"net": {"batches": [32], "units": {"conv1": {"forward": ["24 ms"]}}}}
    one = table(times=times)
    assert seconds(one, Cost((of("conv1", Phase.FORWARD),), 16, "net")) == pytest.approx(12e-3)


@given(st.lists(st.integers(1, 200), min_size=2, max_size=2).map(sorted), st.sampled_from(["conv1", "pool", "loss"]))
def test_more_samples_are_never_faster_in_a_table(batches: list[int], unit: str) -> None:
    """Nor ever free."""
    few, many = (seconds(table(), Cost((of(unit, Phase.FORWARD),), batch, "net")) for batch in batches)
    assert 0 < few <= many


@pytest.mark.parametrize(
    ("cost", "message"),
    [
        (
            Cost(STEP, 8, "ent"),
            r"^unknown model in the times of phone 'ent'; did you mean net\? there are: net; measure its units, or ",
        ),
        (
            Cost((of("conv2", Phase.FORWARD),), 8, "net"),
            r"^unknown unit of net in the times of phone 'conv2'; .* conv1",
        ),
        (
            Cost((of("", Phase.FORWARD),), 8, "net"),
            r"^unknown unit of net in the times of phone ''; there are: conv1, ",
        ),
        (
            Cost((of("conv1", Phase.FORWARD),), 0, "net"),
            r"^work of net that does not say its batch, on phone, whose tim",
        ),
        (
            Cost((Operator(OpClass.COPY, Phase.AGGREGATE, 1000, 4800),)),
            r"^profile phone has measured times of units, but averaging models is no unit's work; add the speed",
        ),
    ],
)
def test_a_table_prices_nothing_that_it_lacks(cost: Cost, message: str) -> None:
    """Another model, another unit, a batch that is not said, averaging: never zero seconds."""
    with pytest.raises(UserError, match=message):
        nanoseconds(table(), cost)


@pytest.mark.parametrize("phase", ["forward", "backward", "optimizer"])
def test_a_phase_that_a_table_lacks_is_named(phase: str) -> None:
    """And where to add it; a unit without parameters says that its optimizer step takes 0 s."""
    unit = {key: value for key, value in TIMES["conv1"].items() if key != phase}
    lacking = table(times={"net": {"batches": [8, 32, 128], "units": TIMES | {"conv1": unit}}})
    message = rf"^profile phone has no {phase} time of unit 'conv1' of net; add times.net.units.conv1.{phase}$"
    with pytest.raises(UserError, match=message):
        seconds(lacking, Cost(STEP, 8, "net"))


def test_a_table_with_a_speed_averages_at_it() -> None:
    """As a scalar profile does."""
    mean = Cost((Operator(OpClass.COPY, Phase.AGGREGATE, 1000, 4800),))
    assert seconds(table(speed="1 kMAC/s"), mean) == pytest.approx(1.0)


def test_an_optimizer_step_without_units_has_no_cost() -> None:
    """Whose parameters would it be?"""
    with pytest.raises(RunError, match=r"its 1 operators cost nothing on phone \(cost model table\)"):
        seconds(table(), Cost((OPTIMIZER,), 8, "net"))


# --------------------------------------------------------------------------------------------- fedscale_scalar


def sampled() -> Machine:
    """5 ms a sample."""
    profile = {key: value for key, value in table().profile.model_dump(mode="json", by_alias=True).items() if value}
    del profile["times"]
    return machine(Profile.model_validate(profile | {"cost_model": "fedscale_scalar", "sample_time": "5 ms"}))


def test_fedscales_rule() -> None:
    """3.0 x batch x steps x ms a sample / 1000: 20 samples take 0.3 s, whatever the model's layers are."""
    assert seconds(sampled(), Cost(STEP, 20, "net")) == pytest.approx(0.3)
    assert by_operator(sampled(), Cost(STEP, 20, "net")) == [seconds(sampled(), Cost(STEP, 20, "net")), *[0.0] * 8]
    thrice = sum(seconds(sampled(), Cost(STEP, 20, "net")) for _ in range(3))
    assert thrice == pytest.approx(3.0 * 20 * 3 * 5 / 1000)


@pytest.mark.parametrize(
    ("operators", "batch", "what"),
    [
        (STEP[:4], 8, "work of the phase forward"),
        (STEP[4:], 8, "work of the phase backward and optimizer"),
        (STEP[:8], 8, "work of the phase forward and backward"),
        ((Operator(OpClass.COPY, Phase.AGGREGATE, 1000, 4800),), 0, "work of the phase aggregate"),
        (STEP, 0, "work that does not say its batch"),
    ],
)
def test_fedscales_rule_knows_whole_steps_only(operators: tuple[Operator, ...], batch: int, what: str) -> None:
    """There are no layers in it: systems that split a model, and averaging, have no price."""
    message = (
        rf"^{what} on phone, but cost model fedscale_scalar prices whole training steps only .* not split the model$"
    )
    with pytest.raises(UserError, match=message):
        nanoseconds(sampled(), Cost(operators, batch, "net"))


def test_scalar_prices_by_operator_add_up() -> None:
    """Forward MACs, the ratio of them backward, nothing for the optimizer."""
    step = Cost((forward(600), backward(800, 600), OPTIMIZER))
    assert by_operator(tier(speed="1 kMAC/s"), step) == pytest.approx([0.6, 1.2, 0.0])
