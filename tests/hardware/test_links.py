"""Links: what ships is as tabled and sourced; both ways of writing one give the same thing."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from fedsim import catalogue
from fedsim.documents.problems import DocumentError
from fedsim.errors import UserError
from fedsim.hardware import sources
from fedsim.hardware.links import Radio, load_link

# down, up (Mbit/s), round trip, jitter (ms), loss (%)
TABLE = {
    "ethernet-100": (94, 94, 0.4, 0.05, 0),
    "ethernet-1g": (941, 941, 0.3, 0.05, 0),
    "wifi4": (43, 35, 5, 3, 0.2),
    "wifi5": (178, 150, 3, 2, 0.1),
    "wifi6": (333, 280, 3, 1.5, 0.05),
    "lte": (26, 10, 50, 15, 0.5),
    "lte-driving": (6.7, 2, 84, 25, 1),
    "5g-mid": (150, 20, 40, 10, 0.3),
    "5g-good": (313, 50, 30, 8, 0.1),
    "3g": (2.4, 1, 123, 80, 1),
    "nb-iot": (0.02, 0.02, 840, 300, 1),
    "lte-m": (0.3, 0.3, 150, 50, 1),
    "dsl": (15, 1.5, 35, 5, 0.3),
    "cable": (150, 15, 18, 4, 0.1),
    "fibre": (300, 300, 8, 1, 0.02),
    "starlink": (150, 15, 50, 10, 0.5),
    "geo-satellite": (80, 5, 600, 20, 0.5),
    "datacentre-25g": (25000, 25000, 0.1, 0.01, 0),
    "fedcomm-wifi": (60, 60, 0, 0, 0),
    "fedcomm-4g": (20, 20, 0, 0, 0),
    "fedcomm-3g": (5, 5, 0, 0, 0),
    "pipar": (25, 10, 0, 0, 0),
}
LINE = {"datacentre-25g", "fedcomm-wifi", "fedcomm-4g", "fedcomm-3g", "pipar"}

# active (W), up, down (nJ/bit)
NO_RADIO = (0, 0, 0)
RADIO = {
    "lte": (1.288, 438, 52),
    "lte-driving": (1.288, 438, 52),
    "3g": (0.818, 869, 122),
    "wifi4": (0.133, 283, 137),
    "wifi5": (0.133, 283, 137),
    "wifi6": (0.133, 283, 137),
    "ethernet-100": NO_RADIO,
    "ethernet-1g": NO_RADIO,
    "datacentre-25g": NO_RADIO,
}


def test_the_table_is_complete() -> None:
    """Every shipped link is in the table, and the other way round."""
    assert set(catalogue.names("link")) == set(TABLE)


@pytest.mark.parametrize("name", TABLE)
def test_a_shipped_link_is_as_tabled(name: str) -> None:
    """Rates, delay, jitter, loss and the kind of rate; every number with its source."""
    link = load_link(name)
    down, up, rtt, jitter, loss = TABLE[name]
    assert (link.down * 8e-6, link.up * 8e-6) == pytest.approx((down, up))
    assert (link.one_way, link.jitter, link.loss) == pytest.approx((rtt / 2000, jitter / 1000, loss / 100))
    assert (link.rate == "line") == (name in LINE)
    assert link.duplex == "full"
    assert sources.uncovered(link, link.sources) == []


@pytest.mark.parametrize("name", TABLE)
def test_a_shipped_radio_is_as_tabled(name: str) -> None:
    """And nobody has checked those figures; links of which nothing is known have none."""
    link = load_link(name)
    if name not in RADIO:
        assert link.radio is None
        return
    assert link.radio is not None
    active, up, down = RADIO[name]
    assert (link.radio.active, link.radio.up, link.radio.down) == pytest.approx((active, up * 8e-9, down * 8e-9))
    assert {"radio.active", "radio.up", "radio.down"} <= set(sources.unverified(link, link.sources))


def test_a_link_written_out_has_line_rates() -> None:
    """97 % of what is written reaches the messages, or what the network is told; the latency is one way."""
    link = load_link({"up": "10 Mbit/s", "down": "26 Mbit/s", "latency": "25 ms"})
    assert (link.id, link.rate) == ("inline", "line")
    assert (link.goodput_up(), link.goodput_down()) == pytest.approx((0.97 * 1.25e6, 0.97 * 3.25e6))
    assert (link.goodput_up(0.5), link.goodput_down(0.5)) == (0.625e6, 1.625e6)
    assert link.one_way == 0.025
    assert (link.jitter, link.loss, link.duplex, link.radio, link.population, link.trace) == (0, 0, "full", *[None] * 3)


def test_goodput_is_taken_as_it_is() -> None:
    """A rate measured above TCP has its headers behind it, whatever the efficiency."""
    link = load_link("wifi5")
    assert (link.goodput_up(0.5), link.goodput_down(0.5)) == (link.up, link.down)


def test_a_link_without_delay_has_none() -> None:
    """Neither rtt nor latency: zero."""
    assert load_link({"up": "1 MB/s", "down": "1 MB/s"}).one_way == 0.0


@pytest.mark.parametrize("name", ["starlink", "lte", "ethernet-1g"])
def test_a_link_is_written_and_read_back_unchanged(name: str) -> None:
    """What a resolved scenario records is what it was, radio and population included."""
    link = load_link(name)
    assert load_link(link.model_dump(mode="json")) == link


def test_a_link_with_everything_is_read(tmp_path: Path) -> None:
    """Every key at once; files are found from the link's own file, and need not be there yet."""
    path = tmp_path / "attic.yaml"
    path.write_text(
        """
id: attic
up: 10 Mbit/s
down: 20 Mbit/s
latency: 4 ms
jitter: 1 ms
loss: 0.1 %
duplex: half
radio: {active: 100 mW, up: 1 J/B, down: 2 uJ/bit}
population: {kind: file, path: users.csv, reader: mobilebandwidth, up_over_down: 50 %}
trace: {path: down/x.csv, up_path: /up.csv, reader: mba, wrap: off, unit: "7", step: 1 s, up_over_down: 0.5}
""",
        encoding="utf-8",
    )
    link = load_link("./attic.yaml", relative_to=tmp_path)
    assert (link.jitter, link.loss, link.duplex) == (0.001, 0.001, "half")
    assert link.radio == Radio.model_validate({"active": "0.1 W", "up": "1 J/B", "down": "16 uJ/B"})
    assert link.population is not None
    assert link.population.path == tmp_path / "users.csv"
    assert link.trace is not None
    assert (link.trace.path, link.trace.up_path) == (tmp_path / "down" / "x.csv", Path("/up.csv"))
    assert (link.trace.wrap, link.trace.unit, link.trace.step, link.trace.up_over_down) == (False, "7", 1.0, 0.5)


