"""Emulations as real processes: a server and devices by hand, or all of them by Ray; killed, cut off and refused."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedsim.emulation.access.certificates import make_certificates
from tests.emulation.processes import (
    SCENARIO,
    Command,
    Processes,
    cable,
    check_weights,
    delivered,
    marks,
    noted,
    simulated,
    valid,
)

pytestmark = [pytest.mark.slow, pytest.mark.long]

LONG = SCENARIO.replace("rounds: 3", "rounds: 10")
ENDLESS = SCENARIO.replace("rounds: 3", "rounds: 1000")
"""For runs that a test ends as soon as it has seen enough."""


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    """Starts commands in a folder of their own."""
    started = Processes(tmp_path)
    yield started
    started.close()


# ------------------------------------------------------------------------------------- serve and device


def test_a_run_with_tokens_and_certificates(processes: Processes, tmp_path: Path) -> None:
    """Whoever has not what it takes is told and leaves with status 2; the run is that of the others."""
    lab = tmp_path / "lab"
    make_certificates(lab, ["127.0.0.1"])
    server, address = processes.serve(
        *("--tokens", "tokens", "--certificate", "lab/server.pem", "--key", "lab/server-key.pem"),
        *("--clients", "lab/authority.pem"),
    )
    for device, line in enumerate((tmp_path / "tokens").read_text().splitlines()):
        _token(tmp_path / f"token-{device}", line)
    _token(tmp_path / "stranger", "device-0 " + "A" * 43)
    authority = ("--authority", "lab/authority.pem")
    tls = (*authority, "--certificate", "lab/device.pem", "--key", "lab/device-key.pem")
    first = processes.device(address, "--token", "token-0", *tls)
    processes.until(lambda: "waiting for device 1\n" in server.err, server)
    refused = {
        processes.device(address, "--token", "token-0", *tls): "device 0 is here already",
        processes.device(address, "--token", "stranger", *tls): "no token, or an unknown one",
        processes.device(address, "--profile", "raspberry-pi-4b", *tls): "no token, or an unknown one",
        processes.device(address, "--token", "token-1", "--node", "0", *tls): "the token is not that of device 0",
        processes.device(address, "--token", "token-1", "--patience", "3"): "wants TLS (--authority)",
        processes.device(address, "--token", "token-1", "--patience", "3", *authority): "this authority's TLS",
    }
    for other, why in refused.items():
        assert processes.status(other) == 2, other.err
        assert other.err.startswith("error: ")
        assert why in other.err
        assert other.err.count("\n") == 1, other.err
    second = processes.device(address, "--token", "token-1", *tls)
    assert [processes.status(one) for one in (server, first, second)] == [0, 0, 0], server.err
    summary, trace = valid(tmp_path / "run")
    assert summary["fidelity"]["crashed"] == []
    assert [len(delivered(trace, device)) for device in (0, 1)] == [3, 3]
    check_weights(tmp_path / "run", simulated(tmp_path / "run"))
    secrets = [line.split()[1] for line in (tmp_path / "tokens").read_text().splitlines()]
    said = "".join(
        path.read_text() for path in tmp_path.rglob("*") if path.suffix in {".err", ".out", ".yaml", ".jsonl"}
    )
    assert not any(secret in said for secret in secrets)


def _token(path: Path, line: str) -> None:
    path.touch(0o600)
    path.write_text(line + "\n")


def test_a_line_that_is_cut_for_some_seconds(processes: Processes, tmp_path: Path) -> None:
    """No message is lost or comes twice; who asks for what there is not is refused meanwhile."""
    server, address = processes.serve(scenario=LONG)
    unknown = processes.device(address, "--profile", "raspberry-pi-4")
    number = processes.device(address, "--node", "2")
    with cable(address) as line:
        devices = [processes.device(line.address, "--node", "0"), processes.device(address, "--node", "1")]
        assert [processes.status(one) for one in (unknown, number)] == [2, 2]
        assert "unknown profile of this run 'raspberry-pi-4'" in unknown.err
        assert "did you mean raspberry-pi-4b?" in unknown.err
        assert "device 2, but there are 0 to 1" in number.err
        processes.until(lambda: noted(tmp_path / "run", "round.close") >= 2, server)
        line.cut()
        carried = line.carried
        time.sleep(5.0)
        assert line.carried == carried
        assert noted(tmp_path / "run", "round.close") < 10
        line.mend()
        assert [processes.status(one) for one in (server, *devices)] == [0, 0, 0], server.err
        assert line.carried > carried
    summary, trace = valid(tmp_path / "run")
    assert summary["fidelity"]["crashed"] == []
    assert [marks(trace, device) for device in (0, 1)] == [["join"], ["join"]]
    assert [row[13] for row in trace.transfers] == ["delivered"] * 40
    assert len({row[0] for row in trace.transfers}) == 40
    check_weights(tmp_path / "run", simulated(tmp_path / "run"))


def test_nobody_is_there(processes: Processes) -> None:
    """A device waits for its patience."""
    device = processes.device("127.0.0.1:9", "--node", "0", "--patience", "1.5")
    assert processes.status(device) == 2
    assert device.err.startswith("error: no answer from 127.0.0.1:9 within 1.5 s; start the server")


def test_a_device_is_killed_and_started_again(processes: Processes, tmp_path: Path) -> None:
    """Its round is closed without it, and it is there again later; Ctrl-C ends the run there, for all."""
    run = tmp_path / "run"
    server, address = processes.serve(scenario=ENDLESS)
    devices = [processes.device(address, "--node", str(node)) for node in (0, 1)]
    processes.until(lambda: noted(run, "round.close") >= 2, server)
    devices[1].kill()
    processes.until(lambda: noted(run, "leave", 1), server)
    again = processes.device(address, "--node", "1")
    processes.until(lambda: noted(run, "return", 1), server)
    closed = noted(run, "round.close")
    processes.until(lambda: noted(run, "round.close") >= closed + 3, server)
    server.interrupt()
    assert [processes.status(one) for one in (server, devices[0], again)] == [130, 0, 0], server.err
    _check_return(run, "leave", "return")


def _check_return(run: Path, *came_and_went: str) -> None:
    """Of device 1, in a run that was stopped."""
    summary, trace = valid(run, "stopped")
    assert marks(trace, 1) == ["join", *came_and_went]
    assert summary["fidelity"]["crashed"] == [1] * came_and_went.count("leave")
    back = next(mark[1] for mark in trace.marks if mark[2] == "return")
    arrivals = delivered(trace, 1)
    assert arrivals[0] < back < arrivals[-1]
    assert len(delivered(trace, 0)) > len(arrivals)


def test_the_server_is_killed(processes: Processes, tmp_path: Path) -> None:
    """Devices give up after their patience."""
    server, address = processes.serve(scenario=LONG)
    devices = [
        processes.start("device", "--server", address, "--node", str(node), "--patience", "2") for node in (0, 1)
    ]
    processes.until(lambda: noted(tmp_path / "run", "round.close") >= 1, server)
    server.kill()
    for device in devices:
        assert processes.status(device, 15) == 1
        assert "error: the server is gone: nothing was heard of the server for" in device.err
    assert not processes.left()


# ------------------------------------------------------------------------------------- by Ray


def test_an_actor_is_killed_twice(processes: Processes, tmp_path: Path) -> None:
    """The first time it comes back, the second time it stays away; Ctrl-C ends the run, and nothing is left behind."""
    run, journal = tmp_path / "run", tmp_path / "run" / "journal"
    command = _emulate(processes, ENDLESS, "emulation.restarts=1")
    processes.until(lambda: noted(run, "round.close") >= 2, command)
    processes.actor(journal, "device-1").kill()
    processes.until(lambda: noted(run, "return", 1), command)
    closed = noted(run, "round.close")
    processes.until(lambda: noted(run, "round.close") >= closed + 3, command)
    processes.actor(journal, "device-1").kill()
    processes.until(lambda: noted(run, "leave", 1) == 2, command)
    closed = noted(run, "round.close")
    processes.until(lambda: noted(run, "round.close") >= closed + 2, command)
    command.interrupt()
    assert processes.status(command) == 130
    assert not processes.left(5.0)
    _check_return(run, "leave", "return", "leave")


def test_the_rest_learn_as_if_an_actor_had_left(processes: Processes, tmp_path: Path) -> None:
    """A device that is killed after some rounds is, to the weights, one that leaves there in a simulation."""
    run = _emulate(processes, LONG)
    processes.until(lambda: noted(tmp_path / "run", "round.close") >= 2, run)
    processes.actor(tmp_path / "run" / "journal", "device-1").kill()
    assert processes.status(run) == 0, run.err
    assert not processes.left(5.0)
    _, trace = valid(tmp_path / "run")
    assert marks(trace, 1) == ["join", "leave"]
    contributions = len(delivered(trace, 1))
    assert 2 <= contributions < 10
    leave = (delivered(simulated(tmp_path / "run").trace, 1)[contributions - 1] + 1) / 1e9
    faults = [{"device": 1, "leave": f"{leave:.9f} s"}]
    check_weights(tmp_path / "run", simulated(tmp_path / "run", faults=faults))


def test_the_servers_actor_is_killed(processes: Processes, tmp_path: Path) -> None:
    """The run has failed; its folder has what was noted up to there."""
    run = _emulate(processes, LONG)
    processes.until(lambda: noted(tmp_path / "run", "round.close") >= 2, run)
    processes.actor(tmp_path / "run" / "journal", "server").kill()
    assert processes.status(run) == 1
    assert "the process has died" in run.err
    assert not processes.left(5.0)
    _, trace = valid(tmp_path / "run", "failed")
    assert len([mark for mark in trace.marks if mark[2] == "round.close"]) >= 2
    assert trace.spans


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--set", "emulation.dilation=0.01"), "the smallest dilation that would do is"),
        (("--set", "emulation.limit=100 ms"), "above emulation.limit (100 ms)"),
        (("--ray", "127.0.0.1:9"), "no Ray cluster at '127.0.0.1:9'"),
    ],
    ids=["too fast", "too long", "no cluster"],
)
def test_what_cannot_be_emulated(processes: Processes, tmp_path: Path, options: tuple[str, ...], why: str) -> None:
    """Is refused before anything is started."""
    (tmp_path / "tiny.yaml").write_text(SCENARIO)
    run = processes.start("run", "tiny.yaml", "--mode", "emulate", "--out", "run", *options)
    assert processes.status(run, 30) == 2
    assert why in run.err
    assert not (tmp_path / "run").exists()
    assert not processes.left()


def _emulate(processes: Processes, scenario: str, *overrides: str) -> Command:
    (processes.folder / "tiny.yaml").write_text(scenario)
    sets = [word for one in overrides for word in ("--set", one)]
    return processes.start("run", "tiny.yaml", "--mode", "emulate", "--out", "run", *sets)
