"""`fedsim device`: one device of an emulation."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

from fedsim.emulation.access.security import channel_credentials, read_token
from fedsim.errors import UserError
from fedsim.experiment.nodes import participate


def device_command(
    server: str,
    *,
    profile: str,
    node: int | None,
    token: Path | None,
    authority: Path | None,
    certificate: Path | None,
    key: Path | None,
    data: Path | None,
    patience: float,
) -> int:
    """Take part in a run; returns the exit status."""
    if not profile and node is None and token is None:
        raise UserError("which device is this? give --profile, --node, or its --token")
    if (certificate is None) != (key is None):
        raise UserError("--certificate and --key go together; give both, or neither")
    if certificate is not None and authority is None:
        raise UserError("--certificate is for TLS, which needs --authority, too")
    if data is not None and not data.is_dir():
        raise UserError(f"--data {data} is no folder; give the one with the data set")
    if not patience > 0:
        raise UserError(f"--patience {patience:g}: seconds, more than 0")
    credentials: Any = None if authority is None else channel_credentials(authority, certificate, key)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    participate(
        server,
        node,
        profile=profile,
        data=data,
        token=None if token is None else read_token(token),
        credentials=credentials,
        patience=patience,
    )
    return 0
