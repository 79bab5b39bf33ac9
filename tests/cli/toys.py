"""Small scenarios for the command line, schedulers that go wrong, and the command as a real process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

from fedsim.learning.context import Device, Server
from fedsim.script import Message, Payload, Role, recv, sleep

TOY = """\
name: toy
seed: 3
model: {name: mlp, hidden: [8, 8], cut: 1}
data: {name: digits, samples: 200}
fleet:
  - {profile: pi-tier-1, count: 2, link: wifi5}
  - {profile: jetson-tier-4, count: 1, link: lte}
server: {profile: cpu-60g, link: ethernet-1g}
scheduler: fedavg
training: {batch: 16, optimizer: {name: sgd, lr: 0.1}}
until: {rounds: 2}
"""
FILES = {
    "scenario.yaml",
    "summary.json",
    "curves.csv",
    "nodes.csv",
    "trace.parquet",
    "timeline.json.gz",
    "report.html",
    "model.safetensors",
    "model.json",
}
COMMAND = (sys.executable, "-m", "fedsim.cli")
ROOT = Path(__file__).resolve().parents[2]


def environment(**more: str) -> dict[str, str]:
    """The environment of a command in a folder of its own, with `tests` importable."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONWARNINGS", "COLUMNS")}
    return kept | {"PYTHONPATH": str(ROOT)} | more


def process(folder: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=folder,
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def written(folder: Path, text: str = TOY) -> str:
    """A scenario file in `folder`."""
    path = folder / "toy.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def parsed(text: str) -> Any:
    """JSON, and nothing else."""
    return json.loads(text)


@dataclass(frozen=True, slots=True)
class Never(Message):
    """Nobody sends it."""

    role: ClassVar[Role] = Role.CONTROL


@dataclass(frozen=True, kw_only=True)
class Waits:
    """A system whose server waits for what never comes."""

    splits: ClassVar[bool] = False
    messages: ClassVar[Sequence[type[Message]]] = (Never,)

    async def device(self, me: Device) -> None:
        """Nothing."""
        await recv(Never)

    async def server(self, me: Server) -> None:
        """Publishes and hangs."""
        self.name(me, me.initial)
        await self.go_on()

    def name(self, me: Server, w: Payload) -> None:
        """Name the model."""
        me.publish(w)

    async def go_on(self) -> None:
        """What the server does all the time."""
        await recv(Never)


@dataclass(frozen=True, kw_only=True)
class Endless(Waits):
    """A system that goes on until somebody stops it; once it does, there is a file `going`."""

    async def go_on(self) -> None:
        for second in count():
            if second == 100:
                Path("going").touch()
            await sleep(1.0)


@dataclass(frozen=True, kw_only=True)
class Broken(Waits):
    """A system with a mistake in its code."""

    async def go_on(self) -> None:
        await sleep(1.0)
        raise ZeroDivisionError("a mistake")
