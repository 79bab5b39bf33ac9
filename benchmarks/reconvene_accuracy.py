"""Accuracy after training of networks pruned by Reconvene, of masked ones and of other cuts, all of one size.

    python -m benchmarks.reconvene_accuracy --data FOLDER [--out runs/reconvene_accuracy] [--jobs 1] [--only PATTERN]
        [--compression 4] [--epochs 10] [--samples 10000] [--seeds 3] [--list] [--report] [--json]

VGG-16 of a quarter of the width and ResNet-20, 10,000 images of CIFAR-10 with shifts and mirroring, 10 epochs of SGD
with a cosine schedule, measured on the whole test set; three seeds of initial values, of the order of the samples and
of their augmentation, over one set of images. Variants: `dense`, `upai` (a mask, kept while training), `reconvene`, and
the cuts `uniform`, `all-layers`, `random-layers`, `inverted`; all but `dense` have a quarter of its parameters.
About two hours of one core. Every cell is a process of its own; finished ones are kept, and started again, the program
goes on with what is missing. `--only` is a regular expression for the names of cells, such as `resnet20 upai seed 1`.

Prints what is supported, and what is not or cannot be said yet; fails where a run fails, sizes differ by more than 2 %,
or a loss is not finite. "Above" means in every seed, and by more than twice the standard error of the differences.
"Within 2 standard deviations" refers to those of both variants pooled: one over three seeds is itself uncertain.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks import cells
from benchmarks.cells import Cell, Study

MODELS: Final = ("vgg16", "resnet20")
VARIANTS: Final = ("dense", "upai", "reconvene", "inverted", "uniform", "all-layers", "random-layers")
RATES: Final = {"vgg16": 0.01, "resnet20": 0.05}
"""The better one of two after four epochs: 0.01 and 0.05 for the dense VGG, 0.05 and 0.1 for the pruned ResNet."""
MOMENTUM, DECAY, BATCH = 0.9, 5e-4, 64
"""Of SGD, as is usual for both networks at this batch size."""
CLAIMS: Final = (
    ("B4", "upai", "within"),
    ("B4", "uniform", "above"),
    ("B5", "inverted", "above"),
    ("B4", "all-layers", "above"),
    ("B4", "random-layers", "above"),
)
"""What Reconvene is compared with, and what it is to be."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """One network, trained once: what a process is told."""

    model: str
    variant: str
    seed: int
    compression: float
    epochs: int
    samples: int
    data: str

    @property
    def key(self) -> str:
        """In the file of results."""
        protocol = f"{self.compression:g} times, {self.epochs} epochs, {self.samples} images"
        return f"{self.model} {self.variant} seed {self.seed} ({protocol})"


# ------------------------------------------------------------------------------------------ in the cell's process


def process(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Prune, train and measure."""
    import torch

    from fedsim.pruning.counting import macs

    told = Training(**settings)
    torch.set_flush_denormal(True)
    model, masks, held = _variant(told)
    images = _images(told)
    start, wall = time.process_time(), time.perf_counter()
    losses = _fit(model, masks, told, *images["train"])
    return {
        "accuracy": _accuracy(model, *images["test"]),
        "losses": losses,
        "parameters": held,
        "macs": macs(model, torch.zeros(1, 3, 32, 32)),
        "seconds": time.process_time() - start,
        "wall": time.perf_counter() - wall,
    }


def _variant(told: Training) -> tuple[Any, dict[str, Any], int]:
    """A network, the masks that it keeps, and how many of its parameters may be other than zero."""
    import torch

    from fedsim.models.building import build
    from fedsim.models.options import Plain, Vgg
    from fedsim.pruning.reconvene import Budget, Planner, Reconvene, apply, baseline, masked, rectify, score

    shape: Any = Vgg(width_ratio=0.25, hidden=None) if told.model == "vgg16" else Plain()
    model = build(told.model, shape, input=(3, 32, 32), classes=10, kind="image", device="cpu", seed=told.seed)
    if told.variant == "dense":
        return model, {}, sum(p.numel() for p in model.parameters())
    options, example = Reconvene(budget=Budget(params=1 / told.compression)), torch.zeros(2, 3, 32, 32)
    planner = Planner(model, score(model, options, example, seed=told.seed), options)
    plan = planner.plan()
    if told.variant == "upai":
        found = masked(model, options, plan.parameters, example, seed=told.seed)
        masks = {name: torch.from_numpy(mask) for name, mask in found.support.masks.items()}
        return found.module, masks, int(found.realised["nonzero"])
    if told.variant != "reconvene":
        plan = baseline(planner, told.variant, plan, seed=told.seed)
    cut, checks = apply(model, plan)
    return rectify(cut, told.seed).module, {}, checks.parameters


def _fit(model: Any, masks: dict[str, Any], told: Training, images: Any, labels: Any) -> list[float]:
    """Train in place; returns the mean loss of every epoch."""
    import torch
    from torch.nn.functional import cross_entropy

    from fedsim import seeds
    from fedsim.learning.augmenting import augmented

    images = images.to(memory_format=torch.channels_last)
    model.train().to(memory_format=torch.channels_last)
    rate = RATES[told.model]
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=MOMENTUM, weight_decay=DECAY, foreach=True)
    order = seeds.generator(told.seed, -1, "order of the samples")
    moves = seeds.generator(told.seed, -1, "augmentation")
    weights = [(model.get_parameter(name), mask) for name, mask in masks.items()]
    steps, step, losses = told.epochs * math.ceil(len(labels) / BATCH), 0, []
    for _ in range(told.epochs):
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


