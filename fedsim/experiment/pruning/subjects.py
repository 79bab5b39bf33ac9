"""The model that is pruned: of the catalogue, a published language model, or a folder that was pruned before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from fedsim.checkpoints import PACKAGE, located
from fedsim.data import DataInfo
from fedsim.errors import UserError, shown, unknown
from fedsim.experiment.artifacts import RECIPE
from fedsim.experiment.networks import build_network
from fedsim.experiment.pruning.settings import built
from fedsim.experiment.registry import registry
from fedsim.models.catalogue import ENTRIES

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fedsim.pruning.manifest import Base
    from fedsim.pruning.storing import Stored

Kind = Literal["image", "vector", "text"]

IMAGE: Final = (3, 32, 32)
"""The shape of CIFAR's images."""
CLASSES: Final = 10
NORMS: Final = ("bn", "gn", "frozen_bn")
VOCABULARY: Final = 256
"""Of the tokenizer `bytes`, which models of the catalogue are built for."""
TOKENIZER: Final = "tokenizer.json"
"""The file of a pruned model's folder that splits text for it."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What the model is to be, as the command line says it."""

    name: str
    """A name of the catalogue, `module:Class`, a folder, a GGUF file, or `package:NAME`."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of a model of the catalogue."""
    input: tuple[int, ...] | None = None
    """Shape of a sample; None: of the data set, or as CIFAR's images."""
    classes: int | None = None
    norm: str = "bn"
    weights: Path | None = None
    """A run folder or a file of weights, for a model of the catalogue."""
    length: int = 256
    """Tokens of a sequence."""
    tokenizer: str | None = None
    data: DataInfo | None = None
    """The data set that goes with it."""
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model with what has to be known of it."""

    name: str
    module: nn.Module
    base: Base
    kind: Kind
    example: Tensor
    """Two samples, or sequences, of random values."""
    vocabulary: int
    """Classes, or different tokens."""
    tokenizer: str | None = None
    """What splits text for it; None: nothing known does."""
    pretrained: bool = False
    stored: Stored | None = None
    """Where it was pruned before."""
    seed: int = 0

    @property
    def text(self) -> bool:
        """Whether it is a language model."""
        return self.kind == "text"

    @property
    def length(self) -> int:
        """Tokens of a sequence."""
        return int(self.example.shape[1])


def subject(wanted: Wanted) -> Subject:
    """The model, with its weights.

    Raises:
        UserError: there is no such model, or what is wanted does not fit it.
    """
    name = wanted.name
    if name in ENTRIES or (":" in name and not name.startswith(PACKAGE)):
        path = wanted.options.get("path") if name == "llama" else None
        if path is None:
            return _of_catalogue(wanted)
        if len(wanted.options) > 1:
            others = ", ".join(f"model.{key}" for key in wanted.options if key != "path")
            raise UserError(f"model.path says all of a published model; leave {others} out")
        return _published(wanted, located(str(path)), str(path))
    place = Path(name)
    if place.is_dir():
        from fedsim.pruning.storing import is_stored

        if is_stored(place):
            return _stored(wanted, place)
        if (place / RECIPE).is_file():
            raise UserError(
                f"{name} is a run folder; give the name of its model, with --weights {name} for what was trained"
            )
    if name.startswith(PACKAGE) or place.exists() or "/" in name or place.suffix == ".gguf":
        return _published(wanted, located(name), name)
    raise UserError(
        unknown("model", name, ENTRIES) + f"; the path of a folder or .gguf file, {PACKAGE}NAME and module:Class are "
        "models, too"
    )


def _of_catalogue(wanted: Wanted) -> Subject:
    from fedsim.pruning.calls import drawn
    from fedsim.pruning.manifest import ObjectBase
    from fedsim.pruning.skeletons import catalogue_base

    if wanted.norm not in NORMS:
        raise UserError(unknown("norm", wanted.norm, NORMS))
    options = built("model", wanted.name, registry().models, wanted.options, prefix="model.", calls=True)
    kind, shape, classes = _shape(wanted)
    network = build_network(
        wanted.name,
        options,
        input=shape,
        classes=classes,
        kind=kind,
        norm=wanted.norm,
        dtype="float32",
        seed=wanted.seed,
        weights=wanted.weights,
    )
    if wanted.name in ENTRIES:
        base: Base = catalogue_base(network, options, data=kind, norm=wanted.norm)
    else:
        base = ObjectBase()
    return Subject(
        name=wanted.name,
        module=network,
        base=base,
        kind=kind,
        example=drawn(network, length=wanted.length, vocabulary=network.classes, seed=wanted.seed),
        vocabulary=network.classes,
        tokenizer=(_named(wanted.tokenizer) or ("bytes" if network.classes == VOCABULARY else None))
        if kind == "text"
        else None,
        pretrained=wanted.weights is not None,
        seed=wanted.seed,
    )


def _shape(wanted: Wanted) -> tuple[Kind, tuple[int, ...], int]:
    """The kind of data, the shape of a sample and the number of classes that a model of the catalogue gets."""
    info, entry = wanted.data, ENTRIES.get(wanted.name)
    if info is not None:
        for option, given, said in (("--input", wanted.input, info.shape), ("--classes", wanted.classes, info.classes)):
            if given is not None and given != said:
                raise UserError(
                    f"{option} {_written(given)}, but samples of {info.name} have {_written(said)}; leave it out"
                )
        return info.kind, info.shape, info.classes
    if entry is not None and entry.inputs == "text":
        if wanted.input is not None and wanted.input != (wanted.length,):
            raise UserError(
                f"--input {_written(wanted.input)} is for images; a language model takes sequences of --length tokens"
            )
        return "text", (wanted.length,), wanted.classes or VOCABULARY
    shape = wanted.input or IMAGE
    return "image" if len(shape) == 3 else "vector", shape, wanted.classes or CLASSES


def _written(value: object) -> str:
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _published(wanted: Wanted, place: Path, said: str) -> Subject:
    """A published language model, as transformers has it: embedding and head stay one where they are."""
    from fedsim.models.zoo.llama import published
    from fedsim.models.zoo.llama_files import source
    from fedsim.pruning.calls import drawn
    from fedsim.pruning.skeletons import transformers_base

    _only_for_catalogue(wanted, said)
    model = published(source(place), wanted.length).train()
    return Subject(
        name=said,
        module=model,
        base=transformers_base(model),
        kind="text",
        example=drawn(model, length=wanted.length, vocabulary=model.config.vocab_size, seed=wanted.seed),
        vocabulary=model.config.vocab_size,
        tokenizer=_named(wanted.tokenizer) or str(place.resolve()),
        pretrained=True,
        seed=wanted.seed,
    )


def _stored(wanted: Wanted, folder: Path) -> Subject:
    from fedsim.pruning.calls import drawn
    from fedsim.pruning.manifest import CatalogueBase
    from fedsim.pruning.storing import read

    _only_for_catalogue(wanted, str(folder))
    found = read(folder)
    base = found.manifest.base
    module: Any = found.module
    kind: Kind = base.data if isinstance(base, CatalogueBase) else "text"
    vocabulary = module.classes if isinstance(base, CatalogueBase) else module.config.vocab_size
    own = folder / TOKENIZER
    tokenizer = _named(wanted.tokenizer) or (
        str(own.resolve()) if own.is_file() else "bytes" if vocabulary == VOCABULARY else None
    )
    return Subject(
        name=str(folder),
        module=module,
        base=base,
        kind=kind,
        example=drawn(module, length=wanted.length, vocabulary=vocabulary, seed=wanted.seed),
        vocabulary=vocabulary,
        tokenizer=tokenizer if kind == "text" else None,
        pretrained=True,
        stored=found,
        seed=wanted.seed,
    )


def _named(tokenizer: str | None) -> str | None:
    """A tokenizer as texts take it: paths are told from names by their slashes."""
    if tokenizer is None or not Path(tokenizer).exists():
        return tokenizer
    return str(Path(tokenizer).resolve())


def _only_for_catalogue(wanted: Wanted, said: str) -> None:
    """Refuse options that say what the model itself says."""
    given = {
        "--input": wanted.input is not None,
        "--classes": wanted.classes is not None,
        "--norm": wanted.norm != "bn",
        "--weights": wanted.weights is not None,
        "--set model.…": any(key != "path" for key in wanted.options),
    }
    for option, there in given.items():
        if there:
            raise UserError(
                f"{option} is for models of the catalogue, and {shown(said)} says it by itself; leave it out"
            )
