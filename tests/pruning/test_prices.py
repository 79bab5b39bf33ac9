"""Forwards by the cost model: the same for a model of transformers and for its units, less for a smaller one."""

from __future__ import annotations

import pytest

from fedsim.hardware import pricing
from fedsim.hardware.machines import machine
from fedsim.hardware.profiles import load_profile
from fedsim.models.building import build
from fedsim.models.counting import measure
from fedsim.models.measure import forward_cost
from fedsim.models.options import Plain
from fedsim.models.zoo.llama import apart
from fedsim.pruning.manifest import ObjectBase
from fedsim.pruning.prices import forward_seconds
from fedsim.pruning.skeletons import catalogue_base, transformers_base
from tests.pruning.cuts import llama_cut, tiny_llama

PI = machine(load_profile("raspberry-pi-4b"))


def test_a_network_of_the_catalogue_costs_what_a_run_charges() -> None:
    """One forward of one sample; the user's own network is counted alike."""
    network = build("vgg5", Plain(), input=(1, 8, 8), classes=10, kind="image", device="cpu")
    base = catalogue_base(network, Plain(), data="image", norm="bn")
    wanted = pricing.seconds(PI, forward_cost(measure(network).units, 1))
    assert forward_seconds(PI, network, base, 0) == wanted
    assert forward_seconds(PI, network, ObjectBase(), 0) == wanted
    eight = pricing.seconds(PI, forward_cost(measure(network).units, 8))
    assert forward_seconds(PI, network, base, 0, batch=8) == eight > wanted


@pytest.mark.slow
def test_a_language_model_costs_what_its_units_cost() -> None:
    """And less when it is cut."""
    whole = tiny_llama()
    base = transformers_base(whole)
    wanted = pricing.seconds(PI, forward_cost(measure(apart(whole, 12)).units, 1))
    assert forward_seconds(PI, whole, base, 12) == pytest.approx(wanted)
    assert forward_seconds(PI, llama_cut(whole).module, base, 12) < wanted
