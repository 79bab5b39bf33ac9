"""YAML text to plain data, with the line of every key and item.

Works on the parser's events, which never recurse, so depth and aliases are under its own limits. Knows YAML, not
what a document may contain.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import yaml

from fedsim.documents.problems import KeyPath
from fedsim.documents.scalars import Scalar, value_of
from fedsim.errors import shown

_LOADER: Final[type] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C one is 10 times faster, if built
_DEPTH: Final = 40  # a scenario needs 5, a profile 3
_REPEATED: Final = 100_000  # values that aliases may add
_UNPRINTABLE: Final = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_TAG: Final = "tag:yaml.org,2002:"
_PLAIN: Final = frozenset(_TAG + kind for kind in ("int", "float", "bool", "null"))

_HINTS: Final = (
    ("tab", "indent with spaces, not tabs"),
    ("cannot start any token", "put the value in quotes, and indent with spaces, not tabs"),
    ("',' or '}'", "close the { with }, and put commas between its keys"),
    ("',' or ']'", "close the [ with ], and put commas between its items"),
    ("mapping values", "give each key its own line, and put a value that contains ': ' in quotes"),
    ("could not find expected ':'", "write a key as 'key: value'"),
    ("undefined alias", "define the anchor (&name) before it is used (*name)"),
    ("duplicate anchor", "give each anchor its own name"),
    ("end of stream", "close the quote or bracket that is still open"),
    ("expected key", "indent all keys of a section alike"),
    ("'-' indicator", "indent all items of a list alike"),
)


class Unreadable(Exception):
    """A text is not the YAML that fedsim reads; caught by the loader, which knows the file's name."""

    def __init__(self, line: int, sentence: str) -> None:
        super().__init__(sentence)
        self.line, self.sentence = line, sentence


@dataclass(slots=True)
class _Node:
    line: int
    value: Scalar | list[_Node] | list[tuple[_Node, _Node]] = None
    kind: str = "scalar"  # scalar, seq, map


@dataclass(slots=True)
class _Reader:
    """The state of reading one text: its events, its anchors, what has been made of it."""

    events: Iterator[yaml.Event]
    what: str
    lines: list[str]
    anchors: dict[str, _Node | None] = field(default_factory=dict)  # None: begun, not finished
    nodes: int = 0
    written: int = 0

    def next(self) -> yaml.Event:
        try:
            return next(self.events)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            if "nesting depth" in str(error.problem):  # the C parser has a limit of its own, above ours
                raise self._too_deep(mark.line + 1 if mark else 1) from error
            if mark is not None and self._is_indented_by_a_tab(mark.line):
                raise Unreadable(
                    mark.line + 1, "not valid YAML: a tab indents this line; use spaces, not tabs"
                ) from error
            raise Unreadable(mark.line + 1 if mark else 1, _sentence(error)) from error
        except yaml.YAMLError as error:
            raise Unreadable(1, "the text holds a character that YAML does not allow; remove it") from error

    def _is_indented_by_a_tab(self, line: int) -> bool:
        written = self.lines[line] if line < len(self.lines) else ""
        return "\t" in written[: len(written) - len(written.lstrip())]

    def node(self, event: yaml.Event, depth: int) -> _Node:
        """The node that starts with `event`."""
        line = _line(event)
        self.nodes += 1
        if isinstance(event, yaml.AliasEvent):
            return self._alias(str(event.anchor), line)
        if depth > _DEPTH:
            raise self._too_deep(line)
        assert isinstance(event, yaml.NodeEvent)
        if event.anchor is not None:
            self.anchors[event.anchor] = None
        node = _Node(line)
        if isinstance(event, yaml.ScalarEvent):
            node.value = self._scalar(event, line)
        elif isinstance(event, yaml.SequenceStartEvent):
            self._check_tag(event.tag, line, "seq")
            node.kind, node.value = "seq", list(self._items(depth))
        else:
            assert isinstance(event, yaml.MappingStartEvent)
            self._check_tag(event.tag, line, "map")
            items = list(self._items(depth))
            node.kind, node.value = "map", list(zip(items[::2], items[1::2], strict=True))
        if event.anchor is not None:
            self.anchors[event.anchor] = node
        return node

    def _too_deep(self, line: int) -> Unreadable:
        return Unreadable(line, f"values are nested more than {_DEPTH} deep; a {self.what} needs no more than five")

    def _items(self, depth: int) -> Iterator[_Node]:
        while not isinstance(event := self.next(), yaml.CollectionEndEvent):
            yield self.node(event, depth + 1)

    def _alias(self, name: str, line: int) -> _Node:
        if name not in self.anchors:
            raise Unreadable(line, f"the alias *{name} has no anchor; define &{name} before it is used")
        node = self.anchors[name]
        if node is None:
            raise Unreadable(line, f"the alias *{name} stands inside its own anchor; write the value out")
        return node

    def _scalar(self, event: yaml.ScalarEvent, line: int) -> Scalar:
        text: str = event.value
        tag = event.tag
        if (tag is None and event.implicit[0]) or tag in _PLAIN:
            try:
                return value_of(text)
            except ValueError as error:
                raise Unreadable(line, str(error)) from error
        self._check_tag(tag, line, "str")
        return text

    def _check_tag(self, tag: str | None, line: int, kind: str) -> None:
        if tag not in (None, "!", _TAG + kind):
            written = tag.replace(_TAG, "!!")
            raise Unreadable(line, f"the tag {shown(written)} has no meaning in a {self.what}; remove it")

    def plain(self, node: _Node, path: KeyPath, lines: dict[KeyPath, int]) -> object:
        """The data of a node; the lines of its keys and items go into `lines`."""
        self._count(node, len(path))
        if not isinstance(node.value, list):
            return node.value
        if node.kind == "seq":
            items: list[object] = []
            for index, item in enumerate(node.value):
                assert isinstance(item, _Node)
                lines[*path, index] = item.line
                items.append(self.plain(item, (*path, index), lines))
            return items
        return self._mapping(node, path, lines)

    def _mapping(self, node: _Node, path: KeyPath, lines: dict[KeyPath, int]) -> dict[str, object]:
        own: dict[str, tuple[int, _Node]] = {}
        merged: dict[str, tuple[int, _Node]] = {}
        for key, child in _pairs(node):
            word = _key(key)
            if word == "<<":
                merged = self._merged(child, 0) | merged
            elif word in own:
                raise Unreadable(
                    key.line, f"the key {shown(word)} is given twice, in lines {own[word][0]} and {key.line}; keep one"
                )
            else:
                own[word] = (key.line, child)
        result: dict[str, object] = {}
        for word, (line, child) in (merged | own).items():
            lines[*path, word] = line
            result[word] = self.plain(child, (*path, word), lines)
        return result

    def _merged(self, node: _Node, depth: int) -> dict[str, tuple[int, _Node]]:
        """The keys that `<<: *name` brings in; of several, the first wins."""
        self._count(node, depth)
        result: dict[str, tuple[int, _Node]] = {}
        if node.kind == "seq" and isinstance(node.value, list):
            for item in node.value:
                assert isinstance(item, _Node)
                result = self._merged(item, depth + 1) | result
            return result
        if node.kind != "map":
            raise Unreadable(node.line, "'<<' takes a mapping, such as the alias *name of one")
        for key, child in _pairs(node):
            if key.value == "<<":
                result = self._merged(child, depth + 1) | result
        return result | {_key(key): (key.line, child) for key, child in _pairs(node) if key.value != "<<"}

    def _count(self, node: _Node, depth: int) -> None:
        self.written += 1
        if self.written > self.nodes + _REPEATED or depth > _DEPTH:
            raise Unreadable(node.line, "the aliases (*name) repeat too many values; write them out, or use fewer")


