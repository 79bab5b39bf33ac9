"""A processor with memory of its own, for machines that have none: its tensors cannot be mixed with the host's.

PyTorch takes it for a device of its own type, `elsewhere`. Its kernels are those of the CPU, on the same operands, so
what is computed there has the bits of what is computed here. What a GPU would refuse is refused: an operation on
tensors of both sides, and numpy on those of its own. What a GPU rounds differently is not shown by it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any, Final

import torch
from torch import Tensor
from torch.utils import _pytree, backend_registration

NAME: Final = "elsewhere"
_ATEN: Final = torch.ops.aten
_CROSSING: Final = (_ATEN.copy_.default, _ATEN._to_copy.default)
"""Operations that may take tensors of both sides."""

_memory: dict[int, torch.UntypedStorage] = {}
"""What lies behind storages that PyTorch knows only by their size."""
_operations: Counter[str] = Counter()


class Backend(backend_registration._DummyBackendModule):
    """What PyTorch asks a type of device for. Its random numbers are drawn as the host's are, from a state of its own.

    It is there while a test uses it: other tests of the process would be told that there is an accelerator.
    """

    there = False
    state = torch.Generator().get_state()

    def is_available(self) -> bool:
        """Whether a test uses it."""
        return self.there

    def get_rng_state(self, device: object = None) -> Tensor:
        """Of its generator."""
        del device
        return self.state.clone()

    def set_rng_state(self, state: Tensor, device: object = None) -> None:
        """Of its generator."""
        del device
        self.state = state.clone()

    def manual_seed(self, seed: int) -> None:
        """Of its generator."""
        self.state = torch.Generator().manual_seed(seed).get_state()


_BACKEND: Final = Backend()


class Remote(Tensor):
    """A tensor there. Which memory it is on follows its storage, so that re-pointed tensors find it."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __torch_dispatch__(  # type: ignore[override]
        operation: Any, types: Any, args: Any, kwargs: Any = None
    ) -> Any:
        """Carry an operation out with the host's kernel."""
        del types
        with torch.inference_mode(False), torch.no_grad():  # those that PyTorch makes then have no version
            return _run(operation, args, kwargs or {})


def _there(values: Tensor) -> Tensor:
    """A tensor there, on the very memory of these values."""
    storage = values.untyped_storage()
    made: Tensor = torch.Tensor._make_wrapper_subclass(
        Remote,
        values.shape,
        values.stride(),
        values.storage_offset(),
        dtype=values.dtype,
        device=torch.device(NAME, 0),
        storage_size=storage.nbytes(),
    )
    _memory[made.untyped_storage()._cdata] = storage
    return made


def _values(tensor: Tensor) -> Tensor:
    """A tensor of the host on the very memory of one there."""
    storage = _memory[tensor.untyped_storage()._cdata]
    return torch.empty(0, dtype=tensor.dtype).set_(storage, tensor.storage_offset(), tensor.shape, tensor.stride())


def _run(operation: Any, args: Any, kwargs: Any) -> Any:
    _operations[str(operation)] += 1
    given: dict[int, Tensor] = {}
    named: list[Tensor] = []

    def down(value: Any) -> Any:
        if isinstance(value, Remote):
            named.append(values := _values(value))  # alive, so that its id stays its own
            given[id(values)] = value
            return values
        if isinstance(value, Tensor) and value.dim() and operation not in _CROSSING:
            raise RuntimeError(f"{operation} of tensors on {NAME} and on the host")
        return torch.device("cpu") if isinstance(value, torch.device) else value

    target = kwargs.get("device")
    down_args, down_kwargs = _pytree.tree_map(down, (args, kwargs))
    with _random() if torch.Tag.nondeterministic_seeded in operation.tags else nullcontext():
        made = operation(*down_args, **down_kwargs)
    if operation is _ATEN.copy_.default:
        return args[0]
    here = operation is _ATEN._to_copy.default and target is not None and target.type == "cpu"

    def up(value: Any) -> Any:
        if not isinstance(value, Tensor) or here:
            return value
        return given[id(value)] if id(value) in given else _there(value)

    return _pytree.tree_map(up, made)


@contextmanager
def _random() -> Iterator[None]:
    """The host's generator in the state of this processor's."""
    before = torch.default_generator.get_state()
    torch.default_generator.set_state(_BACKEND.state)
    yield
    _BACKEND.state = torch.default_generator.get_state()
    torch.default_generator.set_state(before)


def _empty(size: Any, *, dtype: Any = None, memory_format: Any = None, **_: Any) -> Tensor:
    return _there(torch.empty(size, dtype=dtype, memory_format=memory_format))


def _empty_strided(size: Any, stride: Any, *, dtype: Any = None, **_: Any) -> Tensor:
    return _there(torch.empty_strided(size, stride, dtype=dtype))


@cache
def _registered() -> torch.library.Library:
    backend_registration._setup_privateuseone_for_python_backend(NAME, _BACKEND)
    library = torch.library.Library("aten", "IMPL")
    library.impl("empty.memory_format", _empty, "PrivateUse1")
    library.impl("empty_strided", _empty_strided, "PrivateUse1")
    return library  # what it holds is there as long as it is


@contextmanager
def elsewhere() -> Iterator[torch.device]:
    """The processor. PyTorch counts the threads of its engine at its first backward, so this one's thread does all."""
    _registered()
    _BACKEND.there = True
    try:
        with torch.autograd.set_multithreading_enabled(False):
            yield torch.device(NAME, 0)
    finally:
        _BACKEND.there = False


def operations() -> Counter[str]:
    """How many of each have been carried out there so far."""
    return Counter(_operations)
