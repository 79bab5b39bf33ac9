"""Sessions of Ray: a cluster that is there, or one of our own on this host, of which nothing is left behind.

Ray is imported when a session begins, with its usage statistics switched off.
"""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from fedsim.errors import UserError

REACHING: Final = 5.0
"""Seconds in which a cluster has to let itself be connected to; Ray itself tries for minutes."""

_ALONE: Final = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""What Ray reads, whatever the system, to know whether other hosts may join. If not, its processes listen on the
loopback alone; else 127.0.0.1 becomes the host's outside address, and whoever reaches that could run code here."""


def check_cluster(address: str) -> None:
    """Look whether anybody listens there, before anything is made.

    Args:
        address: of a Ray cluster, as in `10.0.0.2:6379`; what names no port, such as `auto`, is left to Ray.

    Raises:
        UserError: nobody does.
    """
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not host or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), REACHING).close()
    except (OSError, OverflowError) as error:
        raise no_cluster(address, error) from error


def no_cluster(address: str, error: BaseException) -> UserError:
    """What is said where there is none."""
    return UserError(
        f"no Ray cluster at {address!r}: {error}; start one (ray start --head), give its address, auto on one of its "
        "nodes, or leave --ray out"
    )


@contextmanager
def session(address: str | None, *, store: int) -> Iterator[bool]:
    """A Ray session: that of a cluster, or one of our own, which ends with this; gives whether it is our own.

    Args:
        address: of the cluster; None: a session of our own on this host.
        store: bytes of the object store of our own.

    Raises:
        UserError: there is no such cluster.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_TQDM_PATCH_PRINT", "0")  # or it replaces the `print` of this process
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")  # errors reach those who ask for the answer
    if address is None:
        os.environ.setdefault(_ALONE, "0")
        os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's 15 leaves them what nobody else of this host wants
    import ray

    if ray.is_initialized():
        yield address is None
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": False}
    if address is not None:
        try:
            ray.init(address=address, **quiet)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise no_cluster(address, error) from error
        try:
            yield False
        finally:
            ray.shutdown()
        return
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # a private session on the loopback
    folder = tempfile.mkdtemp(prefix="fedsim-", dir="/tmp" if Path("/tmp").is_dir() else None)
    try:
        ray.init(
            num_cpus=os.cpu_count(),
            include_dashboard=False,
            object_store_memory=store,
            _node_ip_address="127.0.0.1",
            _temp_dir=folder,
            **quiet,
        )
        yield True
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
