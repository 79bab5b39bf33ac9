"""A job of `rivals.py` with Flower's simulation engine: a `ServerApp` and a `ClientApp` on two Ray actors.

    python -c "from benchmarks.rivals_flower import main; main()" JOB OUT

Runs in Flower's environment, imported and not as a script, so that actors find the apps by name. Written with Flower's
message API; each actor reads the data and builds the model once. Which clients take part is told, not drawn: before
the first round, the nodes say which partition they have. `flwr run` starts the same engine from a command line.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from torch import nn

from benchmarks import rivals_job
from benchmarks.rivals_job import Job

ACTORS: Final = 2
PULL: Final = 0.01
"""Seconds between two looks for replies; Flower's default is 0.1, which takes the server longer to see them."""
JOB: Final = "FEDSIM_RIVALS_JOB"
"""The environment variable that tells actors where the job is."""


@cache
def job() -> Job:
    """The job, read once in each process."""
    torch.set_num_threads(1)
    return rivals_job.read(Path(os.environ[JOB]))


@cache
def model() -> nn.Sequential:
    """The network, built once in each process."""
    return rivals_job.network(job())


def train(message: Any, context: Any) -> Any:
    """A client's part of a round."""
    work, network = job(), model()
    client = int(context.node_config["partition-id"])
    turn = int(message.content["config"]["server-round"]) - 1
    place = work.chosen[turn].tolist().index(client)
    network.load_state_dict(message.content["arrays"].to_torch_state_dict())
    optimizer = torch.optim.SGD(network.parameters(), lr=work.lr, foreach=False)
    for index in work.batches[turn, place]:
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(work.x[index]), work.y[index]).backward()
        optimizer.step()
    found = {
        "arrays": ArrayRecord(network.state_dict()),
        "metrics": MetricRecord({"num-examples": work.samples[client]}),
    }
    return Message(content=RecordDict(found), reply_to=message)


def partition(message: Any, context: Any) -> Any:
    """Which partition a node has; its process gets ready meanwhile."""
    model()
    found = MetricRecord({"partition": int(context.node_config["partition-id"])})
    return Message(content=RecordDict({"metrics": found}), reply_to=message)


app = ClientApp()
app.train()(train)
app.query()(partition)


class Told(FedAvg):  # type: ignore[misc]  # Flower is not installed where this is checked
    """Federated averaging of the clients that the job names."""

    def __init__(self, work: Job, nodes: dict[int, int]) -> None:
        super().__init__(fraction_evaluate=0.0)
        self.work = work
        self.nodes = nodes
        self.first: Any = None
        self.ends: list[float] = []

    def configure_train(self, server_round: int, arrays: Any, config: Any, grid: Any) -> Iterable[Any]:
        """Messages to the clients of the round."""
        config["server-round"] = server_round
        record = RecordDict({self.arrayrecord_key: arrays, self.configrecord_key: config})
        chosen = self.work.chosen[server_round - 1].tolist()
        return [Message(content=record, message_type="train", dst_node_id=self.nodes[c]) for c in chosen]

    def aggregate_train(self, server_round: int, replies: Iterable[Any]) -> Any:
        """The mean, and when it was there."""
        replies = list(replies)
        assert len(replies) == self.work.chosen.shape[1]
        assert not any(reply.has_error() for reply in replies)
        found = super().aggregate_train(server_round, replies)
        self.first = found[0] if self.first is None else self.first
        self.ends.append(time.perf_counter())
        return found


def serve(grid: Any, out: Path) -> None:
    """The server: runs the rounds and writes down what came of them."""
    grid.pull_interval = PULL
    work = job()
    while len(list(grid.get_node_ids())) < len(work.samples):  # they come up while the server does
        time.sleep(0.1)
    questions = [
        Message(content=RecordDict({"config": ConfigRecord()}), message_type="query", dst_node_id=node)
        for node in grid.get_node_ids()
    ]
    nodes = {int(m.content["metrics"]["partition"]): m.metadata.src_node_id for m in grid.send_and_receive(questions)}
    strategy = Told(work, nodes)
    result = strategy.start(grid=grid, initial_arrays=ArrayRecord(model().state_dict()), num_rounds=work.rounds)
    rivals_job.finish(
        out,
        seconds=[after - before for before, after in zip(strategy.ends, strategy.ends[1:], strict=False)],
        first=rivals_job.named(work, strategy.first.to_numpy_ndarrays()),
        last=rivals_job.named(work, result.arrays.to_numpy_ndarrays()),
        versions={name: version(name) for name in ("flwr", "ray", "torch", "numpy")},
        extra=f"{ACTORS} actors",
    )


def main() -> None:
    """Run the job of a folder."""
    os.environ[JOB], out = sys.argv[1], Path(sys.argv[2])
    logging.getLogger("flwr").setLevel(logging.ERROR)
    server = ServerApp()

    def started(grid: Grid, context: Context) -> None:
        serve(grid, out)

    server.main()(started)
    run_simulation(
        server_app=server,
        client_app=app,
        num_supernodes=len(job().samples),
        backend_config={
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
            "init_args": {"num_cpus": ACTORS, "num_gpus": 0, "log_to_driver": False},
        },
    )
