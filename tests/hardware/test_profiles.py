"""Profiles: what ships is complete and sourced; what cannot be is refused in words that help."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from fedsim import catalogue
from fedsim.documents.problems import DocumentError
from fedsim.errors import UserError
from fedsim.hardware import sources
from fedsim.hardware.links import Link
from fedsim.hardware.power import Draw
from fedsim.hardware.profiles import Kind, Memory, Profile, load_profile

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
    (
        "speed: 2 GMAC/s",
        "speed: 0 MAC/s",
        r"speed: '0 MAC/s' is out of range; .* greater than zero, like 2.2 GMAC/s",
        6,
    ),
    ("speed: 2 GMAC/s", "speed: 2", r"speed: 2 has no unit; a computing speed is given in .*; write it like 2", 6),
    ("speed: 2 GMAC/s", "speed:", r"speed: missing; add it, as in 'speed: 2.2 GMAC/s', or use another cost model than scalar", 6),
    ("speed: 2 GMAC/s", "speed: 017", r"'017' starts with a zero, which some readers take as octal; write 17", 6),
    ("speed: 2 GMAC/s\n", "", r"speed: missing; add it, as in 'speed: 2.2 GMAC/s'", 1),
    ("speed: 2 GMAC/s", "speed: 2 GMAC/s\nsped: 2", r"sped: unknown key; did you mean speed\?", 7),
    (
        "speed: 2 GMAC/s",
        "speed: 2 GMAC/s\nzzz: 2",
        r"zzz: unknown key; the keys here are backward_ratio, calibration, cost_model, ",
        7,
    ),
    ("usable: 3 GB", "usable: 5 GB", r"memory.usable: 5 GB, but capacity is only 4 GB; usable must not exceed", 7),
    ("runtime: 250 MB", "runtime: 3 GB", r"memory.runtime: takes 3 GB of 3 GB usable, .* lower runtime or raise", 7),
    (", runtime: 250 MB", "", r"memory.runtime: missing; add it, as in 'runtime: 250 MB'", 7),
    ("busy: 6 W", "busy: 1 W", r"power.busy: 1 W, less than idle, 2 W; exchange or correct them", 8),
    ("busy: 6 W", "busy: 6 W, ready: 7 W", r"power.ready: 7 W, outside idle to busy, 2 to 6 W; correct it", 8),
    ("idle: 2 W", "idle: -2 W", r"power.idle: '-2 W' is out of range; a power here is zero or more, like 2.7 W", 8),
    ("power: {idle: 2 W, busy: 6 W}", "power: 6 W", r"power: '6 W' does not fit; give a mapping of keys, such as", 8),
    ("cost_model: scalar", "cost_model: scalar\nlanes: 0", r"lanes: 0 does not fit; give 1 or more", 6),
    ("cost_model: scalar", "cost_model: scalar\nlanes: 1.5", r"lanes: 1.5 does not fit; give a whole number", 6),
    ("cost_model: scalar", "cost_model: scalar\nlanes: true", r"lanes: true does not fit; give a whole number", 6),
    (
        "cost_model: scalar",
        "cost_model: scalar\nbackward_ratio: 0",
        r"backward_ratio: 0 does not fit; give more than 0",
        6,
    ),
    (
        "cost_model: scalar",
        "cost_model: scalar\nbackward_ratio: .inf",
        r"backward_ratio: inf .*; give a finite number",
        6,
    ),
    ("cost_model: scalar", "cost_model: zzz", r"cost_model: 'zzz' is not one .*; there are: roofline, scalar, ", 5),
    ("cost_model: scalar", "cost_model: scaler", r"cost_model: 'scaler' is not one .*; did you mean scalar\?", 5),
    (
        "kind: board",
        "kind: boards",
        r"kind: 'boards' does not fit; give board, .* or abstract; did you mean board\?",
        4,
    ),
    ("schema: 1", "schema: 2", r"schema: 2 does not fit; give 1", 1),
    ("schema: 1\n", "", r"schema: missing; add it, as in 'schema: 1'", 1),
    ("id: my-board", "id: your-board", r"id: 'your-board', but the file is called my-board.yaml; make them equal", 2),
    ("id: my-board", "id: 3", r"id: 3 does not fit; give text", 2),
    ("id: my-board\n", "", r"id: missing; add it, as in 'id: my-board'", 1),
    ("name: A board on my desk", "name: ''", r"name: '' does not fit; give text of 1 characters or more", 3),
    ("field: speed", "field: sped", r"sources.0.field: 'sped' is no number of this file; did you mean speed\?", 10),
    (
        "field: speed",
        "field: zzz",
        r"sources.0.field: 'zzz' is no number of this file; there are: speed, memory.cap",
        10,
    ),
    ("confidence: measured", "confidence: sure", r"sources.0.confidence: 'sure' does not fit; give measured, ", 10),
    ("kind: board", "kind: board\nkind: phone", r"the key 'kind' is given twice, in lines 4 and 5; keep one", 5),
    ("kind: board", "kind: !mine board", r"the tag '!mine' has no meaning in a profile; remove it", 4),
    ("kind: board", "kind: [board", r"not valid YAML: .*; close the \[ with \], and put commas between its items", 5),
]


@pytest.mark.parametrize(
    ("old", "new", "message", "line"), FAULTS, ids=[new.split("\n")[-1] for _, new, _, _ in FAULTS]
)
def test_a_wrong_file_is_refused_with_the_reason_and_the_place(
    tmp_path: Path, old: str, new: str, message: str, line: int
) -> None:
    """One mistake is one line: what, the value, the rule, the way out, the file and the line."""
    assert old in BOARD
    path = write(tmp_path, BOARD.replace(old, new))
    with pytest.raises(DocumentError, match=rf"^{message}.*\({re.escape(str(path))}, line {line}\)$") as caught:
        load_profile(str(path))
    assert "\n" not in str(caught.value)
    assert "Input should" not in str(caught.value)
    assert "pydantic" not in str(caught.value)


def test_an_id_is_in_lower_case(tmp_path: Path) -> None:
    """A file's name can be anything; an identifier cannot."""
    path = write(tmp_path, BOARD.replace("id: my-board", "id: My Board"), "My Board.yaml")
    message = r"^id: 'My Board' does not fit; give lower case words joined by hyphens, such as .*Board.yaml, line 2\)$"
    with pytest.raises(DocumentError, match=message):
        load_profile(str(path))


