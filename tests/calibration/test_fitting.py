"""Fits of times that follow from known figures: these are found again, and what nothing tells is left alone."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.calibration.running import fit
from fedsim.costs import OpClass
from fedsim.hardware.processors import Efficiency
from tests.calibration.machines import TRUE, evidence, observed, refitted, true, worst


@pytest.mark.slow
@pytest.mark.parametrize("processor", ["cpu", "gpu"])
def test_the_figures_of_a_known_machine_are_found(processor: str) -> None:
    """Rates, shares and overheads to three digits; on a GPU, whose kernels take all tensors, as on a CPU."""
    known = true(processor)
    found = refitted(observed(known), processor)
    assert type(found) is type(known)
    for name in ("gemm", "bandwidth", "overhead", "overlap", "foreach"):
        assert getattr(found, name) == pytest.approx(getattr(known, name), rel=2e-3), name
    for section in ("efficiency", "overheads"):
        for kind in OpClass:
            theirs, ours = (getattr(one, section).of(kind) for one in (known, found))
            assert ours == (theirs if theirs is None else pytest.approx(theirs, rel=5e-3)), (section, kind)
    assert worst(found, observed(known)) < 5e-3  # what rounding to three digits leaves


def test_left_out_networks_of_a_roofline_are_priced_as_well() -> None:
    """Where the machine is what the model says, leaving a network out costs nothing."""
    done = fit(evidence(observed(true())))
    assert done.accuracy(left_out=True).mape < 3e-3
    assert done.accuracy(left_out=True).worst < 8e-3
    assert done.accuracy().rho == pytest.approx(1.0)


def test_a_class_that_nothing_was_measured_of_keeps_its_default() -> None:
    """Without convolutions there is no figure for them in the file, rather than one that stands for nothing."""
    found = refitted(observed(true(), ("dense", "words")))
    assert not {"conv", "pointwise"} & found.efficiency.model_fields_set
    assert found.efficiency.conv == Efficiency().conv
    assert "overheads" not in found.model_fields_set
    assert found.efficiency.linear == pytest.approx(0.9, rel=2e-3)


def test_a_network_that_a_library_serves_badly_bends_nothing() -> None:
    """One of four takes three times as long as its class: the others are priced to 2 % as if it were not there."""
    fine = observed(true(), ("dense", "plain", "words", "mobile"))
    slow = [
        dataclasses.replace(o, seconds=3 * o.seconds) if (o.network, o.batch) == ("mobile", 32) else o for o in fine
    ]
    found = refitted(slow)
    assert worst(found, [o for o in fine if o.network != "mobile"]) < 0.02


def test_no_figure_is_beyond_what_a_profile_may_say() -> None:
    """Times too short for the plain rates give the largest shares that profiles allow, not a file that is refused."""
    fast = [dataclasses.replace(o, seconds=o.seconds / 1e3) for o in observed(true())]
    found = refitted(fast)
    assert found.efficiency.conv == found.efficiency.linear == 1.5
    assert found.bandwidth == 160e9
    assert found.overhead == 0


@pytest.mark.slow
@settings(max_examples=20)
@given(
    st.floats(0.05, 1.4),
    st.floats(0.05, 1.4),
    st.floats(2, 40),
    st.floats(0.5, 4),
    st.floats(1, 200),
    st.floats(1, 500),
)
def test_any_machine_is_found(
    conv: float, linear: float, memory: float, optimizer: float, plain: float, prepared: float
) -> None:
    """Whatever its figures, as long as profiles allow them: every time is priced to within 2 %."""
    known = true().model_validate(
        TRUE
        | {
            "bandwidth": f"{memory} GB/s",
            "overhead": f"{plain} us",
            "overheads": dict.fromkeys(("conv", "pointwise", "depthwise"), f"{prepared} us"),
            "efficiency": {
                "linear": linear,
                "attention": linear,
                "conv": conv,
                "pointwise": conv,
                "optimizer": optimizer,
            },
        }
    )
    assert worst(refitted(observed(known)), observed(known)) < 0.02
