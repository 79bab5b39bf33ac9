"""`fedsim certs`: what it makes and prints, and what it refuses."""

from __future__ import annotations

import re
import stat
from pathlib import Path

import pytest

from fedsim.cli import main
from fedsim.emulation.access.security import channel_credentials, server_credentials
from tests.cli.toys import parsed


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of one's own."""
    monkeypatch.chdir(tmp_path)


def test_what_it_prints_is_what_serve_and_device_take(capsys: pytest.CaptureFixture[str]) -> None:
    """Each option names a file that is there and fits; keys are for the owner only."""
    assert main(["certs", "lab", "--name", "server.lab", "--name", "10.0.0.2"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "made for server.lab, 10.0.0.2, 30 days:" in out
    serve, device = (line for line in out.splitlines() if "--certificate" in line)
    of_server, of_device = (
        {name: Path(path) for name, path in re.findall(r"--(\w+) (\S+)", line)} for line in (serve, device)
    )
    server_credentials(of_server["certificate"], of_server["key"], of_server["clients"])
    channel_credentials(of_device["authority"], of_device["certificate"], of_device["key"])
    assert {stat.S_IMODE(found["key"].stat().st_mode) for found in (of_server, of_device)} == {0o600}


def test_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    """The paths, and nothing of what is in the files."""
    assert main(["certs", "lab", "--name", "a", "--days", "1", "--json"]) == 0
    found = parsed(capsys.readouterr().out)
    assert (found["schema"], found["names"], found["days"]) == (1, ["a"], 1)
    assert found["server_key"] == "lab/server-key.pem"
    assert all(Path(found[name]).is_file() for name in ("authority", "server", "server_key", "device", "device_key"))


def test_it_replaces_nothing_unasked(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit status 2 the second time; with --force there are new ones."""
    assert main(["certs", "lab", "--name", "a"]) == 0
    before = Path("lab/server.pem").read_bytes()
    assert main(["certs", "lab", "--name", "a"]) == 2
    assert "lab/authority.pem is there already" in capsys.readouterr().err
    assert Path("lab/server.pem").read_bytes() == before
    assert main(["certs", "lab", "--name", "a", "--force"]) == 0
    assert Path("lab/server.pem").read_bytes() != before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["certs", "lab"], "Missing option '--name'"),
        (["certs", "--name", "a"], "Missing argument 'FOLDER'"),
        (["certs", "lab", "--name", "a:1"], "'a:1' is neither a host name nor an IP address; give it without the port"),
        (["certs", "lab", "--name", "a", "--days", "0"], "0 days for certificates; give 1 to 3650"),
    ],
)
def test_wrong_ones(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit status 2, the reason, and nothing is made."""
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert message in " ".join(err.split())
    assert out == ""
    assert not Path("lab").exists()
