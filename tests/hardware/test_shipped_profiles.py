"""The profiles that ship: all there, with the figures they are meant to have, and the arithmetic behind these right."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from fedsim import catalogue
from fedsim.hardware import sources
from fedsim.hardware.machines import machine
from fedsim.hardware.processors import Processor
from fedsim.hardware.profiles import CostModel, Kind, Profile, load_profile
from fedsim.hardware.sources import Confidence


class Row(NamedTuple):
    """Speeds of a processor, GFLOP/s and GB/s, as sources print them, and how far each is to be trusted."""

    id: str
    processor: str
    gemm: float
    bandwidth: float
    trust: tuple[Confidence, Confidence]


M, D, U = Confidence.MEASURED, Confidence.DERIVED, Confidence.UNVERIFIED

ROWS = [
    Row("raspberry-pi-zero-2w", "cpu", 10, 2.6, (D, D)),
    Row("raspberry-pi-3b", "cpu", 12, 2.2, (D, D)),
    Row("raspberry-pi-3b-plus", "cpu", 14, 2.3, (D, D)),
    Row("raspberry-pi-4b", "cpu", 28, 4.8, (D, D)),
    Row("raspberry-pi-5", "cpu", 72, 11, (D, D)),
    Row("orange-pi-5", "cpu", 100, 25, (D, D)),
    Row("lattepanda-delta-3", "cpu", 48, 20, (D, U)),
    Row("intel-n100", "cpu", 120, 20, (D, D)),
    Row("coral-dev-board", "cpu", 14, 4, (D, U)),
    Row("arduino-uno-q", "cpu", 19, 6, (D, U)),
    Row("jetson-nano", "gpu", 140, 19, (U, D)),
    Row("jetson-nano", "cpu", 40, 7.5, (D, D)),
    Row("jetson-tx2", "gpu", 430, 45, (U, U)),
    Row("jetson-tx2", "cpu", 50, 11, (U, U)),
    Row("jetson-xavier-nx", "gpu", 560, 38, (D, D)),
    Row("jetson-xavier-nx", "cpu", 75, 18, (U, D)),
    Row("jetson-agx-xavier", "gpu", 930, 102, (D, D)),
    Row("jetson-agx-xavier", "cpu", 139, 22, (D, D)),
    Row("jetson-orin-nano", "gpu", 800, 51, (D, D)),
    Row("jetson-orin-nano", "cpu", 92, 13, (D, D)),
    Row("jetson-orin-nano-super", "gpu", 1310, 77, (M, D)),
    Row("jetson-orin-nano-super", "cpu", 104, 13, (D, D)),
    Row("jetson-agx-orin", "gpu", 3500, 154, (D, U)),
    Row("jetson-agx-orin", "cpu", 260, 21, (D, D)),
    Row("phone-low-a53", "cpu", 12, 2.5, (D, U)),
    Row("phone-low", "cpu", 20, 8.6, (D, U)),
    Row("phone-mid-2017", "cpu", 26, 17, (D, U)),
    Row("phone-mid", "cpu", 36, 10, (D, U)),
    Row("phone-2019", "cpu", 90, 20, (D, U)),
    Row("phone-high-2021", "cpu", 85, 30, (D, U)),
    Row("phone-high-2023", "cpu", 130, 39, (D, U)),
    Row("phone-high-2024", "cpu", 150, 45, (D, U)),
    Row("laptop-2017", "cpu", 200, 12.4, (U, M)),
    Row("laptop-2022", "cpu", 400, 19.6, (U, M)),
    Row("laptop-m1", "cpu", 350, 59, (U, M)),
    Row("gtx-1080-ti", "gpu", 10100, 403, (M, M)),
    Row("rtx-2080-ti", "gpu", 13000, 489, (M, M)),
    Row("rtx-3090", "gpu", 24600, 829, (M, M)),
    Row("rtx-a6000", "gpu", 23900, 676, (M, M)),
    Row("rtx-4090", "gpu", 54700, 860, (M, M)),
    Row("t4", "gpu", 4300, 207, (M, M)),
    Row("v100-sxm2-16g", "gpu", 14100, 735, (M, M)),
    Row("a100-pcie-40g", "gpu", 17600, 1304, (M, M)),
    Row("a100-sxm4-80g", "gpu", 19200, 1565, (M, M)),
    Row("h100-sxm", "gpu", 52000, 2693, (M, M)),
    Row("xeon-2x6248r", "cpu", 5500, 116, (U, M)),
    Row("xeon-2x8380", "cpu", 7100, 216, (U, M)),
    Row("xeon-2x2680v3", "cpu", 1150, 47, (U, M)),
    Row("c5-4xlarge", "cpu", 580, 40, (D, U)),
]
REAL = list(dict.fromkeys(row.id for row in ROWS))
ABSTRACT = [
    "cpu-60g",
    "gpu-1t",
    "gpu-2t5",
    "gpu-3t",
    "gpu-30t",
    *(f"{kind}-tier-{n}" for kind in ("pi", "jetson") for n in range(1, 5)),
]

GIGA, FLOP = 1e9, 0.5e9  # bytes in a GB, MACs in a GFLOP


def of(name: str, processor: str | None = None) -> Processor:
    """A processor of a profile, by default the one that trains."""
    profile = load_profile(name)
    assert profile.processors is not None
    assert profile.use is not None
    return profile.processors.named()[processor or profile.use]


def trust(profile: Profile, field: str) -> Confidence:
    """How far the file says that a number is to be trusted."""
    found = sources.origin(field, profile.sources)
    assert found is not None, field
    return found.confidence


def test_the_catalogue_is_complete() -> None:
    """No board, Jetson, phone, laptop or server is missing, and none is there that this test does not know."""
    assert sorted(catalogue.names("profile")) == sorted(REAL + ABSTRACT)


def test_devices_and_servers_lie_in_their_folders_under_their_names() -> None:
    """A file is found by its `id`, and says what kind of machine it describes."""
    for name, path in catalogue.names("profile").items():
        profile = load_profile(name)
        assert profile.id == path.stem
        assert (path.parent.parent.name == "server") == (profile.kind is Kind.SERVER or name in ABSTRACT[:5])
        prefix = name.split("-")[0]
        if prefix in ("jetson", "phone", "laptop") and name not in ABSTRACT:
            assert profile.kind == prefix
        assert (profile.kind is Kind.ABSTRACT) == (name in ABSTRACT)
    assert {load_profile(row.id).kind for row in ROWS[:10]} == {Kind.BOARD}


@pytest.mark.parametrize("name", REAL)
def test_a_real_machine_is_a_roofline_that_nobody_has_calibrated(name: str) -> None:
    """Every number has a source with a word for its confidence; the shares of the speed are admitted to be guesses."""
    profile = load_profile(name)
    assert profile.cost_model is CostModel.ROOFLINE
    assert profile.calibration is None
    assert sources.uncovered(profile, profile.sources) == []
    unverified = sources.unverified(profile, profile.sources)
    for field in ("efficiency.conv", "overhead"):
        assert f"processors.{profile.use}.{field}" in unverified
    assert {"memory.usable", "memory.runtime", "variation.jitter"} <= set(unverified)


@pytest.mark.parametrize("name", REAL)
def test_sources_can_be_looked_up_by_those_who_have_the_file_only(name: str) -> None:
    """References are written out, without abbreviations in brackets; derived figures show their arithmetic."""
    for source in load_profile(name).sources:
        assert "[" not in source.ref
        assert " " in source.ref or source.confidence is U, source
        if source.confidence is D:
            assert any(character.isdigit() for character in source.note), source


@pytest.mark.parametrize("row", ROWS, ids=[f"{row.id}-{row.processor}" for row in ROWS])
def test_speeds_and_their_confidence(row: Row) -> None:
    """Sustained matrix products and memory traffic are those of the published tables."""
    processor = of(row.id, row.processor)
    assert processor.gemm == pytest.approx(row.gemm * FLOP, rel=1e-12)
    assert processor.bandwidth == pytest.approx(row.bandwidth * GIGA, rel=1e-12)
    profile, prefix = load_profile(row.id), f"processors.{row.processor}"
    assert (trust(profile, f"{prefix}.gemm"), trust(profile, f"{prefix}.bandwidth")) == row.trust


def test_the_peak_of_a_cpu_is_cores_times_clock_times_flops_a_cycle() -> None:
    """8 FLOP a cycle for small and older ARM cores, 16 for newer and small x86 ones, 32 with AVX2, 64 with AVX-512."""
    by_cycle = {
        8: ["raspberry-pi-zero-2w", "raspberry-pi-3b", "raspberry-pi-3b-plus", "raspberry-pi-4b", "coral-dev-board",
            "arduino-uno-q", "jetson-nano"],
        16: ["raspberry-pi-5", "intel-n100", "jetson-orin-nano", "jetson-orin-nano-super", "jetson-agx-orin"],
        32: ["xeon-2x2680v3"],
        64: ["xeon-2x6248r", "xeon-2x8380"],
    }  # fmt: skip
    for flops, names in by_cycle.items():
        for name in names:
            cpu = of(name, "cpu")
            assert cpu.cores is not None
            assert cpu.clock is not None
            assert cpu.peak == pytest.approx(cpu.cores * cpu.clock * flops / 2), name
    assert of("orange-pi-5").peak == pytest.approx((4 * 2.4 * 16 + 4 * 1.8 * 8) * FLOP)


def test_copying_reads_and_writes() -> None:
    """Bandwidth of a CPU is twice what memcpy copies, within the range of the boards that were measured."""
    memcpy = {
        "raspberry-pi-zero-2w": (1.3, 1.3), "raspberry-pi-3b": (1.11, 1.11), "raspberry-pi-3b-plus": (1.13, 1.23),
        "raspberry-pi-4b": (2.24, 2.78), "raspberry-pi-5": (5.3, 6.0), "orange-pi-5": (12.8, 12.8),
        "intel-n100": (9.9, 11.6), "jetson-nano": (3.73, 3.73), "jetson-xavier-nx": (9.19, 9.19),
        "jetson-agx-xavier": (10.91, 10.91), "jetson-orin-nano": (6.73, 6.73), "jetson-orin-nano-super": (6.73, 6.73),
        "jetson-agx-orin": (10.6, 10.6),
    }  # fmt: skip
    for name, (least, most) in memcpy.items():
        bandwidth = of(name, "cpu").bandwidth / GIGA
        assert 2 * least * 0.96 <= bandwidth <= 2 * most * 1.02, name


def test_gpus_of_jetsons_follow_their_rules() -> None:
    """Two FLOP a core and cycle, 0.75 of the memory's peak, 0.66 of the arithmetic one where nothing else is known."""
    peak_bandwidth = {
        "jetson-nano": 25.6, "jetson-tx2": 59.7, "jetson-xavier-nx": 51.2, "jetson-agx-xavier": 136.5,
        "jetson-orin-nano": 68, "jetson-orin-nano-super": 102, "jetson-agx-orin": 204.8,
    }  # fmt: skip
    for name, peak in peak_bandwidth.items():
        gpu = of(name)
        assert gpu.cores is not None
        assert gpu.clock is not None
        assert gpu.peak is not None
        assert gpu.peak == pytest.approx(gpu.cores * gpu.clock, rel=1e-3), name  # in MAC/s
        assert gpu.bandwidth / GIGA == pytest.approx(0.75 * peak, rel=0.012), name
        assert 0.59 <= gpu.gemm / gpu.peak <= 0.665, name
    for name in ("jetson-xavier-nx", "jetson-agx-xavier", "jetson-agx-orin"):
        assert of(name).gemm == pytest.approx(0.66 * (of(name).peak or 0), rel=0.005), name
    slow, fast = of("jetson-orin-nano"), of("jetson-orin-nano-super")
    assert slow.gemm == pytest.approx(fast.gemm * (slow.clock or 0) / (fast.clock or 1), rel=0.005)
    slow, fast = of("jetson-orin-nano", "cpu"), of("jetson-orin-nano-super", "cpu")
    assert fast.gemm == pytest.approx(slow.gemm * (fast.clock or 0) / (slow.clock or 1), rel=0.005)


