"""Profiles: what ships is complete and sourced; what cannot be is refused in words that help."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from fedsim import catalogue
from fedsim.errors import UserError
from fedsim.hardware import sources
from fedsim.hardware.profiles import Kind, Profile, load_profile

BOARD = """\
schema: 1
id: my-board
name: A board on my desk
kind: board
cost_model: scalar
speed: 2 GMAC/s
memory: {capacity: 4 GB, usable: 3 GB, runtime: 250 MB}
power: {idle: 2 W, busy: 6 W}
sources:
  - {field: speed, confidence: measured, ref: a stopwatch}
"""

TIERS = {
    "pi-tier-1": 2.2e9,
    "pi-tier-2": 1.6e9,
    "pi-tier-3": 1.1e9,
    "pi-tier-4": 0.65e9,
    "jetson-tier-1": 55e9,
    "jetson-tier-2": 40e9,
    "jetson-tier-3": 25e9,
    "jetson-tier-4": 12e9,
    "cpu-60g": 60e9,
    "gpu-1t": 1e12,
    "gpu-2t5": 2.5e12,
    "gpu-3t": 3e12,
}


def write(folder: Path, text: str, name: str = "my-board.yaml") -> Path:
    """A profile file."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", catalogue.names("profile"))
def test_every_number_of_a_shipped_profile_has_a_source(name: str) -> None:
    """No figure ships without a word on where it is from."""
    profile = load_profile(name)
    assert sources.uncovered(profile, profile.sources) == []


@pytest.mark.parametrize("name", catalogue.names("profile"))
def test_a_shipped_profile_names_a_link_that_exists(name: str) -> None:
    """A fleet group without a link gets the profile's own."""
    assert load_profile(name).default_link in catalogue.names("link")


def test_the_abstract_tiers_are_as_specified() -> None:
    """Speeds of the reference scenarios; backward costs twice forward; none of it pretends to be measured."""
    profiles = {name: load_profile(name) for name in TIERS}
    assert {name: profile.speed for name, profile in profiles.items()} == TIERS
    assert {profile.backward_ratio for profile in profiles.values()} == {2.0}
    assert {profile.kind for profile in profiles.values()} == {Kind.ABSTRACT}
    for profile in profiles.values():
        assert sources.unverified(profile, profile.sources) == list(sources.numbers(profile))


def test_a_users_file_is_found_relative_to_the_scenario(tmp_path: Path) -> None:
    """`./my-board.yaml` is looked for beside the scenario; quantities become SI, defaults are filled in."""
    write(tmp_path, BOARD)
    profile = load_profile("./my-board.yaml", relative_to=tmp_path)
    assert (profile.speed, profile.memory.runtime, profile.power.idle) == (2e9, 250e6, 2.0)
    assert (profile.backward_ratio, profile.lanes, profile.power.ready) == (2.0, 1, 2.0)
    assert profile.default_link is None


def test_a_profile_is_written_and_read_back_unchanged(tmp_path: Path) -> None:
    """What a resolved scenario records is what it was."""
    write(tmp_path, BOARD)
    profile = load_profile("./my-board.yaml", relative_to=tmp_path)
    assert Profile.model_validate(profile.model_dump(mode="json", by_alias=True)) == profile


def test_a_profile_cannot_be_changed() -> None:
    """Profiles are values."""
    with pytest.raises(ValidationError):
        load_profile("pi-tier-1").speed = 1.0


def test_an_unknown_name_suggests_the_nearest() -> None:
    """A slip of the pen costs one look."""
    with pytest.raises(UserError, match=r"unknown profile 'pi-teir-1'; did you mean pi-tier-1\?"):
        load_profile("pi-teir-1")


