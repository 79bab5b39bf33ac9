"""`fedsim serve`: the server of an emulation whose devices are processes of their own."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedsim.cli.running import ended
from fedsim.cli.watching import interrupts, watching
from fedsim.emulation.access.security import Tokens, check_listening, read_tokens, server_credentials, write_tokens
from fedsim.errors import UserError
from fedsim.experiment.emulating import serve_scenario
from fedsim.experiment.loading import load_scenario
from fedsim.experiment.output import Output


def serve_command(
    source: str,
    overrides: Sequence[str],
    listen: str,
    *,
    out: Path | None,
    tokens: Path | None,
    certificate: Path | None,
    key: Path | None,
    clients: Path | None,
    insecure: bool,
    as_json: bool,
) -> int:
    """Serve a scenario; returns the exit status."""
    scenario = load_scenario(source, overrides=[*overrides, "mode=emulate"])
    if (certificate is None) != (key is None):
        raise UserError("--certificate and --key go together; give both, or neither")
    if clients is not None and certificate is None:
        raise UserError("--clients is for TLS, which needs --certificate and --key, too")
    check_listening(listen, certificate is not None, insecure)
    if insecure and certificate is None:
        print("note: --insecure: whoever reaches this port can read and change what is sent", file=sys.stderr)
    credentials: Any = None
    if certificate is not None and key is not None:
        credentials = server_credentials(certificate, key, clients)
    owners = None
    if tokens is not None:
        if not tokens.exists():
            write_tokens(tokens, scenario.devices)
            print(f"note: {tokens} has a token for each device; give each its own line", file=sys.stderr)
        owners = Tokens(read_tokens(tokens))
    watcher = watching(as_json=as_json)
    said: list[tuple[int, ...]] = []

    def listening(port: int) -> None:
        host = listen.rpartition(":")[0]
        print(f"listening on {host}:{port} for {scenario.devices} devices", file=sys.stderr, flush=True)

    def waiting(missing: Sequence[int]) -> None:
        now = tuple(missing)
        if not said or said[-1] != now:
            said.append(now)
            print(f"waiting for {_named(missing)}", file=sys.stderr, flush=True)

    with interrupts(watcher.interrupt):
        done = serve_scenario(
            scenario,
            listen,
            output=Output(out),
            watcher=watcher,
            owners=owners,
            credentials=credentials,
            listening=listening,
            waiting=waiting,
        )
    return ended(done, watcher, as_json=as_json)


def _named(devices: Sequence[int]) -> str:
    """Devices for people."""
    shown = ", ".join(map(str, devices[:10])) + (f" and {len(devices) - 10} more" if len(devices) > 10 else "")
    return f"device {shown}" if len(devices) == 1 else f"devices {shown}"
