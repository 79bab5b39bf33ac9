"""What `me` is in a script: the device's or the server's side of a training system.

Both are made of handles and plain numbers; they know neither clocks, nor tensors, nor how devices are reached.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TypeVar, cast
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from fedsim import seeds
from fedsim.errors import ScriptError
from fedsim.learning.aligning import Alignment
from fedsim.learning.bundles import VARIANT
from fedsim.learning.crew import Crew
from fedsim.learning.generating import Buffer, Covariance
from fedsim.learning.labelling import Labels
from fedsim.learning.learners import Batch, Learner, Node, WeightPart
from fedsim.learning.merging import Merge
from fedsim.learning.plan import DEVICE, MODEL, SERVER_BLOCK, BlockPlan
from fedsim.learning.pool import Pool, Store
from fedsim.learning.rolling import Rolling
from fedsim.learning.rounds import Barrier
from fedsim.learning.sums import Changes, Combining, Mean, part_of_plan
from fedsim.payload.meta import TensorMeta
from fedsim.script import SERVER, Connected, Disconnected, Message, Payload, Port, Work, recv

M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What every script of a run may know.

    `samples[k]` is the number of training samples of device k; `participants` how many devices a round asks, of which
    `need` complete it (None for all) within `window` seconds; `rounds` the scenario's `until.rounds` (None: no limit).
    `labels` is there where the scheduler says that it `needs_labels`.
    """

    seed: int
    plans: dict[str, BlockPlan]
    samples: Sequence[int] | np.ndarray[tuple[int], np.dtype[np.int64]]
    participants: int
    rounds: int | None
    batch: int
    need: int | None = None
    window: float | None = None
    drop_last: bool = False
    labels: Labels | None = None
    variant: Callable[[int], str | None] | None = None
    """The block of a device's pruned variant, by its name among `plans`; None for those that have the whole one."""

    @property
    def whole(self) -> BlockPlan:
        """What devices train, or what their variants are parts of."""
        return self.plans[DEVICE] if DEVICE in self.plans else self.plans[MODEL]

    @property
    def variants(self) -> tuple[BlockPlan, ...]:
        """What devices may have in its place."""
        return tuple(plan for name, plan in self.plans.items() if VARIANT in name)

    def plan_of(self, device: int) -> BlockPlan:
        """What a device trains."""
        name = None if self.variant is None else self.variant(device)
        return self.whole if name is None else self.plans[name]

    def places(self, concurrency: int | None) -> int:
        """How many devices train at the same time in an asynchronous system; by default those of a round."""
        usual = self.participants if self.need is None else self.need
        return min(usual if concurrency is None else concurrency, len(self.samples))


def _labels(job: Job) -> Labels:
    if job.labels is None:
        raise ScriptError("a script asks for label counts, but its scheduler does not say needs_labels = True")
    return job.labels


class Inbox:
    """A look at the waiting messages that takes no time."""

    __slots__ = ("_port",)

    def __init__(self, port: Port) -> None:
        self._port = port

    def poll(self, *kinds: type[Message]) -> Message | None:
        """Take the first waiting message of `kinds`, or nothing, at once."""
        return self._port.poll(*kinds)

    def arrived(self, kind: type[M]) -> list[M]:
        """The messages of `kind` that have come since this was last asked, whether they still wait or not."""
        return cast(list[M], self._port.arrived(kind))

    def drop(self, message: Message) -> None:
        """Refuse a message that waits."""
        self._port.drop(message)


