"""A journal and its replay: the same scripts, given the same, come to the same bits."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from fedsim.emulation.replay import Replayed, replay
from fedsim.experiment.assembly import Assembly
from fedsim.learning.context import Device, Server
from fedsim.learning.threads import intra_op_threads
from fedsim.schedulers.catalogue import SCHEDULERS
from fedsim.script import SERVER, Payload
from fedsim.testing import toy
from tests.emulation.inprocess import Emulated, emulate
from tests.wire.crossing import toy_host


def emulated(assembly: Assembly) -> Emulated:
    """A run in threads."""
    with intra_op_threads(1):
        return emulate(assembly, lambda node: toy_host(assembly), dilation=0.02, delay=1e-3)


def replayed(assembly: Assembly, run: Emulated, rows: Any = None) -> tuple[Replayed, list[dict[str, torch.Tensor]]]:
    """The run's journal, or another one, once more; with the weights of every model."""
    devices, job = assembly.fleet.devices, assembly.job()
    contexts: dict[int, Device] = {}

    def device(port: Any) -> Any:
        before = contexts.get(port.node)
        me = contexts[port.node] = Device(port, job) if before is None else before.again(port)
        return assembly.scheduler.device(me)

    scripts: dict[int, Any] = dict.fromkeys(range(devices), device)
    scripts[SERVER] = lambda port: assembly.scheduler.server(Server(port, job, devices))
    host = toy_host(assembly)
    models = []

    def publish(version: int, model: tuple[Payload, ...]) -> None:
        models.append(host.model_tensors(model))

    with intra_op_threads(1):
        found = replay(run.rows if rows is None else rows, scripts, dict.fromkeys(scripts, host), run.terms, publish)
    return found, models


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    """Whether two models are the same bits."""
    return ours.keys() == theirs.keys() and all(tensor.equal(theirs[name]) for name, tensor in ours.items())


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", [kind() for kind in SCHEDULERS.values()], ids=lambda s: type(s).__name__)
def test_a_replay_publishes_the_same_models(scheduler: Any) -> None:
    """Every system, whatever order its messages came in; also when the journal has been written down."""
    assembly = toy(scheduler)
    run = emulated(assembly)
    found, models = replayed(assembly, run, [json.loads(json.dumps(row)) for row in run.rows])
    assert len(models) == len(run.models) == found.version
    assert all(map(same, models, run.models))
