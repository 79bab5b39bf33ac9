"""Systems whose devices have a loss of their own: plain loops of their parts, and what all of them have in common."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedsim.experiment.assembly import Assembly
from fedsim.learning.host import Host
from fedsim.learning.samples import TensorSamples
from fedsim.learning.threads import intra_op_threads
from fedsim.models.auxiliary import build_head
from fedsim.models.measure import UnitMeasure
from fedsim.models.options import Auxiliary
from fedsim.models.units import UnitList
from fedsim.report import check_identity, summarise
from fedsim.simulation import Ending, Inline
from fedsim.testing import Outcome
from fedsim.trace import Mark, Span, Transfer
from tests.learning.test_oracles import batches, optimizer_of
from tests.learning.toys import MLP, SEED, Federation
from tests.schedulers.closed_forms import batches as sizes_of
from tests.schedulers.federations import Ran, assemble

State = dict[str, Tensor]
HEAD = Auxiliary(ratio=0.5)
SMALL = Federation(model=MLP.model, options=MLP.options, shape=MLP.shape, cut=1, sizes=(20, 9, 14))
"""Three devices and no buffers, in float64."""


@dataclass(frozen=True, kw_only=True)
class Joined(Federation):
    """A federation that trains a∘d, as one model: the device block of another one, and its head."""

    head: Auxiliary = field(default_factory=lambda: HEAD)

    def network(self, seed: int = SEED) -> UnitList:
        """Both with their initial weights."""
        whole = super().network(seed)
        d, a = whole.block(0, self.cut), build_head(whole, self.cut, self.head, SEED).body
        units = [*d.named_children(), *a.named_children()]
        return UnitList(whole.name, units, input=whole.input, classes=whole.classes, dtype=whole.dtype)


def joined(what: Federation) -> Joined:
    """The same devices, with a∘d."""
    return Joined(**{f.name: getattr(what, f.name) for f in fields(what)})


def trained(
    what: Federation,
    scheduler: Any,
    *,
    weights: Mapping[str, Tensor] | None = None,
    changes: Mapping[str, Any] | None = None,
    **options: Any,
) -> Ran:
    """A whole run with the head; `options` are those of `assemble`, `changes` what else the assembly is given."""
    model = what.network()
    if weights is not None:
        model.load_state_dict(weights)
    head = build_head(model, what.cut, HEAD, SEED)
    assembly = replace(assemble(what, scheduler, model, head=head, **options), **(changes or {}))
    blocks = assembly.blocks()
    validation = np.arange(16) if getattr(scheduler, "validates", False) else None
    samples = TensorSamples(
        what.data(), what.shards(), dtype=what.dtype, channels_last=what.channels_last, validation=validation
    )
    host = Host(model, blocks, samples, SEED, head)
    simulation = assembly.simulation(Inline(host), blocks=blocks)
    with intra_op_threads(1):
        assert simulation.run() is Ending.SERVER
    check_identity(simulation.trace)
    return Ran(assembly, simulation, host)


def published(ran: Ran) -> State:
    """Every tensor of the last published model, with those of the head, if that was published."""
    assert ran.simulation.published is not None
    flats = (ran.host.core.flat(payload) for payload in ran.simulation.published.model)
    return {name: tensor.clone() for flat in flats for name, tensor in flat.named().items()}


def device_side(ran: Ran) -> State:
    """d and a of the last published model, by name."""
    assert ran.simulation.published is not None
    return {n: t.clone() for n, t in ran.host.core.flat(ran.simulation.published.model[0]).named().items()}


def server_side(ran: Ran) -> State:
    """s of the last published model, by name."""
    assert ran.simulation.published is not None
    return {n: t.clone() for n, t in ran.host.core.flat(ran.simulation.published.model[1]).named().items()}


# -------------------------------------------------------------------------------------------- plain loops


class Parts:
    """d, a and s as modules, with a federation's data; whoever trains them loads and copies dictionaries."""

    def __init__(self, what: Federation) -> None:
        self.what = what
        model = what.network()
        self.d, self.s = model.block(0, what.cut), model.block(what.cut, len(model))
        self.a = build_head(model, what.cut, HEAD, SEED).body
        self.shards = what.shards()
        data = what.data()
        self.x = torch.tensor(data.train.inputs, dtype=getattr(torch, what.dtype))
        self.y = torch.tensor(data.train.labels)
        self._passes = dict.fromkeys(range(len(self.shards)), 0)

    def rows(self, device: int) -> list[Tensor]:
        """The samples of the device's next pass, batch after batch."""
        number = self._passes[device]
        self._passes[device] += 1
        return self.peek(device, number)

    def peek(self, device: int, number: int | None = None) -> list[Tensor]:
        """The same, but the pass remains to come."""
        number = self._passes[device] if number is None else number
        shard = self.shards[device]
        return [torch.from_numpy(shard[batch]) for batch in batches(len(shard), self.what.batch, device, number)]

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Put these into whichever of the modules has them."""
        for module in (self.d, self.a, self.s):
            names = module.state_dict().keys()
            if names <= state.keys():
                module.load_state_dict({name: state[name] for name in names})

    @property
    def device(self) -> State:
        """d and a as they are now."""
        return copied(self.d) | copied(self.a)

    @property
    def server(self) -> State:
        """s as it is now."""
        return copied(self.s)

    def local(self, batches_: Sequence[Tensor], round: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Steps on the local loss; gives the activations of each one's forward, and the labels."""
        both = nn.ModuleList([self.d, self.a])
        optimizer = optimizer_of(self.what.optimizer, both)
        _pace(optimizer, self.what.optimizer.rate(round))
        for rows in batches_:
            optimizer.zero_grad()
            z = self.d(self.x[rows])
            nn.functional.cross_entropy(self.a(z), self.y[rows]).backward()
            optimizer.step()
            yield z.detach(), self.y[rows]

    def serve(self, pairs: Sequence[tuple[Tensor, Tensor]], round: int = 0) -> None:
        """Steps of s on activations, with one optimizer."""
        optimizer = optimizer_of(self.what.optimizer, self.s)
        _pace(optimizer, self.what.optimizer.rate(round))
        for z, y in pairs:
            optimizer.zero_grad()
            nn.functional.cross_entropy(self.s(z), y).backward()
            optimizer.step()


