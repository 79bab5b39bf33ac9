"""How many starts and ends of flows a second the network solves for, and what a registered device costs.

    python benchmarks/network.py [--changes 20000] [--repeats 3] [--json]

Each case keeps so many flows going: where one ends, its device sends the next. Sizes and links are spread over two
decades, the server's link carries half of what all of them want, or less. A change is one start or one end; rates are
per second of this process's CPU time (it computes on one thread and waits for nothing), the median of the repeats.
Must show: 10,000 flows into one ingress, each with a cap of its own, at least 20,000 changes a second; 1,000 flows
over 50 access points and one ingress at least 5,000; a device that is registered costs at most 40 bytes and no Python
object. Also printed: half-duplex access points, which tie the two directions together; access points under a server
that is wide enough, where each is solved for by itself; equal links; and one ingress when everything is solved anew at
every change, with the same ends of flows.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.hardware.links import Link
from fedsim.network.fluid import FluidNetwork
from fedsim.network.general import General
from fedsim.network.solved import Solved
from fedsim.network.topology import AccessPoint, DeviceGroup
from fedsim.script import SERVER

INGRESS, ACCESS, BYTES = 20_000, 5_000, 40
REGISTERED, ACTIVE = 1_000_000, 1_000


def link(rate: float) -> Link:
    """A link of one rate (bytes/s) both ways, measured above TCP."""
    return Link.model_validate({"up": f"{float(rate)!r} B/s", "down": f"{float(rate)!r} B/s", "rate": "goodput"})


def spread(count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """(count, 2); rates over two decades around 1 MB/s."""
    return np.repeat(1e6 * 10 ** rng.uniform(-1, 1, (count, 1)), 2, axis=1)


def one_ingress(flows: int, *, equal: bool = False) -> FluidNetwork:
    """Devices with links of their own, or all alike, into a server that carries 30 % of them."""
    rates = np.full((flows, 2), 1e6) if equal else spread(flows, np.random.default_rng(1))
    return FluidNetwork([DeviceGroup(flows, link(1e6), rates=rates)], link(0.3 * rates[:, 0].sum()))


def solved_anew(flows: int) -> FluidNetwork:
    """`one_ingress`, but with the allocator that solves for everything at every change."""
    network = one_ingress(flows)
    for route in network._routes[0]:
        route.allocator = Solved(General())
    return network


def access_points(flows: int, points: int, *, half: bool = False, server: float = 0.5) -> FluidNetwork:
    """Devices behind access points that carry 35 to 95 % of them, under a server that carries `server` of them."""
    rng = np.random.default_rng(2)
    groups, access, total = [], {}, 0.0
    for point in range(points):
        rates = spread(flows // points, rng)
        wanted = float(rates[:, 0].sum())
        carried = wanted * rng.uniform(0.35, 0.95)
        access[f"point {point}"] = AccessPoint(carried, carried, half, "goodput")
        groups.append(DeviceGroup(len(rates), link(1e6), f"point {point}", rates))
        total += wanted
    return FluidNetwork(groups, link(server * total * (0.5 if half else 1)), access)


def played(network: FluidNetwork, flows: int, changes: int, *, both_ways: bool = False) -> tuple[float, int]:
    """Changes a second, and when (ns) the last flow of the measured ones ended; every second device may receive."""
    sizes = (1e6 * 10 ** np.random.default_rng(3).uniform(-1, 1, 1009)).astype(int).tolist()
    senders: dict[int, int] = {}

    def send(now: int, device: int) -> None:
        number = len(senders)
        senders[number] = device
        ends = (SERVER, device) if both_ways and device % 2 else (device, SERVER)
        assert network.submit(now, *ends, sizes[number % len(sizes)], number) is None

    for device in range(flows):
        send(0, device)
    network.step(0)
    gc.collect()
    done, now = 0, 0
    began = time.process_time()
    while done < changes:
        moment = network.next()
        assert moment is not None
        now = moment
        for _, number, _ in network.step(now):
            send(now, senders[number])
            done += 2
    return done / (time.process_time() - began), now


def registered() -> tuple[float, int]:
    """Bytes, and objects that Python's collector knows, for each device registered but not active."""
    rates = np.full((REGISTERED, 2), 1e6)
    counts, sizes = [], []
    for devices in (ACTIVE, REGISTERED):
        gc.collect()
        before = len(gc.get_objects())
        tracemalloc.start()
        network = FluidNetwork([DeviceGroup(devices, link(1e6), rates=rates[:devices])], link(1e8))
        for device in range(ACTIVE):
            network.submit(0, device * (devices // ACTIVE), SERVER, 1000, device)
        network.step(0)
        assert len(network.rates()) == ACTIVE
        sizes.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        counts.append(len(gc.get_objects()) - before)
        del network
    return (sizes[1] - sizes[0]) / REGISTERED, counts[1] - counts[0]


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--changes", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    many = options.changes
    few = max(1000, many // 10)  # where a change takes long
    cases: dict[str, tuple[Callable[[], FluidNetwork], int, int, dict[str, Any]]] = {
        "10,000 flows, one ingress": (lambda: one_ingress(10_000), 10_000, many, {}),
        "1,000 flows, one ingress": (lambda: one_ingress(1_000), 1_000, many, {}),
        "1,000 flows, one ingress, solved anew": (lambda: solved_anew(1_000), 1_000, few, {}),
        "10,000 flows of equal links, one ingress": (lambda: one_ingress(10_000, equal=True), 10_000, many, {}),
        "1,000 flows, 50 access points": (lambda: access_points(1_000, 50), 1_000, many // 2, {}),
        "1,000 flows, 50 access points, wide server": (lambda: access_points(1_000, 50, server=2), 1_000, many, {}),
        "1,000 flows, 50 half-duplex access points": (
            lambda: access_points(1_000, 50, half=True),
            1_000,
            few,
            {"both_ways": True},
        ),
    }
    rates = {
        name: statistics.median(played(make(), flows, changes, **more)[0] for _ in range(options.repeats))
        for name, (make, flows, changes, more) in cases.items()
    }
    lazy, anew = (played(make(1_000), 1_000, few)[1] for make in (one_ingress, solved_anew))
    assert abs(lazy - anew) <= 1 + 1e-9 * lazy, f"the two allocators disagree: {lazy} and {anew} ns"
    ratio = rates["1,000 flows, one ingress"] / rates["1,000 flows, one ingress, solved anew"]
    size, objects = registered()
    passed = (
        rates["10,000 flows, one ingress"] >= INGRESS
        and rates["1,000 flows, 50 access points"] >= ACCESS
        and size <= BYTES
        and not objects
    )
    found = {
        "changes_a_second": rates,
        "lazy_over_solved_anew": ratio,
        "bytes_a_registered_device": size,
        "objects_of_registered_devices": objects,
        "passed": passed,
    }
    if options.json:
        print(json.dumps(found))
    else:
        for name, rate in rates.items():
            print(f"{rate / 1e3:>7.1f} k changes/s: {name}")
        print(f"one ingress, lazy over solved anew: {ratio:.0f}; the same ends")
        print(f"{REGISTERED:,} devices, {ACTIVE:,} active: {size:.1f} bytes and {objects} objects a million idle ones")
        verdict = "passed" if passed else "FAILED"
        print(f"{verdict}: one ingress at least {INGRESS:,}, access points at least {ACCESS:,} changes a second")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