# what is written instead, what is said, on which line
FAULTS = [
    ("speed: 2 GMAC/s", "speed: 0 MAC/s", r"speed: '0 MAC/s' is out of range; .* greater than zero", 6),
    ("speed: 2 GMAC/s", "speed: 2", r"speed: 2 has no unit; a computing speed is given in", 6),
    ("speed: 2 GMAC/s", "sped: 2 GMAC/s", r"unknown key 'sped'; did you mean speed\?", 6),
    ("speed: 2 GMAC/s\n", "", r"speed is missing; add it", None),
    ("usable: 3 GB", "usable: 5 GB", r"memory: usable is 5 GB, but capacity is only 4 GB", 7),
    ("runtime: 250 MB", "runtime: 3 GB", r"memory: runtime takes 3 GB of 3 GB usable, .* lower runtime", 7),
    ("runtime: 250 MB", "runtme: 250 MB", r"unknown key 'memory.runtme'; did you mean runtime\?", 7),
    ("busy: 6 W", "busy: 1 W", r"power: busy is 1 W, less than idle, 2 W", 8),
    ("busy: 6 W", "busy: 6 W, ready: 7 W", r"power: ready is 7 W, outside idle to busy, 2 to 6 W", 8),
    ("power: {idle: 2 W, busy: 6 W}", "power: 6 W", r"power is '6 W', but it must be a mapping of keys", 8),
    ("cost_model: scalar", "cost_model: scalar\nlanes: 0", r"lanes is 0, but it must be at least 1", 6),
    ("cost_model: scalar", "cost_model: scalar\nlanes: 1.5", r"lanes is 1.5, but it must be a whole number", 6),
    ("cost_model: scalar", "cost_model: scalar\nbackward_ratio: 0", r"backward_ratio is 0, .* greater than 0", 6),
    ("cost_model: scalar", "cost_model: roofline", r"cost_model 'roofline' is not one .*; there are: scalar", 5),
    ("cost_model: scalar", "cost_model: scaler", r"cost_model 'scaler' is not one .*; did you mean scalar\?", 5),
    ("kind: board", "kind: boards", r"kind is 'boards', but it can be board, .*; did you mean board\?", 4),
    ("schema: 1", "schema: 2", r"schema is 2, but it can be 1", 1),
    ("id: my-board", "id: your-board", r"id is 'your-board', but the file is called my-board.yaml; make them", 2),
    ("id: my-board", "id: My Board", r"id is 'My Board', but it must be lower case words joined by hyphens", 2),
    ("name: A board on my desk", "name: ''", r"name is '', but it must be text that is not empty", 3),
    ("field: speed", "field: sped", r"sources name the field 'sped', .* did you mean speed\?", None),
    ("confidence: measured", "confidence: sure", r"sources.0.confidence is 'sure', but it can be measured, ", 10),
    ("kind: board", "kind: board\nkind: phone", r"kind is given twice, on lines 4 and 5; keep one", 5),
    ("kind: board", "kind: [board", r"not valid YAML: .*; check quotes, colons and indentation", 5),
]


@pytest.mark.parametrize(
    ("old", "new", "message", "line"), FAULTS, ids=[new.split("\n")[-1] for _, new, _, _ in FAULTS]
)
def test_a_wrong_file_is_refused_with_the_reason_and_the_place(
    tmp_path: Path, old: str, new: str, message: str, line: int | None
) -> None:
    """What, the value, the rule, the way out, the file and the line."""
    assert old in BOARD
    path = write(tmp_path, BOARD.replace(old, new))
    place = "my-board.yaml" if line is None else f"my-board.yaml, line {line}"
    with pytest.raises(UserError, match=rf"{message}[^\n]*\(.*{place}") as caught:
        load_profile(str(path))
    assert "Input should" not in str(caught.value)
    assert "pydantic" not in str(caught.value)


def test_every_fault_is_reported_at_once(tmp_path: Path) -> None:
    """Two mistakes, two lines: nobody mends a file one message at a time."""
    path = write(tmp_path, BOARD.replace("2 GMAC/s", "fast").replace("kind: board", "kind: tree"))
    with pytest.raises(UserError) as caught:
        load_profile(str(path))
    assert [line.split(" ")[0] for line in str(caught.value).splitlines()] == ["kind", "speed:"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no keys"),
        (b"- a list", "holds no keys"),
        (b"id: \xff", "is not text in UTF-8"),
        (b"id: &a [*a]", "is nested too deeply"),
        (b"[" * 5000, "is nested too deeply"),
    ],
)
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    """Empty files, lists, binary files and endless nesting are told apart."""
    path = tmp_path / "my-board.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        load_profile(str(path))


def test_the_most_specific_source_of_a_number_counts(tmp_path: Path) -> None:
    """A source for `power` covers its numbers, one for `power.busy` overrules it; the rest has none."""
    meter = "  - {field: power, confidence: measured, ref: meter}\n"
    hunch = "  - {field: power.busy, confidence: unverified, ref: hunch}\n"
    write(tmp_path, BOARD + meter + hunch)
    profile = load_profile("./my-board.yaml", relative_to=tmp_path)
    assert sources.uncovered(profile, profile.sources) == ["memory.capacity", "memory.usable", "memory.runtime"]
    assert sources.unverified(profile, profile.sources)[-1] == "power.busy"
    found = sources.origin("power.idle", profile.sources)
    assert found is not None
    assert found.confidence is sources.Confidence.MEASURED