class Device:
    """A device's `me`: its data, and its model or block."""

    __slots__ = ("_epoch", "_job", "_node", "_port", "_start", "block", "inbox", "number", "samples")

    def __init__(self, port: Port, job: Job) -> None:
        self._node = node = Node(port)
        self._port = port
        self._job = job
        self._epoch = self._start = 0
        self.number = port.node
        self.inbox = Inbox(port)
        self.samples = int(job.samples[port.node])
        """Number of training samples on this device, at least one."""
        assert self.samples > 0, f"device {port.node} has no samples; partitions give every device some"
        self.block = Learner(node, job.plan_of(port.node))
        """The device block or, where the scheduler does not split, the whole model."""

    def again(self, port: Port) -> Device:
        """The same device after it has left and returned: fresh, but for its place in the order of its batches."""
        fresh = Device(port, self._job)
        fresh._epoch, fresh._start = self._epoch, self._start
        return fresh

    @property
    def batch(self) -> int:
        """Samples in a step; the last one of a pass may have fewer."""
        return self._job.batch

    @property
    def model(self) -> Learner:
        """The whole model, where the scheduler does not split it."""
        return self.block

    @property
    def now(self) -> float:
        """Seconds since the start of the run, on the run's own clock."""
        return self._port.now

    def outgoing(self, kind: type[Message]) -> int:
        """How many messages of `kind` that this device has sent, since it first asked, have not been delivered."""
        return self._port.outgoing(kind)

    def hold(self, nbytes: int) -> None:
        """Count `nbytes` more (or fewer, below 0) as held by this device: what the script keeps for later."""
        self._node.queue(0, "hold", holds=nbytes)

    def mark(self, name: str, value: float = 0.0) -> None:
        """Record a moment in the trace, such as `skipped`: activations that nobody had room for."""
        self._port.mark(name, value)

    def batches(self, steps: int | None = None, epochs: int = 1, size: int | None = None) -> tuple[Batch, ...]:
        """The next batches: `steps` of them, or `epochs` whole passes over the device's data.

        The order of a pass depends on (seed, device, number of the pass) only. The last batch of a pass holds what
        is left, unless the scenario drops it. Steps go on where the last ones ended; passes begin with a fresh one.
        `size` is the scenario's, where it is not given.
        """
        size = self._job.batch if size is None else size
        taken: list[Batch] = []
        if steps is None:
            if self._start:
                self._epoch, self._start = self._epoch + 1, 0
            last = self._epoch + epochs
        while (self._epoch < last) if steps is None else (len(taken) < steps):
            taken.append(Batch(self._epoch, self._start, min(size, self.samples - self._start)))
            self._start += taken[-1].size
            left = self.samples - self._start
            if not left or (self._job.drop_last and left < size):
                self._epoch, self._start = self._epoch + 1, 0
        return tuple(taken)

    def put_back(self, batches: Sequence[Batch]) -> None:
        """Take back the last of the batches that were given out, since they have not been trained: they come next."""
        if batches:
            self._epoch, self._start = batches[0].epoch, batches[0].start

    def all_batches(self) -> tuple[Batch, ...]:
        """Every sample exactly once, in the order of the pass that would come next; moves nothing on."""
        size = self._job.batch
        return tuple(
            Batch(self._epoch, start, min(size, self.samples - start)) for start in range(0, self.samples, size)
        )


