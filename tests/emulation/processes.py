"""Commands of an emulation as real processes, none of which outlives a test, and a line that can be cut."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from safetensors.numpy import load_file

from fedsim.experiment.loading import load_scenario
from fedsim.experiment.running import Run, run_scenario
from fedsim.report.folder import read_summary
from fedsim.script import SERVER
from fedsim.trace import Trace, read
from tests.cli.toys import COMMAND, FILES, environment

SCENARIO = """\
name: tiny
seed: 7
model: {name: mlp, hidden: [16], cut: 1}
data: {name: digits, partition: iid}
fleet:
  - {profile: raspberry-pi-4b, count: 1, link: wifi5}
  - {profile: raspberry-pi-3b-plus, count: 1, link: wifi5}
server: {profile: raspberry-pi-5, link: ethernet-1g}
scheduler: {name: fedavg, local_steps: 20}
training: {batch: 16, optimizer: {name: sgd, lr: 0.05}}
until: {rounds: 3}
emulation: {dilation: 10}
"""
"""Works so long that a host on which other things run keeps the pace."""

LIMIT = 60.0
"""Seconds in which whatever a test waits for has to happen."""


class Command:
    """A command under way, its outputs in files."""

    def __init__(self, folder: Path, name: str, arguments: Sequence[str]) -> None:
        self._out, self._err = folder / f"{name}.out", folder / f"{name}.err"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.run = subprocess.Popen(
                [*COMMAND, *arguments],
                cwd=folder,
                env=environment(OMP_NUM_THREADS="1"),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    @property
    def out(self) -> str:
        """What it has printed."""
        return self._out.read_text()

    @property
    def err(self) -> str:
        """What it has said on standard error."""
        return self._err.read_text()

    def kill(self) -> None:
        """SIGKILL."""
        self.run.kill()
        self.run.wait()

    def interrupt(self) -> None:
        """Ctrl-C."""
        self.run.send_signal(signal.SIGINT)


class Processes:
    """The commands of a test, and whatever they have started.

    Args:
        folder: where they run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._commands: list[Command] = []
        self._seen: set[psutil.Process] = set()  # by id and moment of birth

    def start(self, *arguments: str) -> Command:
        """Start a command."""
        command = Command(self.folder, f"{len(self._commands)}-{arguments[0]}", arguments)
        self._commands.append(command)
        return command

    def serve(self, *more: str, scenario: str = SCENARIO, out: str = "run") -> tuple[Command, str]:
        """A server that listens on any port, and where."""
        (self.folder / "tiny.yaml").write_text(scenario)
        server = self.start("serve", "tiny.yaml", "--listen", "127.0.0.1:0", "--out", out, *more)
        self.until(lambda: "listening on" in server.err, server)
        return server, server.err.partition("listening on ")[2].split()[0]

    def device(self, address: str, *more: str) -> Command:
        """A device."""
        return self.start("device", "--server", address, "--patience", "20", *more)

    def until(self, condition: Callable[[], Any], command: Command, seconds: float = LIMIT) -> None:
        """Wait until a condition holds; fails where the command has ended before."""
        end = time.monotonic() + seconds
        while not condition():
            self._look()
            assert command.run.poll() is None, (command.run.returncode, command.out, command.err)
            assert time.monotonic() < end, (command.out, command.err)
            time.sleep(0.05)

    def status(self, command: Command, seconds: float = LIMIT) -> int:
        """The exit status of a command that comes to its end."""
        end = time.monotonic() + seconds
        while command.run.poll() is None:
            self._look()
            assert time.monotonic() < end, (command.out, command.err)
            time.sleep(0.05)
        return command.run.returncode

    def actor(self, journal: Path, name: str) -> psutil.Process:
        """The process of a node under Ray: the one that has its log open."""
        self._look()
        log = str((journal / f"{name}.log").resolve())
        for one in self.left():
            with suppress(psutil.Error):
                if any(file.path == log for file in one.open_files()):
                    return one
        raise AssertionError(f"no process has {log} open")

    def left(self, seconds: float = 0.0) -> list[psutil.Process]:
        """Processes that still run, commands aside, after so many seconds at most."""
        end = time.monotonic() + seconds
        while there := [one for one in self._seen if _runs(one)]:
            if time.monotonic() >= end:
                break
            time.sleep(0.1)
        return there

    def close(self) -> None:
        """End all."""
        self._look()
        for command in self._commands:
            if command.run.poll() is None:
                command.kill()
        for one in self.left():
            with suppress(psutil.Error):
                one.kill()

    def _look(self) -> None:
        for command in self._commands:
            with suppress(psutil.Error):
                if command.run.poll() is None:
                    self._seen.update(psutil.Process(command.run.pid).children(recursive=True))


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


