"""Links: what ships is as tabled and sourced; both ways of writing one give the same thing."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from fedsim import catalogue
from fedsim.documents.problems import DocumentError
from fedsim.errors import UserError
from fedsim.hardware import sources
from fedsim.hardware.links import Link, load_link

# down, up (Mbit/s), round trip (ms)
TABLE = {
    "ethernet-100": (94, 94, 0.4),
    "ethernet-1g": (941, 941, 0.3),
    "wifi4": (43, 35, 5),
    "wifi5": (178, 150, 3),
    "wifi6": (333, 280, 3),
    "lte": (26, 10, 50),
    "lte-driving": (6.7, 2, 84),
    "5g-mid": (150, 20, 40),
    "5g-good": (313, 50, 30),
    "3g": (2.4, 1, 123),
    "nb-iot": (0.02, 0.02, 840),
    "lte-m": (0.3, 0.3, 150),
    "dsl": (15, 1.5, 35),
    "cable": (150, 15, 18),
    "fibre": (300, 300, 8),
    "starlink": (150, 15, 50),
    "geo-satellite": (80, 5, 600),
    "datacentre-25g": (25000, 25000, 0.1),
    "fedcomm-wifi": (60, 60, 0),
    "fedcomm-4g": (20, 20, 0),
    "fedcomm-3g": (5, 5, 0),
    "pipar": (25, 10, 0),
}
LINE = {"datacentre-25g", "fedcomm-wifi", "fedcomm-4g", "fedcomm-3g", "pipar"}


def test_the_table_is_complete() -> None:
    """Every shipped link is in the table, and the other way round."""
    assert set(catalogue.names("link")) == set(TABLE)


@pytest.mark.parametrize("name", TABLE)
def test_a_shipped_link_is_as_tabled(name: str) -> None:
    """Rates, delay and the kind of rate; every number with its source."""
    link = load_link(name)
    down, up, rtt = TABLE[name]
    assert (link.down * 8e-6, link.up * 8e-6) == pytest.approx((down, up))
    assert link.one_way == pytest.approx(rtt / 2000)
    assert (link.rate == "line") == (name in LINE)
    assert sources.uncovered(link, link.sources) == []


def test_a_link_written_out_has_line_rates() -> None:
    """97 % of what is written reaches the messages; the latency is one way."""
    link = load_link({"up": "10 Mbit/s", "down": "26 Mbit/s", "latency": "25 ms"})
    assert (link.id, link.rate) == ("inline", "line")
    assert (link.up_goodput, link.down_goodput) == pytest.approx((0.97 * 1.25e6, 0.97 * 3.25e6))
    assert link.one_way == 0.025


def test_goodput_is_taken_as_it_is() -> None:
    """A rate measured above TCP has its headers behind it."""
    link = load_link("wifi5")
    assert (link.up_goodput, link.down_goodput) == (link.up, link.down)


def test_a_link_without_delay_has_none() -> None:
    """Neither rtt nor latency: zero."""
    assert load_link({"up": "1 MB/s", "down": "1 MB/s"}).one_way == 0.0


def test_a_link_is_written_and_read_back_unchanged() -> None:
    """What a resolved scenario records is what it was."""
    link = load_link("starlink")
    assert Link.model_validate(link.model_dump(mode="json")) == link


GOOD = {"up": "1 MB/s", "down": "1 MB/s"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"up": "0 Mbit/s"}, r"up: '0 Mbit/s' is out of range; .* greater than zero, like 20 Mbit/s or 2 MB/s"),
        ({"up": "10 Mbit"}, r"up: '10 Mbit' has the unit 'Mbit', but a data rate is given in .*; write it like"),
        ({"latency": "-1 ms"}, r"latency: '-1 ms' is out of range; .* zero or more, like 30 s"),
        (
            {"latency": "1 ms", "rtt": "2 ms"},
            r"latency: rtt is given, too; keep one \(latency is one way, half of",
        ),
        ({"latencey": "1 ms"}, r"latencey: unknown key; did you mean latency\?"),
        ({"jitter": "1 ms"}, r"jitter: unknown key; the keys here are down, id, latency, rate, rtt, sources, up"),
        ({"rate": "net"}, r"rate: 'net' does not fit; give goodput or line"),
        (
            {"sources": [{"field": "rtt", "confidence": "measured", "ref": "ping"}]},
            r"sources.0.field: 'rtt' is no number of this file; there are: up, down",
        ),
    ],
    ids=str,
)
def test_a_wrong_link_is_refused(change: dict[str, Any], message: str) -> None:
    """Also keys of the specification that nothing would heed yet: an option without effect is a trap."""
    with pytest.raises(DocumentError, match=rf"^{message}.* \(link given from Python\)$"):
        load_link(GOOD | change)


def test_what_python_gives_is_looked_at_as_a_file_is() -> None:
    """Read-only mappings and tuples are data; every fault comes in one list; keys are strings."""
    source = {"field": "up", "confidence": "sure", "ref": "ping"}
    given = MappingProxyType({"up": "fast", "sources": (MappingProxyType(source),)})
    with pytest.raises(DocumentError) as caught:
        load_link(given)
    first, *lines = str(caught.value).split("\n  ")
    assert first == "3 errors in the link:"
    assert [line.split(": ")[0] for line in lines] == ["up", "down", "sources.0.confidence"]
    assert lines[1] == "down: missing; add it, as in 'down: 26 Mbit/s' (link given from Python)"
    with pytest.raises(UserError, match=r"^3 is no key of a link; keys are strings$"):
        load_link({3: 4})  # type: ignore[dict-item]


def test_a_link_file_says_where_it_is_wrong(tmp_path: Path) -> None:
    """File and line, as for profiles; and the file's name is the link's."""
    path = tmp_path / "attic.yaml"
    path.write_text("id: attic\nup: 1 MB/s\ndown: fast\n", encoding="utf-8")
    with pytest.raises(DocumentError, match=r"^down: 'fast' is not a data rate; .*attic.yaml, line 3\)$"):
        load_link("./attic.yaml", relative_to=tmp_path)
    path.write_text("up: 1 MB/s\ndown: 1 MB/s\n", encoding="utf-8")
    with pytest.raises(DocumentError, match=r"^id: missing; add it, as in 'id: attic' \(.*attic.yaml, line 1\)$"):
        load_link("./attic.yaml", relative_to=tmp_path)
    path.write_text("id: attic\nup: 1 MB/s\ndown: 1 MB/s\nup: 2 MB/s\n", encoding="utf-8")
    with pytest.raises(DocumentError, match=r"^the key 'up' is given twice, in lines 2 and 4; keep one .*, line 4\)$"):
        load_link("./attic.yaml", relative_to=tmp_path)
    path.write_text("", encoding="utf-8")
    with pytest.raises(DocumentError, match=r"^nothing is there; give a mapping of keys, such as 'up: 10 Mbit/s'"):
        load_link("./attic.yaml", relative_to=tmp_path)


def test_an_unknown_link_suggests_the_nearest() -> None:
    """`wifi` is no link; several are near."""
    with pytest.raises(UserError, match=r"unknown link 'wifi-5'; did you mean wifi5\?"):
        load_link("wifi-5")
