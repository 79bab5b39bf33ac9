"""The schedulers of a comparison: how a command line and a program write them, and what they are called."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from fedsim.errors import UserError
from fedsim.experiment.contenders import everybody, given, written
from fedsim.experiment.registry import registry
from fedsim.schedulers.fedavg import FedAvg


@pytest.mark.parametrize(
    ("text", "schedulers"),
    [
        ("fedavg,splitfed", {"fedavg": "fedavg", "splitfed": "splitfed"}),
        (" fedavg , splitfed ", {"fedavg": "fedavg", "splitfed": "splitfed"}),
        ("a=fedavg", {"a": "fedavg"}),
        ("pkg.mod:Outer.Mine", {"Mine": "pkg.mod:Outer.Mine"}),
        ("mine = pkg.mod:Mine", {"mine": "pkg.mod:Mine"}),
        ("fedavg{local_steps: 3}", {"fedavg-local_steps-3": {"name": "fedavg", "local_steps": 3}}),
        ("few=fedavg{local_steps: 3},fedavg", {"few": {"name": "fedavg", "local_steps": 3}, "fedavg": "fedavg"}),
        (
            "a{x: [1, 2], y: {z: ',}'}},b",
            {"a-x-1-2-y-z": {"name": "a", "x": [1, 2], "y": {"z": ",}"}}, "b": "b"},
        ),
        ("a{x: 'it''s, =', y: 1.5}", {"a-x-it-s-y-1.5": {"name": "a", "x": "it's, =", "y": 1.5}}),
        ("a{}", {"a": {"name": "a"}}),
    ],
)
def test_the_command_line(text: str, schedulers: dict[str, Any]) -> None:
    """Names, options in YAML, labels; commas inside of brackets and quotes part nothing."""
    assert written(text) == schedulers


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' is no scheduler to compare; write NAME, module:Class, NAME{option: value} or LABEL=NAME{...}"),
        ("fedavg,,splitfed", "'' is no scheduler"),
        ("fedavg splitfed", "'fedavg splitfed' is no scheduler"),
        ("fedavg{local_steps: 3", "'fedavg{local_steps: 3' is no scheduler"),
        ("fedavg{local_steps: 3}}", "not valid YAML"),
        ("fedavg{a: 1, a: 2}", "options of scheduler 'fedavg{a: 1, a: 2}': the key 'a' is given twice"),
        ("fedavg{name: splitfed}", "its name stands before the bracket"),
        ("fedavg,fedavg", "two schedulers are called fedavg; give one of them a label of its own"),
        ("a=fedavg,a=splitfed", "two schedulers are called a"),
        ("../x=fedavg", "'../x' is no label of a scheduler; use letters, digits, '-', '_' and '.'"),
        ("a=b=fedavg", "'a=b=fedavg' is no scheduler"),
    ],
)
def test_a_wrong_command_line(text: str, message: str) -> None:
    """What is wrong, and how to write it."""
    with pytest.raises(UserError) as caught:
        written(text)
    assert message in str(caught.value)


@dataclass(frozen=True, kw_only=True)
class Own:
    """A scheduler of the user's own."""

    pace: int = 1


def test_python() -> None:
    """Names, mappings, classes, instances and objects with options; a mapping gives labels."""
    few, own = FedAvg(local_steps=3), Own()
    schedulers: list[Any] = ["splitfed", {"name": "fedavg", "local_steps": 5}, few, Own, {"name": own, "pace": 2}]
    assert list(given(schedulers)) == ["splitfed", "fedavg-local_steps-5", "fedavg", "Own", "Own-pace-2"]
    assert given({"one": few, "two": own}) == {"one": few, "two": own}
    with pytest.raises(UserError, match="two schedulers are called fedavg"):
        given(["fedavg", few])
    with pytest.raises(UserError, match="is no label of a scheduler"):
        given({"a/b": "fedavg"})


def test_everybody() -> None:
    """What `fedsim list schedulers` lists."""
    assert everybody() == {name: name for name in registry().schedulers}
    assert {"fedavg", "splitfed"} <= everybody().keys()
