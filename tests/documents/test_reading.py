"""YAML text to plain data: values, lines, and every text that is refused."""

from __future__ import annotations

import re

import pytest
import yaml

from fedsim.documents import reading
from fedsim.documents.problems import KeyPath
from fedsim.documents.reading import Unreadable
from fedsim.documents.scalars import reads_as_text, value_of


@pytest.fixture(params=["C parser", "Python parser"], autouse=True)
def parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both parsers of PyYAML: the C one is not everywhere."""
    if request.param == "Python parser":
        monkeypatch.setattr(reading, "_LOADER", yaml.SafeLoader)
    return str(request.param)


def read(text: str) -> tuple[object, dict[KeyPath, int]]:
    """The data and the lines of a text that is called a scenario."""
    return reading.read(text, "scenario")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("null", None),
        ("true", True),
        ("on", "on"),
        ("no", "no"),
        ("1e-3", 0.001),
        ("-1.5E+3", -1500.0),
        (".5", 0.5),
        ("1_000", 1000),
        ("0x1F", 31),
        ("0", 0),
        ("-0", 0),
        ("3:00", "3:00"),
        ("2001-01-01", "2001-01-01"),
        ("1_", "1_"),
        ("-.inf", float("-inf")),
        ("20 Mbit/s", "20 Mbit/s"),
        ("٣", "٣"),
    ],
)
def test_plain_scalars_follow_yaml_1_2(text: str, value: object) -> None:
    """Nothing turns into a switch, a date or a number of minutes on the quiet."""
    read_value = value_of(text)
    assert (read_value, type(read_value)) == (value, type(value))
    assert reads_as_text(text) is isinstance(value, str)


def test_a_quoted_scalar_is_text() -> None:
    """Quotes, block scalars and `!!str` make text of anything."""
    assert read("a: '3'\nb: \"true\"\nc: !!str 3\nd: |-\n  3\ne: !!int 3\nf: ! 3")[0] == {
        **dict.fromkeys("abcdf", "3"),
        "e": 3,
    } | {"b": "true"}


def test_every_key_and_item_has_its_line() -> None:
    """Lines count from 1 and follow keys, items and aliases."""
    data, lines = read("a: 1\n\nb:\n  - {c: 1,\n     d: 2}\n  - &x\n    e: [3]\nf: *x\n")
    assert data == {"a": 1, "b": [{"c": 1, "d": 2}, {"e": [3]}], "f": {"e": [3]}}
    assert lines == {
        (): 1,
        ("a",): 1,
        ("b",): 3,
        ("b", 0): 4,
        ("b", 0, "c"): 4,
        ("b", 0, "d"): 5,
        ("b", 1): 6,
        ("b", 1, "e"): 7,
        ("b", 1, "e", 0): 7,
        ("f",): 8,
        ("f", "e"): 7,
        ("f", "e", 0): 7,
    }


def test_merge_keys_bring_in_a_mapping() -> None:
    """`<<` fills in what is not given; of several mappings, the first wins."""
    text = "a: &a {x: 1, y: 1}\nb: &b {<<: *a, y: 2, z: 2}\nc: {y: 3, <<: [*a, *b]}"
    assert read(text)[0] == {"a": {"x": 1, "y": 1}, "b": {"x": 1, "y": 2, "z": 2}, "c": {"x": 1, "y": 3, "z": 2}}


BOMB = "a: &a [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"{b}: &{b} [{','.join(['*' + a] * 10)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGES = "a: &a {x: 1}\n" + "".join(f"a{n + 1}: &a{n + 1} {{<<: [*a{n or ''}, *a{n or ''}]}}\n" for n in range(35))


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("a: 1\nb: 2\na: 3", 3, "the key 'a' is given twice, in lines 1 and 3; keep one"),
        ("a: {b: 1, b: 2}", 1, "the key 'b' is given twice, in lines 1 and 1; keep one"),
        ("a: 1\n3: 4", 2, "3 is no key; keys are words, so put it in quotes or name the key"),
        ("true: 4", 1, "true is no key"),
        ("? [a]\n: 4", 1, "a list is no key"),
        ("{a: 1}: 4", 1, "a mapping is no key"),
        ("a: 017", 1, "'017' starts with a zero, which some readers take as octal; write 17"),
        ("a: " + "9" * 500, 1, "a number of 500 digits is too long; write fewer digits"),
        ("a: !!python/object:os.system x", 1, "the tag '!!python/object:os.system' has no meaning in a scenario"),
        ("a: !mine [1]", 1, "the tag '!mine' has no meaning in a scenario; remove it"),
        ("a: 1\n---\nb: 2", 2, "a second document starts here; keep one, without '---'"),
        ("a: *x", 1, "the alias *x has no anchor; define &x before it is used"),
        ("a: &x [*x]", 1, "the alias *x stands inside its own anchor; write the value out"),
        ("<<: 3", 1, "'<<' takes a mapping, such as the alias *name of one"),
        ("[" * 5000, 1, "values are nested more than 40 deep"),
        (BOMB, None, "the aliases (*name) repeat too many values; write them out, or use fewer"),
        (MERGES, None, "the aliases (*name) repeat too many values; write them out, or use fewer"),
        ("a: 1\nb: \x07", 2, "the text holds the unprintable character '\\x07'; remove it"),
        ("a: \ud800", 1, "the text holds the unprintable character '\\ud800'; remove it"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_not_read(text: str, line: int | None, message: str) -> None:
    """Each refusal names the line, the reason and the way out."""
    with pytest.raises(Unreadable, match=re.escape(message)) as caught:
        read(text)
    assert line in (None, caught.value.line)


@pytest.mark.parametrize(
    ("text", "line", "hint"),
    [
        ("a: 1\nb: {c: 1", None, "close the"),
        ("a: 1\nb: [1, 2", None, "close the"),
        ("a: {b: 1,\n  c: 2\nd: 3", 3, "a flow mapping from line 1 "),
        ("a: 1\n\tb: 2", 2, "not tabs"),
        ("a:\n\tb: 2", 2, "a tab indents this line; use spaces"),
        ("a:\n  - b\n \t- @c", 3, "a tab indents this line; use spaces"),
        ("a: b: c", 1, "give each key its own line, and put a value that contains ': ' in quotes"),
        ("a: 1\n b: 2", 2, ""),
        ("a: 'open", None, "close the quote"),
        ("a: @x", 1, "put the value in quotes"),
        ("a:\n  - 1\n - 2", 3, ""),
        ("%YAML 9.0\n---\na: 1", 1, ""),
    ],
)
def test_a_syntax_error_names_the_line_and_a_way_out(text: str, line: int | None, hint: str) -> None:
    """PyYAML's reason stays, and advice is added."""
    with pytest.raises(Unreadable, match=r"^not valid YAML: .+; .+") as caught:
        read(text)
    assert line in (None, caught.value.line)
    assert hint in caught.value.sentence
