"""How pages are taken apart."""

from __future__ import annotations

import pytest
from markdown_it import MarkdownIt

from tests.docs.pages import commands, guessed, taken_apart
from tests.docs.running import fedsim_calls, not_said

PAGE = """\
Text.

<!-- file: a.yaml -->
```yaml
a: 1
```

    fedsim run x

<!-- not run: for reasons -->

<!-- status: 2 -->

    import fedsim

* item
"""


def test_blocks_fenced_and_indented_with_the_marks_above() -> None:
    """Marks belong to the next block, whatever stands between them but text."""
    first, second, third = taken_apart("p.md", tuple(MarkdownIt("commonmark").parse(PAGE)))
    assert (first.kind, first.mark("file"), first.text, first.place) == ("yaml", "a.yaml", "a: 1\n", "p.md:4")
    assert (second.kind, second.marks, second.text) == ("shell", (), "fedsim run x\n")
    assert (third.kind, third.mark("not run"), third.mark("status"), third.runs) == (
        "python",
        "for reasons",
        "2",
        False,
    )


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("fedsim list models\n", "shell"),
        ("MODE=1 python benchmarks/x.py\n", "shell"),
        ("name: x\nseed: 1\n", "yaml"),
        ("import fedsim\nrun = 1\n", "python"),
        ("quickstart · fedavg\nlength  6.33 s\n", "text"),
        ("t = macs / (efficiency x gemm)\n", "text"),
    ],
)
def test_kinds_are_guessed(text: str, kind: str) -> None:
    """Of blocks without a language."""
    assert guessed(text) == kind


def test_commands_of_a_block() -> None:
    """Continued lines are one, a line may have several, comments are none."""
    assert commands("a --x \\\n   --y && b  # why\n# no\n$ c | d\n") == ["a --x --y", "b", "c", "d"]
    assert commands("fedsim x A [--b]\n          [--c]\n") == ["fedsim x A [--b] [--c]"]


def test_calls_as_a_shell_makes_them(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loops are run and quotes understood; nothing of ours is."""
    monkeypatch.chdir(str(tmp_path))
    script = "for a in 1 2; do\n fedsim run x --set y=$a\ndone\nfedsim list '{k: v}' \"\"\n"
    assert fedsim_calls(script) == [["run", "x", "--set", "y=1"], ["run", "x", "--set", "y=2"], ["list", "{k: v}", ""]]


def test_output_is_compared_line_by_line() -> None:
    """But for spaces, further text on the line, and a little for numbers."""
    said = "length of the run     6.33 s\nserver   99.9 %, dependency 5.4 %\nbytes 1,200 B\n"
    assert not_said("length of the run 6.4 s\nserver 99.9 %\nbytes 1,250 B\n", said) == []
    assert not_said("length of the run 9.4 s\nserver idle 99.9 %\n", said) == [
        "length of the run 9.4 s",
        "server idle 99.9 %",
    ]