def test_phones_are_slowed_by_heat_and_background_load() -> None:
    """0.6 of what ncnn computes in FP32 (half of its FP16 rate), rounded; 0.58 of the memory channel."""
    rates = {  # GFLOP/s of ResNet-50, FP16 or not, GB/s of the channel
        "phone-low-a53": (20.8, False, 4.3), "phone-low": (30.8, False, 14.9), "phone-mid-2017": (42.7, False, 29.8),
        "phone-mid": (120, True, 17.1), "phone-2019": (312, True, 34.1), "phone-high-2021": (277, True, 51.2),
        "phone-high-2023": (433, True, 67.2), "phone-high-2024": (510, True, 76.8),
    }  # fmt: skip
    for name, (rate, half, channel) in rates.items():
        cpu = of(name)
        assert cpu.gemm / FLOP == pytest.approx(0.6 * rate / (2 if half else 1), rel=0.085), name
        assert cpu.bandwidth / GIGA == pytest.approx(0.58 * channel, rel=0.02), name


def test_cpu_servers_sustain_six_tenths_of_their_peak() -> None:
    """The share is chosen; the arithmetic is not."""
    for name in ("xeon-2x6248r", "xeon-2x8380", "xeon-2x2680v3"):
        assert of(name).gemm == pytest.approx(0.6 * (of(name).peak or 0), rel=0.006), name


