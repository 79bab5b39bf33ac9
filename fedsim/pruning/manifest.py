"""The manifest of a pruned model: what it is of, how it was made, what stays, how large it is, and what was checked.

JSON with one form only, apart from the timings. Knows the text, not the tensors beside it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

import numpy as np

from fedsim.errors import UserError, shown
from fedsim.payload.meta import ITEM_BYTES
from fedsim.payload.supports import Axes, Indices
from fedsim.pruning import deltas
from fedsim.pruning.checks import Checks
from fedsim.pruning.counting import Counts
from fedsim.pruning.plans import Kept, Plan
from fedsim.pruning.references import parts

SCHEMA: Final = "fedsim-pruned/1"
MANIFEST: Final = "manifest.json"
WEIGHTS: Final = "model.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueBase:
    """A model of fedsim's catalogue, as `models.building.build` takes it."""

    name: str
    options: Mapping[str, Any]
    """Plain data of its options dataclass."""
    input: tuple[int, ...]
    classes: int
    data: Literal["image", "vector", "text"]
    norm: str = "bn"
    dtype: str = "float32"


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformersBase:
    """A causal language model of Hugging Face's `transformers`."""

    config: Mapping[str, Any]
    """What its configuration's `to_dict` gives."""
    attention: str = "sdpa"
    """The implementation of attention."""


@dataclass(frozen=True, slots=True)
class ObjectBase:
    """Any module of the caller's, who hands in the parent's skeleton for reading."""


Base = CatalogueBase | TransformersBase | ObjectBase