def test_every_fault_is_reported_at_once(tmp_path: Path) -> None:
    """Three mistakes, one list in the order of lines: nobody mends a file one message at a time."""
    path = write(tmp_path, BOARD.replace("2 GMAC/s", "fast").replace("kind: board", "kind: tree").replace("my-", "a-"))
    with pytest.raises(DocumentError) as caught:
        load_profile(str(path))
    first, *lines = str(caught.value).split("\n  ")
    assert first == f"3 errors in {path}:"
    assert [line.split(": ")[0] for line in lines] == ["id", "kind", "speed"]
    assert [problem.path for problem in caught.value.problems] == [("id",), ("kind",), ("speed",)]


def test_a_file_for_another_cost_model_is_told_so_alone(tmp_path: Path) -> None:
    """Its other keys are right for that model: they are no mistakes."""
    path = write(tmp_path, BOARD.replace("cost_model: scalar\nspeed: 2 GMAC/s", "cost_model: neural\npeak: 3"))
    with pytest.raises(DocumentError, match=r"^cost_model: 'neural' is not one that this version of fedsim can price"):
        load_profile(str(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"^nothing is there; give a mapping of keys, such as 'id: my-board' \(.*my-board.yaml, line 1\)$"),
        (b"- a list", r"^a list is no profile; give a mapping of keys"),
        (b"id: \xff", r"^.*my-board.yaml is not text in UTF-8 \(byte 4\); save it as UTF-8$"),
        (b"id: &a [*a]", r"^the alias \*a stands inside its own anchor; write the value out"),
        (b"[" * 5000, r"^values are nested more than 40 deep; a profile needs no more than five"),
    ],
)
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    """Empty files, lists, binary files and endless nesting are told apart."""
    path = tmp_path / "my-board.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        load_profile(str(path))


def test_plain_words_of_a_profile_stay_text(tmp_path: Path) -> None:
    """YAML 1.2's rules, as in scenarios: a date is text, and so are `on` and `3:00`."""
    write(
        tmp_path, BOARD.replace("ref: a stopwatch", "ref: 2024-01-01, note: on").replace("A board on my desk", "3:00")
    )
    profile = load_profile("./my-board.yaml", relative_to=tmp_path)
    assert (profile.name, profile.sources[0].ref, profile.sources[0].note) == ("3:00", "2024-01-01", "on")


@pytest.mark.parametrize("model", [Profile, Memory, Draw, Link, sources.Source])
def test_what_has_no_default_has_an_example(model: type[BaseModel]) -> None:
    """The message about a missing key shows how to write it."""
    for name, field in model.model_fields.items():
        assert field.examples or not field.is_required(), name


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


def test_the_weakest_source_tells_how_far_a_result_is_to_be_trusted() -> None:
    """Confidence is ordered, best first; a number without a source counts as unverified."""
    assert [str(level) for level in sources.Confidence] == ["measured", "derived", "specification", "unverified"]
    given = [
        sources.Source(field="power", confidence=sources.Confidence.MEASURED, ref="meter"),
        sources.Source(field="power.busy", confidence=sources.Confidence.SPECIFICATION, ref="data sheet"),
        sources.Source(field="speed", confidence=sources.Confidence.DERIVED, ref="from a benchmark"),
    ]
    assert sources.weakest(["power.idle"], given) is sources.Confidence.MEASURED
    assert sources.weakest(["power.idle", "speed"], given) is sources.Confidence.DERIVED
    assert sources.weakest(["speed", "power.busy", "power.idle"], given) is sources.Confidence.SPECIFICATION
    assert sources.weakest(["speed", "memory.usable"], given) is sources.Confidence.UNVERIFIED
    assert sources.weakest(["power.idle", "power.busy"], []) is sources.Confidence.UNVERIFIED
