"""The three reference fleets with their variants, the systems that run on them, and what a run of one cell measured.

Timing only. Knows scenarios, options and summaries; nothing of what anybody claims.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

EPOCHS: Final = 100
"""Rounds of whole passes on the fleet of Ampere, and epochs of its server block."""
FEWER: Final = 60
"""Rounds of Ampere's devices where they have fewer than the server block has epochs."""


@dataclass(frozen=True)
class Setting:
    """A scenario with changes."""

    scenario: str
    changes: tuple[str, ...] = ()
    steps: int | None = None
    """Local steps of every system; None: whole passes."""


@dataclass(frozen=True)
class Figures:
    """What a run measured."""

    seconds: float
    """Its length on its own clock."""
    server_idle: float
    device_idle: float
    """Mean over the devices."""
    served: float
    """Samples a second that the server block is trained on; 0 for systems without one."""
    least: int
    """Contributions of the device that gave fewest."""
    most: int
    nbytes: int
    """Both ways."""
    computed: float
    """Seconds that all devices computed."""
    macs: int
    """Counted operator by operator, on devices."""
    memory: int
    """Peak of the server, bytes."""
    processor: float
    """Seconds of a core that this took, imports and counting included."""
    wall: float
    """Seconds that it took."""


def links(groups: int, rate: str) -> tuple[str, ...]:
    """Changes that give every group of devices links of this rate."""
    return tuple(f"fleet.{group}.link.{way}={rate}" for group in range(groups) for way in ("up", "down"))


def _jetson16(model: str, steps: int, *changes: str) -> Setting:
    return Setting("fedoptima-jetson16", (_MODELS[model], *_data(model), *changes), steps)


def _data(model: str) -> tuple[str, ...]:
    return ("data.name=tiny-imagenet",) if model == "MobileNetV3-L" else ()


_MODELS: Final = {
    "VGG-11/1": "model={name: vgg11, cut: 1}",
    "VGG-11/2": "model={name: vgg11, cut: 2}",
    "MobileNetV3-L": "model={name: mobilenetv3_large, cut: 3}",
    "Swin-T": "model={name: swin_t, cut: 3}",
    "ViT-S": "model={name: vit_s, cut: 2}",
}
_FAST: Final = (*links(4, "1Gbit/s"), "until.time=150s")

ASYNCHRONOUS: Final[Mapping[str, Setting]] = {
    "pi8, 50 Mbit/s": Setting("fedoptima-pi8", (), 200),
    "pi8, 100 Mbit/s": Setting("fedoptima-pi8", links(4, "100Mbit/s"), 200),
    "pi8, 100 Mbit/s, r=0.5": Setting("fedoptima-pi8", (*links(4, "100Mbit/s"), "auxiliary.ratio=0.5"), 200),
    "jetson16, VGG-11, 100 Mbit/s": _jetson16("VGG-11/2", 100),
    "jetson16, MobileNetV3-L, 100 Mbit/s": _jetson16("MobileNetV3-L", 200),
    "jetson16, MobileNetV3-L, 1 Gbit/s, r=0.5": _jetson16("MobileNetV3-L", 200, *_FAST, "auxiliary.ratio=0.5"),
    "jetson16, MobileNetV3-L, 1 Gbit/s, 2.5 TMAC/s": _jetson16("MobileNetV3-L", 200, *_FAST, "server.profile=gpu-2t5"),
    "jetson16, VGG-11, 1 Gbit/s, 1 TMAC/s": _jetson16("VGG-11/2", 100, *links(4, "1Gbit/s"), "server.profile=gpu-1t"),
    "jetson16, ViT-S, 100 Mbit/s, 30 TMAC/s": _jetson16("ViT-S", 20, "server.profile=gpu-30t"),
}
"""Of FedOptima and what it is compared with."""

EDGES: Final[Mapping[str, Setting]] = {
    "pi8, 51 Mbit/s": Setting("fedoptima-pi8", links(4, "51Mbit/s"), 200),
    "pi8, 101 Mbit/s": Setting("fedoptima-pi8", links(4, "101Mbit/s"), 200),
}
"""One in a hundred more: a batch is then sent in the time of whole local steps, and first-come admission notices."""

SEQUENTIAL: Final[Mapping[str, Setting]] = {
    model: Setting("ampere-jetson20", (change, *_data(model), f"until.rounds={EPOCHS}"))
    for model, change in _MODELS.items()
}
"""Of Ampere and what it is compared with: 100 Mbit/s each behind 1 Gbit/s for all twenty."""

SHARES: Final[Mapping[str, Setting]] = {
    model: Setting(setting.scenario, (*setting.changes, *links(1, "50Mbit/s"))) for model, setting in SEQUENTIAL.items()
}
"""The same with a twentieth of the server's link each, also while others do not use theirs."""

SYSTEMS: Final[Mapping[str, Mapping[str, Any]]] = {
    "fedavg": {"name": "fedavg"},
    "fedasync": {"name": "fedasync"},
    "fedbuff": {"name": "fedbuff"},
    "splitfed": {"name": "splitfed"},
    "oafl": {"name": "oafl"},
    "pipar": {"name": "pipar", "micro_batches": 4},
    "fedoptima": {"name": "fedoptima"},
    "first come": {
        "name": "fedoptima",
        "admission": "fcfs",
        "activation_cap": 16,
        "outstanding": 1,
        "release": "start",
    },
    "locsplitfed": {"name": "locsplitfed"},
    "cse_fsl": {"name": "cse_fsl"},
    "ampere": {"name": "ampere"},
    "ampere, fewer rounds": {"name": "ampere", "device_rounds": FEWER},
}


def run(setting: Setting, system: str, *changes: str) -> Figures:
    """One cell, with further changes."""
    import fedsim

    started, used = time.perf_counter(), time.process_time()
    scheduler = dict(SYSTEMS[system])
    if setting.steps is not None:
        scheduler["local_steps"] = setting.steps
    found = fedsim.run(setting.scenario, overrides=(*setting.changes, *changes), scheduler=scheduler).summary
    devices, given = found["devices"], found["contributions"]
    return Figures(
        seconds=found["seconds"],
        server_idle=found["server"]["idle"],
        device_idle=devices["idle"],
        served=found["throughput"]["server_samples_per_s"] or 0.0,
        least=given["min"],
        most=given["max"],
        nbytes=found["bytes"]["total"],
        computed=(1 - devices["idle_whole_run"]) * found["seconds"] * devices["count"],
        macs=devices["macs"],
        memory=found["server"]["peak_memory_bytes"],
        processor=time.process_time() - used,
        wall=time.perf_counter() - started,
    )
