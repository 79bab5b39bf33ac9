"""How large a model is: parameters, multiplications, and bytes in a file, on a link and in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

import torch
from torch import Tensor, nn

from fedsim.models.counting import forward_macs
from fedsim.payload import sparse
from fedsim.payload.supports import WHOLE, Support
from fedsim.pruning.watching import Example

PROJECTIONS: Final = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The matrices of a decoder block of Llama, Mistral and Qwen: those that Mosaic prunes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Sizes of one model."""

    parameters: int
    """Held; shared tensors once."""
    nonzero: int
    """Of these, the ones that may be other than zero: by the masks, elsewhere every value of a bias or a norm, and of
    matrices those that are not zero."""
    decoder: int | None = None
    """Parameters of the decoder blocks' projections; None where the model has none."""
    decoder_nonzero: int | None = None
    macs: int
    """Of a forward of one sample, zeros included."""
    disk: int | None = None
    """Bytes of the file of tensors; None before it is written."""
    wire: int
    """Bytes of the tensors when the model is sent with its masks."""
    update: int
    """Bytes of the tensors when it is sent to who has the masks."""
    resident: int
    """Bytes of parameters and buffers in memory, where zeros take as much as anything."""
    cache: int | None = None
    """Bytes of keys and values of each token; None where the model has no attention with a cache."""

    def data(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self)

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Counts:
        """What `data` has given.

        Raises:
            ValueError: fields are missing or unknown.
        """
        known = {field.name for field in fields(cls)}
        if data.keys() != known:
            raise ValueError(f"counts have {', '.join(sorted(known))}, not {', '.join(sorted(data)) or 'none'}")
        return cls(**data)


def counts(model: nn.Module, example: Example, support: Support = WHOLE) -> Counts:
    """The sizes of a model, given what it is called with: the example's first axis is samples.

    Args:
        support: whose masks say which values may be other than zero.

    Raises:
        UserError: an operator with multiplications for which no closed form is known.
    """
    parameters = dict(model.named_parameters())
    kept = {name: _kept(name, tensor, support) for name, tensor in parameters.items()}
    decoder = [name for name in parameters if _is_projection(name)]
    tensors = {**parameters, **_travelling(model)}
    masked = {name: count for name in tensors if (count := support.kept(name)) is not None}
    dense = sum(tensor.nbytes for name, tensor in tensors.items() if name not in masked)
    return Counts(
        parameters=sum(tensor.numel() for tensor in parameters.values()),
        nonzero=sum(kept.values()),
        decoder=sum(parameters[name].numel() for name in decoder) if decoder else None,
        decoder_nonzero=sum(kept[name] for name in decoder) if decoder else None,
        macs=macs(model, example),
        wire=dense + sum(sparse.nbytes(tensors[n].numel(), count, tensors[n].itemsize) for n, count in masked.items()),
        update=dense + sum(count * tensors[name].itemsize for name, count in masked.items()),
        resident=sum(tensor.nbytes for tensor in (*parameters.values(), *model.buffers())),
        cache=cache_bytes(model),
    )


def macs(model: nn.Module, example: Example) -> int:
    """Forward MACs of one sample, as the cost model counts them."""
    if isinstance(example, Mapping):
        samples = next(len(value) for value in example.values() if isinstance(value, Tensor))
        return forward_macs(model, **example) // samples
    return forward_macs(model, example) // len(example)


def cache_bytes(model: nn.Module) -> int | None:
    """Bytes of the keys and values that attention keeps of each token; None where no module has them."""
    each = [_rows(part.k_proj) + _rows(part.v_proj) for part in _attentions(model)]
    return sum(each) if each else None


def _attentions(model: nn.Module) -> Iterator[Any]:
    for part in model.modules():
        if hasattr(part, "k_proj") and hasattr(part, "v_proj"):
            yield part


def _rows(projection: nn.Linear) -> int:
    return len(projection.weight) * projection.weight.itemsize


def _is_projection(name: str) -> bool:
    return name.endswith(tuple(f".{projection}.weight" for projection in PROJECTIONS))


def _kept(name: str, tensor: Tensor, support: Support) -> int:
    masked = support.kept(name)
    if masked is not None:
        return masked
    return tensor.numel() if tensor.dim() < 2 else int(torch.count_nonzero(tensor))


def _travelling(model: nn.Module) -> dict[str, Tensor]:
    """The buffers that are part of the state."""
    state = model.state_dict()
    return {name: tensor for name, tensor in model.named_buffers() if name in state}
