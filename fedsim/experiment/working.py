"""Who does the real work of a simulation, as a scenario says: nobody, this process, or a pool of processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from fedsim.learning.plan import SERVER_BLOCK
from fedsim.scenario import Scenario, dump
from fedsim.script import SERVER, Payload
from fedsim.simulation import Inline, Workers

if TYPE_CHECKING:
    from torch import Tensor

    from fedsim.experiment.assembly import Assembly
    from fedsim.experiment.building import Study
    from fedsim.learning.shares.keeper import Keeper

STORE: Final = 256 * 2**20
"""Bytes of the object store of a Ray session of our own, at least."""
MODELS: Final = 64
"""Models that it has room for, at least: what goes from one process to another lies there on its way."""

Tensors = Callable[[Sequence[Payload]], "dict[str, Tensor]"]


@dataclass(frozen=True)
class Work:
    """Workers for a run."""

    workers: Workers | None
    """None: nothing is learnt."""
    tensors: Tensors
    """A published model's tensors, once all work is done."""


@contextmanager
def working(study: Study, objects: Mapping[str, Any], ray: str | None) -> Iterator[Work]:
    """Whoever does the work, for the time of a run.

    Args:
        study: the run.
        objects: as in `building.build`.
        ray: address of a Ray cluster; None: a session of our own on this host, where processes are asked for.

    Raises:
        UserError: there is no such cluster, or no room in it, or no such processor.
    """
    scenario = study.scenario
    if not scenario.learning:
        yield Work(None, _nothing)
    elif scenario.workers.kind == "inline":
        from fedsim.learning.deferring import Deferring
        from fedsim.learning.processors import computing
        from fedsim.learning.threads import intra_op_threads

        with computing(scenario.workers.processor) as found, intra_op_threads(scenario.workers.threads):
            host = Deferring(study.host(found))
            yield Work(Inline(host), host.model_tensors)
    else:
        with _pool(study, objects, ray) as work:
            yield work


@contextmanager
def _pool(study: Study, objects: Mapping[str, Any], ray: str | None) -> Iterator[Work]:
    from fedsim.runtime.cluster import check_cluster
    from fedsim.simulation.pool import Pool
    from fedsim.simulation.rays import crew

    if ray is not None:
        check_cluster(ray)
    scenario, assembly, workers = study.scenario, study.assembly, study.scenario.workers
    make = partial(keeper, dump(scenario), dict(objects))
    largest = max(plan.weights.memory_bytes for plan in assembly.blocks().values())
    store = max(STORE, MODELS * largest)
    gpus = workers.processor == "cuda"
    with crew(make, count(scenario), threads=workers.threads, gpus=gpus, address=ray, store=store) as found:
        pool = Pool(found.lanes, loads(assembly))
        yield Work(pool, pool.model_tensors)
        pool.close()


def count(scenario: Scenario) -> int | None:
    """Processes of a pool; None: as many as there are cores or GPUs."""
    wanted = scenario.workers.count
    return None if wanted == "auto" else wanted


def keeper(text: str, objects: dict[str, Any]) -> Keeper:
    """A share of the nodes of a resolved scenario, in its own process."""
    import yaml

    from fedsim.experiment.building import build
    from fedsim.experiment.loading import load_scenario
    from fedsim.learning.processors import use_processor
    from fedsim.learning.shares.keeper import Keeper
    from fedsim.learning.threads import use_threads

    scenario = load_scenario(yaml.safe_load(text), objects=objects)
    use_threads(scenario.workers.threads)
    return Keeper(build(scenario, objects).host(use_processor(scenario.workers.processor)))


def loads(assembly: Assembly) -> dict[int, float]:
    """What each node's work on a pass over all data is, in MACs of a forward."""
    blocks = assembly.blocks()
    macs = [float(sum(unit.macs for unit in plan.units)) for plan in assembly.held(blocks)]
    samples = assembly.samples.tolist()
    made = {device: held * macs[assembly.fleet.group_of(device)] for device, held in enumerate(samples)}
    behind = blocks.get(SERVER_BLOCK)
    share = assembly.participants / len(samples)
    made[SERVER] = 0.0 if behind is None else share * sum(samples) * sum(unit.macs for unit in behind.units)
    return made


def _nothing(_: Sequence[Payload]) -> dict[str, Tensor]:
    raise AssertionError("nothing is learnt")
