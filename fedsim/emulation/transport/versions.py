"""Whether both ends of a connection speak the same language."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version

from fedsim.emulation.transport.session import PROTOCOL
from fedsim.errors import UserError, shown


@cache
def package_version() -> str:
    """Of fedsim, as it is installed."""
    try:
        return version("fedsim-edge")
    except PackageNotFoundError:  # a checkout that is not installed
        return "unknown"


def check_versions(other: str, protocol: int, package: str) -> None:
    """Refuse another version of fedsim, or of what is on the wire.

    Raises:
        UserError: they differ; the message names both.
    """
    if protocol != PROTOCOL:
        raise UserError(
            f"{other} speaks protocol {protocol}, this end protocol {PROTOCOL}; install the same version of fedsim on "
            "both"
        )
    if package != package_version():
        raise UserError(
            f"{other} has fedsim {shown(package)}, this end {package_version()!r}; install the same version of fedsim "
            "on both"
        )
