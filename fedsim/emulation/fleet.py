"""The nodes of an emulation as Ray actors: started, watched, and ended whatever happens.

An actor is one process and holds one node; what nodes say to one another goes over
gRPC, never through Ray, which starts and stops them and brings the server's outcome. Nothing is left behind: actors end
with the run, and a Ray session of our own with them.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from fedsim.emulation.outcome import Outcome
from fedsim.errors import RunError, UserError
from fedsim.runtime.cluster import session
from fedsim.runtime.sofar import SoFar
from fedsim.script import SERVER

STORE: Final = 256 * 2**20
"""Bytes of the object store of a Ray session of our own: only the outcome of a run goes through it."""

GRAIN: Final = 0.01
"""Of a core: the least that a node is counted with."""

GATHERING: Final = 180.0
"""Seconds that devices have to get ready."""

POLL: Final = 0.2
"""Seconds between two looks at the actors."""

_log = logging.getLogger(__name__)


class Serving(Protocol):
    """The server of a run; `serving.ServerNode`."""

    @property
    def port(self) -> int:
        """Where it listens."""
        ...

    def gather(self, timeout: float | None = None) -> bool:
        """Wait until all devices are ready."""
        ...

    def missing(self) -> list[int]:
        """The devices that are not."""
        ...

    def run(self) -> Outcome:
        """Run to the end."""
        ...

    def stop(self) -> None:
        """End the run here."""
        ...

    def gone(self, device: int, reason: str) -> None:
        """A device's process has died."""
        ...

    def observed(self) -> list[tuple[str, float, int]]:
        """What has happened since this was last asked: name, value, moment."""
        ...

    def so_far(self) -> SoFar | None:
        """The run up to now, as far as the server knows; None before it has begun."""
        ...

    def close(self) -> None:
        """Let go of everything."""
        ...


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be started, and with what."""

    serve: Callable[[str], Serving]
    """Makes the server, in its own process, from the host that it is to listen on."""
    participate: Callable[[str, int], None]
    """Takes part as a device, in its own process: the server's address, its number."""
    devices: int
    loads: Mapping[int, float]
    """Cores that each node keeps busy, by its number."""
    threads: int
    """Intra-op threads of every process."""
    restarts: int = 0
    """How often each device whose process has died is started again."""
    address: str | None = None
    """Of a Ray cluster that is there; None: a session of our own on this host."""
    logs: Path | None = None
    """Receives a file a node, where the folder is reachable."""


class ServerActor:
    """The server's process."""

    def __init__(self, plan: Plan, local: bool) -> None:
        _logged(plan.logs, "server")
        import ray

        host = "127.0.0.1" if local else ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        self._node = plan.serve(host)
        self._address = f"{host}:{self._node.port}"

    def address(self) -> str:
        """Where it listens."""
        return self._address

    def gather(self, timeout: float) -> list[int]:
        """Wait for the devices; answers with those that are missing."""
        return [] if self._node.gather(timeout) else self._node.missing()

    def run(self) -> Outcome:
        """Run to the end."""
        try:
            return self._node.run()
        finally:
            self._node.close()

    def stop(self) -> None:
        """End the run here."""
        self._node.stop()

    def gone(self, device: int, reason: str) -> None:
        """A device's process has died."""
        self._node.gone(device, reason)

    def observed(self) -> list[tuple[str, float, int]]:
        """What has happened since this was last asked."""
        return self._node.observed()

    def so_far(self) -> SoFar | None:
        """The run up to now."""
        return self._node.so_far()


class DeviceActor:
    """A device's process."""

    def __init__(self, plan: Plan, node: int) -> None:
        _logged(plan.logs, f"device-{node}")
        self._plan = plan
        self._node = node

    def run(self, address: str) -> None:
        """Take part in a run."""
        self._plan.participate(address, self._node)


class Watch(Protocol):
    """Whoever looks at a run while it goes on."""

    @property
    def stopping(self) -> bool:
        """Whether it is to end here."""
        ...

    def observed(self, name: str, value: float, moment: int) -> None:
        """A mark of the run."""
        ...

    @property
    def asked(self) -> bool:
        """Whether somebody wants to know the figures so far."""
        ...

    def told(self, figures: SoFar | None) -> None:
        """The figures so far."""
        ...


def emulate(plan: Plan, watch: Watch) -> Outcome:
    """Run all nodes to the end.

    Raises:
        UserError: there is no such cluster.
        RunError: the run could not be finished; a process died that the run cannot do without.
    """
    with session(plan.address, store=STORE) as local:
        return _Fleet(plan, watch, local).run()