# ------------------------------------------------------------------------------------- what is in a run folder


def noted(folder: Path, name: str, node: int | None = None) -> int:
    """How many marks of a name the server of a run has noted so far."""
    path = folder / "journal" / "server.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("]")] if path.exists() else []
    return sum(row[0] == "mark" and row[3] == name and node in (None, row[1]) for row in rows)


def valid(folder: Path, status: str = "done") -> tuple[dict[str, Any], Trace]:
    """The summary and the trace of a run folder that has everything."""
    there = {path.name for path in folder.iterdir()}
    assert there >= (FILES if status == "done" else FILES - {"model.safetensors", "model.json"}) | {"journal"}
    summary = read_summary(folder)
    assert (summary["mode"], summary["status"]) == ("emulate", status)
    return summary, read(folder / "trace.parquet")


def marks(trace: Trace, node: int) -> list[str]:
    """How a device came and went."""
    return [mark[2] for mark in trace.marks if mark[0] == node and mark[2] in ("join", "leave", "return")]


def delivered(trace: Trace, device: int) -> list[int]:
    """Arrivals (ns) of what a device has sent."""
    return sorted(
        row[12] for row in trace.transfers if row[1] == device and row[2] == SERVER and row[13] == "delivered"
    )


def simulated(folder: Path, **updates: Any) -> Run:
    """The simulation of the scenario that a run folder has, with changes."""
    return run_scenario(load_scenario(folder / "scenario.yaml", updates={"mode": "simulate"} | updates))


def check_weights(folder: Path, wanted: Run) -> None:
    """Fail unless the weights in a run folder are those of another run, bitwise."""
    assert wanted.weights is not None
    found = load_file(folder / "model.safetensors")
    assert found.keys() == wanted.weights.keys()
    for name, tensor in wanted.weights.items():
        assert found[name].tobytes() == tensor.numpy().tobytes(), name


# ------------------------------------------------------------------------------------- a line


class Cable:
    """A TCP proxy on the loopback.

    Args:
        address: of the server.
    """

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._server = (host, int(port))
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._is_cut = False
        self.carried = 0
        """Bytes, both ways."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Drop all connections, and refuse new ones."""
        with self._lock:
            self._is_cut = True
            for one in self._open:
                _shut(one)
            self._open.clear()

    def mend(self) -> None:
        """Let connections through again."""
        with self._lock:
            self._is_cut = False

    def close(self) -> None:
        """Let go of it."""
        self.cut()
        _shut(self._listener)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                if self._is_cut:
                    _shut(near)
                    continue
            far = socket.create_connection(self._server)
            with self._lock:
                self._open |= {near, far}
            for ends in ((near, far), (far, near)):
                threading.Thread(target=self._carry, args=ends, daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(2**16):
                self.carried += len(data)
                sink.sendall(data)
        _shut(source)
        _shut(sink)


def _shut(one: socket.socket) -> None:
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()


@contextmanager
def cable(address: str) -> Iterator[Cable]:
    """A line to a server."""
    made = Cable(address)
    try:
        yield made
    finally:
        made.close()
