"""Populations: devices draw what users measured, each by itself, and the tables are reproduced."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedsim.documents.problems import DocumentError
from fedsim.errors import UserError
from fedsim.hardware.links import load_link
from fedsim.hardware.populations import AT, Population, draw

MBIT = 125e3  # bytes

# of 10,000 tests each: mean of the interpolated quantiles (Mbit/s), their Kolmogorov-Smirnov distance to the tests
TABLE = {
    "lte": (53.6, 0.012),
    "5g-good": (305.6, 0.013),
    "wifi4": (56.3, 0.019),
    "wifi5": (226.1, 0.019),
    "wifi6": (372.6, 0.037),
}
# the log-normal that fits best: mu and sigma of ln Mbit/s, mean, distance
LOG_NORMAL = {
    "lte": (3.02, 1.57, 70.2, 0.065),
    "5g-good": (5.28, 1.35, 486.8, 0.190),
    "wifi4": (3.42, 1.36, 77.5, 0.123),
    "wifi5": (5.05, 1.08, 280.2, 0.113),
    "wifi6": (5.49, 1.18, 486.2, 0.119),
}
MANY = np.arange(200_000)


def population(**keys: Any) -> Population:
    """The population of a link written out."""
    link = load_link({"up": "1 MB/s", "down": "1 MB/s", "population": keys})
    assert link.population is not None
    return link.population


def shipped(name: str) -> Population:
    """The population of a shipped link."""
    found = load_link(name).population
    assert found is not None
    return found


def below(rates: NDArray[np.float64], limits: tuple[float, ...]) -> NDArray[np.float64]:
    """The share of the rates that are at most each of the limits."""
    return np.searchsorted(np.sort(rates), np.array(limits) + 1, "right") / len(rates)


@pytest.mark.parametrize("name", TABLE)
def test_draws_have_the_distribution_of_the_table(name: str) -> None:
    """Mean within 1 % of the table's; at each tabled rate the share of devices is within 0.004 (about 3.5 sigma)."""
    rates = load_link(name).drawn_rates(7, MANY)[:, 1]
    assert rates.mean() / MBIT == pytest.approx(TABLE[name][0], rel=0.01)
    shares = below(rates, shipped(name).down)
    inner = slice(1, -1)  # the ends hold everybody beyond them
    np.testing.assert_allclose(shares[inner], AT[inner], atol=0.004)
    assert (rates.min(), rates.max()) == (np.rint(shipped(name).down[0]), np.rint(shipped(name).down[-1]))


@pytest.mark.parametrize("name", TABLE)
def test_the_median_device_has_the_link_s_own_rates(name: str) -> None:
    """Within 2 %, up and down: drawing rates spreads a fleet around the link it names."""
    link = load_link(name)
    up, down = np.median(link.drawn_rates(3, MANY), axis=0)
    assert (up, down) == pytest.approx((link.up, link.down), rel=0.02)


@pytest.mark.parametrize("name", TABLE)
def test_the_logarithm_is_interpolated(name: str) -> None:
    """Half-way between two tabled shares lies the geometric mean of their rates."""
    found = shipped(name)
    rates = draw(found, 1, MANY)[:, 1]
    half = np.quantile(rates, 0.85)
    assert half == pytest.approx(math.sqrt(found.down[10] * found.down[11]), rel=0.02)


@pytest.mark.parametrize("name", TABLE)
def test_a_log_normal_fits_badly(name: str) -> None:
    """Its draws have the tabled mean, 24 to 60 % too high, and are as far from the quantiles as from the tests.

    "As far" within the distance between quantiles and tests, and what 200,000 draws leave open.
    """
    mean, between = TABLE[name]
    mu, sigma, log_mean, distance = LOG_NORMAL[name]
    rates = draw(population(kind="lognormal", mu=mu, sigma=sigma, up_over_down=1), 7, MANY)[:, 1]
    assert rates.mean() / MBIT == pytest.approx(log_mean, rel=0.02)
    assert 1.2 < log_mean / mean < 1.6
    np.testing.assert_allclose([np.log(rates / MBIT).mean(), np.log(rates / MBIT).std()], [mu, sigma], atol=0.02)
    other = np.sort(draw(shipped(name), 8, MANY)[:, 1])
    inner = other[(other > other[0]) & (other < other[-1])]
    shares = np.searchsorted(other, inner, "right") / len(other)
    found = np.abs(np.searchsorted(np.sort(rates), inner, "right") / len(rates) - shares).max()
    assert found == pytest.approx(distance, abs=between + 0.005)


def test_a_device_s_draw_depends_on_seed_and_node_only() -> None:
    """Not on who else draws: a fleet may grow without its first devices changing."""
    found = shipped("wifi5")
    everyone = draw(found, 7, np.arange(1000))
    np.testing.assert_array_equal(draw(found, 7, np.array([999, 5])), everyone[[999, 5]])
    assert (draw(found, 8, np.arange(1000)) != everyone).mean() > 0.9
    assert everyone[:2].tolist() == GOLDEN


GOLDEN = [[35433111.0, 42182274.0], [20616356.0, 24543281.0]]


def test_up_is_a_share_of_down() -> None:
    """Whole bytes a second, both of them."""
    rates = draw(
        population(kind="quantiles", at=[0.1, 0.9], down=["8 Mbit/s", "16 Mbit/s"], up_over_down="25 %"), 1, MANY
    )
    assert np.abs(rates[:, 0] - rates[:, 1] / 4).max() <= 0.625
    assert (rates == np.rint(rates)).all()


def test_a_million_devices_draw_within_a_second() -> None:
    """0.3 µs each, where a generator a device would take 15."""
    began = time.perf_counter()
    load_link("lte").drawn_rates(0, np.arange(1_000_000))
    assert time.perf_counter() - began < 3


