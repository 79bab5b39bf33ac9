"""A journal and its replay: the same scripts, given the same, come to the same bits."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch

from fedsim.emulation.records.journal import pasts
from fedsim.emulation.records.replay import Replayed, replay
from fedsim.errors import RunError
from fedsim.experiment.assembly import Assembly
from fedsim.learning.threads import intra_op_threads
from fedsim.payload.codecs import Codecs, Half, TopK
from fedsim.schedulers.catalogue import SCHEDULERS
from fedsim.schedulers.fedasync import FedAsync
from fedsim.schedulers.fedbuff import FedBuff
from fedsim.schedulers.fedoptima import FedOptima
from fedsim.schedulers.gas import Gas
from fedsim.schedulers.oafl import Oafl
from fedsim.schedulers.scaffold import Scaffold
from fedsim.schedulers.splitfed import SplitFed
from fedsim.script import SERVER, Payload
from fedsim.testing import host, toy
from tests.emulation.inprocess import Emulated, emulate


def emulated(assembly: Assembly, **more: Any) -> Emulated:
    """A run in threads."""
    with intra_op_threads(1):
        return emulate(assembly, lambda node: host(assembly), dilation=0.02, delay=1e-3, **more)


def replayed(assembly: Assembly, run: Emulated, rows: Any = None) -> tuple[Replayed, list[dict[str, torch.Tensor]]]:
    """The run's journal, or another one, once more; with the weights of every model."""
    server, device = assembly.scripts()
    scripts: dict[int, Any] = dict.fromkeys(range(assembly.fleet.devices), device) | {SERVER: server}
    hosts = {node: host(assembly) for node in scripts}
    models = []

    def publish(version: int, model: tuple[Payload, ...]) -> None:
        models.append(hosts[SERVER].model_tensors(model))

    with intra_op_threads(1):
        found = replay(run.rows if rows is None else rows, scripts, hosts, run.terms, publish)
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


ASYNCHRONOUS: list[Any] = [FedAsync(), FedBuff(buffer=2), Oafl(), FedOptima(), Gas()]


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", [*ASYNCHRONOUS, Scaffold(), SplitFed()], ids=lambda s: type(s).__name__)
def test_devices_come_and_go_as_they_did(scheduler: Any) -> None:
    """Wherever they were stopped; what error feedback owes is forgotten with them, and codecs do their work."""
    feedback = TopK(fraction=0.3, feedback=True)
    codecs = Codecs(activations=feedback, gradients=feedback, weights=Half())
    assembly = toy(scheduler, rounds=6)
    assembly = replace(assembly, training=replace(assembly.training, codecs=codecs))
    run = emulated(assembly, absences={0: (2, 4), 2: (3, 5)})
    _, models = replayed(assembly, run)
    assert len(models) == len(run.models)
    assert all(map(same, models, run.models))
    assert {node: len(lives) for node, lives in pasts(run.rows).items()} == {SERVER: 1, 0: 2, 1: 1, 2: 2, 3: 1}


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", ASYNCHRONOUS, ids=lambda s: type(s).__name__)
def test_arrivals_in_another_order_are_another_run(scheduler: Any) -> None:
    """Two that are swapped show: in the weights or, where somebody else is answered, at what differs first."""
    assembly = toy(scheduler)
    run = emulated(assembly)
    nodes = assembly.fleet.devices + 1
    rows = [list(row) for row in run.rows]
    came = [row for row in rows if row[0] == "given" and row[1] == SERVER and row[5] == "recv"]
    first, second = next(pair for pair in pairwise(came) if pair[0][6] % nodes != pair[1][6] % nodes)
    first[6], second[6] = second[6], first[6]
    with suppress(RunError):
        _, models = replayed(assembly, run, rows)
        assert not all(map(same, models, run.models))
