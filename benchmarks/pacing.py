"""How exactly an emulation keeps to its profiles: paced works, shaped links, and links into one server.

    python benchmarks/pacing.py [pacing] [links] [sharing] [--seconds 2] [--repeats 3] [--json]

Everything runs on the wall clock in this process, with one intra-op thread; give it a machine with
nothing else to do. Each figure is the median of the repeats, by its error. Must show:

pacing   a step of about 6 ms (matrix products, timed beforehand), slowed down to 2, 4, 10 and 40 times as long: a
         window of steps takes what the targets add up to, within 1 %. Also printed: steps that overran, and the 95th
         percentile of a step over its target. A case with more than 5 % overruns at 4 times and above says something
         about the machine, not about the pacer, and is skipped.
links    5, 20, 100 and 500 Mbit/s, 0, 20 and 100 ms away, through the shaper's thread into a sink: the rate within 2 %
         (0.5 % is what a quiet host reaches). Also printed: by how much the first and the last frame came late.
sharing  flows into one ingress with announcements and grants, each through its own shaper: four of 10 to 100 Mbit/s
         end when the simulation says, and ten of 3 to 100 Mbit/s get their max-min shares, within 5 %.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch

from fedsim.emulation.clock import WallClock
from fedsim.emulation.links.ingress import Ingress
from fedsim.emulation.links.line import frame_size
from fedsim.emulation.links.shaper import Shaper
from fedsim.emulation.links.shaping import Connection
from fedsim.emulation.links.sharing import Sharing
from fedsim.emulation.pacing import MOST_OVERRUNS, Pacer
from fedsim.hardware.links import Link
from fedsim.network.fluid import FluidNetwork
from fedsim.network.topology import DeviceGroup, NetworkOptions
from fedsim.script import SERVER

PACING, LINKS, SHARING = 0.01, 0.02, 0.05
STEP = 0.006  # s
Row = dict[str, Any]


# ------------------------------------------------------------------------------------------------ pacing


def step() -> Callable[[], None]:
    """A piece of work of about `STEP` on this machine."""
    matrix = torch.randn(160, 160, generator=torch.Generator().manual_seed(1))
    out = torch.empty_like(matrix)

    def several(count: int) -> None:
        for _ in range(count):
            torch.mm(matrix, matrix, out=out)

    def seconds() -> float:
        began = time.monotonic()
        several(50)
        return (time.monotonic() - began) / 50

    return partial(several, max(1, round(STEP / statistics.median(seconds() for _ in range(9)))))


def paced(work: Callable[[], None], slower: int, seconds: float) -> Row:
    """A window of steps, each at `slower` times what it takes now."""
    took = []
    for _ in range(25):
        began = time.monotonic_ns()
        work()
        took.append(time.monotonic_ns() - began)
    target = round(slower * statistics.median(took))
    clock = WallClock()
    pacer = Pacer(start=clock.now())
    begun = begin = pacer.begin(clock.now())
    ends = [begun]
    for _ in range(max(5, round(seconds * 1e9 / target))):
        begin = pacer.begin(clock.now())
        work()
        pacer.done(begin, begin + target, clock.now())
        clock.sleep(begin + target)
        ends.append(clock.now())
    steps = np.diff(ends)
    expected = len(steps) * target / 1e9
    measured = (ends[-1] - begun) / 1e9
    overruns = pacer.fidelity.overrun_ratio
    return {
        "case": f"{slower} x slower, {len(steps)} steps of {target / 1e6:.1f} ms",
        "expected": expected,
        "measured": measured,
        "error": measured / expected - 1,
        "unit": "s",
        "note": f"{overruns:.1%} overran, p95 of a step {np.percentile(steps, 95) / target - 1:+.1%}",
        "skipped": slower >= 4 and overruns > MOST_OVERRUNS,
    }


# ------------------------------------------------------------------------------------------------- links


def link(rate: float, down: float = 1e6, latency: float = 0.0) -> Link:
    """A link of so many bytes/s, measured above TCP."""
    rates = {"up": f"{float(rate)!r} B/s", "down": f"{float(down)!r} B/s", "latency": f"{float(latency)!r} s"}
    return Link.model_validate({**rates, "rate": "goodput"})


def frames(nbytes: int, rate: float) -> Iterator[tuple[bytes, int, bool]]:
    """A message cut as the transport cuts it."""
    size = frame_size(rate)
    data = bytes(size)
    for offset in range(0, nbytes, size):
        this = min(size, nbytes - offset)
        yield data[:this], this, offset + this == nbytes


def shaped(megabits: float, latency: float, seconds: float) -> Row:
    """A message that takes so long, through one link into a sink."""
    rate = megabits * 1e6 / 8
    nbytes = round(rate * seconds)
    options = NetworkOptions(window=None)  # 4 MiB would carry 168 Mbit/s with a round trip of 200 ms
    network = FluidNetwork([DeviceGroup(1, link(rate, latency=latency))], link(1e12, 1e12), options=options)
    clock = WallClock()
    arrivals: list[int] = []
    shaper: Shaper[bytes] = Shaper(Connection(network, 0, SERVER), clock, lambda _: arrivals.append(clock.now()))
    queued = clock.now()
    shaper.open(1, nbytes, queued)
    for frame, size, last in frames(nbytes, rate):
        shaper.put(frame, size, last=last)
    shaper.flush()
    shaper.close()
    begun = queued + round(latency * 1e9)
    first = begun + frame_size(rate) / rate * 1e9
    measured = nbytes * 8 / (arrivals[-1] - begun) * 1e3
    late = [(arrivals[0] - first) / 1e6, (arrivals[-1] - begun - nbytes / rate * 1e9) / 1e6]
    return {
        "case": f"{megabits:g} Mbit/s, {latency * 1e3:g} ms away",
        "expected": megabits,
        "measured": measured,
        "error": measured / megabits - 1,
        "unit": "Mbit/s",
        "note": f"first frame {late[0]:+.2f} ms, last {late[1]:+.2f} ms",
        "skipped": False,
    }


# ----------------------------------------------------------------------------------------------- sharing


@contextmanager
def sending(make: Callable[[], FluidNetwork], devices: int, clock: WallClock) -> Iterator[Any]:
    """Shapers of all devices, under one ingress; with the arrivals (ns, bytes) of each."""
    arrivals: list[list[tuple[int, int]]] = [[] for _ in range(devices)]
    with ExitStack() as stack:
        shapers: list[Shaper[bytes]] = []
        ingress = Ingress(Sharing(make()), clock, lambda grant: shapers[grant.device].grant(grant))
        stack.callback(ingress.close)

        def deliver(device: int, frame: bytes) -> None:
            arrivals[device].append((clock.now(), len(frame)))

        for device in range(devices):
            shaper: Shaper[bytes] = Shaper(
                Connection(make(), device, SERVER),
                clock,
                partial(deliver, device),
                announce=partial(ingress.announce, device, SERVER),
                ended=lambda number, *_, device=device: ingress.finish(device, SERVER, number),
                room=1 << 40,
            )
            shapers.append(shaper)
            stack.callback(shaper.close)
        yield shapers, arrivals


def flowing(make: Callable[[], FluidNetwork], rates: Sequence[float], sizes: Sequence[int]) -> tuple[int, Any]:
    """All devices send at one moment; answers with that and the arrivals of each."""
    clock = WallClock()
    with sending(make, len(rates), clock) as (shapers, arrivals):
        cut = [list(frames(nbytes, rate)) for nbytes, rate in zip(sizes, rates, strict=True)]
        queued = clock.now()
        for shaper, nbytes in zip(shapers, sizes, strict=True):
            shaper.open(1, nbytes, queued)
        for shaper, pieces in zip(shapers, cut, strict=True):
            for frame, size, last in pieces:
                shaper.put(frame, size, last=last)
        for shaper in shapers:
            shaper.flush()
    return queued, arrivals


def four_flows(seconds: float) -> list[Row]:
    """10, 20, 100 and 100 Mbit/s into 100: when each has arrived, of so many bytes that the last takes `seconds`."""
    rates = [1.25e6, 2.5e6, 12.5e6, 12.5e6]
    nbytes = round(seconds * rates[0])

    def make() -> FluidNetwork:
        return FluidNetwork([DeviceGroup(1, link(rate)) for rate in rates], link(1e6, 12.5e6))

    queued, arrivals = flowing(make, rates, [nbytes] * 4)
    rows = []
    for device, (rate, share) in enumerate(zip(rates, (1.0, 0.5, 2 / 7, 2 / 7), strict=True)):
        measured = (arrivals[device][-1][0] - queued) / 1e9
        rows.append(
            {
                "case": f"four flows into 100 Mbit/s: end of {rate * 8e-6:g} Mbit/s ({device + 1})",
                "expected": seconds * share,
                "measured": measured,
                "error": measured / (seconds * share) - 1,
                "unit": "s",
                "note": "",
                "skipped": False,
            }
        )
    return rows


def many_flows(seconds: float) -> list[Row]:
    """Ten links over one and a half decades into a third of them: the worst rate while all flow, by max-min."""
    rates = [float(rate) for rate in np.geomspace(3e6 / 8, 100e6 / 8, 10)]
    capacity = sum(rates) / 3
    level, left = 0.0, capacity
    for index, rate in enumerate(rates):
        level = left / (len(rates) - index)
        if rate > level:
            break
        left -= rate
    shares = [min(rate, level) for rate in rates]

    def make() -> FluidNetwork:
        return FluidNetwork([DeviceGroup(1, link(rate)) for rate in rates], link(1e6, capacity))

    _, arrivals = flowing(make, rates, [round(share * seconds * 1.1) for share in shares])
    rows = []
    for share, got in zip(shares, arrivals, strict=True):
        moments = [moment for moment, _ in got]  # whole frames: from the first one's end to the last one's
        measured = sum(size for _, size in got[1:]) / (moments[-1] - moments[0]) * 1e9
        rows.append(
            {
                "case": f"ten flows into {capacity * 8e-6:.0f} Mbit/s: a share of {share * 8e-6:.1f} Mbit/s",
                "expected": share * 8e-6,
                "measured": measured * 8e-6,
                "error": measured / share - 1,
                "unit": "Mbit/s",
                "note": "",
                "skipped": False,
            }
        )
    return [max(rows, key=lambda row: abs(row["error"]))]


# -------------------------------------------------------------------------------------------------- main


def middle(runs: Sequence[Row]) -> Row:
    """The run with the median error."""
    counted = [run for run in runs if not run["skipped"]] or runs
    return sorted(counted, key=lambda run: abs(run["error"]))[(len(counted) - 1) // 2]


def repeated(measure: Callable[[], list[Row]], repeats: int) -> list[Row]:
    """The median of each row."""
    return [middle(runs) for runs in zip(*(measure() for _ in range(repeats)), strict=True)]


def main() -> int:
    """Measure and print; exit status 1 where something is not exact enough."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help="pacing, links or sharing; all unless given", metavar="part")
    parser.add_argument("--seconds", type=float, default=2.0, help="of one measurement")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    given = parser.parse_args()
    unknown = set(given.parts) - {"pacing", "links", "sharing"}
    if unknown:
        parser.error(f"there is no part {', '.join(unknown)}; there are: pacing, links, sharing")
    parts = given.parts or ["pacing", "links", "sharing"]
    seconds, repeats = given.seconds, given.repeats
    torch.set_num_threads(1)
    work = step()
    cases: dict[str, tuple[float, list[Callable[[], list[Row]]]]] = {
        "pacing": (PACING, [lambda s=s: [paced(work, s, seconds)] for s in (2, 4, 10, 40)]),  # type: ignore[misc]
        "links": (
            LINKS,
            [
                lambda m=m, late=late: [shaped(m, late, seconds)]  # type: ignore[misc]
                for m in (5, 20, 100, 500)
                for late in (0.0, 0.02, 0.1)
            ],
        ),
        "sharing": (SHARING, [lambda: four_flows(seconds), lambda: many_flows(seconds)]),
    }
    found: dict[str, list[Row]] = {}
    passed = True
    for part in parts:
        limit, measures = cases[part]
        if not given.json:
            print(f"{part}, within {limit:.0%}")
        for measure in measures:
            for row in repeated(measure, repeats):
                row["passed"] = row["skipped"] or abs(row["error"]) <= limit
                passed = passed and row["passed"]
                found.setdefault(part, []).append(row)
                if not given.json:
                    verdict = "skipped" if row["skipped"] else "" if row["passed"] else "FAILED"
                    print(
                        f"  {row['case']:55} expected {row['expected']:8.4g} {row['unit']:6} measured "
                        f"{row['measured']:8.4g}  {row['error']:+8.2%}  {row['note']} {verdict}".rstrip(),
                        flush=True,
                    )
    if given.json:
        print(json.dumps({"limits": {part: cases[part][0] for part in parts}, "rows": found, "passed": passed}))
    else:
        print("passed" if passed else "FAILED")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
