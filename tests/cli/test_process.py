"""The command as a real process: Ctrl-C at every stage, pipes, terminals, a full disk, what it imports, how fast."""

from __future__ import annotations

import json
import os
import pty
import resource
import select
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest

from tests.cli.toys import COMMAND, ROOT, environment, parsed, process, written

pytestmark = pytest.mark.slow
ENDLESS = ("--set", "scheduler.name=tests.cli.toys:Endless", "--out", "x")


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 60) -> None:
    """Until the condition holds; fails if the process ends before."""
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


class Start(Protocol):
    """Starts the command, its outputs piped."""

    def __call__(self, folder: Path, *arguments: str, **more: str) -> subprocess.Popen[str]:
        """The command under way in a folder."""
        ...


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts commands; none of them outlives the test, also where it fails."""
    running: list[subprocess.Popen[str]] = []

    def started(folder: Path, *arguments: str, **more: str) -> subprocess.Popen[str]:
        run = subprocess.Popen(
            [*COMMAND, *arguments],
            cwd=folder,
            env=environment(**more),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        running.append(run)
        return run

    yield started
    for run in running:
        if run.poll() is None:
            run.kill()
        run.communicate()


def interrupted(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Ctrl-C; returns the exit status and both outputs."""
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def test_ctrl_c_leaves_a_run_up_to_there(tmp_path: Path, start: Start) -> None:
    """Exit status 130, a valid folder with status `stopped`, which `fedsim report` reads."""
    written(tmp_path)
    run = start(tmp_path, "run", "toy.yaml", *ENDLESS)
    wait_for((tmp_path / "going").is_file, run)
    status, out, err = interrupted(run)
    assert status == 130
    assert "Traceback" not in err
    assert "error: interrupted at " in err
    assert "x holds the run up to there" in err
    assert out.rstrip().endswith("x/report.html")
    summary = parsed((tmp_path / "x/summary.json").read_text())
    assert summary["status"] == "stopped"
    assert summary["seconds"] > 0
    again = process(tmp_path, "report", "x", "--json")
    assert (again.returncode, parsed(again.stdout)["runs"][0]["status"]) == (0, "stopped")


def test_a_second_ctrl_c_leaves_at_once(tmp_path: Path, start: Start) -> None:
    """Where the first cannot take effect, as in a long computation, the second ends the process: 130, no summary."""
    written(tmp_path)
    (tmp_path / "stuck.py").write_text(
        "import time\nfrom dataclasses import dataclass\nfrom tests.cli.toys import Waits\n"
        "@dataclass(frozen=True, kw_only=True)\nclass Stuck(Waits):\n"
        "    async def go_on(self):\n        open('in', 'w').close(); time.sleep(60)\n"
    )
    run = start(
        tmp_path,
        "run",
        "toy.yaml",
        "--set",
        "scheduler.name=stuck:Stuck",
        "--out",
        "x",
        PYTHONPATH=f"{ROOT}:{tmp_path}",
    )
    wait_for((tmp_path / "in").is_file, run)
    run.send_signal(signal.SIGINT)
    assert run.stderr is not None
    assert any("stopping here" in line for line in run.stderr), "it ended without a word"
    began = time.monotonic()
    status, _, err = interrupted(run)
    assert status == 130
    assert time.monotonic() - began < 5
    assert "Traceback" not in err
    assert not (tmp_path / "x/summary.json").exists()


@pytest.mark.parametrize("delay", [0.1, 0.3, 0.6, 0.9, 1.2])
def test_ctrl_c_while_imports_and_building_go_on(tmp_path: Path, start: Start, delay: float) -> None:
    """130 and one line, whenever it comes."""
    written(tmp_path)
    run = start(tmp_path, "run", "toy.yaml", *ENDLESS)
    time.sleep(delay)
    status, _, err = interrupted(run)
    if status == -signal.SIGINT or "KeyboardInterrupt" in err:
        assert delay < 1.0, "only while Python itself starts"
        return
    assert status == 130
    assert "Traceback" not in err
    assert "error: interrupted" in err


def test_a_reader_that_has_had_enough(tmp_path: Path) -> None:
    """`| head -1` ends without a word, as it does for any well-behaved command."""
    written(tmp_path)
    for command in ("list data", "check toy.yaml", "check toy.yaml --json", "run toy.yaml --set learning=off"):
        line = f"set -o pipefail; {' '.join(COMMAND)} {command} | head -1 > /dev/null"
        done = subprocess.run(
            ["bash", "-c", line], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
        )
        assert done.stderr == "", command
        assert done.returncode == 0, command


