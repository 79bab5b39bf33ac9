"""The deployment folder of a pruned model: its tensors in safetensors format, and the manifest. No pickle.

Tensors with a mask are in the sparse encoding of `payload.sparse`, as bytes, so that the file is as small as what is
left; shared ones are there once. Reading builds the parent's skeleton, resizes it and fills it.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from fedsim.errors import UserError
from fedsim.payload import sparse
from fedsim.payload.meta import ITEM_BYTES
from fedsim.payload.supports import Support
from fedsim.payload.tensors import DTYPES
from fedsim.pruning.checks import Checks
from fedsim.pruning.counting import Counts
from fedsim.pruning.manifest import MANIFEST, WEIGHTS, Base, Entry, Manifest, ObjectBase, parse
from fedsim.pruning.plans import Plan
from fedsim.pruning.pruned import Pruned, PruningError
from fedsim.pruning.resizing import other_attributes, put, resize, set_attributes
from fedsim.pruning.skeletons import Device, skeleton
from fedsim.pruning.verifying import ties

_WAY_OUT: Final = "copy the folder again, or prune again"


@dataclass(frozen=True, kw_only=True)
class Stored:
    """What a folder holds."""

    module: nn.Module
    plan: Plan
    support: Support
    manifest: Manifest


def write(
    folder: Path,
    pruned: Pruned,
    checks: Checks,
    base: Base,
    counts: Counts,
    *,
    parent: nn.Module | None = None,
    calibration: str = "",
    beside: Callable[[Manifest], Mapping[str, str]] | None = None,
) -> Manifest:
    """Make a folder of a verified model; all of it, or nothing.

    Args:
        base: what network the parent is.
        counts: the sizes, those of the file aside.
        parent: the model that was pruned, where the base is an object.
        calibration: what data the choice was made with, in words.
        beside: further files, as text by name.

    Raises:
        UserError: the folder holds something, cannot be written, or a tensor is of a type that is not stored.
        PruningError: a value that a mask leaves out is not zero.
    """
    check_free(folder)
    shared = {alias: names[0] for names in ties(pruned.module) for alias in names[1:]}
    outline = skeleton(base, parent if isinstance(base, ObjectBase) else None, "meta")
    shapes = {name: tuple(tensor.shape) for name, tensor in outline.state_dict().items()}
    state = pruned.module.state_dict()
    _same_names(shapes.keys(), state.keys())
    entries, tensors = {}, {}
    for name, tensor in state.items():
        entries[name] = _entry(name, tensor, shapes[name], pruned.support, shared.get(name))
        if name not in shared:
            tensors[name] = _coded(name, tensor, pruned.support)
    resize(outline, {name: entry.shape for name, entry in entries.items()})
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise UserError(f"{folder} cannot be made: {error.strerror}; choose another folder") from error
    try:
        save_file(tensors, made / WEIGHTS, metadata={"format": "pt"})
        manifest = Manifest(
            plan=pruned.plan,
            base=base,
            calibration=calibration,
            tensors=entries,
            attributes=other_attributes(outline, pruned.module),
            support=pruned.support.digest,
            updated=pruned.updated,
            reinitialised=pruned.reinitialised,
            realised=pruned.realised,
            counts=replace(counts, disk=(made / WEIGHTS).stat().st_size),
            checks=checks,
            timings=pruned.timings,
            weights=_hash(made / WEIGHTS),
        )
        (made / MANIFEST).write_text(manifest.text(), encoding="utf-8")
        for name, text in ({} if beside is None else beside(manifest)).items():
            (made / name).write_text(text, encoding="utf-8")
        made.chmod(0o755)  # a temporary folder is its maker's alone, and so is the file of tensors
        shutil.copymode(made / MANIFEST, made / WEIGHTS)
        made.replace(folder)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder} cannot be written ({error}); make room, or choose another folder") from error
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return manifest


def check_free(folder: Path) -> None:
    """Refuse a folder that holds something, or is none.

    Raises:
        UserError: it does.
    """
    try:
        taken = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} cannot be read ({error}); choose another folder") from error
    if taken:
        raise UserError(f"{folder} already exists and is not empty; choose another folder, or remove it")


def is_stored(folder: Path) -> bool:
    """Whether a folder looks like one that `write` has made."""
    return (folder / MANIFEST).is_file()


def read_manifest(folder: Path) -> Manifest:
    """What a folder says, without its tensors.

    Raises:
        UserError: there is no such folder, or its manifest is damaged.
    """
    file = folder / MANIFEST
    if not file.is_file():
        raise UserError(f"{folder} has no {MANIFEST}; give a folder that fedsim prune has written")
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read ({error}); {_WAY_OUT}") from error
    return parse(text, str(file))


def read(folder: Path, parent: nn.Module | None = None, device: Device = "cpu") -> Stored:
    """The model of a folder, exactly as it was written: in training mode, as its builder makes it.

    Args:
        parent: the parent or a model like it, of any values; needed where the parent was an object of its maker's.
        device: on `meta` the model has shapes only, and the support no masks: the file of tensors stays closed.

    Raises:
        UserError: the folder is damaged, its parts do not belong together, or the skeleton is another network.
    """
    manifest = read_manifest(folder)
    module = _resized(manifest.base, manifest.tensors, parent, device)
    set_attributes(module, manifest.attributes)
    masks: dict[str, NDArray[np.bool_]] = {}
    if device != "meta":
        values = _values(folder / WEIGHTS, manifest, masks)
        _fill(module, manifest.tensors, values)
    axes = {name: entry.axes for name, entry in manifest.tensors.items() if entry.axes is not None}
    support = Support(axes, masks)
    if device != "meta" and support.digest != manifest.support:
        raise UserError(f"{folder}: the masks of its tensors are not those of its manifest; {_WAY_OUT}")
    return Stored(module=module, plan=manifest.plan, support=support, manifest=manifest)


# ------------------------------------------------------------------------------------------ tensors


def _entry(name: str, tensor: Tensor, of: tuple[int, ...], support: Support, alias: str | None) -> Entry:
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype not in ITEM_BYTES:
        raise UserError(f"{name} is a tensor of {dtype}; pruned models are stored in {', '.join(ITEM_BYTES)}")
    if tuple(tensor.shape) != support.shape(name, of):
        raise UserError(
            f"{name} has shape {tuple(tensor.shape)}, which is not what the support leaves of {of}; "
            "take the network that was pruned, with the same options"
        )
    mask = support.masks.get(name)
    return Entry(
        shape=tuple(tensor.shape),
        dtype=dtype,
        of=of,
        axes=support.axes.get(name),
        mask=None if mask is None else _mask_id(mask),
        kept=support.kept(name),
        alias=alias,
    )


def _mask_id(mask: NDArray[np.bool_]) -> str:
    made = hashlib.sha256(f"{mask.shape}".encode())
    made.update(np.packbits(mask, bitorder="little").tobytes())
    return made.hexdigest()[:16]


def _coded(name: str, tensor: Tensor, support: Support) -> Tensor:
    """A tensor as the file has it: by itself, or with its mask as bytes."""
    tensor = tensor.detach().cpu().contiguous()
    mask = support.masks.get(name)
    if mask is None:
        return tensor.clone()  # of memory that it shares with nothing, which the format asks for
    array: NDArray[Any] = (tensor.view(torch.uint16) if tensor.dtype is torch.bfloat16 else tensor).numpy()
    try:
        return _bytes(sparse.encode(array, mask))
    except ValueError as error:
        raise PruningError(f"{name}: {error}") from error


def _bytes(data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.zeros(0, dtype=torch.uint8)


def _hash(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _values(file: Path, manifest: Manifest, masks: dict[str, NDArray[np.bool_]]) -> dict[str, Tensor]:
    """The tensors of a file by name; their masks are added to `masks`."""
    wanted = {name: entry for name, entry in manifest.tensors.items() if entry.alias is None}
    try:
        if not file.is_file():
            raise UserError(f"there is no {file} beside the manifest; {_WAY_OUT}")
        if _hash(file) != manifest.weights:
            size, said = file.stat().st_size, manifest.counts.disk
            how = f"{size} bytes, of {said}" if size != said else "its hash is another one"
            raise UserError(f"{file} is not the one that was written: {how}; {_WAY_OUT}")
        with safe_open(file, framework="pt") as opened:
            found = set(opened.keys())
            if found != wanted.keys():
                odd = sorted(found ^ wanted.keys())
                raise UserError(f"{file} and its manifest differ in {len(odd)} tensors, such as {odd[0]}; {_WAY_OUT}")
            return {name: _decoded(name, opened.get_tensor(name), entry, masks) for name, entry in wanted.items()}
    except (OSError, SafetensorError, ValueError) as error:
        raise UserError(f"{file} cannot be read ({error}); {_WAY_OUT}") from error


def _decoded(name: str, stored: Tensor, entry: Entry, masks: dict[str, NDArray[np.bool_]]) -> Tensor:
    if entry.kept is None:
        if tuple(stored.shape) != entry.shape or stored.dtype != DTYPES[entry.dtype]:
            raise ValueError(f"{name} is of {stored.dtype} and shape {tuple(stored.shape)}, not as the manifest says")
        return stored.clone()  # else it keeps all of the file mapped, what was decoded included
    values, masks[name] = sparse.decode(stored.numpy().tobytes(), entry.shape, entry.dtype, entry.kept)
    tensor = torch.from_numpy(values)
    return tensor.view(torch.bfloat16) if entry.dtype == "bfloat16" else tensor


# ------------------------------------------------------------------------------------------ skeletons


def _resized(base: Base, entries: Mapping[str, Entry], given: nn.Module | None, device: Device = "meta") -> nn.Module:
    """The parent's skeleton in the smaller model's shapes, tied as that is."""
    made = skeleton(base, given, device)
    state = made.state_dict()
    _same_names(state.keys(), entries.keys())
    for name, entry in entries.items():
        if tuple(state[name].shape) != entry.of:
            raise UserError(
                f"{name} has shape {tuple(state[name].shape)} in the skeleton, but {entry.of} in the parent that was "
                "pruned; take the same network, with the same options"
            )
    resize(made, {name: entry.shape for name, entry in entries.items()})
    return made


def _same_names(skeleton: Set[str], pruned: Set[str]) -> None:
    if odd := sorted(skeleton ^ pruned):
        raise UserError(
            f"the skeleton and the pruned model differ in {len(odd)} tensors, such as {odd[0]}; take the network that "
            "was pruned, with the same options"
        )


def _fill(module: nn.Module, entries: Mapping[str, Entry], values: Mapping[str, Tensor]) -> None:
    """Put tensors in place of a skeleton's, and the same one under all of its names."""
    old = {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }
    made: dict[str, Tensor] = {}
    for name, value in values.items():
        parameter = isinstance(old[name], nn.Parameter)
        made[name] = nn.Parameter(value, old[name].requires_grad) if parameter else value
        put(module, name, made[name])
    for name, entry in entries.items():
        if entry.alias is not None:
            if entry.alias not in made:
                raise UserError(f"{name} is said to be {entry.alias}, which is not there; {_WAY_OUT}")
            put(module, name, made[entry.alias])
