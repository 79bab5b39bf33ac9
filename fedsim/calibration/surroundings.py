"""What a measurement depends on besides the code: the machine, the programs, and what else is running.

Knows psutil, not torch.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psutil

from fedsim.errors import UserError

BUSY: Final = 0.10
"""Share of the machine's CPU time that other processes may take while something is measured."""

WINDOW: Final = 1.0
"""Seconds that are looked at before measuring."""

CPU_INFO: Final = Path("/proc/cpuinfo")


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU seconds used since some moment: by everybody, by this process, and those there were."""

    all: float
    own: float
    available: float


def usage() -> Usage:
    """The counters of the operating system."""
    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0)
    # Guests' time is part of user and nice; time that was stolen from a virtual machine went to others.
    total = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
    own = psutil.Process().cpu_times()
    return Usage(total - idle, own.user + own.system, total)


def load(before: Usage, after: Usage) -> float:
    """Share of the machine that other processes took between two moments, 0 to 1."""
    available = after.available - before.available
    others = (after.all - before.all) - (after.own - before.own)
    return min(max(others / available, 0.0), 1.0) if available > 0 else 0.0


def check_load(share: float, *, allowed: bool) -> None:
    """Refuse to measure on a busy machine, unless that is `allowed`.

    Raises:
        UserError: other processes take more than `BUSY`.
    """
    if share > BUSY and not allowed:
        raise UserError(
            f"other processes take {share:.0%} of this machine's processors, and times measured beside more than "
            f"{BUSY:.0%} are not its own; stop them, or measure all the same with --allow-load, which the profile "
            "will say"
        )


@dataclass(slots=True)
class Watch:
    """The load of other processes while something went on; known when it is over."""

    share: float = field(default=0.0)


@contextmanager
def watched(read: Callable[[], Usage] = usage) -> Iterator[Watch]:
    """Look at the counters before and after."""
    watch, before = Watch(), read()
    yield watch
    watch.share = load(before, read())


def cpu_name(info: Path = CPU_INFO) -> str:
    """What the processor calls itself, and how many of it there are."""
    cores = psutil.cpu_count(logical=False) or psutil.cpu_count() or 1
    name = platform.processor() or platform.machine()
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("model name", "Model", "Hardware") and value.strip():
                name = value.strip()
                break
    return f"{name}, {cores} core{'s' * (cores != 1)}"


def cores() -> int:
    """Processor cores that this process may use: what threads are worth having for."""
    usable = len(psutil.Process().cpu_affinity()) if hasattr(psutil.Process, "cpu_affinity") else psutil.cpu_count()
    return max(1, min(usable or 1, psutil.cpu_count(logical=False) or usable or 1))


def memory() -> int:
    """Bytes of memory."""
    return int(psutil.virtual_memory().total)


def own_memory() -> int:
    """Bytes that this process alone holds."""
    return int(psutil.Process().memory_full_info().uss)
