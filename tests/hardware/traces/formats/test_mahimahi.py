"""Mahimahi's packets become steps that carry the same bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.errors import UserError
from fedsim.hardware.traces.loading import load_rates
from fedsim.hardware.traces.rates import RateTrace


def write(folder: Path, moments: list[int], name: str = "x") -> Path:
    """A trace with a packet at each of these milliseconds."""
    path = folder / name
    path.write_text("".join(f"{moment}\n" for moment in moments), encoding="ascii")
    return path


def read(path: Path, step: float | None = None, up_path: Path | None = None) -> RateTrace:
    """On the wire, with an uplink of 5 bytes/s."""
    return load_rates(path, "mahimahi", step=step, up_path=up_path, up=5.0, down=6.0, efficiency=1.0)


def test_packets_are_counted_over_half_seconds(tmp_path: Path) -> None:
    """1500 bytes each; the last step ends with the trace."""
    found = read(write(tmp_path, [0, 100, 100, 500, 501, 1200, 1250]))
    assert (found.times.tolist(), found.length) == ([0, 0.5, 1], 1.25)
    assert found.down.tolist() == [4 * 3000, 3000, 2 * 6000]
    assert found.up.tolist() == [5, 5, 5]


def test_the_step_can_be_chosen(tmp_path: Path) -> None:
    """In seconds."""
    found = read(write(tmp_path, [100, 150, 200]), step=0.1)
    assert found.down.tolist() == [15000, 30000]


@settings(max_examples=20)
@given(moments=st.lists(st.integers(0, 5000), max_size=50).map(sorted), step=st.sampled_from([0.05, 0.5, 3]))
def test_no_byte_is_lost(tmp_path_factory: pytest.TempPathFactory, moments: list[int], step: float) -> None:
    """Whatever the step, the trace carries as many packets as it lists."""
    moments = [*moments, 5001]
    found = read(write(tmp_path_factory.mktemp("m"), moments), step=step)
    carried = found.down @ np.diff(found.times, append=found.length)
    assert carried == pytest.approx(1500 * len(moments))


def test_packets_hold_headers(tmp_path: Path) -> None:
    """Capacity on the wire: messages get the efficiency's share, whatever the link's own rates are."""
    found = load_rates(write(tmp_path, [1000]), "mahimahi", rate="goodput", up_over_down=0.1, efficiency=0.5)
    assert (found.down.tolist(), found.up.tolist()) == ([0, 1500], [0, 150])


def test_up_and_down_have_files_of_their_own(tmp_path: Path) -> None:
    """An uplink that is alone is known by its name."""
    down, up = write(tmp_path, [500, 500], "ATT.down"), write(tmp_path, [500], "ATT.up")
    both = read(down, up_path=up)
    assert (both.up.tolist(), both.down.tolist()) == ([3000], [6000])
    alone = read(up)
    assert (alone.up.tolist(), alone.down.tolist()) == ([3000], [6])
    with pytest.raises(UserError, match=r"^by its name this is an uplink; give it as up_path, .* \(.*ATT.up\)$"):
        read(up, up_path=down)
    with pytest.raises(UserError, match=r"^by its name this is a downlink; give it as path, .* \(.*ATT.down\)$"):
        read(write(tmp_path, [500]), up_path=down)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("10\n\n20\n", r"'' is no time in whole milliseconds up to 1e\+09; correct it \(.*x, line 2\)"),
        ("10\n1.5\n", r"'1.5' is no time in whole milliseconds up to 1e\+09; correct it \(.*x, line 2\)"),
        ("99999999999\n", r"'99999999999' is no time in whole milliseconds up to 1e\+09; .* \(.*x, line 1\)"),
        ("10\n9\n", r"9 ms comes after 10 ms; times must not go back \(.*x, line 2\)"),
        ("0\n0\n", r"the trace lasts 0 ms; give one that takes time \(.*x\)"),
    ],
    ids=str,
)
def test_a_wrong_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    """As Mahimahi itself refuses it."""
    path = tmp_path / "x"
    path.write_text(text, encoding="ascii")
    with pytest.raises(UserError, match=f"^{message}$"):
        read(path)
