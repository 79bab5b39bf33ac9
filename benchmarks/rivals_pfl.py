"""A job of `rivals.py` with pfl-research, as its guides write one: `FederatedAveraging` on a `SimulatedBackend`.

    python -m benchmarks.rivals_pfl JOB OUT
    python -m torch.distributed.run --standalone --nproc-per-node=2 -m benchmarks.rivals_pfl JOB OUT

Runs in pfl's environment. A user's data set is what it trains in that round, in the order of its batches, sliced from
tensors in memory (the fastest kind by pfl's guide to distributed simulations, which also recommends `torchrun`). No
evaluation but that of the first iteration, which pfl always makes and which is not counted.
"""

from __future__ import annotations

import sys
import time
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByDatapoints
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.pytorch import PyTorchTensorDataset
from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams
from pfl.internal.ops.pytorch_ops import distributed
from pfl.metrics import Weighted
from pfl.model.pytorch import PyTorchModel
from torch import Tensor, nn

from benchmarks import rivals_job


class Network(nn.Module):
    """The job's network with the loss and the metrics that pfl asks a model for."""

    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        out: Tensor = self.layers(x)
        return out

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Of a batch."""
        return nn.functional.cross_entropy(self(x), y)

    @torch.no_grad()
    def metrics(self, x: Tensor, y: Tensor) -> dict[str, Any]:
        """Of a batch."""
        return {"loss": Weighted(float(nn.functional.cross_entropy(self(x), y, reduction="sum")), len(y))}


class Watch(TrainingProcessCallback):  # type: ignore[misc]  # pfl is not installed where this is checked
    """Notes when each round ended and what the weights were after the first."""

    def __init__(self, layers: nn.Sequential) -> None:
        self.layers = layers
        self.first: list[Tensor] = []
        self.ends: list[float] = []

    def after_central_iteration(self, aggregate_metrics: Any, model: Any, *, central_iteration: int) -> Any:
        """The model has been updated."""
        if not self.first:
            self.first = [tensor.clone() for tensor in self.layers.state_dict().values()]
        self.ends.append(time.perf_counter())
        return super().after_central_iteration(aggregate_metrics, model, central_iteration=central_iteration)


def main() -> None:
    """Run the job of a folder."""
    folder, out = (Path(argument) for argument in sys.argv[1:3])
    torch.set_num_threads(1)
    job = rivals_job.read(folder)
    places = iter([(index, place) for index, row in enumerate(job.chosen) for place in range(len(row))])

    def trained(place: tuple[int, int]) -> Any:
        index = job.batches[place].reshape(-1)
        return PyTorchTensorDataset((job.x[index], job.y[index]))

    users = FederatedDataset(trained, lambda: next(places))
    network = Network(rivals_job.network(job))
    model = PyTorchModel(
        model=network,
        local_optimizer_create=partial(torch.optim.SGD, foreach=False),
        central_optimizer=torch.optim.SGD(network.parameters(), lr=1.0),
    )
    watch = Watch(network.layers)
    FederatedAveraging().run(
        backend=SimulatedBackend(training_data=users, val_data=users, postprocessors=[WeightByDatapoints()]),
        model=model,
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=job.rounds,
            evaluation_frequency=job.rounds + 1,
            train_cohort_size=job.chosen.shape[1],
            val_cohort_size=None,
        ),
        model_train_params=NNTrainHyperParams(
            local_num_epochs=1, local_learning_rate=job.lr, local_batch_size=job.batch
        ),
        model_eval_params=NNEvalHyperParams(local_batch_size=None),
        callbacks=[watch],
        send_metrics_to_platform=False,
    )
    if distributed.global_rank == 0:
        rivals_job.finish(
            out,
            seconds=[after - before for before, after in zip(watch.ends, watch.ends[1:], strict=False)],
            first=rivals_job.named(job, watch.first),
            last=rivals_job.named(job, list(network.layers.state_dict().values())),
            versions={name: version(name) for name in ("pfl", "torch", "numpy")},
            extra=f"{distributed.world_size} processes",
        )
    if distributed.world_size > 1:
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()  # gloo's threads may abort a process that ends before them


if __name__ == "__main__":
    main()