@pytest.mark.parametrize("name", REAL)
def test_what_a_run_may_use_of_memory(name: str) -> None:
    """Boards, Jetsons and laptops leave a part and a fixed amount to the system, phones half, GPUs their context."""
    profile = load_profile(name)
    capacity = profile.memory.capacity / GIGA
    rules = {
        Kind.BOARD: 0.9 * capacity - 0.2,
        Kind.JETSON: 0.9 * capacity - 0.8,
        Kind.PHONE: 0.5 * capacity,
        Kind.LAPTOP: 0.9 * capacity - 2,
        Kind.SERVER: 0.95 * capacity - (0.5 if profile.use == "gpu" else 0),
    }
    assert profile.memory.usable / GIGA == pytest.approx(rules[profile.kind], abs=1e-3)
    assert profile.memory.runtime == 0.25 * GIGA


def test_overhead_depends_on_the_core_that_dispatches() -> None:
    """150 us on the smallest cores, 10 us on desktops and servers; a Jetson's GPU waits for its host CPU."""
    expected = {
        150: ["raspberry-pi-zero-2w", "raspberry-pi-3b", "raspberry-pi-3b-plus", "coral-dev-board", "arduino-uno-q",
              "phone-low-a53"],
        60: ["raspberry-pi-4b", "jetson-nano", "jetson-tx2", "phone-low", "phone-mid-2017"],
        20: ["lattepanda-delta-3", "intel-n100"],
    }  # fmt: skip
    overhead = {name: microseconds for microseconds, names in expected.items() for name in names}
    for row in ROWS:
        kind = load_profile(row.id).kind
        default = 10 if kind in (Kind.SERVER, Kind.LAPTOP) else 30
        assert of(row.id, row.processor).overhead == pytest.approx(overhead.get(row.id, default) * 1e-6), row.id