@settings(max_examples=30)
@given(st.integers(0, 2**63 - 1), st.integers(0, 10**7))
def test_no_draw_leaves_the_table(seed: int, node: int) -> None:
    """Beyond 0.1 and 99.9 % everybody is at the ends."""
    found = shipped("5g-good")
    up, down = draw(found, seed, np.array([node]))[0]
    assert found.down[0] <= down <= found.down[-1]
    assert up == pytest.approx(0.16 * down, abs=1)


def test_users_of_a_file_are_drawn(tmp_path: Path) -> None:
    """Each with the same chance; tests that measured nothing are no users."""
    (tmp_path / "4G.csv").write_text("brand,bandwidth_Mbps\na,8\nb,0\nc,16\n", encoding="utf-8")
    found = population(kind="file", path=str(tmp_path / "4G.csv"), up_over_down=0.5)
    rates = draw(found, 7, np.arange(10_000))
    slow = (rates == [0.5e6, 1e6]).all(axis=1)
    fast = (rates == [1e6, 2e6]).all(axis=1)
    assert (slow | fast).all()
    assert slow.mean() == pytest.approx(0.5, abs=0.02)


def test_a_user_s_varying_rate_is_drawn_once(tmp_path: Path) -> None:
    """FLASH's normal rates, in kB of 1024 bytes, up by itself; below 0 is drawn again, and 1 byte/s is the least."""
    entries = {"a": {"down_u": 1000, "down_sigma": 100, "up_u": 10, "up_sigma": 30}}
    (tmp_path / "speed.json").write_text(json.dumps(entries), encoding="utf-8")
    found = population(kind="file", path=str(tmp_path / "speed.json"))
    rates = draw(found, 7, np.arange(50_000))
    up, down = rates.T / 1024
    assert (down.mean(), down.std()) == pytest.approx((1000, 100), rel=0.02)
    assert rates.min() >= 1
    # mean of a normal cut at 0: mu + sigma * phi(mu / sigma) / Phi(mu / sigma)
    assert up.mean() == pytest.approx(10 + 30 * 0.3774 / 0.6306, rel=0.02)
    assert abs(np.corrcoef(up, down)[0, 1]) < 0.02
    np.testing.assert_array_equal(
        draw(population(kind="file", path=str(tmp_path / "speed.json")), 7, np.array([9])), rates[[9]]
    )


def test_a_file_without_uplinks_needs_the_ratio(tmp_path: Path) -> None:
    """And one with uplinks refuses it."""
    (tmp_path / "x.csv").write_text("bandwidth_Mbps\n8\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"x.csv has no uplinks; add 'up_over_down: 0.4' to the population$"):
        draw(population(kind="file", path=str(tmp_path / "x.csv")), 1, np.arange(3))
    entries = {"a": {"down_u": 1, "down_sigma": 0, "up_u": 1, "up_sigma": 0}}
    (tmp_path / "y.json").write_text(json.dumps(entries), encoding="utf-8")
    with pytest.raises(UserError, match=r"y.json has uplinks of its own; remove up_over_down from the population$"):
        draw(population(kind="file", path=str(tmp_path / "y.json"), up_over_down=1), 1, np.arange(3))


TWO = {"kind": "quantiles", "at": ["10 %", "90 %"], "down": ["1 MB/s", "2 MB/s"], "up_over_down": 0.5}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({}, r"population.kind: missing; add it, as in 'kind: quantiles'"),
        ({"kind": "normal"}, r"population.kind: 'normal' does not fit; give quantiles, lognormal or file"),
        ({"kind": "quantiles"}, r"population: kind quantiles needs down; add it, as in 'down: \[1 Mbit/s, ...\], 15"),
        (
            {"kind": "quantiles", "down": ["1 MB/s"], "up_over_down": 1},
            r"population.down: 1 rates, but 15 shares in at; give one rate for each, at least two",
        ),
        (TWO | {"down": ["2 MB/s", "1 MB/s"]}, r"population.down: the rates do not ascend; sort them"),
        (TWO | {"at": ["90 %", "10 %"]}, r"population.at: the shares do not ascend between 0 and 100 %; sort them"),
        (TWO | {"at": ["10 %", "100 %"]}, r"population.at: the shares do not ascend between 0 and 100 %; sort them"),
        (TWO | {"down": ["0 MB/s", "1 MB/s"]}, r"population.down.0: '0 MB/s' is out of range; .*greater than zero"),
        (TWO | {"mu": 3.0}, r"population.mu: only kind lognormal takes it, and the kind is quantiles; remove it"),
        (
            {"kind": "lognormal", "mu": 3.0, "up_over_down": 1},
            r"population: kind lognormal needs sigma; add it, as in 'sigma: 1.57'",
        ),
        (
            {"kind": "lognormal", "mu": 3.0, "sigma": 1.0},
            r"population: kind lognormal needs up_over_down; add it, as in 'up_over_down: 0.4'",
        ),
        ({"kind": "lognormal", "mu": 3.0, "sigma": -1.0}, r"population.sigma: -1.0 does not fit; give 0.0 or more"),
        ({"kind": "file"}, r"population: kind file needs path; add it, as in 'path: 4G.csv'"),
        (
            {"kind": "file", "path": "x", "down": ["1 MB/s"]},
            r"population.down: only kind quantiles takes it, and the kind is file; remove it",
        ),
        (TWO | {"up_over_down": 0}, r"population.up_over_down: 0 does not fit; give more than 0"),
    ],
    ids=str,
)
def test_a_wrong_population_is_refused(keys: dict[str, Any], message: str) -> None:
    """With the value, the rule and the way out."""
    with pytest.raises(DocumentError, match=rf"^{message}"):
        population(**keys)
