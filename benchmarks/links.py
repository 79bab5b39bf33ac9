"""How exactly the emulation's transport keeps to links: against the kernel's own, and on loopback by itself.

    python benchmarks/links.py [kernel] [rates] [sharing] [--seconds 2] [--repeats 3] [--json]

Messages go from a Client (this process) to a Server (another one), over gRPC and TCP. Give it a machine with nothing
else to do. Each figure is the median of the repeats, by its error. Must show:

kernel   two network namespaces with a veth pair between them, the server in one, the client in the other: messages of
         1, 4 and 8 MB over links of 20 and 100 Mbit/s, once kept by the kernel (`tc qdisc ... tbf` at both ends) with
         nothing shaped, once by the transport over the bare pair, in frames of one size. The times from the send to
         the arrival agree within 5 %. The kernel counts headers too, 66 of 1,514 bytes of a full packet, so its rate
         is set to 1514/1448 of the payload's, which is what is given here. Needs root, `ip` and `tc`; skipped, with a
         word, where these are missing. The namespaces are gone afterwards; those of a run that was killed go with the
         next one.
rates    5, 20, 100 and 500 Mbit/s over loopback: the time of a message that should take so many seconds, within 2 %.
sharing  four devices of 10, 20, 100 and 100 Mbit/s send at one moment into 100 Mbit/s, announcements and grants over
         gRPC: each message arrives when max-min sharing says, within 5 %.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from fedsim.emulation.clock import WallClock
from fedsim.emulation.links.line import frame_size
from fedsim.emulation.links.shaping import Connection
from fedsim.emulation.links.sharing import Sharing
from fedsim.emulation.transport.client import Client
from fedsim.emulation.transport.seam import Pace, Shaping
from fedsim.emulation.transport.server import Server
from fedsim.hardware.links import Link
from fedsim.network.fluid import FluidNetwork
from fedsim.network.topology import DeviceGroup, NetworkOptions
from fedsim.script import SERVER
from fedsim.wire import protocol_pb2 as pb

KERNEL, RATES, SHARING = 0.05, 0.02, 0.05  # the claims
COUNTED: Final = 1514 / 1448
"""What tbf counts of a full packet (Ethernet, IP, TCP with time stamps) over what it carries."""
BURST: Final = 0.00125
"""Seconds at its rate that tbf lets through at once: as late as it may be woken without losing anything."""
MEGABYTES: Final = (1, 4, 8)
NAMES: Final = "fedsim-links-"
"""Namespaces are called so, with the process and the end."""
DONE: Final = "done"
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Job:
    """What both ends are told."""

    rates: Sequence[float]
    """Of the devices' uplinks, payload bytes per second."""
    ingress: float
    """Of the server's link."""
    shaped: bool
    rounds: Sequence[Sequence[int]]
    """Bytes that each device sends at one moment; when all are there, the next round begins."""
    origin: int
    """Start of the clock, by `time.monotonic_ns`, which all processes of a host share."""

    def network(self) -> FluidNetwork:
        """As the simulation builds it."""
        options = NetworkOptions(window=None)
        return FluidNetwork([DeviceGroup(1, link(rate)) for rate in self.rates], link(self.ingress), options=options)

    def shaping(self, node: int, sharing: Sharing | None = None) -> Shaping:
        """Of what a node sends."""
        return Shaping(WallClock(self.origin), 1.0, lambda peer: Connection(self.network(), node, peer), sharing)


def link(rate: float) -> Link:
    """So many bytes/s of payload both ways, without latency."""
    each = f"{float(rate)!r} B/s"
    return Link.model_validate({"up": each, "down": each, "latency": "0 s", "rate": "goodput"})


# ------------------------------------------------------------------------------------------------------ ends


class Room:
    """For the body of a message."""

    def __init__(self, nbytes: int) -> None:
        self.buffer = memoryview(bytearray(nbytes))


class End:
    """A node that says when messages arrive; as a door it gives devices the numbers that they ask for."""

    def __init__(self) -> None:
        self.there = threading.Semaphore(0)
        """Released for each message that the other side has."""
        self.arrived = 0
        """When it got the last one."""

    def device_of(self, token: str | None) -> int | None:
        """There are no tokens."""
        return None

    def admit(self, request: pb.JoinRequest, owner: int | None) -> pb.JoinResponse:
        """Come in."""
        return pb.JoinResponse(node=request.node)

    def connected(self, peer: int) -> None:
        """Nothing is kept of a peer."""

    def begin(self, peer: int, header: bytes) -> Room:
        """The header is the size."""
        return Room(int.from_bytes(header, "big"))

    def received(self, peer: int, room: Room) -> int:
        """It is there; the moment goes to the sender."""
        return time.monotonic_ns()

    def started(self, peer: int, number: int, moment: int) -> None:
        """Of no interest."""

    def landed(self, peer: int, number: int, arrived: int) -> None:
        """The other end has it."""
        self.arrived = arrived
        self.there.release()

    def disconnected(self, peer: int, reason: str) -> None:
        """Worth a word only where something is wrong."""
        if reason != DONE:
            print(f"node {peer} is gone: {reason}", file=sys.stderr)

    def told(self, peer: int, notice: pb.Up | pb.Down) -> None:
        """Nobody says anything."""


