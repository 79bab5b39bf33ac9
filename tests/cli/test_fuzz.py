"""Damaged copies of the quickstart through `fedsim check`: a message and its exit status, never a traceback."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedsim.catalogue import find
from fedsim.cli import main

TEXT = find("scenario", "quickstart").read_text(encoding="utf-8") + "learning: off\n"
WORDS = """\
null true 0 1 -3 2.5 1e400 .nan [] {} [1] {a: 1} '' all 10 % 3 s 1 ns 5 Mbit/s 1 kbit/s ../x.yaml ./ ~ 300 2000 99999999
mlp vgg5 vgg11 lenet5 resnet20 transformer cnn digits mnist cifar10 iid shards quantity natural fedavg splitfed adam sgd
lte wifi5 cpu-60g gpu-1t gn bn float64 on off os:path math:sqrt no:thing tests.cli.toys:Waits uniform fraction
tiny-shakespeare fp16 int8 topk"""
KEYS = """\
cut hidden channels samples resize path alpha kind count link profile up down latency local_steps local_epochs
weighting batch optimizer lr momentum rounds time accuracy norm selection faults evaluate every workers threads tokens
length tokenizer name codec activations gradients weights"""
values = st.sampled_from(WORDS.split()) | st.integers(-2, 70).map(str)
lenient = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@st.composite
def damaged(draw: st.DrawFn) -> str:
    """The quickstart with some words replaced, lines lost or doubled, keys renamed."""
    lines = TEXT.splitlines()
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(2, len(lines) - 1))
        words = re.split(r"([\w.:/-]+)", lines[at])
        word = 2 * draw(st.integers(0, len(words) // 2 - 1)) + 1 if len(words) > 1 else 0
        match draw(st.sampled_from(["value", "value", "value", "key", "drop", "double"])):
            case "value":
                words[word] = draw(values)
                lines[at] = "".join(words)
            case "key":
                words[word] = draw(st.sampled_from(KEYS.split()))
                lines[at] = "".join(words)
            case "drop":
                lines[at] = ""
            case _:
                lines.insert(at, lines[at])
    return "\n".join(lines)


MODELS = [{"name": name, "cut": cut} for name in ("mlp", "cnn", "lenet5", "vgg5", "resnet20") for cut in (1, 2, 9)]
SECTIONS: dict[str, list[Any]] = {
    "model": [*MODELS, "transformer", "vgg5"],
    "data.partition": ["iid", "natural", "shards", "quantity", {"kind": "dirichlet", "alpha": 0.001}],
    "data.samples": [1, 7, 8, 100, 1437, 9999],
    "data.resize": [1, 2, 4, 5, 16, 32, 33],
    "fleet.0.count": [1, 50, 300, 2000],
    "scheduler": ["splitfed", {"name": "splitfed", "local_steps": 3}, {"name": "fedavg", "local_epochs": 0}],
    "selection": [
        {"kind": "uniform", "count": 2},
        {"kind": "fraction", "fraction": 0.01},
        {"kind": "over", "count": 3, "over": 2, "window": "5 s"},
        "all",
    ],
    "faults": [[{"device": d, "leave": "1 s", "return": r}] for d in (0, 7, 8) for r in (None, "2 s", "1 s", "1e30 s")],
    "until": [{"time": "1 ns"}, {"time": "1e300 s"}, {"rounds": 10**15}, {"time": "0 s"}, {"accuracy": 0.5}],
    "evaluate": [{"every": "1 ns"}, {"samples": 1}, {"samples": 10**9}, {"every": "0 s"}],
    "training": [{"batch": 1}, {"batch": 10**9}, {"dtype": "float64"}, {"optimizer": "adam"}],
    "codec": [{"activations": "int8"}, {"gradients": "topk"}, {"weights": "fp16"}, {"weights": "topk"}],
    "norm": ["gn", "bn", "frozen_bn"],
    "learning": ["on", "off"],
}


@st.composite
def changed(draw: st.DrawFn) -> list[str]:
    """Sections that are right by themselves, as `--set`, so that more of them get past the scenario's checks."""
    keys = draw(st.lists(st.sampled_from(sorted(SECTIONS)), min_size=1, max_size=5, unique=True))
    return [word for key in keys for word in ("--set", f"{key}={json.dumps(draw(st.sampled_from(SECTIONS[key])))}")]


def check(folder: Path, text: str, sets: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """`fedsim check` ends with 0, or with 2 or 1 and a readable message."""
    path = folder / "damaged.yaml"
    path.write_text(text, encoding="utf-8")
    status = main(["check", str(path), "--json", *sets])
    out, err = capsys.readouterr()
    assert status in (0, 1, 2), err
    assert "Traceback" not in err
    if status:
        assert err.startswith("error: "), err
        assert out == ""
    else:
        assert err == ""


@pytest.mark.slow
@lenient
@given(damaged())
def test_a_damaged_file(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    """Words replaced, lines lost."""
    check(tmp_path, text, [], capsys)


@pytest.mark.slow
@lenient
@given(changed())
def test_a_strange_combination(tmp_path: Path, capsys: pytest.CaptureFixture[str], sets: list[str]) -> None:
    """Sections that are right by themselves, and do not go together."""
    check(tmp_path, TEXT, sets, capsys)
