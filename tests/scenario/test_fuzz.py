"""Damaged scenarios: whatever is done to a file or to its data, the answer is a scenario or a message."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedsim.documents.reading import read as read_yaml
from fedsim.errors import UserError
from fedsim.scenario import Scenario, dump, load
from tests.scenario.toys import FULL, REGISTRY

JARGON = re.compile(r"pydantic|Input should|union_tag|function-|validation error|Traceback")
WORDS = """\
null ~ true off 0 -1 3 017 1e400 -1e-400 .nan .inf 3:00 2001-01-01 '' [] {} [[]] *x &x a: << ? | > ! !!int 5_0 5% 9e99
vgg5 all auto module:Class ./x.yaml ~x/y.yaml % @ ` - , : #"""
SCALARS = WORDS.split()
SCALARS += ["{a: 1}", "", " ", "\t", "\0", "é", "\u2028", "\U0001f600", "10 Mbit/s", "3 s", "-3 s", "0 s"]
SCALARS += ["9" * 400, "x" * 300, "{" * 50, str(10**30)]
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.sampled_from(SCALARS)
    | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip
lenient = settings(
    max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@st.composite
def damaged_texts(draw: st.DrawFn) -> bytes:
    """The full scenario with lines deleted, doubled, swapped, values replaced, bytes put in."""
    lines = FULL.splitlines()
    for _ in range(draw(st.integers(1, 3))):
        if not lines:
            break
        here, there = (draw(st.integers(0, len(lines) - 1)) for _ in range(2))
        match draw(st.sampled_from(["delete", "double", "swap", "value", "part", "indent"])):
            case "delete":
                del lines[here]
            case "double":
                lines.insert(there, lines[here])
            case "swap":
                lines[here], lines[there] = lines[there], lines[here]
            case "value":
                lines[here] = re.sub(r":.*", ": " + draw(st.sampled_from(SCALARS)).replace("\\", ""), lines[here])
            case "part":
                words = re.split(r"(\W+)", lines[here])
                words[draw(st.integers(0, len(words) - 1))] = draw(st.sampled_from(SCALARS))
                lines[here] = "".join(words)
            case "indent":
                lines[here] = " " * draw(st.integers(1, 4)) + lines[here].lstrip()
            case _:
                raise AssertionError
    data = "\n".join(lines).encode("utf-8", "surrogatepass")
    if draw(st.integers(0, 4)) == 0:
        at = draw(st.integers(0, len(data)))
        data = data[:at] + draw(st.binary(max_size=4)) + data[at + draw(st.integers(0, 9)) :]
    return data


@st.composite
def damaged_trees(draw: st.DrawFn) -> dict[str, Any]:
    """The data of the full scenario with some values replaced, removed, or put under other keys."""
    tree: Any = read_yaml(FULL, "scenario")[0]
    for _ in range(draw(st.integers(1, 3))):
        node = tree
        while True:
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(node[key], dict | list) and draw(st.integers(0, 3)):
                node = node[key]
                continue
            match draw(st.sampled_from(["replace", "replace", "remove", "rename"])):
                case "replace":
                    node[key] = draw(anything)
                case "remove":
                    del node[key]
                case "rename" if isinstance(node, dict):
                    node[draw(st.text(max_size=8))] = node.pop(key)
            break
    assert isinstance(tree, dict)
    return tree


def check(source: Any, **more: Any) -> None:
    """Loads, and then the dump can be read again; or fails with a message that a user can read."""
    try:
        scenario = load(source, registry=REGISTRY, **more)
    except UserError as error:
        text = str(error)
        assert text
        assert not JARGON.search(text), text
        assert all(len(line) < 1000 for line in text.split("\n")), text
    else:
        assert isinstance(scenario, Scenario)
        assert dump(scenario)


@pytest.mark.slow
@lenient
@given(damaged_texts())
def test_a_damaged_file_gives_a_message(folder: Path, data: bytes) -> None:
    """No traceback, whatever is in the file."""
    path = folder / "damaged.yaml"
    path.write_bytes(data)
    check(path)


@pytest.mark.slow
@lenient
@given(damaged_trees())
def test_damaged_data_give_a_message(folder: Path, data: dict[str, Any]) -> None:
    """No traceback, whatever Python hands in."""
    check(data)


@pytest.mark.slow
@lenient
@given(st.lists(st.sampled_from(FULL.replace(":", " ").split()) | st.sampled_from(SCALARS), max_size=4), st.data())
def test_a_strange_override_gives_a_message(folder: Path, words: list[str], data: st.DataObject) -> None:
    """No traceback, whatever `--set` is given."""
    path = folder / "x.yaml"
    path.write_text(FULL)
    check(
        path, overrides=[".".join(words) + data.draw(st.sampled_from(["=", ""])) + data.draw(st.sampled_from(SCALARS))]
    )
