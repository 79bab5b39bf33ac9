"""Pruned variants of the toy network, made by hand: fewer channels of a convolution, fewer weights of the next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedsim.experiment.assembly import Assembly, Smaller
from fedsim.experiment.fleet import Fleet, Group
from fedsim.hardware.links import load_link
from fedsim.hardware.machines import machine
from fedsim.hardware.profiles import load_profile
from fedsim.learning.host import Host
from fedsim.learning.labelling import Labels
from fedsim.learning.learners import Node, WeightPart
from fedsim.learning.plan import BlockPlan
from fedsim.models.auxiliary import build_head
from fedsim.models.counting import measure
from fedsim.models.options import Auxiliary
from fedsim.models.units import UnitList
from fedsim.payload.supports import WHOLE, Support
from fedsim.payload.tensors import FlatTensors
from fedsim.script import Payload
from fedsim.simulation import Fault, Inline, Simulation
from fedsim.simulation.engine import Limits
from tests.learning.toys import SEED, Federation


class Sums:
    """What is done with a server's sums on a host, whichever blocks it has."""

    host: Host
    node: Node
    draw: Callable[..., Tensor] = staticmethod(torch.randn)

    def model(self, plan: BlockPlan, seed: int, part: WeightPart = "weights") -> Payload:
        """Random weights of a block, or of a part of it, zero where it is; whole numbers are the seed."""
        generator = torch.Generator().manual_seed(seed)
        value = self.host.core.layout(plan.name, part).zeros()
        for view in value.views():
            if view.is_floating_point():
                view.copy_(self.draw(view.shape, generator=generator, dtype=view.dtype))
            else:
                view.fill_(seed)
        value.mask_()
        payload = self.node.payload(getattr(plan, part))
        self.host.core.values[payload] = value
        return payload

    def named(self, payload: Payload) -> dict[str, Tensor]:
        """Its tensors by name."""
        value = self.host.value(payload)
        assert isinstance(value, FlatTensors)
        return {name: view.clone() for name, view in value.named().items()}

    def do(self, work: Any) -> dict[str, Tensor]:
        """Run a work; the tensors of its result."""
        self.host.run(work.command)
        return self.named(work.result)


def support(kept: Sequence[int], masked: float = 0.0, seed: int = 3) -> Support:
    """Filters of the first convolution that stay, and the share of the second one's weights that are zero."""
    index = np.asarray(kept, np.int64)
    axes: dict[str, tuple[Any, ...]] = {
        "conv1.0.weight": (index, None, None, None),
        "conv1.0.bias": (index,),
        "conv1.1.weight": (index,),
        "conv1.1.bias": (index,),
        "conv1.1.running_mean": (index,),
        "conv1.1.running_var": (index,),
        "conv2.0.weight": (None, index, None, None),
    }
    masks = {}
    if masked:
        rng = np.random.default_rng(seed)
        masks["conv2.0.weight"] = rng.random((64, len(kept), 3, 3)) >= masked
    return Support(axes, masks)


def smaller(network: UnitList, what: Support) -> UnitList:
    """What a variant has of the toy network."""
    made = deepcopy(network)
    width = what.shape("conv1.0.bias", (32,))[0]
    conv1, conv2 = made.get_submodule("conv1"), made.get_submodule("conv2")
    assert isinstance(conv1, nn.Sequential)
    assert isinstance(conv2, nn.Sequential)
    conv1[0] = nn.Conv2d(3, width, 3, padding=1)
    conv1[1] = type(conv1[1])(width)
    conv2[0] = nn.Conv2d(width, 64, 3, padding=1)
    made = made.to(next(network.parameters()).dtype)
    whole, own = network.state_dict(), made.state_dict()
    with torch.no_grad():
        for name, tensor in own.items():
            value = whole[name].numpy()[what.index(name, tuple(whole[name].shape))]
            tensor.copy_(torch.from_numpy(np.array(value)))
            if name in what.masks:
                tensor.mul_(torch.from_numpy(what.masks[name]))
    return made


def federation(
    scheduler: Any,
    supports: Sequence[Support | None],
    *,
    toy: Federation | None = None,
    rounds: int = 2,
    faults: Sequence[Fault] = (),
    head: Auxiliary | None = None,
    apart: bool = False,
) -> tuple[Host, Simulation, Assembly]:
    """A run in which each device is a group of its own that has the variant of this support, or the whole model.

    With `apart` these are models of their own, the whole one behind the others.
    """
    toy = Federation() if toy is None else toy
    assert len(supports) == len(toy.sizes)
    board, link = machine(load_profile("pi-tier-1")), load_link("wifi5")
    network = toy.network()
    groups: dict[Support, set[int]] = {}
    rest: set[int] = set()
    for index, each in enumerate(supports):
        if each is not None:
            groups.setdefault(each, set()).add(index)
        elif apart:
            rest.add(index)
    if rest:
        groups[WHOLE] = rest
    networks = {each: smaller(network, each) for each in groups}
    built = None if head is None else build_head(network, toy.cut, head, SEED)
    assembly = Assembly(
        scheduler=scheduler,
        model=measure(network),
        cut=toy.cut,
        head=None if built is None else built.measure(network.block(0, toy.cut)),
        labels=Labels(toy.data().train.labels, toy.shards(), 4),
        training=toy.training(),
        fleet=Fleet(
            tuple(Group(board, link, 1) for _ in toy.sizes),
            machine(load_profile("cpu-60g")),
            load_link("ethernet-1g"),
        ),
        samples=toy.shards().sizes(),
        participants=len(toy.sizes),
        rounds=rounds,
        limits=Limits(every=1e9),
        seed=SEED,
        faults=faults,
        variants=tuple(
            Smaller(model=measure(networks[each]), support=each, groups=frozenset(members))
            for each, members in groups.items()
        ),
        apart=apart,
    )
    blocks = assembly.blocks()
    names = [name for name in blocks if "#" in name]
    host = Host(network, blocks, toy.samples(), SEED, built, dict(zip(names, networks.values(), strict=True)))
    return host, assembly.simulation(Inline(host), blocks=blocks), assembly