def serve(job: Job, host: str) -> None:
    """Be the server, until nobody needs it."""
    end = End()
    server = Server(f"{host}:0", end, end)
    if job.shaped:
        server.shape(job.shaping(SERVER, Sharing(job.network())))
    print(server.port, flush=True)
    sys.stdin.read()
    server.close()


def send(job: Job, address: str) -> None:
    """Be all devices; prints the seconds of each message, as JSON: a list a round."""
    clock = WallClock(job.origin)
    ends = [End() for _ in job.rates]
    paces = [Pace(frame=frame_size(rate)) for rate in job.rates]  # a frame is taken in when it is complete
    clients = [Client(address, end, pace=pace) for end, pace in zip(ends, paces, strict=True)]
    for device, client in enumerate(clients):
        client.join(pb.JoinRequest(node=device))
        if job.shaped:
            client.shape(job.shaping(device))
    found: list[list[float]] = []
    for number, sizes in enumerate(job.rounds, 1):
        time.sleep(0.1)  # what waits, the kernel's credit too, is as at the beginning
        bodies = [memoryview(bytes(nbytes)) for nbytes in sizes]
        began, queued = time.monotonic_ns(), clock.now()
        for client, body in zip(clients, bodies, strict=True):
            header = len(body).to_bytes(8, "big")
            assert client.send(number, header, [body], len(body) + len(header), queued)
        for end in ends:
            assert end.there.acquire(timeout=120), "a message has not arrived"
        found.append([(end.arrived - began) / 1e9 for end in ends])
    for client in clients:
        client.leave(DONE)
    print(json.dumps(found))


def transferred(job: Job, within: tuple[str, str] | None = None, host: str = "127.0.0.1") -> list[list[float]]:
    """Seconds of each message, a list a round; server and client in these namespaces."""
    server, client = ([] if name is None else ["ip", "netns", "exec", name] for name in within or (None, None))
    told = json.dumps(asdict(job))
    this = [sys.executable, __file__, "--job", told]
    with subprocess.Popen([*server, *this, "--serve", host], stdin=-1, stdout=-1, text=True) as process:
        try:
            assert process.stdout is not None
            address = f"{host}:{int(process.stdout.readline())}"
            done = subprocess.run([*client, *this, "--send", address], stdout=-1, text=True, check=True, timeout=300)
            found: list[list[float]] = json.loads(done.stdout)
            return found
        finally:
            process.communicate("")


# ---------------------------------------------------------------------------------------------------- kernel


def ran(*command: str) -> None:
    """Run a command; what it says is said where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")


@contextmanager
def namespaces() -> Iterator[tuple[str, str]]:
    """Two namespaces, of 10.99.0.1 and 10.99.0.2 on the devices fs1 and fs2, which are connected."""
    names = f"{NAMES}{os.getpid()}-s", f"{NAMES}{os.getpid()}-c"
    for old in Path("/run/netns").glob(f"{NAMES}*"):  # of a process that was killed
        if not Path("/proc", old.name.split("-")[2]).exists():
            ran("ip", "netns", "del", old.name)
    with ExitStack() as stack:
        for name in names:
            ran("ip", "netns", "add", name)
            stack.callback(ran, "ip", "netns", "del", name)
        ran("ip", "link", "add", "fs1", "netns", names[0], "type", "veth", "peer", "name", "fs2", "netns", names[1])
        for number, name in enumerate(names, 1):
            ran("ip", "-n", name, "addr", "add", f"10.99.0.{number}/24", "dev", f"fs{number}")
            ran("ip", "-n", name, "link", "set", f"fs{number}", "up")
            ran("ip", "-n", name, "link", "set", "lo", "up")
        yield names


@contextmanager
def limited(names: tuple[str, str], rate: float) -> Iterator[None]:
    """Both ends send so many bytes/s of payload."""
    bits, burst = f"{round(rate * 8 * COUNTED)}bit", str(max(8192, round(rate * BURST)))
    with ExitStack() as stack:
        for number, name in enumerate(names, 1):
            on = ["dev", f"fs{number}", "root"]
            ran("tc", "-n", name, "qdisc", "add", *on, "tbf", "rate", bits, "burst", burst, "limit", "4mb")
            stack.callback(ran, "tc", "-n", name, "qdisc", "del", *on)
        yield


def missing() -> str | None:
    """Why the kernel cannot be asked; None: it can."""
    if shutil.which("ip") is None or shutil.which("tc") is None:
        return "ip and tc (iproute2) are not installed"
    if os.geteuid():
        return "network namespaces need root"
    try:
        with namespaces() as names, limited(names, 1e6):
            return None
    except RuntimeError as error:
        return str(error)


def kernel(megabits: float) -> list[Row]:
    """The kernel's times are what is expected of the transport."""
    rate = megabits * 1e6 / 8
    rounds = [[50_000], *([size * 10**6] for size in MEGABYTES)]
    with namespaces() as names:

        def took(*, shaped: bool) -> list[float]:
            job = Job(rates=[rate], ingress=1e12, shaped=shaped, rounds=rounds, origin=time.monotonic_ns())
            return [seconds for (seconds,) in transferred(job, names, "10.99.0.1")[1:]]

        with limited(names, rate):
            kept = took(shaped=False)
        own = took(shaped=True)
    return [
        row(f"{size} MB over {megabits:g} Mbit/s", tbf, mine, f"by size and rate {size * 1e6 / rate:.4g} s")
        for size, tbf, mine in zip(MEGABYTES, kept, own, strict=True)
    ]


