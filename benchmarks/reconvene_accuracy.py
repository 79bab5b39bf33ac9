"""Accuracy after training of networks pruned by Reconvene, of masked ones and of other cuts, all of one size.

    python benchmarks/reconvene_accuracy.py --data FOLDER [--out runs/reconvene_accuracy.json] [--jobs 1]
        [--only WORD ...] [--compression 4] [--epochs 10] [--samples 10000] [--seeds 3] [--report] [--json]

VGG-16 of a quarter of the width and ResNet-20, 10,000 images of CIFAR-10 with shifts and mirroring, 10 epochs of SGD
with a cosine schedule, measured on the whole test set; three seeds of initial values, of the order of the samples and
of their augmentation, over one set of images. Variants: `dense`, `upai` (a mask, kept while training), `reconvene`, and
the cuts `uniform`, `all-layers`, `random-layers`, `inverted`; all but `dense` have a quarter of its parameters.
About two hours of one core. Every cell is a process of its own; finished ones are kept in the file of results, and
started again, the program goes on with what is missing. `--only` takes words that a cell's name (such as
`resnet20 upai seed 1`) must contain.

Prints what is supported, and what is not or was not tested; fails where a run fails or sizes differ by more than 2 %.
A difference counts as one where it is larger than twice its standard error over the seeds; "within 2 standard
deviations" refers to those of the two variants pooled, since a deviation over three seeds is itself uncertain.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

MODELS: Final = ("vgg16", "resnet20")
VARIANTS: Final = ("dense", "upai", "reconvene", "inverted", "uniform", "all-layers", "random-layers")
RATES: Final = {"vgg16": 0.01, "resnet20": 0.05}
"""The better one of two after four epochs: 0.01 and 0.05 for the dense VGG, 0.05 and 0.1 for the pruned ResNet."""
MOMENTUM, DECAY, BATCH = 0.9, 5e-4, 64
CLAIMS: Final = (
    ("B4", "reconvene is within 2 standard deviations of upai, or above", "reconvene", "upai", "within"),
    ("B4", "reconvene is above uniform", "reconvene", "uniform", "above"),
    ("B5", "reconvene is above inverted, which prunes the sensitive layers", "reconvene", "inverted", "above"),
    ("B4", "reconvene is above all-layers", "reconvene", "all-layers", "above"),
    ("B4", "reconvene is above random-layers", "reconvene", "random-layers", "above"),
)


@dataclass(frozen=True)
class Protocol:
    """What all cells have in common."""

    compression: float
    epochs: int
    samples: int


@dataclass(frozen=True)
class Cell:
    """One network, trained once."""

    model: str
    variant: str
    seed: int

    @property
    def name(self) -> str:
        """In the file of results."""
        return f"{self.model} {self.variant} seed {self.seed}"


# ------------------------------------------------------------------------------------------ in the cell's process


def train(cell: Cell, protocol: Protocol, data: Path) -> dict[str, Any]:
    """Prune, train and measure."""
    import torch

    from fedsim.pruning.counting import macs

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    model, masks, held = _variant(cell, protocol)
    example = torch.zeros(1, 3, 32, 32)
    images = _images(data, protocol)
    start, wall = time.process_time(), time.perf_counter()
    losses = _fit(model, masks, cell, protocol, *images["train"])
    seconds = time.process_time() - start
    return {
        **asdict(cell),
        "accuracy": _accuracy(model, *images["test"]),
        "losses": losses,
        "parameters": held,
        "macs": macs(model, example),
        "seconds": seconds,
        "wall": time.perf_counter() - wall,
    }


def _variant(cell: Cell, protocol: Protocol) -> tuple[Any, dict[str, Any], int]:
    """A network, the masks that it keeps, and how many of its parameters may be other than zero."""
    import torch

    from fedsim.models.building import build
    from fedsim.models.options import Plain, Vgg
    from fedsim.pruning.reconvene import Budget, Planner, Reconvene, apply, baseline, masked, rectify, score

    shape: Any = Vgg(width_ratio=0.25, hidden=None) if cell.model == "vgg16" else Plain()
    model = build(cell.model, shape, input=(3, 32, 32), classes=10, kind="image", device="cpu", seed=cell.seed)
    if cell.variant == "dense":
        return model, {}, sum(p.numel() for p in model.parameters())
    options, example = Reconvene(budget=Budget(params=1 / protocol.compression)), torch.zeros(2, 3, 32, 32)
    planner = Planner(model, score(model, options, example, seed=cell.seed), options)
    plan = planner.plan()
    if cell.variant == "upai":
        found = masked(model, options, plan.parameters, example, seed=cell.seed)
        masks = {name: torch.from_numpy(mask) for name, mask in found.support.masks.items()}
        return found.module, masks, int(found.realised["nonzero"])
    if cell.variant != "reconvene":
        plan = baseline(planner, cell.variant, plan, seed=cell.seed)
    cut, checks = apply(model, plan)
    return rectify(cut, cell.seed).module, {}, checks.parameters


def _fit(model: Any, masks: dict[str, Any], cell: Cell, protocol: Protocol, images: Any, labels: Any) -> list[float]:
    """Train in place; returns the mean loss of every epoch."""
    import torch
    from torch.nn.functional import cross_entropy

    from fedsim import seeds
    from fedsim.learning.augmenting import augmented

    images = images.to(memory_format=torch.channels_last)
    model.train().to(memory_format=torch.channels_last)
    rate = RATES[cell.model]
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=MOMENTUM, weight_decay=DECAY, foreach=True)
    order = seeds.generator(cell.seed, -1, "order of the samples")
    moves = seeds.generator(cell.seed, -1, "augmentation")
    weights = [(model.get_parameter(name), mask) for name, mask in masks.items()]
    steps, step, losses = protocol.epochs * math.ceil(len(labels) / BATCH), 0, []
    for _ in range(protocol.epochs):
        total, places = 0.0, torch.from_numpy(order.permutation(len(labels)))
        for chosen in places.split(BATCH):
            for group in optimizer.param_groups:
                group["lr"] = rate * (1 + math.cos(math.pi * step / steps)) / 2
            batch = augmented(images[chosen], moves).contiguous(memory_format=torch.channels_last)
            loss = cross_entropy(model(batch), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            with torch.no_grad():
                for weight, mask in weights:
                    weight.grad.mul_(mask)
                optimizer.step()
                for weight, mask in weights:
                    weight.mul_(mask)
            total, step = total + float(loss.detach()) * len(chosen), step + 1
        losses.append(total / len(labels))
    for weight, mask in weights:
        assert not bool(weight[~mask].any())
    return losses


def _accuracy(model: Any, images: Any, labels: Any) -> float:
    """On the whole test set."""
    import torch

    right = 0
    model.eval()
    with torch.inference_mode():
        for x, y in zip(images.split(500), labels.split(500), strict=True):
            right += int((model(x.contiguous(memory_format=torch.channels_last)).argmax(1) == y).sum())
    return right / len(labels)


def _images(data: Path, protocol: Protocol) -> dict[str, tuple[Any, Any]]:
    """Standardised images and labels of both parts; the same training images for every seed."""
    import torch

    from fedsim.data import load

    found = load("cifar10", path=data, samples=protocol.samples, seed=0)
    assert found.mean is not None
    assert found.std is not None
    mean, std = (torch.tensor(v, dtype=torch.float32).view(1, -1, 1, 1) for v in (found.mean, found.std))
    parts = {"train": found.train, "test": found.test}
    return {
        name: ((torch.tensor(part.inputs, dtype=torch.float32) - mean) / std, torch.tensor(part.labels))
        for name, part in parts.items()
    }


# ------------------------------------------------------------------------------------------ the study


def study(todo: Sequence[Cell], args: argparse.Namespace, protocol: Protocol, found: dict[str, Any]) -> list[str]:
    """Run the cells, each in a process of its own, and note every result at once; returns what failed."""
    failed = []
    with ThreadPoolExecutor(args.jobs) as pool:
        running = {pool.submit(_process, cell, args): cell for cell in todo}
        for future in as_completed(running):
            cell = running[future]
            ran = future.result()
            if ran.returncode:
                failed.append(cell.name)
                print(f"{cell.name}: failed\n{ran.stderr[-2000:]}", file=sys.stderr, flush=True)
                continue
            found[cell.name] = json.loads(ran.stdout.splitlines()[-1])
            _keep(args.out, protocol, found)
            one = found[cell.name]
            said = f"{one['accuracy'] * 100:.2f} %, {one['parameters']:,} parameters, {one['seconds']:.0f} CPU-seconds"
            print(f"{cell.name}: {said}", file=sys.stderr, flush=True)
    return failed


def _process(cell: Cell, args: argparse.Namespace) -> subprocess.CompletedProcess[str]:
    said = ["--data", str(args.data), "--compression", str(args.compression), "--epochs", str(args.epochs)]
    said += ["--samples", str(args.samples), "--cell", cell.model, cell.variant, str(cell.seed)]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    command = [sys.executable, str(Path(__file__).resolve()), *said]
    return subprocess.run(command, check=False, capture_output=True, text=True, env={**os.environ, **threads})


def _keep(out: Path, protocol: Protocol, found: dict[str, Any]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    beside = out.with_name(f"{out.name}.part")
    beside.write_text(json.dumps({"protocol": asdict(protocol), "cells": found}, indent=1))
    beside.replace(out)


def _kept(out: Path, protocol: Protocol) -> dict[str, Any]:
    if not out.exists():
        return {}
    said = json.loads(out.read_text())
    if said["protocol"] != asdict(protocol):
        raise SystemExit(f"{out} has results of {said['protocol']}, not of {asdict(protocol)}; name another file")
    cells: dict[str, Any] = said["cells"]
    return cells


# ------------------------------------------------------------------------------------------ what it says


def _values(found: dict[str, Any], model: str, variant: str, key: str) -> list[float]:
    return [one[key] for one in found.values() if (one["model"], one["variant"]) == (model, variant)]


def _deviation(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan


def table(found: dict[str, Any], model: str) -> str:
    """By variant: sizes, accuracy over the seeds, and time."""
    lines = ["| | parameters | MACs | accuracy, % | by seed | CPU-seconds |", "| --- " * 6 + "|"]
    for variant in VARIANTS:
        values = [100 * value for value in _values(found, model, variant, "accuracy")]
        if values:
            held, macs, seconds = (
                np.mean(_values(found, model, variant, key)) for key in ("parameters", "macs", "seconds")
            )
            spread = f"{np.mean(values):.2f} ± {_deviation(values):.2f}" if len(values) > 1 else f"{values[0]:.2f}"
            each = ", ".join(f"{value:.2f}" for value in values)
            lines.append(f"| {variant} | {held:,.0f} | {macs / 1e6:.2f} M | {spread} | {each} | {seconds:.0f} |")
    return "\n".join(lines)


def claims(found: dict[str, Any], model: str) -> list[dict[str, Any]]:
    """What the accuracies say of each claim."""
    said = []
    for which, text, ours, theirs, rule in CLAIMS:
        a, b = ([100 * v for v in _values(found, model, variant, "accuracy")] for variant in (ours, theirs))
        claim: dict[str, Any] = {"id": which, "model": model, "claim": text, "verdict": "not tested"}
        if min(len(a), len(b)) > 1:
            difference = float(np.mean(a) - np.mean(b))
            pooled = math.sqrt((_deviation(a) ** 2 + _deviation(b) ** 2) / 2)
            error = math.sqrt(_deviation(a) ** 2 / len(a) + _deviation(b) ** 2 / len(b))
            holds = difference >= -2 * pooled if rule == "within" else difference > 2 * error
            claim |= {"difference": difference, "pooled": pooled, "error": error, "seeds": min(len(a), len(b))}
            claim["verdict"] = "supported" if holds else "not supported"
        said.append(claim)
    return said


def sentence(claim: dict[str, Any]) -> str:
    """A claim with its figures."""
    if "difference" not in claim:
        return f"{claim['id']} {claim['model']}: {claim['claim']}: {claim['verdict']} (fewer than two seeds)"
    figures = f"{claim['difference']:+.2f} points, standard error {claim['error']:.2f}, deviation {claim['pooled']:.2f}"
    inside = abs(claim["difference"]) <= 2 * claim["error"] and claim["verdict"] == "not supported"
    note = "; the spread is as large" if inside else ""
    return f"{claim['id']} {claim['model']}: {claim['claim']}: {claim['verdict']} ({figures}{note})"


def unequal(found: dict[str, Any], compression: float) -> list[str]:
    """Cells whose size is more than 2 % off what was asked for."""
    wrong = []
    for name, one in found.items():
        dense = _values(found, one["model"], "dense", "parameters")
        if one["variant"] != "dense" and dense and abs(one["parameters"] * compression / dense[0] - 1) > 0.02:
            wrong.append(name)
    return wrong


def main() -> int:
    """Run what is missing, then print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the CIFAR-10 files")
    parser.add_argument("--out", type=Path, default=Path("runs/reconvene_accuracy.json"))
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD")
    parser.add_argument("--compression", type=float, default=4.0)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--report", action="store_true", help="run nothing, print what there is")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--cell", nargs=3, metavar=("MODEL", "VARIANT", "SEED"), help="what a process is started with")
    args = parser.parse_args()
    protocol = Protocol(args.compression, args.epochs, args.samples)
    if args.cell:
        model, variant, seed = args.cell
        print(json.dumps(train(Cell(model, variant, int(seed)), protocol, args.data)))
        return 0
    found = _kept(args.out, protocol)
    every = [Cell(model, variant, seed) for seed in range(args.seeds) for model in MODELS for variant in VARIANTS]
    todo = [c for c in every if c.name not in found and all(word in c.name.split() for word in args.only)]
    failed = [] if args.report else study(todo, args, protocol, found)
    found = {cell.name: found[cell.name] for cell in every if cell.name in found}
    judged = [claim for model in MODELS for claim in claims(found, model)]
    wrong = unequal(found, args.compression)
    wrong += [name for name, one in found.items() if not all(map(math.isfinite, one["losses"]))]
    if args.json:
        print(json.dumps({"protocol": asdict(protocol), "cells": found, "claims": judged, "wrong": wrong + failed}))
    else:
        for model in MODELS:
            print(f"{model}, {args.compression:g} times smaller:\n\n{table(found, model)}\n")
        print("\n".join(sentence(claim) for claim in judged))
        for name in wrong:
            print(f"{name}: its size is off, or its loss is not finite")
    return 1 if failed or wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
