"""All that a share of the nodes holds, as bytes, and a share that goes on from there.

Modules, layouts and data are not part of it: whoever goes on has made them from the same scenario. Autograd graphs are
made anew, by the same forward. While activations lie in a temporary file there is no snapshot.
"""

from __future__ import annotations

import io
import pickle
from typing import Any, Final

from fedsim.learning.blocks import Block, Instance
from fedsim.learning.core import Core, Residue
from fedsim.learning.operations.stepping import forward_again
from fedsim.payload.tensors import FlatTensors

_CORE: Final = "core"
_BLOCK: Final = "block"
_INITIAL: Final = "initial"
_LAYOUT: Final = "layout"

Name = tuple[str, Any]


def snapshot(core: Core, more: Any) -> bytes | None:
    """What a core holds, and more that names the same payloads; None where that cannot be had now."""
    file = io.BytesIO()
    try:
        _Pickler(file, core).dump((core.learners, dict(core.values), core.memory, core.arrivals.held(), more))
    except TypeError:  # an open file
        return None
    return file.getvalue()


def restore(core: Core, data: bytes) -> Any:
    """Let a fresh core hold what another one held; gives what else was kept."""
    learners, values, memory, arrivals, more = _Unpickler(io.BytesIO(data), core).load()
    core.learners.update(learners)
    core.values.update(values)
    core.memory.update(memory)
    core.arrivals.hold(arrivals)
    for (node, number), trainee in learners.items():
        if trainee.residues:
            forward_again(core, node, number)
    return more


def _named(core: Core) -> dict[Name, Any]:
    """What whoever goes on has as well."""
    found: dict[Name, Any] = {(_CORE, None): core}
    for name, block in core.blocks.items():
        found[_BLOCK, name], found[_INITIAL, name] = block, block.initial
    return found | {(_LAYOUT, number): layout for number, layout in enumerate(core.layouts())}


class _Pickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO, core: Core) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self._core = core
        self._names = {id(obj): name for name, obj in _named(core).items()}

    def persistent_id(self, obj: Any) -> Name | None:
        """A name in the place of what is there anyway."""
        return self._names.get(id(obj))

    def reducer_override(self, obj: Any) -> Any:
        """Instances, by what training goes on from, and forwards, by what they were of."""
        if type(obj) is Residue:
            return Residue, (None, obj.batch, obj.work)
        if type(obj) is not Instance:
            return NotImplemented
        (block,) = (each for each in self._core.blocks.values() if each.layout is obj.flats.layout)
        return _instance, (block, *obj.frozen())


def _instance(block: Block, flats: FlatTensors, *more: Any) -> Instance:
    made = block.instance(flats)
    made.thaw(*more)
    return made


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, core: Core) -> None:
        super().__init__(file)
        self._found = _named(core)

    def persistent_load(self, pid: Any) -> Any:
        """What has this name here."""
        return self._found[pid]
