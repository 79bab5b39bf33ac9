"""Parents' skeletons: the network that a manifest's base describes, before it is resized and filled."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, Literal

import torch
from torch import nn

from fedsim.errors import UserError
from fedsim.models.building import build, seeded
from fedsim.models.catalogue import ENTRIES
from fedsim.models.forms import tensors
from fedsim.models.units import UnitList
from fedsim.payload.meta import ITEM_BYTES
from fedsim.pruning.manifest import Base, CatalogueBase, ObjectBase, TransformersBase
from fedsim.scenario.options import build as build_options
from fedsim.scenario.options import plain
from fedsim.torchvision_shim import import_torchvision

Device = Literal["cpu", "meta"]


def catalogue_base(model: UnitList, options: Any, *, data: Literal["image", "vector", "text"], norm: str) -> Base:
    """The base of a model of the catalogue that was built with these options."""
    return CatalogueBase(
        name=model.name,
        options=plain(options),
        input=model.input,
        classes=model.classes,
        data=data,
        norm=norm,
        dtype=model.dtype,
    )


def transformers_base(model: Any) -> TransformersBase:
    """The base of a model of transformers."""
    config = model.config.to_dict()
    config.pop("auto_map", None)  # names code of a repository
    return TransformersBase(config=config, attention=model.config._attn_implementation or "sdpa")


def skeleton(base: Base, given: nn.Module | None = None, device: Device = "cpu") -> nn.Module:
    """The parent's network, with arbitrary values.

    Args:
        given: the parent, or a model like it, where the base is an object; left as it is.

    Raises:
        UserError: it cannot be built, or has to be given.
    """
    if given is not None:
        return deepcopy(given, hollow(given) if device == "meta" else {})
    match base:
        case CatalogueBase():
            return _of_catalogue(base, device)
        case TransformersBase():
            return _of_transformers(base, device)
        case ObjectBase():
            raise UserError(
                "this pruned model's parent was an object of its maker's; hand a model like it to `read`, as in "
                "read(folder, MyNetwork())"
            )


def hollow(module: nn.Module) -> dict[int, Any]:
    """For `deepcopy`: tensors without memory in place of a module's, constants among its attributes included."""
    made: dict[int, Any] = {}
    constants = [tensor for part in module.modules() for tensor in tensors(list(vars(part).values()))]
    for tensor in (*module.parameters(), *module.buffers(), *constants):
        empty = torch.empty_like(tensor, device="meta")
        made[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
    return made


def _of_catalogue(base: CatalogueBase, device: Device) -> nn.Module:
    if base.name not in ENTRIES or base.dtype not in ITEM_BYTES:
        raise UserError(f"the pruned model is of {base.name} in {base.dtype}, which this version of fedsim has not")
    options, wrong = build_options(ENTRIES[base.name].options, dict(base.options), ("base", "options"), ())
    if wrong:
        place = ".".join(map(str, wrong[0].path))
        sentence = f"{place}: {wrong[0].sentence}"
        raise UserError(f"the pruned model's {base.name}: {sentence}; use the version of fedsim that pruned it")
    settings: dict[str, Any] = {"input": base.input, "classes": base.classes, "kind": base.data, "norm": base.norm}
    return build(base.name, options, **settings, dtype=base.dtype, device=device)


def _of_transformers(base: TransformersBase, device: Device) -> nn.Module:
    import_torchvision()
    try:
        import transformers
    except ImportError as error:
        raise UserError(
            'the pruned model is one of transformers, which is not installed; pip install "fedsim-edge[llm]"'
        ) from error
    maker: Any = transformers.AutoModelForCausalLM  # without types
    try:
        config = transformers.AutoConfig.for_model(**base.config)
        with seeded(0), torch.device(device):
            made: nn.Module = maker.from_config(config, attn_implementation=base.attention)
    except Exception as error:  # the package's own checks raise errors of many types
        reason = " ".join(str(error).split())
        raise UserError(f"transformers refuses the pruned model's configuration: {reason}") from error
    return made