def test_nobody_reads_at_all(tmp_path: Path) -> None:
    """A pipe that is closed before the first letter ends a command without a word, too."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        command = [*COMMAND, "list", "links"]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment(), stdout=writer, stderr=subprocess.PIPE, text=True, check=False
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_behind_the_output(tmp_path: Path) -> None:
    """One line that says so, and the status of a failure."""
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*COMMAND, "list", "links"],
            cwd=tmp_path,
            env=environment(),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr.startswith("error: the output cannot be written: No space left on device; make room, or send")
    assert done.stderr.count("\n") == 1


def shown(folder: Path, *arguments: str) -> Iterator[str]:
    """What a command writes to a terminal, as it comes."""
    leader, follower = pty.openpty()
    with subprocess.Popen(
        [*COMMAND, *arguments],
        cwd=folder,
        env=environment(TERM="xterm", COLUMNS="120"),
        stdout=follower,
        stderr=follower,
    ) as run:
        os.close(follower)
        while run.poll() is None or select.select([leader], [], [], 0)[0]:
            if select.select([leader], [], [], 0.1)[0]:
                try:
                    yield os.read(leader, 65536).decode(errors="replace")
                except OSError:  # the other side is closed
                    break
    os.close(leader)


def test_a_dashboard_while_a_person_looks(tmp_path: Path) -> None:
    """On a terminal: the run's name, per cent, the clocks, the accuracy, idle time and the time that is left."""
    written(tmp_path)
    text = "".join(shown(tmp_path, "run", "toy.yaml", "--set", "until.rounds=400"))
    for part in ("toy · fedavg", " %", "accuracy 0.", "the wall clock", "about ", "left", "idle", "final accuracy"):
        assert part in text, part


def test_no_bar_in_a_pipe(tmp_path: Path) -> None:
    """Piped output holds the table alone, without escape sequences."""
    written(tmp_path)
    done = process(tmp_path, "run", "toy.yaml")
    assert done.returncode == 0
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
    assert done.stdout.startswith("toy · fedavg")


@pytest.mark.parametrize("command", ["run toy.yaml", "check toy.yaml", "list schedulers", "report x"])
def test_a_terminal_that_is_not_utf8(tmp_path: Path, command: str) -> None:
    """Letters that it lacks are replaced; nothing fails."""
    written(tmp_path)
    if command.startswith("report"):
        assert process(tmp_path, "run", "toy.yaml", "--out", "x", "--set", "learning=off").returncode == 0
    done = process(
        tmp_path, *command.split(), PYTHONIOENCODING="ascii", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0"
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_disk_that_is_full(tmp_path: Path) -> None:
    """Files that cannot be written: exit status 1 and one line."""
    written(tmp_path)

    def small() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))

    for learning in ("on", "off"):
        done = subprocess.run(
            [*COMMAND, "run", "toy.yaml", "--out", f"x-{learning}", "--set", f"learning={learning}"],
            cwd=tmp_path,
            env=environment(PYTHONDONTWRITEBYTECODE="1"),
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=small,
        )
        assert done.returncode == 1, done.stderr
        assert done.stderr.startswith(f"error: run folder x-{learning} could not be written: ")
        assert done.stderr.count("\n") == 1
        assert not (tmp_path / f"x-{learning}/summary.json").exists()


def test_runs_that_start_together_have_folders_of_their_own(tmp_path: Path, start: Start) -> None:
    """Two processes in the same second do not share one."""
    written(tmp_path)
    both = [start(tmp_path, "run", "toy.yaml", "--set", "learning=off", "--json") for _ in range(3)]
    folders = {json.loads(run.communicate(timeout=120)[0])["folder"] for run in both}
    assert len(folders) == 3


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_is_read_only(tmp_path: Path) -> None:
    """Exit status 2, and the way out."""
    written(tmp_path)
    tmp_path.chmod(0o500)
    try:
        done = process(tmp_path, "run", "toy.yaml")
    finally:
        tmp_path.chmod(0o700)
    assert done.returncode == 2
    assert "run folder runs cannot be made: Permission denied; give a folder of your own with --out" in done.stderr


def test_help_is_quick_and_light(tmp_path: Path) -> None:
    """Under half a second of the processor, however loaded the machine is; without torch or NumPy."""
    times = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert process(tmp_path, "--help").returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert statistics.median(times) < 0.5
    heavy = "print(sorted({'torch', 'numpy'} & set(sys.modules)))"
    code = f"import sys; from fedsim.cli import main; main(['--help']); {heavy}"
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    assert done.stdout.rstrip().endswith("[]")


def test_main_outside_the_main_thread(tmp_path: Path) -> None:
    """Without signals, which only the main thread gets."""
    code = (
        "import threading, fedsim.cli as c; s = []\n"
        "t = threading.Thread(target=lambda: s.append(c.main(['run', 'toy.yaml', '--set', 'learning=off'])))\n"
        "t.start(); t.join(); raise SystemExit(s[0])"
    )
    written(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
