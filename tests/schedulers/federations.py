"""Whole runs of small federations whose model is cut, with labels to count and auxiliary heads to train."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fedsim.experiment.assembly import Assembly
from fedsim.experiment.fleet import Fleet, Group
from fedsim.hardware.links import load_link
from fedsim.hardware.machines import machine
from fedsim.hardware.profiles import load_profile
from fedsim.learning.host import Host
from fedsim.learning.labelling import Labels
from fedsim.learning.threads import intra_op_threads
from fedsim.models.auxiliary import Head, build_head
from fedsim.models.counting import measure
from fedsim.models.options import Auxiliary
from fedsim.models.units import UnitList
from fedsim.simulation import Ending, Fault, Inline, Limits, Simulation
from tests.learning.toys import SEED, Federation


@dataclass(frozen=True)
class Ran:
    """A finished run."""

    assembly: Assembly
    simulation: Simulation
    host: Host

    @property
    def weights(self) -> dict[str, Tensor]:
        """Of the last published model."""
        assert self.simulation.published is not None
        return self.host.model_tensors(self.simulation.published.model)


def assemble(
    what: Federation,
    scheduler: Any,
    model: UnitList,
    *,
    rounds: int,
    participants: int | None = None,
    head: Head | None = None,
    faults: Sequence[Fault] = (),
    profiles: Sequence[str] = ("pi-tier-1", "pi-tier-4"),
) -> Assembly:
    """The parts of a run, on devices of these profiles in turn."""
    devices, data = len(what.sizes), what.data()
    groups = [
        Group(machine(load_profile(profile)), load_link("wifi5"), len(range(index, devices, len(profiles))))
        for index, profile in enumerate(profiles)
    ]
    return Assembly(
        scheduler=scheduler,
        model=measure(model),
        cut=what.cut,
        training=what.training(),
        fleet=Fleet(
            tuple(group for group in groups if group.count),
            machine(load_profile("cpu-60g")),
            load_link("ethernet-1g"),
        ),
        samples=what.shards().sizes(),
        participants=participants or devices,
        rounds=rounds,
        limits=Limits(time=1e6, every=1e9),
        head=None if head is None else head.measure(model.block(0, what.cut)),
        labels=Labels(data.train.labels, what.shards(), 4),
        faults=faults,
        seed=SEED,
    )


def run(
    what: Federation,
    scheduler: Any,
    *,
    head: Auxiliary | None = None,
    weights: dict[str, Tensor] | None = None,
    **options: Any,
) -> Ran:
    """Train with `scheduler`; `options` are those of `assemble`, `weights` the model's initial ones."""
    model = what.network()
    if weights is not None:
        model.load_state_dict(weights)
    made = None if head is None else build_head(model, what.cut, head, SEED)
    assembly = assemble(what, scheduler, model, head=made, **options)
    blocks = assembly.blocks()
    host = Host(model, blocks, what.samples(), SEED, made)
    simulation = assembly.simulation(Inline(host), blocks=blocks)
    with intra_op_threads(1):
        assert simulation.run() is Ending.SERVER
    return Ran(assembly, simulation, host)