class Server:
    """The server's `me`: the devices, the server block, aggregation, rounds."""

    __slots__ = (
        "_combining",
        "_fitted",
        "_job",
        "_node",
        "_plan",
        "_port",
        "_rng",
        "_rolling",
        "_version",
        "block",
        "devices",
        "inbox",
        "initial",
    )

    def __init__(self, port: Port, job: Job, devices: int) -> None:
        self._port = port
        self._job = job
        self._node = Node(port)
        self._plan = job.whole
        self._fitted: WeakKeyDictionary[Payload, dict[tuple[str | int, ...], Payload]] = WeakKeyDictionary()
        self.devices = range(devices)
        """Every device of the fleet, whether it is there or not."""
        self._rng = seeds.generator(job.seed, SERVER, "selection")
        self._version = 0
        self.inbox = Inbox(port)
        start = Learner(self._node, self._plan)
        self.initial: Payload = start.weights()
        """The weights that devices start from: the device block's (its head's with them) or the whole model's."""
        self._node.queue(start.number, "close", holds=self._plan.state_bytes)  # as the global model, from here on
        self.block = Learner(self._node, job.plans.get(SERVER_BLOCK, self._plan))
        """The server block (the whole model, where the scheduler does not split it)."""
        self._rolling = Rolling(self._plan) if any(plan.windows is not None for plan in job.variants) else None
        self._combining = Combining(self._node, job.plans.values())

    # ------------------------------------------------------------------------------------ what is known

    @property
    def rounds(self) -> int | None:
        """The scenario's `until.rounds`, None for no limit."""
        return self._job.rounds

    @property
    def updates(self) -> int | None:
        """The aggregations of an asynchronous run: `until.rounds` times the number of devices; None for no limit."""
        return None if self._job.rounds is None else self._job.rounds * len(self.devices)

    @property
    def job(self) -> Job:
        """What every script of the run may know."""
        return self._job

    @property
    def now(self) -> float:
        """Seconds since the start of the run, on the run's own clock."""
        return self._port.now

    @property
    def batch(self) -> int:
        """Samples in a step."""
        return self._job.batch

    @property
    def participants(self) -> int:
        """How many devices the scenario asks for a round."""
        return self._job.participants

    @property
    def plans(self) -> Mapping[str, BlockPlan]:
        """What the blocks of the model cost and weigh, by name."""
        return self._job.plans

    def samples(self, device: int) -> int:
        """Number of training samples on a device."""
        return int(self._job.samples[device])

    def label_counts(self, device: int) -> NDArray[np.int64]:
        """How many samples of each class a device holds, for schedulers that say `needs_labels`.

        Raises:
            ScriptError: the scheduler does not say so.
        """
        return _labels(self._job).counts(device)

    def tally(self, device: int, batch: Batch) -> tuple[int, ...]:
        """How many samples of each class a device's batch has, for schedulers that say `needs_labels`.

        Raises:
            ScriptError: the scheduler does not say so.
        """
        return _labels(self._job).tally(self._job.seed, device, batch)

    def rng(self, purpose: str) -> np.random.Generator:
        """A generator of the server's own for a purpose; the same for the same seed."""
        return seeds.generator(self._job.seed, SERVER, purpose)

    # ---------------------------------------------------------------------------------- who takes part

    def present(self) -> Sequence[int]:
        """The devices that are there now; notices of leaving and returning that still wait are settled by this."""
        while self._port.poll(Disconnected, Connected) is not None:
            pass
        absent = self._port.absent
        return [k for k in self.devices if k not in absent] if absent else self.devices

    async def sample(self, choose: Callable[[Sequence[int], int], Sequence[int]] | None = None) -> tuple[int, ...]:
        """The devices of the next round, sorted: the scenario's number of those present, without replacement.

        They are drawn; or chosen by `choose` from those present, where there are more than that number. Where none is
        there, this waits until one comes back.
        """
        while not (present := self.present()):
            await recv(Connected)
        wanted = self._job.participants
        if wanted >= len(present):
            return tuple(present)
        if choose is not None:
            return tuple(sorted(choose(present, wanted)))
        drawn = self._rng.choice(len(present), size=wanted, replace=False)
        return tuple(sorted(present[i] for i in drawn.tolist()))

    @contextmanager
    def round(self, number: int, chosen: Sequence[int]) -> Iterator[Barrier]:
        """A barrier: the contributions of `chosen` that come before it closes belong to it.

        As many complete it as the scenario asks for, all by default; a window of time closes it with those that came.
        """
        wanted, window = self._job.need, self._job.window
        need = len(chosen) if wanted is None else min(wanted, len(chosen))
        until = None if window is None else self._port.now + window
        barrier = Barrier(number, chosen, need=need, until=until)
        ends = {} if until is None else {"until": round(until * 1e9)}
        if self._rolling is not None:
            self._rolling.round = number
        self._port.mark("round.open", number, {"nodes": list(chosen), "need": need, **ends})
        yield barrier
        self._port.mark("round.close", number, None)

    def crew(self, concurrency: int | None) -> Crew:
        """The devices of an asynchronous system that train at the same time.

        Where no number is given, as many as a round of the scenario's `selection` has: all, unless it says otherwise.
        """
        return Crew(self._port, self.present(), self._job.places(concurrency), self.rng("crew"))

    # -------------------------------------------------------------------------- what is made of models

    def fit(self, weights: Payload, device: int) -> Payload:
        """What a device's variant has of weights (or of a part of them, such as a control variate); itself, if all.

        Devices of one variant get the same handle, as long as the weights are alive; in a round, where windows move.
        """
        if self._job.variant is None:
            return weights
        plan, whole = self._job.plan_of(device), self._plan
        part = part_of_plan(whole, weights)
        meta: TensorMeta = getattr(plan, part)
        if meta == weights.meta:
            return weights
        window = () if self._rolling is None else (self._rolling.round,)
        fitted = self._fitted.setdefault(weights, {})
        key = (plan.name, *window)
        if key not in fitted:
            made = fitted[key] = self._node.payload(meta)
            self._node.queue(0, "fit", weights, plan.name, part, *window, output=made)
        return fitted[key]

    def mean(
        self,
        expected: Sequence[int],
        weighting: Literal["samples", "uniform"] = "samples",
        *,
        of: Literal["devices", "copies"] = "devices",
        part: WeightPart = "weights",
        base: Payload | None = None,
    ) -> Mean:
        """A running mean over `expected` of what devices send (`of="devices"`) or of the server block's copies.

        Where devices hold variants of a model, each coordinate is the mean over those that have it, and that of `base`
        where nobody has.

        Raises:
            ScriptError: variants may leave coordinates out, and there is no base.
        """
        if of == "copies":
            return Mean(self._node, self.block.plan, expected, weighting, part)
        return Mean(
            *(self._node, self._plan, expected, weighting, part),
            variants=self._job.variants,
            base=base,
            rolling=self._rolling,
        )

    def changes(self) -> Changes:
        """A running sum of changes of what devices train."""
        return Changes(self._node, self._plan, self._job.variants)

    def mix(self, one: Payload, other: Payload, weight: float) -> Work[Payload]:
        """(1 − weight)·one + weight·other; buffers alike, integer buffers take the larger value."""
        return self._combining.mix(one, other, weight)

    def toward(self, one: Payload, other: Payload, rate: float) -> Work[Payload]:
        """one + rate·(other − one) for parameters; buffers are those of `other`."""
        return self._combining.toward(one, other, rate)

    def shift(self, one: Payload, other: Payload, factor: float) -> Work[Payload]:
        """one + factor·other, of parameters without buffers, such as control variates."""
        return self._combining.shift(one, other, factor)

    def zero_control(self) -> Payload:
        """A control variate of zeros: one value a parameter of what devices train."""
        return self._combining.zeros(self._plan)

    def without_head(self, weights: Payload) -> Payload:
        """The device block alone, of weights that hold its head, too."""
        return self._combining.part(self._plan, weights, "block")

    def merge(self) -> Merge:
        """A step of the server block on batches of several devices."""
        return Merge(self._node, self.block)

    def buffer(self, covariance: Covariance = "auto", *, draws: bool = True) -> Buffer:
        """A buffer for activations, from which more of them are drawn, if it `draws`; labels are needed for that.

        Raises:
            ScriptError: it draws, but the scheduler does not say `needs_labels`.
        """
        return Buffer(self._node, covariance, _labels(self._job).held() if draws else ())

    def alignment(self, keep: int) -> Alignment:
        """Heads of devices that are fitted to the server block, on the last `keep` samples of each."""
        apart = self._plan.bundle is not None
        return Alignment(self._node, self._job.plan_of if apart else lambda _: self._plan, self.block, keep)

    def pool(self, store: Store = "ram") -> Pool:
        """A pool for activations."""
        return Pool(self._node, store, drop_last=self._job.drop_last)

    # --------------------------------------------------------------------------------- what is recorded

    def publish(self, *model: Payload) -> None:
        """Name the current global model: the whole one, or the device block and the server block."""
        self._version += 1
        self._port.publish(self._version, model)

    def mark(self, name: str, value: float = 0.0, detail: Mapping[str, object] | None = None) -> None:
        """Record a moment in the trace."""
        self._port.mark(name, value, detail)

    def consumed(self, device: int) -> None:
        """Record that the server block has taken a step on a batch of `device`."""
        self._port.mark("consumed", device)

    def rejected(self, device: int) -> None:
        """Record that a batch of `device` has come and was not taken."""
        self._port.mark("rejected", device)
