"""All formats by name, and which of them a file is written in."""

from __future__ import annotations

from typing import Final

from fedsim.errors import unknown
from fedsim.hardware.traces.files import TraceFile
from fedsim.hardware.traces.formats import fedscale, flash, mahimahi, mba, mobilebandwidth, own, ucc, wetlinks
from fedsim.hardware.traces.formats.reading import Format

_ALL: Final[tuple[Format, ...]] = (
    own.FORMAT,
    mahimahi.FORMAT,
    ucc.FORMAT,
    wetlinks.FORMAT,
    mba.FORMAT,
    mobilebandwidth.FORMAT,
    fedscale.FORMAT,
    flash.FORMAT,
)
FORMATS: Final = {known.name: known for known in _ALL}
"""By name, in the order in which they are tried on a file that nobody has named the reader of."""


def format_of(file: TraceFile, reader: str | None) -> Format:
    """The format called `reader`, or else the one that the file seems to be in.

    Raises:
        UserError: there is no such format, the file is in none of them, or it cannot be read.
    """
    if reader is not None:
        if reader not in FORMATS:
            raise file.error(unknown("reader", reader, FORMATS))
        return FORMATS[reader]
    head = file.head()
    found = next((known for known in FORMATS.values() if known.recognises(head)), None)
    if found is None:
        names = ", ".join(sorted(FORMATS))
        raise file.error(f"this is in no format that fedsim knows; give one of: {names}, and name it with reader", 1)
    return found
