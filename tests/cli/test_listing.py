"""What lists and checks say of links, profiles and schedulers: in bits where people think in bits."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedsim.cli import main
from fedsim.cli.listing import entries
from fedsim.experiment.registry import registry
from fedsim.schedulers.catalogue import SCHEDULERS
from tests.cli.toys import TOY, written


def test_links_are_listed_in_bits_a_second() -> None:
    """As their files are written."""
    assert entries("links")["lte"] == (
        "up 10 Mbit/s, down 26 Mbit/s, 25 ms one way, jitter 15 ms, loss 0.5 %, a population"
    )


def test_profiles_are_listed_with_speed_and_memory() -> None:
    """The memory that a run may use, not all there is."""
    assert entries("profiles")["pi-tier-1"].startswith("abstract, 2.2 GMAC/s, 3.4 GB usable; ")


def test_scenarios_are_listed_with_a_whole_sentence() -> None:
    """The first of the comment above the file, however many lines it takes, and none of the second."""
    found = entries("scenarios")
    assert found["quickstart"].endswith("unequal in speed, link and data.")
    assert found["hundred-thousand"].endswith("of which the first thousand of 1,300 that are asked make a round.")
    assert found["llm-inference"].endswith("a language model of the size of SmolLM2-135M, and how fast?")
    assert {text[-1] for text in found.values()} <= {".", "?"}


@pytest.mark.parametrize("kind", ["schedulers", "models", "profiles", "links", "scenarios"])
def test_lists_are_sorted(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By name, whatever order things were registered in."""
    backwards = dict(reversed(list(SCHEDULERS.items())))
    monkeypatch.setattr("fedsim.experiment.registry.SCHEDULERS", backwards)
    registry.cache_clear()
    try:
        found = list(entries(kind))
    finally:
        monkeypatch.undo()
        registry.cache_clear()
    assert found == sorted(found)
    assert len(found) > 1


def test_check_shows_the_cut_behind_its_unit_and_links_in_bits(
    scenario: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Up and down are not mixed up."""
    monkeypatch.setenv("COLUMNS", "160")
    written(Path(scenario).parent, TOY.replace("scheduler: fedavg", "scheduler: splitfed").replace("cut: 1", "cut: 2"))
    assert main(["check", scenario]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    cut = lines.index(["cut"])
    assert (lines[cut - 1][:2], lines[cut + 1][:2]) == (["2", "hidden2"], ["3", "head"])
    lte = next(words for words in lines if "lte" in words)
    assert " ".join(lte) == "1 x jetson-tier-4 12 GMAC/s lte 10 Mbit/s 26 Mbit/s 25 ms 15 ms 0.50%"