# --------------------------------------------------------------------------------------------------- by itself


def row(case: str, expected: float, measured: float, note: str = "") -> Row:
    """What is printed."""
    error = measured / expected - 1
    return {"case": case, "expected": expected, "measured": measured, "error": error, "note": note}


def alone(megabits: float, seconds: float) -> list[Row]:
    """One device with a link to itself."""
    rate = megabits * 1e6 / 8
    rounds = [[50_000], [round(rate * seconds)]]
    job = Job(rates=[rate], ingress=1e12, shaped=True, rounds=rounds, origin=time.monotonic_ns())
    _, (measured,) = transferred(job)
    return [row(f"{megabits:g} Mbit/s", seconds, measured)]


def together(seconds: float) -> list[Row]:
    """The last message takes `seconds`; max-min shares are 10, 20 and twice 35 Mbit/s."""
    rates = [1.25e6, 2.5e6, 12.5e6, 12.5e6]
    sizes = [round(seconds * rates[0])] * len(rates)
    job = Job(rates=rates, ingress=12.5e6, shaped=True, rounds=[[50_000] * 4, sizes], origin=time.monotonic_ns())
    _, found = transferred(job)
    return [
        row(f"{rate * 8e-6:g} Mbit/s ({device}) into 100 Mbit/s", seconds * share, measured)
        for device, (rate, share, measured) in enumerate(zip(rates, (1, 1 / 2, 2 / 7, 2 / 7), found, strict=True), 1)
    ]


# ------------------------------------------------------------------------------------------------------ main


def repeated(measure: Callable[[], list[Row]], repeats: int) -> list[Row]:
    """Of each row the medians of what is expected and of what is measured."""

    def middle(runs: Sequence[Row]) -> Row:
        expected, measured = (statistics.median(run[what] for run in runs) for what in ("expected", "measured"))
        return row(runs[0]["case"], expected, measured, runs[0]["note"])

    return [middle(runs) for runs in zip(*(measure() for _ in range(repeats)), strict=True)]


def main() -> int:
    """Measure and print; exit status 1 where something is not exact enough."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help="kernel, rates or sharing; all unless given", metavar="part")
    parser.add_argument("--seconds", type=float, default=2.0, help="of one message, of the parts rates and sharing")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    for role in ("job", "serve", "send"):
        parser.add_argument(f"--{role}", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.job is not None:
        job = Job(**json.loads(given.job))
        serve(job, given.serve) if given.serve is not None else send(job, given.send)
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an end like others: what was made is taken away
    seconds = given.seconds
    cases: dict[str, tuple[float, list[Callable[[], list[Row]]]]] = {
        "kernel": (KERNEL, [lambda m=m: kernel(m) for m in (20, 100)]),  # type: ignore[misc]
        "rates": (RATES, [lambda m=m: alone(m, seconds) for m in (5, 20, 100, 500)]),  # type: ignore[misc]
        "sharing": (SHARING, [lambda: together(seconds)]),
    }
    unknown = set(given.parts) - set(cases)
    if unknown:
        parser.error(f"there is no part {', '.join(unknown)}; there are: {', '.join(cases)}")
    parts = given.parts or list(cases)
    found: dict[str, list[Row]] = {}
    skipped: dict[str, str] = {}
    passed = True
    for part in parts:
        limit, measures = cases[part]
        why = missing() if part == "kernel" else None
        if not given.json:
            print(f"{part}, within {limit:.0%}" if why is None else f"{part} is skipped: {why}")
        if why is not None:
            skipped[part] = why
            continue
        for measure in measures:
            for each in repeated(measure, given.repeats):
                each["passed"] = abs(each["error"]) <= limit
                passed = passed and each["passed"]
                found.setdefault(part, []).append(each)
                if not given.json:
                    print(
                        f"  {each['case']:35} expected {each['expected']:7.4g} s measured {each['measured']:7.4g} s "
                        f"{each['error']:+8.2%}  {each['note']} {'' if each['passed'] else 'FAILED'}".rstrip(),
                        flush=True,
                    )
    if given.json:
        print(json.dumps({"rows": found, "skipped": skipped, "passed": passed}))
    else:
        print("passed" if passed else "FAILED")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