_BASES: Final = {"catalogue": CatalogueBase, "transformers": TransformersBase, "object": ObjectBase}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One tensor."""

    shape: tuple[int, ...]
    dtype: str
    of: tuple[int, ...]
    """The parent's shape."""
    axes: Axes | None = field(default=None, compare=False)
    """The parent's indices that stay, by axis; None where all do. Manifests compare them by their `support`."""
    mask: str | None = None
    """A hash of its mask; None where it has none."""
    kept: int | None = None
    """How many values the mask keeps."""
    alias: str | None = None
    """The tensor of another name that it is; its values are stored there."""

    @property
    def elements(self) -> int:
        """Number of values."""
        return math.prod(self.shape)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """All that `manifest.json` says."""

    plan: Plan
    base: Base
    calibration: str = ""
    """What data the choice was made with, in words."""
    tensors: Mapping[str, Entry]
    """By name in `state_dict`."""
    attributes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By module: what no rule of `resizing` derives from shapes."""
    support: str
    """The support's digest."""
    updated: tuple[str, ...] = ()
    reinitialised: tuple[str, ...] = ()
    realised: Mapping[str, Any] = field(default_factory=dict)
    counts: Counts
    checks: Checks
    timings: Mapping[str, float] = field(default_factory=dict)
    weights: str
    """SHA-256 of the file of tensors."""

    def data(self) -> dict[str, Any]:
        """As JSON takes it, with the hash of its content."""
        plan, lists = self.plan, _Lists()
        said: dict[str, Any] = {
            "schema": SCHEMA,
            "method": plan.method,
            "options": dict(plan.options),
            "seed": plan.seed,
            "base": {"kind": _kind(self.base), **asdict(self.base), "fingerprint": plan.parent},
            "ranking": {"source": plan.source, "calibration": self.calibration},
            "privacy": plan.privacy,
            "plan": {
                "kept": [{**asdict(kept), "indices": lists.add(np.array(kept.indices))} for kept in plan.kept],
                "sparsity": dict(plan.sparsity),
                "protected": list(plan.protected),
                "parameters": plan.parameters,
                "macs": plan.macs,
                "digest": plan.digest,
            },
            "layers": self._layers(lists),
            "indices": lists.texts,
            "support": self.support,
            "updated": list(self.updated),
            "reinitialised": list(self.reinitialised),
            "realised": dict(self.realised),
            "counts": self.counts.data(),
            "checks": self.checks.data(),
            "weights": {"file": WEIGHTS, "sha256": self.weights},
        }
        said = json.loads(json.dumps(said, allow_nan=False))  # tuples become lists, as in the file
        return {**said, "content": content(said), "timings": dict(self.timings)}

    def text(self) -> str:
        """The file."""
        return json.dumps(self.data(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    def _layers(self, lists: _Lists) -> dict[str, Any]:
        layers: dict[str, Any] = {}
        for name, entry in self.tensors.items():
            module, own = parts(name)
            said: dict[str, Any] = {"shape": entry.shape, "dtype": entry.dtype}
            if entry.axes is not None:
                said |= {"of": entry.of, "axes": [None if kept is None else lists.add(kept) for kept in entry.axes]}
            if entry.mask is not None:
                said["mask"] = {"id": entry.mask, "kept": entry.kept}
            if entry.alias is not None:
                said["alias"] = entry.alias
            layer = layers.setdefault(module, {"tensors": {}})
            layer["tensors"][own] = said
            if own == "weight":
                layer |= self._sparsity(name, module, entry)
        for module, known in self.attributes.items():
            layers.setdefault(module, {"tensors": {}})["attributes"] = dict(known)
        for module, heads in self._heads().items():
            layers.setdefault(module, {"tensors": {}}).update(heads)
        return layers

    def _sparsity(self, name: str, module: str, entry: Entry) -> dict[str, float]:
        """Of a weight: the share that the cut has removed, and of the rest the share of zeros, target and realised."""
        said = {}
        if entry.shape != entry.of:
            said["removed"] = 1 - entry.elements / math.prod(entry.of)
        target = self.plan.sparsity.get(module, self.plan.sparsity.get(name))
        if target is not None:
            said["target"] = target
        if entry.kept is not None and entry.elements:
            said["realised"] = 1 - entry.kept / entry.elements
        return said

    def _heads(self) -> dict[str, dict[str, int]]:
        """Query heads, and key and value heads, of each attention whose configuration tells a head's size."""
        size = _head_size(self.base)
        found = {}
        for name, entry in self.tensors.items():
            module, _, own = name.rpartition(".q_proj.")
            keys = self.tensors.get(f"{module}.k_proj.{own}")
            if size and own == "weight" and keys is not None:
                found[module] = {"heads": entry.shape[0] // size, "kv_heads": keys.shape[0] // size}
        return found


def content(said: Mapping[str, Any]) -> str:
    """A hash of all that a manifest says but for the timings, in hexadecimal digits."""
    hashed = {key: value for key, value in said.items() if key not in ("content", "timings")}
    text = json.dumps(hashed, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def parse(text: str, where: str) -> Manifest:
    """The manifest of a file's text.

    Raises:
        UserError: it is none, of another version, or was changed since it was written.
    """
    way_out = "copy the folder again, or prune again"
    try:
        said = json.loads(text)
    except ValueError as error:
        raise UserError(f"{where} is not JSON ({error}); {way_out}") from error
    if not isinstance(said, dict) or said.get("schema") != SCHEMA:
        found = said.get("schema") if isinstance(said, dict) else None
        raise UserError(f"{where} has schema {shown(found)}, but {SCHEMA!r} is read here; {way_out}")
    if said.get("content") != content(said):
        raise UserError(f"{where} was changed after it was written: its content has another hash; {way_out}")
    try:
        return _parsed(said)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise UserError(f"{where} does not say what it has to ({type(error).__name__}: {error}); {way_out}") from error


def _parsed(said: Mapping[str, Any]) -> Manifest:
    planned, lists = said["plan"], said["indices"]
    base = dict(said["base"])
    kind, parent = base.pop("kind"), base.pop("fingerprint")
    if "input" in base:
        base["input"] = tuple(base["input"])
    made: Base = _BASES[kind](**base)
    kept = tuple(
        Kept(**{**each, "indices": tuple(deltas.parsed(lists[each["indices"]], each["of"]).tolist())})
        for each in planned["kept"]
    )
    plan = Plan(
        method=said["method"],
        parent=parent,
        seed=said["seed"],
        options=said["options"],
        source=said["ranking"]["source"],
        kept=kept,
        sparsity=planned["sparsity"],
        protected=tuple(planned["protected"]),
        parameters=planned["parameters"],
        macs=planned["macs"],
        privacy=said["privacy"],
    )
    if plan.digest != planned["digest"]:
        raise ValueError("the plan has another digest")
    layers = said["layers"]
    tensors = {
        f"{module}.{own}" if module else own: _entry(each, lists)
        for module, layer in layers.items()
        for own, each in layer["tensors"].items()
    }
    if said["weights"]["file"] != WEIGHTS:
        raise ValueError(f"the tensors are in {WEIGHTS}, not in {said['weights']['file']}")
    return Manifest(
        plan=plan,
        base=made,
        calibration=said["ranking"]["calibration"],
        tensors=tensors,
        attributes={module: layer["attributes"] for module, layer in layers.items() if "attributes" in layer},
        support=said["support"],
        updated=tuple(said["updated"]),
        reinitialised=tuple(said["reinitialised"]),
        realised=said["realised"],
        counts=Counts.of(said["counts"]),
        checks=Checks.of(said["checks"]),
        timings=said.get("timings", {}),
        weights=said["weights"]["sha256"],
    )


def _entry(said: Mapping[str, Any], lists: Mapping[str, str]) -> Entry:
    shape, dtype, mask = tuple(said["shape"]), said["dtype"], said.get("mask")
    of = tuple(said.get("of", shape))
    if dtype not in ITEM_BYTES or any(type(size) is not int or size < 0 for size in (*shape, *of)):
        raise ValueError(f"a tensor of {dtype} and shape {shape}")
    axes: Axes | None = None
    if "axes" in said:
        listed = zip(said["axes"], of, strict=True)
        axes = tuple(None if kept is None else deltas.parsed(lists[kept], size) for kept, size in listed)
        left = tuple(size if kept is None else len(kept) for kept, size in zip(axes, of, strict=True))
        if left != shape:
            raise ValueError(f"a tensor of shape {shape} whose indices make {left}")
    return Entry(
        shape=shape,
        dtype=dtype,
        of=of,
        axes=axes,
        mask=mask and mask["id"],
        kept=mask and mask["kept"],
        alias=said.get("alias"),
    )


class _Lists:
    """Index lists by a name of theirs, each written once, however many layers it is of."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}

    def add(self, indices: Indices) -> str:
        """The name of a list."""
        text = deltas.written(indices)
        name = hashlib.sha256(text.encode()).hexdigest()[:12]
        self.texts[name] = text
        return name


def _kind(base: Base) -> str:
    return next(kind for kind, type_ in _BASES.items() if isinstance(base, type_))


def _head_size(base: Base) -> int | None:
    """Features of an attention head."""
    match base:
        case TransformersBase():
            said = base.config
            size, width, heads = said.get("head_dim"), said.get("hidden_size"), said.get("num_attention_heads")
        case CatalogueBase():
            size, width, heads = None, base.options.get("width"), base.options.get("heads")
        case ObjectBase():
            return None
    if isinstance(size, int):
        return size
    return width // heads if isinstance(width, int) and isinstance(heads, int) and heads else None
