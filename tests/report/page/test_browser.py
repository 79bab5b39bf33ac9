"""Reports as Chromium shows them: the figures are there, the timeline is drawn, in light and dark, and on paper."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

import fedsim
from fedsim.report import read_run, write_comparison
from fedsim.report.html import Run, render
from fedsim.report.measures import measure
from fedsim.report.page.lanes import lanes
from fedsim.report.pages import page
from fedsim.report.summary import summarise
from tests.browser import chromium, printed, read, screenshot
from tests.report.hand_made_traces import SCENARIO, Tape, fedavg

pytestmark = [pytest.mark.slow, pytest.mark.skipif(chromium() is None, reason="no Chromium on this machine")]
BUSY, STRAGGLER, DEPENDENCY, MODEL = (42, 120, 214), (213, 81, 129), (235, 104, 52), (74, 58, 167)


class Cells(HTMLParser):
    """Reads the rows of tables, and the tiles, as a person would."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.tiles: dict[str, str] = {}
        self._into: list[str] | None = None
        self._tile: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        self._into = self.rows[-1] if tag in ("td", "th") else self._tile if tag in ("b", "span") else self._into
        if tag == "b":
            self._tile.append("")

    def handle_data(self, data: str) -> None:
        if self._into:
            self._into[-1] += data

    def handle_endtag(self, tag: str) -> None:
        if tag == "b":
            self._tile.append("")
        if tag == "span" and len(self._tile) > 1:
            self.tiles[self._tile[-1]] = self._tile[-2]
        if tag in ("td", "th", "b", "span"):
            self._into = None if tag != "b" else self._tile


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run of the quickstart, with its report."""
    out = tmp_path_factory.mktemp("seen") / "run"
    fedsim.run("quickstart", out=out, until={"rounds": 2})
    return out


def test_the_figures_on_the_page_are_those_of_the_summary(folder: Path) -> None:
    """Opened from a file, with nothing to complain of: tiles, bytes and rows of nodes say what the run says."""
    seen = read(folder / "report.html")
    summary = read_run(folder).summary
    assert seen.complaints == []
    assert 'data-drawn="yes"' in seen.elements
    found = Cells()
    found.feed(seen.elements)
    assert found.tiles["final accuracy"] == f"{summary['accuracy']['final']:.1%}".replace("%", " %")
    assert found.tiles["devices idle, mean"] == f"{summary['devices']['idle']:.1%}".replace("%", " %")
    up = next(row for row in found.rows if row and row[0] == "up")
    assert up[-1] == f"{sum(summary['bytes']['up'].values()) / 1e3:.3g} kB"
    nodes = {row[1] for row in found.rows if len(row) > 8}
    assert {"server", *(f"device {number}" for number in range(8))} <= nodes


def test_the_address_says_what_the_timeline_shows(folder: Path) -> None:
    """As it was zoomed; without a word it is the whole run."""
    whole = read_run(folder).summary["seconds"]
    shown = [
        re.findall(r'data-shown="([^"]*)"', read(folder / "report.html", at).elements)[0] for at in ("", "t1=0.1,0.2")
    ]
    assert [float(number) for number in shown[0].split()] == pytest.approx([0, whole])
    assert [float(number) for number in shown[1].split()] == pytest.approx([0.1, 0.2], abs=whole / 1e5)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0 s"),
        (80e-9, "0.00008 ms"),
        (2e-3, "2 ms"),
        (10, "10 s"),
        (600, "10 min"),
        (36e4, "100 h"),
        (432e4, "1200 h"),
    ],
)
def test_times_are_in_the_unit_that_suits_them(tmp_path: Path, seconds: float, said: str) -> None:
    """No digit is lost, were it a nought."""
    figure = lanes(Tape(1, round(seconds * 1e9)).columns).figure(1, "timeline")
    (tmp_path / "page.html").write_text(page("timeline", figure, script="lanes.js"), encoding="utf-8")
    assert f"<output>0 s to {said}</output>" in read(tmp_path / "page.html").elements


def pixels(path: Path, tape: Tape, *, dark: bool = False, fragment: str = "") -> npt.NDArray[np.uint8]:
    """A window that shows nothing but the timeline of a trace."""
    figure = lanes(tape.columns).figure(1, "timeline")
    (path / "page.html").write_text(page("timeline", figure, script="lanes.js"), encoding="utf-8")
    screenshot(path / "page.html", path / "page.png", (1000, 300), dark=dark, fragment=fragment)
    return np.asarray(Image.open(path / "page.png").convert("RGB"))


def amount(picture: npt.NDArray[np.uint8], colour: tuple[int, int, int]) -> int:
    """Pixels of that colour."""
    return int((picture == np.array(colour, np.uint8)).all(axis=2).sum())


def test_time_is_coloured_by_what_it_was(tmp_path: Path) -> None:
    """Three rows of 80 ns: 50 busy, 60 for stragglers, 40 in dependency, 90 for weights, in as many pixels."""
    picture = pixels(tmp_path, fedavg())
    amounts = np.array([amount(picture, colour) for colour in (BUSY, STRAGGLER, DEPENDENCY, MODEL)])
    assert amounts / amounts.sum() == pytest.approx(np.array([50, 60, 40, 90]) / 240, abs=0.01)
    part = pixels(tmp_path, fedavg(), fragment="t1=10e-9,20e-9")
    assert amount(part, BUSY) == pytest.approx(2 * amount(part, DEPENDENCY), rel=0.01), "devices work, the server waits"
    assert amount(part, STRAGGLER) == 0


def test_a_piece_that_begins_within_a_pixel_is_drawn_to_its_end(tmp_path: Path) -> None:
    """The edges of pieces lie anywhere between those of pixels."""
    tape = Tape(1, 70)
    tape.span(0, 0, 33)
    tape.wait(0, 33, 70, "model")
    for fragment, share in (("", 33 / 37), ("t1=20e-9,50e-9", 13 / 17)):
        picture = pixels(tmp_path, tape, fragment=fragment)
        assert amount(picture, BUSY) / amount(picture, MODEL) == pytest.approx(share, abs=0.01)


def test_where_nothing_is_recorded_nothing_is_drawn(tmp_path: Path) -> None:
    """Behind the leave of a device; and in pixels of which steps took a quarter."""
    part, whole, thin = Tape(1, 100), Tape(1, 100), Tape(1, 20_000)
    part.span(0, 0, 25)
    part.trace.mark(0, 25, "leave")
    whole.span(0, 0, 100)
    for step in range(5000):
        thin.span(0, 4 * step, 4 * step + 1)
    found = [amount(pixels(tmp_path, tape), BUSY) for tape in (part, whole, thin)]
    assert found[0] == pytest.approx(found[1] / 4, rel=0.01)
    assert found[2] == 0


def test_a_pixel_shows_what_took_most_of_it(tmp_path: Path) -> None:
    """Five thousand steps of three quarters of the time on a thousand pixels: all busy, not the last one drawn."""
    tape = Tape(1, 20_000)
    for step in range(5000):
        tape.span(0, 4 * step, 4 * step + 3)
        tape.wait(0, 4 * step + 3, 4 * step + 4, "gradient")
    picture = pixels(tmp_path, tape)
    assert amount(picture, BUSY) > 10_000
    assert amount(picture, DEPENDENCY) < 0.02 * amount(picture, BUSY)


def test_light_and_dark(tmp_path: Path) -> None:
    """As the system asks for, with other colours."""
    light, dark = (pixels(tmp_path, fedavg(), dark=dark) for dark in (False, True))
    assert light.mean() > 150
    assert dark.mean() < 80
    assert amount(dark, BUSY) == 0 < amount(dark, (57, 135, 229))


def test_nothing_hangs_over_on_a_narrow_screen(tmp_path: Path, folder: Path) -> None:
    """390 pixels wide: the margin on the right stays free from top to bottom."""
    screenshot(folder / "report.html", tmp_path / "narrow.png", (390, 3000))
    picture = np.asarray(Image.open(tmp_path / "narrow.png").convert("RGB"))
    assert picture.shape[1] == 390
    assert (picture[:, -6:] == picture[0, -1]).all()


def test_a_report_is_printed_on_white(tmp_path: Path, folder: Path) -> None:
    """On several pages, with the timeline on them."""
    printed(folder / "report.html", tmp_path / "report.pdf")
    text = (tmp_path / "report.pdf").read_bytes()
    assert text.startswith(b"%PDF")
    assert 2 <= len(re.findall(rb"/Type\s*/Page\b(?!s)", text)) <= 12


def test_systems_over_seeds_have_one_page(tmp_path: Path, folder: Path) -> None:
    """Two systems, one of them with two seeds: one timeline each, and who wins."""
    fedsim.run("quickstart", out=tmp_path / "0", until={"rounds": 2}, seed=8)
    fedsim.run("quickstart", out=tmp_path / "1", until={"rounds": 2}, scheduler="splitfed")
    write_comparison(tmp_path / "both.html", map(read_run, (folder, tmp_path / "0", tmp_path / "1")))
    seen = read(tmp_path / "both.html")
    assert seen.complaints == []
    assert len(re.findall("data-shown=", seen.elements)) == 2
    assert "Which system wins, and why" in seen.elements
    assert "mean ± standard deviation over 2 seeds" in seen.elements
    assert "seeds 7, 8" in seen.elements


def test_a_thousand_devices_stay_usable(tmp_path: Path) -> None:
    """Forty rounds of two spans and waits a device: below 10 MB, and drawn."""
    tape = Tape(1000, 40_000_000, {**SCENARIO, "scheduler": {"name": "many"}})
    for start in range(0, 40_000_000, 1_000_000):
        tape.round(start // 1_000_000, start, start + 1_000_000, range(1000))
        for device in range(1000):
            model = tape.send(-1, device, "model", start, start + 1000 + device, weights=100)
            tape.wait(device, start, start + 1000 + device, "model", model)
            tape.span(device, start + 1000 + device, start + 300_000 + 600 * device)
            tape.send(device, -1, "contribution", start + 300_000 + 600 * device, start + 950_000, weights=100)
            tape.wait(device, start + 300_000 + 600 * device, start + 1_000_000, "model")
    found = measure(tape.trace)
    text = render([Run(summarise(tape.trace, status="done", wall_seconds=1.0), found, tape.trace.scenario)])
    path = tmp_path / "many.html"
    path.write_text(text, encoding="utf-8")
    assert path.stat().st_size < 10e6
    seen = read(path)
    assert seen.complaints == []
    assert 'data-drawn="yes"' in seen.elements
