"""The site: links of its pages, and that no page is left out of it."""

from __future__ import annotations

from typing import Any

import yaml

from docs.make.site import BESIDE, linked
from tests.docs.pages import PAGES, ROOT


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


def test_what_is_code_stays() -> None:
    """Brackets in a fenced block are no links."""
    code = "```python\nx = [f](../README.md)\n```\n"
    assert linked(code + "[a](../README.md)", "scale.md") == code + "[a](index.md)"
