"""FedProx: local losses with a term that holds devices near the global model; slow devices may send partial work.

Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith, "Federated Optimization in Heterogeneous Networks", MLSys 2020, arXiv
1812.06127, algorithm 2. What differs from `fedavg`, where the server's script stands: a device minimises
F_k(w) + mu/2·‖w − w_t‖², and may be told to send what it has when its time is up. That counts by all of the device's
samples, as in the authors' code, however many batches it got through.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fedsim.learning.context import Device
from fedsim.learning.learners import Batch, Proximal
from fedsim.quantities import Duration
from fedsim.schedulers.fedavg import FedAvg, Train, Trained
from fedsim.schedulers.options import newest
from fedsim.script import SERVER, compute, send


@dataclass(frozen=True, kw_only=True)
class FedProx(FedAvg):
    """Federated averaging with a proximal term."""

    mu: float = 0.01  # μ
    """Weight of the proximal term; 0 leaves federated averaging. The paper has none that fits all, and tunes it from
    0.001 to 1; this default is ours, so that the system runs from its name."""
    stragglers: Literal["wait", "partial"] = "wait"
    """Whether a device always trains all its batches, or sends what it has at the deadline."""
    deadline: Duration | None = None
    """For `partial`: time after a device has taken its order; then it finishes its batch and sends."""

    def __post_init__(self) -> None:
        FedAvg.__post_init__(self)
        if not self.mu >= 0:
            raise ValueError(f"mu {self.mu} must be 0 or more")
        if self.stragglers == "wait" and self.deadline is not None:
            raise ValueError(f"deadline {self.deadline} is for stragglers: partial; leave it out")
        if self.stragglers == "partial" and self.deadline is None:
            raise ValueError("stragglers: partial needs a deadline, such as 30 s")
        if self.deadline is not None and not self.deadline > 0:
            raise ValueError(f"deadline {self.deadline} must be above 0 s")

    async def device(self, me: Device) -> None:
        """Train on what comes, near it, for as long as there is time; send it back."""
        while True:
            train = await newest(me, Train)
            end = None if self.deadline is None else me.now + self.deadline
            pull = Proximal(train.weights, self.mu) if self.mu else None
            me.model.load(train.weights, train.round, keep=() if pull is None else (train.weights,))
            batches = me.batches(self.local_steps, self.local_epochs)
            if end is None:
                await compute(me.model.train(batches, pull))
            else:
                await self.until(end, me, batches, pull)
            await send(SERVER, Trained(me.model.take(), me.samples, train.round))

    async def until(self, end: float, me: Device, batches: tuple[Batch, ...], pull: Proximal | None) -> None:
        """Batch by batch, one at least. With `local_steps`, those that there is no time for are the next round's first;
        whole passes begin afresh, in another order."""
        for done, batch in enumerate(batches, 1):
            await compute(me.model.train((batch,), pull))
            if me.now >= end:
                me.put_back(batches[done:])
                return
