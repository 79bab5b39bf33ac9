"""`fedsim certs`: certificates for `fedsim serve` and `fedsim device`, and how they are used."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from fedsim.emulation.access.certificates import make_certificates


def certs_command(folder: Path, names: Sequence[str], *, days: int, force: bool, as_json: bool) -> int:
    """Make certificates from the command line."""
    made = make_certificates(folder, names, days, force=force)
    if as_json:
        print(json.dumps({"schema": 1, "names": list(names), "days": days} | made.document(), indent=1))
        return 0
    print(f"made for {', '.join(names)}, {days} day{'s' * (days != 1)}:\n")
    print(f"  fedsim serve … --certificate {made.server} --key {made.server_key} --clients {made.authority}")
    print(f"  fedsim device … --authority {made.authority} --certificate {made.device} --key {made.device_key}\n")
    print(f"Boards get {made.authority.name}, {made.device.name} and {made.device_key.name}, and nothing else.")
    return 0