class _Fleet:
    """The actors of one run."""

    def __init__(self, plan: Plan, watch: Watch, local: bool) -> None:
        import ray

        self._ray = ray
        self._plan = plan
        self._watch = watch
        self._local = local
        self._server: Any = None
        self._address = ""
        self._actors: dict[int, Any] = {}
        self._runs: dict[Any, int] = {}
        self._started = dict.fromkeys(range(plan.devices), 0)

    def run(self) -> Outcome:
        """Start all, wait for the end, and end all."""
        try:
            self._server = self._actor(ServerActor, SERVER, 16).remote(self._plan, self._local)
            self._address = self._asked(self._server.address.remote(), "start the server")
            for device in range(self._plan.devices):
                self._launch(device)
            self._gather()
            return self._follow()
        finally:
            for actor in (*self._actors.values(), self._server):
                if actor is not None:
                    self._ray.kill(actor)

    def _actor(self, kind: type[Any], node: int, calls: int) -> Any:
        plan = self._plan
        threads = str(plan.threads)
        env = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), threads) | {"GRPC_ENABLE_FORK_SUPPORT": "0"}
        options: dict[str, Any] = {
            "num_cpus": max(GRAIN, round(plan.loads.get(node, 0.0), 2)),
            "max_concurrency": calls,
            "max_restarts": 0,
            "runtime_env": {"env_vars": env},
        }
        if node == SERVER:  # beside whoever started the run: the run's folder is there
            from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

            here = self._ray.get_runtime_context().get_node_id()
            options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(here, soft=False)
        elif not self._local:
            options["scheduling_strategy"] = "SPREAD"
        return self._ray.remote(kind).options(**options)

    def _launch(self, device: int) -> None:
        actor = self._actors[device] = self._actor(DeviceActor, device, 2).remote(self._plan, device)
        self._started[device] += 1
        self._runs[actor.run.remote(self._address)] = device

    def _gather(self) -> None:
        """Wait until all devices are ready.

        Raises:
            RunError: one of them is not going to be.
        """
        until = time.monotonic() + GATHERING
        while missing := self._asked(self._server.gather.remote(POLL), "gather the devices"):
            self._look(started=False)
            if self._watch.stopping:
                raise KeyboardInterrupt
            if time.monotonic() > until:
                names = ", ".join(f"device {device}" for device in missing)
                raise RunError(f"{names} did not get ready within {GATHERING:g} s; see the logs in the run's folder")

    def _follow(self) -> Outcome:
        """From the start to the end."""
        ended = self._server.run.remote()
        stopped = False
        while True:
            done, _ = self._ray.wait([ended], timeout=POLL)
            if done:
                outcome: Outcome = self._asked(ended, "run the server")
                self._ray.wait(list(self._runs), num_returns=len(self._runs), timeout=5.0)
                return outcome
            for mark in self._asked(self._server.observed.remote(), "ask the server"):
                self._watch.observed(*mark)
            if self._watch.asked:
                self._watch.told(self._asked(self._server.so_far.remote(), "ask the server"))
            self._look(started=True)
            if self._watch.stopping and not stopped:
                stopped = True
                self._server.stop.remote()

    def _look(self, *, started: bool) -> None:
        """See to devices that have ended: one that has died is gone, and may be started again."""
        ended, _ = self._ray.wait(list(self._runs), num_returns=len(self._runs), timeout=0) if self._runs else ([], [])
        for one in ended:
            device = self._runs.pop(one)
            try:
                self._ray.get(one)
            except self._ray.exceptions.RayTaskError as error:  # its own exception: the server has been told, too
                cause = error.cause
                reason = f"{type(cause).__name__}: {cause}"
                if not started:
                    raise (cause if isinstance(cause, UserError) else RunError(f"device {device}: {reason}")) from None
                _log.warning("device %d: %s", device, reason)
            except self._ray.exceptions.RayActorError:
                if not started:
                    raise RunError(f"the process of device {device} died before the start") from None
                self._ray.get(self._server.gone.remote(device, "its process has died"))
                if self._started[device] <= self._plan.restarts:
                    self._launch(device)

    def _asked(self, call: Any, what: str) -> Any:
        """The answer of an actor.

        Raises:
            RunError: it has none.
        """
        try:
            return self._ray.get(call)
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except self._ray.exceptions.RayActorError as error:
            raise RunError(f"could not {what}: the process has died") from error


def _logged(folder: Path | None, name: str) -> None:
    """Let this process write its log beside those of the other nodes, where that folder can be reached."""
    stream: Any = sys.stderr
    if folder is not None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stream = (folder / f"{name}.log").open("a", buffering=1, encoding="utf-8")
        except OSError:
            pass
    logging.basicConfig(stream=stream, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", force=True)