def test_a_loaded_gpu_server_never_idles_like_an_empty_one() -> None:
    """Ready is 30 % of the way from idle to busy, as on an A40 that drew 110 of 300 W instead of 30."""
    for row in ROWS:
        profile = load_profile(row.id)
        if profile.kind is Kind.SERVER and row.processor == "gpu":
            power = profile.power
            assert power.ready == pytest.approx(power.idle + 0.3 * (power.busy - power.idle), abs=0.6), row.id


def test_efficiency_is_the_same_guess_everywhere() -> None:
    """Until somebody calibrates a machine, nothing is known about its classes of operators."""
    shares = {of(row.id, row.processor).efficiency for row in ROWS}
    assert {(e.linear, e.attention, e.conv, e.pointwise) for e in shares} == {(0.6, 0.6, 0.35, 0.3)}


@pytest.mark.parametrize(
    ("name", "mode", "gemm", "busy"),
    [
        ("raspberry-pi-3b-plus", "hot", 12, 1.9 + 3.2 * (1.2 / 1.4) ** 2),
        ("raspberry-pi-4b", "slow", 28 / 1.8, 2.7 + 3.7 / 1.8**2),
        ("jetson-nano", "5w", 140 * 0.64 / 0.922, 5),
        ("jetson-nano", "10w", 140, 10),
        ("jetson-nano", "cpu", 40, 10),
        ("jetson-tx2", "7w5", 430 * 0.85 / 1.3, 7.5),
        ("jetson-xavier-nx", "15w", 560, 15),
        ("jetson-agx-xavier", "30w", 930 * 0.9 / 1.377, 30),
        ("jetson-orin-nano", "15w", 800, 15),
        ("jetson-orin-nano-super", "25w", 1310 * 0.918 / 1.02, 25),
        ("jetson-agx-orin", "15w", 3500 * 768 / 2048 * 0.421 / 1.3, 15),
    ],
)
def test_power_modes(name: str, mode: str, gemm: float, busy: float) -> None:
    """Speeds follow cores and clocks of the mode; watts are its budget, or follow the clock."""
    set_up = machine(load_profile(name), mode)
    assert set_up.processor is not None
    assert set_up.processor.gemm == pytest.approx(gemm * FLOP)
    assert set_up.busy_watts == pytest.approx(busy)


def test_jetsons_have_the_modes_of_their_kind() -> None:
    """Fleets name the budgets of NVIDIA's tables; `cpu` trains beside the GPU."""
    modes = {name: sorted(load_profile(name).modes) for name in REAL if name.startswith("jetson")}
    assert modes == {
        "jetson-nano": ["10w", "5w", "cpu"],
        "jetson-tx2": ["15w", "7w5", "cpu"],
        "jetson-xavier-nx": ["10w", "15w", "cpu"],
        "jetson-agx-xavier": ["10w", "15w", "30w", "cpu"],
        "jetson-orin-nano": ["15w", "7w", "cpu"],
        "jetson-orin-nano-super": ["25w", "cpu"],
        "jetson-agx-orin": ["15w", "30w", "50w", "60w", "cpu"],
    }