def _images(told: Training) -> dict[str, tuple[Any, Any]]:
    """Standardised images and labels of both parts; the same training images for every seed."""
    import torch

    from fedsim.data import load

    found = load("cifar10", path=Path(told.data), samples=told.samples, seed=0)
    assert found.mean is not None
    assert found.std is not None
    mean, std = (torch.tensor(v, dtype=torch.float32).view(1, -1, 1, 1) for v in (found.mean, found.std))
    parts = {"train": found.train, "test": found.test}
    return {
        name: ((torch.tensor(part.inputs, dtype=torch.float32) - mean) / std, torch.tensor(part.labels))
        for name, part in parts.items()
    }


# ------------------------------------------------------------------------------------------ what it says


def every(told: argparse.Namespace) -> list[Training]:
    """All cells: the first seed of everything comes first."""
    data = str(told.data.resolve()) if told.data else ""
    said = {"compression": told.compression, "epochs": told.epochs, "samples": told.samples, "data": data}
    return [
        Training(model=model, variant=variant, seed=seed, **said)
        for seed in range(told.seeds)
        for model in MODELS
        for variant in VARIANTS
    ]


Found = Mapping[tuple[str, str], Mapping[int, Mapping[str, Any]]]
"""By model and variant, by seed, what a process has found."""


def found_of(results: Mapping[str, Any], trainings: Sequence[Training]) -> Found:
    """What is done of these."""
    found: dict[tuple[str, str], dict[int, Any]] = {(m, v): {} for m in MODELS for v in VARIANTS}
    for each in trainings:
        if each.key in results:
            found[each.model, each.variant][each.seed] = results[each.key]
    return found


def table(found: Found, model: str) -> str:
    """By variant: sizes, accuracy over the seeds, and time."""
    rows = []
    for variant in VARIANTS:
        each = list(found[model, variant].values())
        if each:
            held, macs, seconds = (
                statistics.fmean(one[key] for one in each) for key in ("parameters", "macs", "seconds")
            )
            accuracies = [100 * one["accuracy"] for one in each]
            by_seed = ", ".join(f"{value:.2f}" for value in accuracies)
            sizes = [f"{held:,.0f}", f"{macs / 1e6:.2f} M"]
            rows.append([variant, *sizes, cells.spread(accuracies, ".2f"), by_seed, f"{seconds:.0f}"])
    return cells.table(["", "parameters", "MACs", "accuracy, %", "by seed", "CPU-seconds"], rows)


def claims(found: Found, model: str) -> list[str]:
    """What the accuracies say of each claim, seed by seed."""
    said = []
    for which, other, rule in CLAIMS:
        ours, theirs = found[model, "reconvene"], found[model, other]
        both = sorted(ours.keys() & theirs.keys())
        a, b = ([100 * each[seed]["accuracy"] for seed in both] for each in (ours, theirs))
        differences = [theirs - ours for ours, theirs in zip(a, b, strict=True)]
        figures = f"difference {cells.spread([-d for d in differences], '.2f')} points over {len(both)} seeds"
        sentence = f"{which} {model}: reconvene is above {other}"
        result = cells.verdict(differences)
        if rule == "within":
            sentence = f"{which} {model}: reconvene is not more than 2 standard deviations below {other}"
            if len(both) > 2:
                pooled = math.sqrt((statistics.variance(a) + statistics.variance(b)) / 2)
                figures += f"; deviation {pooled:.2f}"
                result = "supported" if statistics.fmean(differences) <= 2 * pooled else "not supported"
        said.append(cells.claim(sentence, result, figures))
    return said


def wrong(found: Found, compression: float) -> list[str]:
    """What should not be: sizes more than 2 % off, and losses that are not finite."""
    broken = []
    for (model, variant), by_seed in found.items():
        for seed, one in by_seed.items():
            dense = found[model, "dense"].get(seed)
            if variant != "dense" and dense and abs(one["parameters"] * compression / dense["parameters"] - 1) > 0.02:
                broken.append(f"{model} {variant} seed {seed} has {one['parameters']:,} parameters")
            if not all(map(math.isfinite, one["losses"])):
                broken.append(f"{model} {variant} seed {seed}: its loss is not finite")
    return broken


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing, then print; 1 where a cell has failed, or is not what it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the CIFAR-10 files")
    parser.add_argument("--out", type=Path, default=Path("runs/reconvene_accuracy"), help="folder of the results")
    parser.add_argument("--jobs", type=int, default=1, help="processes at the same time")
    parser.add_argument("--only", default="", help="a regular expression that is found in the names of cells to run")
    parser.add_argument("--compression", type=float, default=4.0)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--list", action="store_true", help="print the names of all cells and whether they are done")
    parser.add_argument("--report", action="store_true", help="run nothing; print what is known")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--process", help=argparse.SUPPRESS)
    told = parser.parse_args(arguments)
    if told.process is not None:
        cells.processed(told, process)
        return 0
    trainings = every(told)
    study = Study("benchmarks.reconvene_accuracy", told.out / "results.json")
    failed = cells.driven(told, study, [Cell(key=each.key, settings=asdict(each)) for each in trainings])
    results = study.results()
    found = found_of(results, trainings)
    if told.json:
        print(json.dumps(results))
    else:
        for model in MODELS:
            print(f"{model}, {told.compression:g} times smaller:\n\n{table(found, model)}\n")
        print("\n".join(line for model in MODELS for line in claims(found, model)))
    broken = wrong(found, told.compression)
    print("\n".join([*broken, *(f"{key} failed" for key in failed)]))
    return 1 if failed or broken else 0


if __name__ == "__main__":
    raise SystemExit(main())
