"""Files that hold secrets: made for their owner alone from the first byte, read only while they are.

Knows nothing of what is in them, and never quotes it.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from fedsim.errors import UserError

OTHERS = stat.S_IRWXG | stat.S_IRWXO
"""Group and world."""
WORLD = stat.S_IRWXO


def create(path: Path, content: bytes, what: str, *, mode: int = 0o600) -> None:
    """Write a new file that has `mode` from its beginning and is on the disk, not only in the cache, afterwards.

    Args:
        path: where; nothing may be there yet, not even a dangling link.
        content: what to write.
        what: what the file is, as messages call it.
        mode: its permissions, whatever the umask says.

    Raises:
        UserError: something is there already, or the file cannot be made.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    except FileExistsError as reason:
        raise UserError(f"{what} {path} already exists; remove it first, or name another file") from reason
    except (OSError, ValueError) as reason:
        raise UserError(f"{what} {path} cannot be made: {_why(reason)}; name another place") from reason
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as reason:
        path.unlink(missing_ok=True)
        raise UserError(f"{what} {path} cannot be written: {_why(reason)}; name another place") from reason


def read(path: Path, what: str, *, hidden_from: int = 0, limit: int = 1 << 20) -> bytes:
    """A file's content.

    Args:
        path: the file.
        what: what it is, as messages call it.
        hidden_from: permission bits none of which the file may have, such as `OTHERS`.
        limit: bytes that it may have at most.

    Raises:
        UserError: it is not there, no plain file, too big, cannot be read, or others can reach it.
    """
    try:
        # A pipe would hold us up until somebody writes to it.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            state = os.fstat(file.fileno())  # of what was opened, not of what has the name by now
            if not stat.S_ISREG(state.st_mode):
                raise UserError(f"{what} {path} is no file; check the path")
            if state.st_mode & hidden_from:
                who = "everybody" if state.st_mode & hidden_from & WORLD else "its group"
                raise UserError(
                    f"{what} {path} is open to {who} (mode {stat.S_IMODE(state.st_mode):04o}), and who reads it can "
                    f"pass for its owner; chmod 600 {path}, and make it anew if others use this machine"
                )
            content = file.read(limit + 1)
    except (OSError, ValueError) as reason:
        raise UserError(f"{what} {path} cannot be read: {_why(reason)}; check the path") from reason
    if len(content) > limit:
        raise UserError(f"{what} {path} has more than {limit} bytes, which none has; check the path")
    return content


def _why(reason: OSError | ValueError) -> str:
    return (reason.strerror if isinstance(reason, OSError) else None) or str(reason)
