"""The resolved scenario: every default in it, and read back as exactly the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedsim.scenario import dump, load, resolved
from tests.scenario.toys import FULL, REGISTRY, read

positive = st.floats(min_value=0, exclude_min=True, allow_infinity=False)
seconds = positive.map(lambda value: f"{value!r} s")
rates = st.builds(
    "{} {}".format, st.floats(1e-300, 1e290).map(repr), st.sampled_from(["Mbit/s", "B/s", "GiB/s", "bit/s"])
)
links = st.fixed_dictionaries(
    {"up": rates, "down": rates},
    optional={"latency": seconds | st.just("0 ms"), "jitter": seconds, "duplex": st.sampled_from(["full", "half"])},
)
words = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=8).filter(
    lambda text: not text.startswith("~")
)
counts = st.integers(1, 1000)


def optional(**values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Mappings with any of these keys."""
    return st.fixed_dictionaries({}, optional=values)


groups = st.fixed_dictionaries(
    {"profile": st.sampled_from(["pi-4", "./my-board.yaml"])},
    optional={
        "count": counts,
        "link": st.just("wifi") | links | st.none(),
        "power_mode": words,
        "clock": st.just("1.5 GHz"),
        "population": st.booleans(),
        "pruning": st.just(False) | st.just("crop") | st.builds(lambda n: {"method": "crop", "rounding": n}, counts),
    },
)
fedavg = optional(
    local_steps=st.integers(),
    deadline=seconds | st.none(),
    mix=st.floats(allow_nan=False, allow_infinity=False),
    fast=st.booleans() | st.sampled_from(["on", "off"]),
    how=st.sampled_from(["mean", "median"]),
    weights=st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=3),
)
scenarios = st.fixed_dictionaries(
    {
        "name": st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True),
        "model": st.just("vgg5") | st.fixed_dictionaries({"name": st.just("vgg5")}, optional={"cut": counts}),
        "data": st.fixed_dictionaries(
            {"name": st.just("digits")},
            optional={
                "path": words,
                "samples": counts | st.none(),
                "tokens": st.fixed_dictionaries({"length": counts, "tokenizer": words}),
                "partition": st.builds(lambda alpha: {"kind": "dirichlet", "alpha": alpha}, st.floats(0, 1e300)),
            },
        ),
        "fleet": st.lists(groups, min_size=1, max_size=3),
        "server": st.fixed_dictionaries({"profile": st.just("big")}, optional={"link": links}),
        "scheduler": fedavg.map(lambda options: {"name": "fedavg"} | options),
        "until": optional(time=seconds, accuracy=st.floats(1e-300, 1), loss=positive).map({"rounds": 3}.__or__),
    },
    optional={
        "seed": st.integers(0, 2**63 - 1),
        "training": optional(batch=counts, dtype=st.sampled_from(["float32", "float64"])),
        "selection": st.builds(lambda part: {"kind": "fraction", "fraction": part}, st.floats(1e-300, 1))
        | optional(window=seconds).map({"kind": "uniform", "count": 1}.__or__),
        "faults": st.just([{"device": 0, "leave": "3 ms"}]),
        "evaluate": optional(every=seconds | st.none(), samples=st.just("all") | counts),
        "codec": optional(
            activations=st.sampled_from(["fp16", "topk", {"kind": "int8"}]),
            gradients=optional(fraction=st.floats(1e-300, 0.5), feedback=st.booleans()),
            weights=st.sampled_from(["fp32", "fp16", "int8", {"kind": "fp16"}]),
        ),
        "norm": st.sampled_from(["bn", "gn", "frozen_bn"]),
        "pruning": st.none()
        | st.sampled_from(["crop", {}, {"manifest": "small"}, {"scope": "model"}])
        | optional(
            rounding=counts,
            budget=st.sampled_from([{}, {"params": "25 %"}, {"params": 0.25}]),
            scope=st.sampled_from(["auto", "device-block"]),
            fit=st.just("memory"),
            calibration=st.just("text.txt") | st.builds(lambda n: {"path": "text.txt", "windows": n}, counts),
        ).map({"method": "crop"}.__or__),
        "workers": optional(threads=st.integers(1, 64)),
    },
)


@pytest.mark.slow
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(scenarios)
def test_what_is_written_is_read_back_exactly(folder: Path, data: dict[str, Any]) -> None:
    """load(dump(s)) == s, dump(load(dump(s))) == dump(s), and the same through plain data."""
    scenario = load(data, registry=REGISTRY)
    text = dump(scenario)
    again = read(folder, text)
    assert again == scenario
    assert dump(again) == text
    assert load(resolved(scenario), registry=REGISTRY) == scenario


def test_every_key_of_every_section_is_written(folder: Path) -> None:
    """The resolved scenario is complete and in the file's order."""
    assert dump(read(folder, FULL)) == (Path(__file__).parent / "resolved.yaml").read_text().replace(
        "FOLDER", str(folder)
    ).replace("PARENT", str(folder.parent))


def test_other_readers_of_yaml_understand_the_dump(folder: Path) -> None:
    """What is written is what PyYAML reads, with `on` and `off` as switches."""
    scenario = read(folder, FULL)
    assert yaml.safe_load(dump(scenario)) == _switched(resolved(scenario))


def _switched(value: Any) -> Any:
    """Plain data with `on` and `off` as YAML 1.1 has them."""
    if isinstance(value, dict):
        return {key: _switched(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_switched(item) for item in value]
    return {"on": True, "off": False}.get(value, value) if isinstance(value, str) else value


@pytest.mark.parametrize(
    "text", ["\x85", "a\u2028 b", "#\x85-/ ", " lead", "trail ", "3", "1e3", "017", "off", "a: b", "\ufeff"]
)
def test_any_text_is_written_so_that_it_is_read_back(folder: Path, text: str) -> None:
    """Line breaks of other kinds, spaces at the ends, and text that looks like something else."""
    data = {"name": "digits", "tokens": {"length": 1, "tokenizer": text}}
    scenario = read(folder, FULL, updates={"data": data})
    assert read(folder, dump(scenario)) == scenario
