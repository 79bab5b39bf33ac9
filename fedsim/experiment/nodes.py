"""From a scenario to the nodes of its emulation: what each process of it is made of."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import yaml

from fedsim.emulation.alignment import same_host
from fedsim.emulation.exchange import Terms
from fedsim.emulation.links.shaping import check_options
from fedsim.emulation.participating import Built
from fedsim.emulation.parts import Host, Parts
from fedsim.emulation.watchdog import MemoryWatch, resident
from fedsim.experiment.assembly import Assembly
from fedsim.experiment.building import Study, build
from fedsim.experiment.loading import load_scenario
from fedsim.experiment.timing import timed
from fedsim.scenario import dump
from fedsim.wire.refusals import Bounds

if TYPE_CHECKING:
    from fedsim.emulation.serving import ServerNode

MODELS: Final = 8
"""Copies of all weights that one message may carry: updates, control variates and states of optimizers beside them."""

BATCHES: Final = 64
"""Batches of activations that one message may carry."""

SPARE: Final = 16 * 2**20
"""Bytes for labels, statistics and what a scheduler of somebody's own may send beside."""

_WARM: Final = 2
_WARM_SECONDS: Final = 5.0


def parts_of(study: Study, host: Host) -> Parts:
    """What every node of a run is made of, with the host of this one."""
    scenario, emulation = study.scenario, study.scenario.emulation
    return assembled(
        study.assembly,
        host,
        shaped=emulation.shaping,
        checksum=emulation.checksum == "crc32",
        inbox=round(emulation.inbox),
        labels=partial(labels_digest, study),
        scenario=dump(scenario),
    )


def assembled(
    assembly: Assembly,
    host: Host,
    *,
    shaped: bool = True,
    checksum: bool = True,
    inbox: int = 64 * 2**20,
    labels: Callable[[int], bytes] = lambda device: b"",
    scenario: str = "",
) -> Parts:
    """The parts of a run that is made of objects; see `Parts`.

    Raises:
        UserError: its links cannot be kept to.
    """
    if shaped:
        check_options(assembly.network)
    server, device = assembly.scripts()
    fleet, held = assembly.fleet, assembly.held(assembly.blocks())
    return Parts(
        profiles=[fleet.machine(device).profile.id for device in range(fleet.devices)],
        server=server,
        device=device,
        price=fleet.clockwork(assembly.seed).price,
        lanes=fleet.lanes(),
        terms=Terms(assembly.scheduler.messages, bounds(assembly), assembly.training.channels_last, checksum),
        host=host,
        network=assembly.flows,
        shaped=shaped,
        ledger=fleet.ledger,
        shortage=assembly.shortage,
        limits=assembly.limits,
        absences=_absences(assembly),
        inbox=inbox,
        labels=labels,
        supports=lambda node: held[fleet.group_of(node)].weights.support,
        scenario=scenario,
    )


def built(text: str, node: int, *, data: Path | None = None, threads: int | None = None) -> Built:
    """What a device makes of the resolved scenario that it is told.

    Args:
        text: the scenario, YAML.
        node: the number of the device.
        data: the folder of its own copy of the data set, in the place of the scenario's.
        threads: intra-op threads; None: as the scenario says.

    Raises:
        UserError: the scenario cannot be built here.
    """
    scenario: dict[str, Any] = yaml.safe_load(text)
    if data is not None:
        scenario["data"]["path"] = str(data.resolve())
    study = build(load_scenario(scenario))
    warm_up(study, threads)
    machine = study.assembly.fleet.machine(node)
    base = resident()

    def watch(exceeded: Callable[[int], None]) -> MemoryWatch:
        made = MemoryWatch(round(machine.memory.runtime), round(machine.memory.usable), exceeded)
        made.base(base)
        return made

    return Built(parts=parts_of(study, study.host()), labels=labels_digest(study, node), watch=watch)


def warm_up(study: Study, threads: int | None = None) -> None:
    """Give this process its intra-op threads (None: the scenario's) and do every kind of work, so that none is done
    for the first time in the run.
    """
    from fedsim.learning.threads import use_threads

    use_threads(threads or study.scenario.workers.threads)
    timed(study.assembly, study.host(), enough=_WARM, longest=_WARM_SECONDS)


def labels_digest(study: Study, device: int) -> bytes:
    """The same where a device holds as many samples of every label."""
    assert study.data is not None
    labels = study.data.train.labels[study.shards[device]]
    values, counts = np.unique(labels, return_counts=True)
    return hashlib.sha256(values.astype("<i8").tobytes() + counts.astype("<i8").tobytes()).digest()


def bounds(assembly: Assembly) -> Bounds:
    """The most that a message of the run may be; a peer that announces more is cut off before memory is taken."""
    weights = sum(plan.weights.memory_bytes for plan in assembly.blocks().values())
    widest = max((8 * math.prod(unit.output) for unit in assembly.model.units), default=0)
    body = MODELS * weights + BATCHES * assembly.training.batch * widest + SPARE
    return Bounds(body=body, memory=2 * body)


def _absences(assembly: Assembly) -> Callable[[int], Iterator[tuple[float, float | None]]]:
    listed: dict[int, list[tuple[float, float | None]]] = {}
    for fault in sorted(assembly.faults, key=lambda fault: fault.leave):
        listed.setdefault(fault.device, []).append((fault.leave, fault.back))

    def absences(device: int) -> Iterator[tuple[float, float | None]]:
        yield from listed.get(device, ())
        yield from ((fault.leave, fault.back) for fault in assembly.churn().get(device, ()))

    return absences


# ------------------------------------------------------------------------------------- in the nodes' own processes


def server_node(study: Study, address: str, dilation: float, notes: Path | None, **more: Any) -> ServerNode:
    """The server's node, which listens, in a process that has done every kind of work before."""
    from fedsim.emulation.serving import ServerNode
    from fedsim.learning.threads import use_threads

    use_threads(study.scenario.workers.threads)
    parts = parts_of(study, study.host())
    return ServerNode(parts, address, dilation=dilation, folder=notes, host_id=_host_id(), **more)


def serve(text: str, host: str, *, dilation: float, notes: Path | None, longest: float) -> ServerNode:
    """The server's node of a resolved scenario, listening on any port of a host."""
    study = build(load_scenario(yaml.safe_load(text)))
    warm_up(study)
    return server_node(study, f"{host}:0", dilation, notes, longest=longest)


def participate(
    address: str,
    node: int | None,
    *,
    threads: int | None = None,
    profile: str = "",
    data: Path | None = None,
    token: str | None = None,
    credentials: Any = None,
    patience: float = 60.0,
) -> None:
    """Take part in a run as a device, from joining to its end.

    Args:
        address: of the server.
        node: the number to have; None: any that is free and has this profile.
        threads: intra-op threads; None: as the scenario says.
        profile: of this device.
        data: the folder of its own copy of the data set.
        token: of this device.
        credentials: of gRPC; None: no TLS.
        patience: seconds for which the server may be out of reach.

    Raises:
        UserError: it may not join.
        RunError: the run could not be finished.
    """
    from fedsim.emulation.participating import DeviceNode
    from fedsim.emulation.transport.seam import Pace

    DeviceNode(
        address,
        partial(built, data=data, threads=threads),
        profile=profile,
        node=node,
        token=token,
        credentials=credentials,
        pace=Pace(patience=patience),
        host_id=_host_id(),
    ).run()


def _host_id() -> bytes:
    return (same_host() or "").encode()
