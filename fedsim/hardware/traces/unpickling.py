"""Pickles without their danger: numbers, text and the containers that Python builds in, nothing else.

A pickle is a program; what makes it dangerous is that it may fetch any function of any module and call it. Here it may
fetch nothing, so there is nothing to call. Knows nothing of what the data mean.
"""

from __future__ import annotations

import pickle
from typing import Any, NoReturn

from fedsim.errors import shown
from fedsim.hardware.traces.files import TraceFile


class _Fetches(Exception):
    """A pickle asks for something that is no plain data."""


class _PlainData(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> NoReturn:
        """Refuse: every global that a pickle names comes through here, also those of extension codes."""
        raise _Fetches(f"{module_name}.{global_name}")

    def persistent_load(self, pid: object, /) -> NoReturn:
        """Refuse: such an object would come from somewhere else."""
        raise _Fetches(f"the object {shown(pid)} from elsewhere")


def plain_data(file: TraceFile) -> Any:  # whatever a pickle may hold; the caller checks it
    """What is pickled in a file.

    Raises:
        UserError: the pickle is damaged, or asks for anything but plain data.
    """
    with file.reading(), file.path.open("rb") as stream:
        try:
            return _PlainData(stream).load()
        except _Fetches as asked:
            raise file.error(
                f"the pickle asks for {asked}; only numbers, text, lists and dictionaries are read, since anything "
                "else could run a program; get the file from its publisher, or convert it"
            ) from None
        except MemoryError:
            raise
        except Exception as reason:  # a damaged pickle may raise almost anything
            raise file.error(f"no readable pickle: {reason or type(reason).__name__}; get it again") from reason
