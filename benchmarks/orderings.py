"""Who keeps whom busy, and for how many bytes: orderings of training systems that follow from their schedules.

    python benchmarks/orderings.py [--jobs 2]

Timing only, on `scenarios/fedoptima-pi8.yaml`, `fedoptima-jetson16.yaml` and `ampere-jetson20.yaml`. Prints a table a
setting, and each claim with the figures that it stands on; the exit status is 1 where one does not hold. About five
minutes on two cores.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

Summary = dict[str, Any]
Figures = Mapping[str, Summary]

OFFLOADING: Final = ("splitfed", "oafl", "pipar", "fedoptima")
WHOLE: Final = ("fedavg", "fedasync", "fedbuff")


@dataclass(frozen=True)
class Setting:
    """A scenario with changes, and the systems that run on it."""

    name: str
    scenario: str
    systems: tuple[str, ...]
    overrides: tuple[str, ...] = ()
    steps: int | None = None
    """Local steps of every system; None: whole passes."""


def _pi8(name: str, rate: int, *more: str) -> Setting:
    links = tuple(
        f"fleet.{i}.link={{up: {rate} Mbit/s, down: {rate} Mbit/s, latency: 0 s, rate: goodput}}" for i in range(4)
    )
    return Setting(name, "fedoptima-pi8", (*WHOLE, *OFFLOADING), (*links, *more, "until.time=1000 s"), 200)


SETTINGS: Final = (
    _pi8("pi8, 50 Mbit/s", 50),
    _pi8("pi8, 100 Mbit/s", 100),
    _pi8("pi8, 100 Mbit/s, heavy head", 100, "auxiliary.ratio=0.5"),
    Setting("jetson16", "fedoptima-jetson16", (*WHOLE, *OFFLOADING), (), 100),
    Setting("jetson20, VGG-11 cut 1", "ampere-jetson20", ("splitfed", "locsplitfed", "cse_fsl", "ampere")),
    Setting(
        "jetson20, VGG-11 cut 2", "ampere-jetson20", ("splitfed", "locsplitfed", "cse_fsl", "ampere"), ("model.cut=2",)
    ),
)


def run(setting: Setting, system: str) -> Summary:
    """One cell."""
    import fedsim

    scheduler: dict[str, Any] = {"name": system}
    if setting.steps is not None:
        scheduler["local_steps"] = setting.steps
    if system == "pipar":
        scheduler["micro_batches"] = 4
    done = fedsim.run(setting.scenario, overrides=setting.overrides, scheduler=scheduler)
    given, devices = done.measures.contributions, done.measures.columns.devices
    if given.skipped is not None:  # of the device that has contributed least
        done.summary["fewest_skipped"] = int(given.skipped[devices][given.counts[devices].argmin()])
    return done.summary


def _cell(cell: tuple[Setting, str]) -> Summary:
    return run(*cell)


def server_idle(one: Summary) -> float:
    """Share of the run."""
    return float(one["server"]["idle"])


def device_idle(one: Summary) -> float:
    """Mean share of the devices' time."""
    return float(one["devices"]["idle"])


def served(one: Summary) -> float:
    """Samples a second that the server block is trained on."""
    return float(one["throughput"]["server_samples_per_s"] or 0.0)


def total(one: Summary) -> float:
    """Bytes, both ways."""
    return float(one["bytes"]["total"])


Claim = tuple[str, bool, str]
_CLOSE: Final = 0.005  # of shares that are equal but for the last, unfinished work


def claims(setting: Setting, found: Figures) -> Iterator[Claim]:
    """What should hold in a setting, whether it does, and the figures."""
    if setting.scenario == "ampere-jetson20":
        yield from _bytes(found)
        return
    idle = {name: server_idle(found[name]) for name in found}
    yield (
        "server idle: whole-model systems near 100 %, above SplitFed",
        min(idle[name] for name in WHOLE) > max(0.95, idle["splitfed"]),
        " ".join(f"{name} {idle[name]:.1%}" for name in (*WHOLE, "splitfed")),
    )
    yield (
        "server idle: SplitFed at least OAFL's and PiPar's",
        idle["splitfed"] + _CLOSE >= max(idle["oafl"], idle["pipar"]),
        " ".join(f"{name} {idle[name]:.1%}" for name in ("splitfed", "oafl", "pipar")),
    )
    if "heavy" not in setting.name:
        yield (
            "server idle: FedOptima's is lowest",
            idle["fedoptima"] <= min(idle.values()) + _CLOSE,
            f"fedoptima {idle['fedoptima']:.1%}, next {sorted(idle.values())[1]:.1%}",
        )
        yield (
            "server throughput: FedOptima's above PiPar's",
            served(found["fedoptima"]) > served(found["pipar"]),
            f"{served(found['fedoptima']) / served(found['pipar']):.2f} times",
        )
    waits = {name: device_idle(found[name]) for name in found}
    yield (
        "device idle: SplitFed at least OAFL's and PiPar's, which are above FedOptima's",
        waits["splitfed"] + _CLOSE >= max(waits["oafl"], waits["pipar"])
        and min(waits["oafl"], waits["pipar"]) > waits["fedoptima"],
        " ".join(f"{name} {waits[name]:.1%}" for name in OFFLOADING),
    )
    if setting.scenario == "fedoptima-jetson16":
        yield (
            "device idle: FedAsync's at least FedOptima's",
            waits["fedasync"] >= waits["fedoptima"],
            f"fedasync {waits['fedasync']:.1%}, fedoptima {waits['fedoptima']:.1%}",
        )
        skipped = found["fedoptima"]["fewest_skipped"]
        yield (
            "contributions: the device that gives FedOptima's server fewest batches gives all that it computes",
            skipped == 0,
            f"{skipped} of its batches dropped",
        )


def _bytes(found: Figures) -> Iterator[Claim]:
    size = {name: total(found[name]) for name in found}
    listed = " ".join(f"{name} {nbytes / 1e9:.1f} GB" for name, nbytes in size.items())
    yield (
        "bytes: Ampere below LocSplitFed below SplitFed, CSE-FSL below LocSplitFed",
        size["ampere"] < size["locsplitfed"] < size["splitfed"] and size["cse_fsl"] < size["locsplitfed"],
        listed,
    )
    share = size["ampere"] / size["splitfed"]
    yield "bytes: Ampere's at most 3 % of SplitFed's from 60 epochs on", share <= 0.03, f"{share:.2%}"


def main() -> int:
    """Run all cells; 1 where a claim does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    cells = [(setting, system) for setting in SETTINGS for system in setting.systems]
    with ProcessPoolExecutor(args.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        summaries = dict(zip(cells, pool.map(_cell, cells), strict=True))
    wrong = 0
    for setting in SETTINGS:
        found = {system: summaries[setting, system] for system in setting.systems}
        print(f"\n{setting.name}\n{'':14}server idle  device idle  server samples/s  GB, both ways  contributions")
        for system, one in found.items():
            least, most = one["contributions"]["min"], one["contributions"]["max"]
            print(
                f"{system:14}{server_idle(one):10.1%}{device_idle(one):13.1%}{served(one):18,.0f}"
                f"{total(one) / 1e9:15.1f}  {least}-{most}"
            )
        for claim, holds, figures in claims(setting, found):
            wrong += not holds
            print(f"  {'holds' if holds else 'DOES NOT HOLD'}: {claim} ({figures})")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