def _pace(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def copied(module: nn.Module) -> State:
    """A copy of all tensors of a module."""
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


# ------------------------------------------------------------------------------------- records of a run


def transfers(outcome: Outcome | Ran) -> list[Transfer]:
    """Every transfer, in the order of the sends."""
    return sorted(Transfer(*row) for row in outcome.simulation.trace.transfers)


def spans(outcome: Outcome | Ran) -> list[Span]:
    """Every span."""
    return [Span(*row) for row in outcome.simulation.trace.spans]


def marks(outcome: Outcome | Ran, name: str) -> list[Mark]:
    """The marks of one name, in order."""
    return [Mark(*row) for row in outcome.simulation.trace.marks if row[2] == name]


def units_of(assembly: Assembly) -> tuple[Sequence[UnitMeasure], Sequence[UnitMeasure], Sequence[UnitMeasure]]:
    """The units of d, a and s, measured."""
    assert assembly.cut is not None
    assert assembly.head is not None
    units = assembly.model.units
    return units[: assembly.cut], assembly.head.units, units[assembly.cut :]


def first_of(assembly: Assembly, every: int, **local: Any) -> list[int]:
    """Sizes of every so-many-th batch of a round, of all devices in all rounds; rounds begin afresh."""
    assert assembly.rounds is not None
    steps = local.get("steps")
    found: list[int] = []
    for held in assembly.samples.tolist():
        sizes = sizes_of(held, assembly.training.batch, rounds=assembly.rounds, **local)
        a_round = len(sizes) // assembly.rounds if steps is None else steps
        for start in range(0, len(sizes), a_round):
            found += sizes[start : start + a_round : every]
    return found


def idle_of(outcome: Outcome, side: str = "devices") -> dict[str, float]:
    """Shares of idle time by cause, which add up to all of it."""
    found = summarise(outcome.simulation.trace, status="done", wall_seconds=1.0)[side]
    causes: dict[str, float] = found["idle_by_cause"]
    assert abs(sum(causes.values()) - found["idle"]) < 1e-12
    return causes
