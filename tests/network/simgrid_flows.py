"""Flows on SimGrid: a program for a Python that can import it, which may be another than the tests'.

Reads cases as JSON from standard input: `links` (bytes/s by name), `latencies` (seconds by name of a link, where it has
one) and `flows` (start in seconds, bytes, links). Lets all of them happen side by side, each case on links of its own,
and prints the ends of the flows as JSON.
"""

import importlib
import json
import sys

simgrid = importlib.import_module("simgrid")  # where types are checked there is none

CONFIG = (
    "network/model:CM02",  # plain max-min, as long as all latencies are equal
    "network/crosstraffic:0",
    "network/TCP-gamma:0",
    "maxmin/precision:1e-12",
    "surf/precision:1e-12",
)


def main() -> None:
    """Run all cases at once."""
    engine = simgrid.Engine(["simgrid_flows", "--log=root.thresh:critical", *(f"--cfg={line}" for line in CONFIG)])
    zone = simgrid.NetZone.create_full_zone("zone")
    cases = json.load(sys.stdin)
    ends = [[0.0] * len(case["flows"]) for case in cases]

    def sender(mailbox: str, start: float, size: float) -> None:
        simgrid.this_actor.sleep_until(start)
        simgrid.Mailbox.by_name(mailbox).put("bytes", int(size))

    def receiver(mailbox: str, case: int, number: int) -> None:
        simgrid.Mailbox.by_name(mailbox).get()
        ends[case][number] = simgrid.Engine.clock

    todo = []
    for index, case in enumerate(cases):
        links = {}
        for name, rate in case["links"].items():
            links[name] = zone.create_link(f"{index} {name}", rate)
            links[name].set_latency(case.get("latencies", {}).get(name, 0.0))
            links[name].seal()
        for number, (start, size, way) in enumerate(case["flows"]):
            name = f"{index} {number}"
            hosts = [zone.create_host(f"{name} {end}", 1e9).seal() for end in ("from", "to")]
            points = [host.netpoint for host in hosts]
            zone.add_route(*points, None, None, [simgrid.LinkInRoute(links[link]) for link in way], False)
            todo += [(hosts[0], sender, (name, start, size)), (hosts[1], receiver, (name, index, number))]
    zone.seal()
    for number, (host, function, arguments) in enumerate(todo):
        simgrid.Actor.create(f"actor {number}", host, function, *arguments)
    engine.run()
    print(json.dumps(ends))


if __name__ == "__main__":
    main()
