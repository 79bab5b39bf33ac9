"""A toy run over gRPC on the loopback: the server and all devices as nodes in threads of one process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from fedsim.emulation.outcome import Outcome, trace_of
from fedsim.emulation.participating import Built, DeviceNode
from fedsim.emulation.parts import Parts
from fedsim.emulation.serving import ServerNode
from fedsim.emulation.transport.seam import Pace
from fedsim.emulation.watchdog import MemoryWatch
from fedsim.experiment.assembly import Assembly
from fedsim.experiment.nodes import assembled
from fedsim.testing import host
from fedsim.trace import Trace

HOST = b"this host"
PACE = Pace(heartbeat=0.5, first=0.05)


def built(parts: Parts) -> Built:
    """What a device makes of it."""
    return Built(parts=parts, labels=b"", watch=_watch)


def _watch(exceeded: Callable[[int], None]) -> MemoryWatch:
    made = MemoryWatch(0, 1 << 40, exceeded)
    made.base()
    return made


class Nodes:
    """The nodes of a run; `run` plays it.

    Args:
        assembly: the run.
        dilation: wall seconds a second of the scenario.
        shared: whether devices know that they have the server's clock; else they ask what it says.
        more: of `assembled`.
    """

    def __init__(self, assembly: Assembly, *, dilation: float = 1.0, shared: bool = True, **more: Any) -> None:
        self.assembly = assembly
        self.errors: list[BaseException] = []
        self._more = more
        self._host_id = HOST if shared else b""
        self.server = ServerNode(self.parts(), "127.0.0.1:0", dilation=dilation, pace=PACE, host_id=HOST)
        self.devices = {device: self.device(device) for device in range(assembly.fleet.devices)}
        self._threads = [threading.Thread(target=self._live, args=(node,)) for node in self.devices.values()]

    def parts(self) -> Parts:
        """With a host of its own."""
        return assembled(self.assembly, host(self.assembly), **self._more)

    def device(self, number: int) -> DeviceNode:
        """A device that has not joined yet."""
        parts = self.parts()
        return DeviceNode(
            f"127.0.0.1:{self.server.port}",
            lambda text, node: built(replace(parts, scenario=text)),
            node=number,
            pace=PACE,
            host_id=self._host_id,
        )

    def _live(self, node: DeviceNode) -> None:
        try:
            node.run()
        except BaseException as error:
            self.errors.append(error)

    def gather(self) -> None:
        """Let all devices get ready."""
        for thread in self._threads:
            thread.start()
        assert self.server.gather(20), f"{self.server.missing()} are missing: {self.errors}"

    def run(self) -> Outcome:
        """Play the run to its end."""
        try:
            self.gather()
            return self.server.run()
        finally:
            self.close()

    def close(self) -> None:
        """End all nodes."""
        self.server.close()
        for thread in self._threads:
            thread.join(20)
        assert not any(thread.is_alive() for thread in self._threads)

    def trace(self, outcome: Outcome) -> Trace:
        """The trace of a run that has been played."""
        table = self.assembly.fleet.table(self.assembly.samples)
        return trace_of(outcome.rows, table, self.assembly.scenario, outcome.end, outcome.points)
