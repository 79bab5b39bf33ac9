"""The site: links of its pages, that no page is left out of it, and that it can be built."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from docs.make.site import BESIDE, linked
from tests.docs.pages import PAGES, ROOT, text_of


class Loader(yaml.SafeLoader):
    """Of mkdocs.yml, which may name Python objects."""


Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)
CONFIG: dict[str, Any] = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader)


def leaves(tree: Any) -> list[str]:
    """The pages of a navigation."""
    if isinstance(tree, str):
        return [tree]
    return [leaf for item in (tree.values() if isinstance(tree, dict) else tree) for leaf in leaves(item)]


def test_every_page_is_in_the_navigation_once() -> None:
    """Those of `docs`, and those beside it."""
    of_docs = [page.removeprefix("docs/") for page in PAGES if page.startswith("docs/")]
    assert sorted(leaves(CONFIG["nav"])) == sorted([*of_docs, *BESIDE.values()])


def test_nothing_is_fetched_from_the_network() -> None:
    """Fonts would be; there is no script or style of others."""
    assert CONFIG["theme"]["font"] is False
    assert not {"extra_javascript", "extra_css", "extra"} & set(CONFIG)


def test_links_on_the_site() -> None:
    """Between pages, out of `docs` to pages beside it, to their headings; to other files of the checkout, as text."""
    assert linked("[a](docs/scale.md#x)", "index.md") == "[a](scale.md#x)"
    assert linked("[a](../README.md) and [b](../devices/README.md#links)", "own-profile.md") == (
        "[a](index.md) and [b](devices/README.md#links)"
    )
    assert linked("[fedavg.py](../../fedsim/schedulers/fedavg.py)", "schedulers/fedavg.md") == "fedavg.py"
    assert linked("[a](../docs/scale.md)", "devices/README.md") == "[a](../scale.md)"
    assert linked("[a](#here) [b](https://example.org/x)", "scale.md") == "[a](#here) [b](https://example.org/x)"
    assert linked("[a](nowhere.md)", "scale.md") == "[a](nowhere.md)", "mkdocs then says so"


def test_pictures_on_the_site() -> None:
    """Those of `docs` by their place there; others stay as they are, and mkdocs says that it lacks them."""
    assert linked("![a](docs/images/report.png)", "index.md") == "![a](images/report.png)"
    assert linked("![a](images/report.png)", "schedulers/x.md") == "![a](images/report.png)"
    assert linked("![a](../server/Dockerfile)", "scale.md") == "![a](../server/Dockerfile)"


def test_what_is_code_stays() -> None:
    """Brackets in a fenced block are no links."""
    code = "```python\nx = [f](../README.md)\n```\n"
    assert linked(code + "[a](../README.md)", "scale.md") == code + "[a](index.md)"


@pytest.mark.parametrize("page", sorted({*PAGES, *BESIDE}))
def test_a_heading_stands_behind_an_empty_line(page: str) -> None:
    """Else the site takes it for a row of the table above."""
    text = re.sub(r"^(```|~~~).*?^\1", "", text_of(page), flags=re.MULTILINE | re.DOTALL)
    assert re.findall(r"(?<=[^\n]\n)#{1,6} .*", text) == []


@pytest.mark.slow
@pytest.mark.skipif(find_spec("mkdocs") is None, reason="needs the extra docs")
def test_the_site_is_built(tmp_path: Path) -> None:
    """Without a warning: every link, picture and anchor leads to a page that has it."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
