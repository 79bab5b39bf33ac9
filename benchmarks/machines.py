"""What a benchmark was measured on, in words."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path


def machine(*packages: str) -> str:
    """Cores, processor, Python, and the versions of these packages."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    versions = [f"{name} {metadata.version(name)}" for name in packages]
    return ", ".join((f"{os.cpu_count()} cores of {model}", f"Python {platform.python_version()}", *versions))
