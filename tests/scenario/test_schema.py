"""The schema itself: documented throughout, and honest about what is not there yet."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedsim.documents.checking import keys_of, model_at
from fedsim.scenario import Data, Fault, InlineLink, Scenario, ScenarioError, Section, load, schema, unsupported
from tests.scenario.toys import REGISTRY, SHORT


def sections() -> Iterator[type[Section]]:
    """All sections there are."""
    for value in vars(schema).values():
        if isinstance(value, type) and issubclass(value, Section):
            yield value


def test_every_key_says_what_it_means() -> None:
    """The reference page is made from these; keys without a default also show an example."""
    for section in sections():
        assert section.__doc__
        for name, field in section.model_fields.items():
            assert field.description, f"{section.__name__}.{name}"
            assert field.examples or not field.is_required(), f"{section.__name__}.{name}"


def test_paths_lead_to_sections() -> None:
    """Messages need the keys of the section that a path leads to."""
    assert model_at(Scenario, ()) is Scenario
    assert model_at(Scenario, ("data",)) is Data
    assert model_at(Scenario, ("fleet", 3, "link")) is InlineLink
    assert model_at(Scenario, ("seed",)) is None
    assert model_at(Scenario, ("nowhere", "at", "all")) is None
    assert list(keys_of(Fault)) == ["device", "leave", "return"]
    assert "options" not in keys_of(Data)


def test_a_scenario_cannot_be_changed(folder: Path) -> None:
    """All sections are frozen."""
    scenario = load(SHORT, registry=REGISTRY)
    with pytest.raises(ValueError, match="frozen"):
        scenario.seed = 3


@pytest.mark.parametrize("key", unsupported._KEYS)
def test_keys_to_come_are_refused_by_name(folder: Path, key: str) -> None:
    """Not `unknown key`: the interface names them, this version does not have them."""
    data: dict[str, Any] = SHORT | {"fleet": [{"profile": "pi-4"}], key: 3}
    with pytest.raises(ScenarioError, match=re.escape(f"{key}: not in this version of fedsim; remove the key (scen")):
        load(data, registry=REGISTRY)


def test_an_error_can_be_sent_between_processes(folder: Path) -> None:
    """Its text and its problems survive pickling."""
    with pytest.raises(ScenarioError) as caught:
        load(SHORT | {"seed": "x"}, registry=REGISTRY)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.problems) == (str(caught.value), caught.value.problems)