def test_a_link_written_out_finds_its_files_from_the_given_folder(tmp_path: Path) -> None:
    """The scenario's, for instance; otherwise from the current one."""
    given = {"up": "1 MB/s", "down": "1 MB/s", "trace": {"path": "x.csv"}}
    here, there = load_link(given), load_link(given, tmp_path)
    assert here.trace is not None
    assert here.trace.path == Path.cwd() / "x.csv"
    assert there.trace is not None
    assert there.trace.path == tmp_path / "x.csv"
    with pytest.raises(UserError, match=r"^'~nobody-at-all/x.csv': .*home directory.*; give another path$"):
        load_link(given | {"trace": {"path": "~nobody-at-all/x.csv"}})


def test_a_recording_replaces_the_rates(tmp_path: Path) -> None:
    """Line rates of the file count 97 %, as the link's own do; what the file lacks is the link's."""
    (tmp_path / "x.csv").write_text("time_s,down_bit_s\n0,8e6\n10,16e6\n20,\n", encoding="utf-8")
    link = load_link({"up": "8 Mbit/s", "down": "8 Mbit/s", "trace": {"path": "x.csv"}}, tmp_path)
    trace = link.rate_trace()
    assert trace is not None
    assert (trace.length, trace.wrap) == (20, True)
    assert trace.down.tolist() == pytest.approx([0.97e6, 1.94e6])
    assert trace.up.tolist() == pytest.approx([0.97e6, 0.97e6])
    half = link.rate_trace(0.5)
    assert half is not None
    assert (half.up[0], half.down[0]) == (0.5e6, 0.5e6)
    goodput = link.model_copy(update={"rate": "goodput"}).rate_trace()
    assert goodput is not None
    assert (goodput.up[0], goodput.down[0]) == (1e6, 1e6)


def test_wrapping_is_switched_in_the_words_of_a_scenario() -> None:
    """On and off, as well as true and false."""
    for said, wrap in (("off", False), ("on", True), (False, False)):
        link = load_link({"up": "1 MB/s", "down": "1 MB/s", "trace": {"path": "x.csv", "wrap": said}})
        assert link.trace is not None
        assert link.trace.wrap is wrap


def test_a_link_without_a_recording_has_no_trace() -> None:
    """None, not a constant one."""
    assert load_link("wifi5").rate_trace() is None


def test_a_link_without_a_population_says_which_have_one() -> None:
    """Drawing from it is refused; the links it names have one, and no other."""
    with pytest.raises(UserError, match=r"^link ethernet-1g has no population .*; take lte, 5g-good, wifi4, "):
        load_link("ethernet-1g").drawn_rates(7, np.arange(3))
    found = {name for name in catalogue.names("link") if load_link(name).population is not None}
    assert found == {"lte", "5g-good", "wifi4", "wifi5", "wifi6"}


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
        ({"bandwidth": "1 ms"}, r"bandwidth: unknown key; the keys here are down, duplex, id, jitter, latency, loss, "),
        ({"rate": "net"}, r"rate: 'net' does not fit; give goodput or line"),
        ({"jitter": 3}, r"jitter: 3 has no unit; a duration is given in s, ms"),
        ({"loss": "100 %"}, r"loss: 100% of the packets are lost, so nothing would arrive; give less than 100 %"),
        ({"loss": "-1 %"}, r"loss: '-1 %' is out of range; a fraction here is zero or more"),
        ({"duplex": "both"}, r"duplex: 'both' does not fit; give full or half"),
        ({"radio": {"active": "1 W", "up": "1 nJ/bit"}}, r"radio.down: missing; add it, as in 'down: 137 nJ/bit'"),
        (
            {"radio": {"active": "1 W", "up": "1 nJ", "down": "1 nJ/bit"}},
            r"radio.up: '1 nJ' has the unit 'nJ', but a transfer energy is given in J/B, nJ/bit, .*like 283 nJ/bit",
        ),
        ({"population": True}, r"population: true does not fit; give a mapping of keys"),
        ({"trace": {"reader": "ucc"}}, r"trace.path: missing; add it, as in 'path: drive.csv'"),
        ({"trace": {"path": "x", "raeder": "ucc"}}, r"trace.raeder: unknown key; did you mean reader\?"),
        ({"trace": {"path": "x", "up_over_down": 0}}, r"trace.up_over_down: 0 does not fit; give more than 0"),
        (
            {"sources": [{"field": "rtt", "confidence": "measured", "ref": "ping"}]},
            r"sources.0.field: 'rtt' is no number of this file; there are: up, down",
        ),
    ],
    ids=str,
)
def test_a_wrong_link_is_refused(change: dict[str, Any], message: str) -> None:
    """Each with the value, the rule and the way out."""
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