def read(text: str, what: str) -> tuple[object, dict[KeyPath, int]]:
    """The data of a YAML text and the line, from 1, of every key and item; the whole is at the path `()`.

    Args:
        text: The text.
        what: What messages call it: `scenario`.

    Raises:
        Unreadable: the text is not YAML, or uses what fedsim does not read: tags, keys that are no words, keys
            given twice, several documents, extreme nesting or repetition.
    """
    if bad := _UNPRINTABLE.search(text.removeprefix("\ufeff")):
        line = text.count("\n", 0, bad.start() + text.startswith("\ufeff")) + 1
        raise Unreadable(line, f"the text holds the unprintable character {bad[0]!r}; remove it")
    reader = _Reader(iter(yaml.parse(text, Loader=_LOADER)), what, text.splitlines())
    while not isinstance(event := reader.next(), yaml.NodeEvent):
        if isinstance(event, yaml.StreamEndEvent):
            return None, {(): 1}
    root = reader.node(event, 0)
    while not isinstance(event := reader.next(), yaml.StreamEndEvent):
        if isinstance(event, yaml.DocumentStartEvent):
            raise Unreadable(_line(event), "a second document starts here; keep one, without '---'")
    lines: dict[KeyPath, int] = {(): root.line}
    return reader.plain(root, (), lines), lines


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark is not None else 1


def _pairs(node: _Node) -> list[tuple[_Node, _Node]]:
    assert isinstance(node.value, list)
    return [pair for pair in node.value if isinstance(pair, tuple)]


def _key(node: _Node) -> str:
    if isinstance(node.value, str):
        return node.value
    what = shown(node.value) if node.kind == "scalar" else {"seq": "a list", "map": "a mapping"}[node.kind]
    raise Unreadable(node.line, f"{what} is no key; keys are words, so put it in quotes or name the key")


def _sentence(error: yaml.MarkedYAMLError) -> str:
    begun, found = error.context_mark, error.problem_mark
    where = "" if begun is None or found is None or begun.line == found.line else f" from line {begun.line + 1}"
    reason = " ".join(part for part in (error.context and f"{error.context}{where}", error.problem) if part)
    hint = next((hint for word, hint in _HINTS if word in reason), "put values with special characters in quotes")
    return f"not valid YAML: {reason}; {hint}"
