"""Size, time to prune and speed of networks that Reconvene prunes; and of networks without their empty filters.

    python benchmarks/reconvene.py [--only vgg16 resnet20 resnet50 mobilenetv3_large empty] [--compression 16.21]
        [--json]

VGG-16, ResNet-20, ResNet-50 and MobileNetV3-Large on 32x32 images, at their initial values. Every network is pruned in
a process of its own (score, plan, cut with its five checks, new initial values; seconds of CPU time and on the clock,
one thread), and timed in others: one for each variant (`masked`: as many values that are not zero as the pruned
network has; `reconvene`) and each number of threads, with the dense network run in turns beside it: medians, with one
thread of CPU time, which others on the machine disturb less, with two on the clock; where two are slower than one, the
machine is busy, and nothing is tested with two. `empty` trains a VGG-16 of a quarter of the width on the digits, sets
its smallest weights to zero, and cuts its empty filters out.
Must show, after the claims of the papers: asked for 16.21 times fewer parameters, all four come within 2 %; steps 1 to
4 take under 10 CPU-seconds for VGG-16; it is at least twice as fast at batch 1 as the masked one; without empty
filters outputs are equal to 1e-5. What speed the others gain, and what size is found without empty filters, is
reported. About six minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

NETWORKS: Final = ("vgg16", "resnet20", "resnet50", "mobilenetv3_large")
VARIANTS: Final = ("masked", "reconvene")
BATCHES: Final = (1, 32)
THREADS: Final = (1, 2)
PATIENCE: Final = 2.0
"""Seconds of runs of each network at each batch size, at least five."""
COMPRESSIONS: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)
WITHIN, SECONDS, FASTER, EQUAL = 0.02, 10.0, 2.0, 1e-5
DEVICE: Final = "pi-tier-1"
"""The profile that prices the variants without empty filters."""


def build(name: str) -> Any:
    """A network at its initial values."""
    from fedsim.models.building import build as built
    from fedsim.models.options import MobileNet, Plain, ResNet, Vgg

    shapes: dict[str, Any] = {
        "vgg16": Vgg(hidden=None),
        "resnet20": Plain(),
        "resnet50": ResNet(stem="small"),
        "mobilenetv3_large": MobileNet(stem="small"),
    }
    return built(name, shapes[name], input=(3, 32, 32), classes=10, kind="image", device="cpu")


# ------------------------------------------------------------------------------------------ in processes of their own


def make(name: str, folder: Path, compression: float) -> dict[str, Any]:
    """Prune a network, write its variants into a folder, and say what was reached and how long each step took."""
    import torch
    from safetensors.torch import save_file

    from fedsim.pruning.counting import counts
    from fedsim.pruning.reconvene import Budget, Reconvene, apply, masked, plan, rectify, score

    torch.set_num_threads(1)
    model, example = build(name), torch.zeros(2, 3, 32, 32)
    options = Reconvene(budget=Budget(params=1 / compression))
    apply_first(example)  # what PyTorch and torch-pruning import when they are used first
    timings = {}

    def timed(step: str, work: Callable[[], Any]) -> Any:
        clock, cpu = time.perf_counter(), time.process_time()
        made = work()
        timings[step] = {"cpu": time.process_time() - cpu, "clock": time.perf_counter() - clock}
        return made

    curve = timed("score", lambda: score(model, options, example))
    planned = timed("plan", lambda: plan(model, curve, options))
    cut, checks = timed("cut and checks", lambda: apply(model, planned))
    pruned = timed("rectify", lambda: rectify(cut, 0))
    mask = masked(model, options, planned.parameters, example, iterations=options.iterations)
    save_file(mask.module.state_dict(), folder / f"{name}-masked.safetensors")
    save_file(pruned.module.state_dict(), folder / f"{name}-reconvene.safetensors")
    found = {"dense": counts(model, example), "masked": counts(mask.module, example, mask.support)}
    found["reconvene"] = counts(pruned.module, example)
    dense = found["dense"].parameters
    return {
        "network": name,
        "timings": timings,
        "reached": dense / checks.parameters,
        "checks": checks.data(),
        "counts": {variant: each.data() for variant, each in found.items()},
        "kept": dict(cut.realised["kept"]),
    }


def apply_first(example: Any) -> None:
    """Prune a small network, so that no import is timed with the first one."""
    from fedsim.pruning.reconvene import Budget, Reconvene, apply, plan, rectify, score

    model, options = build("resnet20"), Reconvene(iterations=2, budget=Budget(params=0.5))
    rectify(apply(model, plan(model, score(model, options, example), options))[0], 0)


def clock(name: str, variant: str, threads: int, folder: Path) -> dict[str, Any]:
    """Medians of a forward of the dense network and of a variant, run in turns."""
    import torch
    from safetensors.torch import load_file

    from fedsim.pruning.resizing import resize

    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    dense, other = build(name).eval(), build(name).eval()
    state = load_file(folder / f"{name}-{variant}.safetensors")
    resize(other, {key: tuple(tensor.shape) for key, tensor in state.items()})
    other.load_state_dict(state)
    found = {}
    for batch in BATCHES:
        x = torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        found[str(batch)] = in_turns([dense, other], x, threads)
    return {"network": name, "variant": variant, "threads": threads, "seconds": found}


def in_turns(models: Sequence[Any], x: Any, threads: int = 1) -> list[float]:
    """The median seconds of a forward of each: of CPU time with one thread, on the clock with several."""
    import numpy as np
    import torch

    now = time.thread_time if threads == 1 else time.perf_counter
    with torch.inference_mode():
        seen: list[list[float]] = [[] for _ in models]
        for model in models:
            for _ in range(3):
                model(x)
        begun = time.perf_counter()
        while len(seen[0]) < 5 or time.perf_counter() - begun < PATIENCE * len(models):
            for model, times in zip(models, seen, strict=True):
                start = now()
                model(x)
                times.append(now() - start)
    return [float(np.median(times)) for times in seen]


def empty() -> dict[str, Any]:
    """Train, set the smallest weights to zero, train on with the mask, and cut the empty filters out."""
    import torch

    from fedsim.data import load
    from fedsim.hardware.machines import machine
    from fedsim.hardware.profiles import load_profile
    from fedsim.models.building import build as built
    from fedsim.models.options import Vgg
    from fedsim.pruning.counting import counts
    from fedsim.pruning.reconvene import magnitude, portfolio

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    data = load("digits", resize=32)
    (x, y), (tx, ty) = (
        (torch.tensor(part.inputs, dtype=torch.float32), torch.tensor(part.labels)) for part in (data.train, data.test)
    )
    model = built(
        "vgg16", Vgg(width_ratio=0.25, hidden=None), input=x.shape[1:], classes=10, kind="image", device="cpu"
    )
    fit(model, x, y, epochs=4, rate=0.02)
    sparse: dict[float, Any] = {}

    def thinned(whole: Any, compression: float, example: Any) -> Any:
        before = sparse[max(sparse)] if sparse else whole
        made = magnitude(before, compression, example)
        fit(made, x, y, epochs=2, rate=0.01)
        sparse[compression] = made
        return made

    rows = []
    variants = portfolio(model, x[:4], COMPRESSIONS, sparse=thinned, machine=machine(load_profile(DEVICE)))
    for variant in variants:
        small, whole = variant.emptied.pruned.module.eval(), variant.emptied.fused.eval()
        with torch.inference_mode():
            right = int((small(tx).argmax(1) == ty).sum())
            difference = float((small(tx) - sparse[variant.compression].eval()(tx)).abs().max() / small(tx).abs().max())
        whole_counts = counts(whole, x[:1])
        rows.append(
            {
                **variant.data(),
                "accuracy": right / len(ty),
                "difference": max(difference, variant.emptied.difference),
                "smaller": whole_counts.parameters / variant.counts.parameters,
                "fewer": whole_counts.macs / variant.counts.macs,
                "seconds": {str(batch): in_turns([whole, small], x[:batch]) for batch in BATCHES},
            }
        )
    return {"network": "empty", "variants": rows}


def fit(model: Any, x: Any, y: Any, *, epochs: int, rate: float) -> None:
    """Train in place; zeros among the weights stay."""
    import torch
    from torch.nn.functional import cross_entropy

    masks = [(p, p.detach() != 0) for p in model.parameters() if p.dim() > 1]
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9, weight_decay=5e-4)
    generator = torch.Generator().manual_seed(0)
    model.train()
    for _ in range(epochs):
        for chosen in torch.randperm(len(y), generator=generator).split(64):
            optimizer.zero_grad()
            cross_entropy(model(x[chosen]), y[chosen]).backward()
            optimizer.step()
            with torch.no_grad():
                for weight, mask in masks:
                    weight.mul_(mask)


# ------------------------------------------------------------------------------------------ what it says


def process(*words: str) -> dict[str, Any]:
    """What this program says when it is started anew with these words."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    command = [sys.executable, str(Path(__file__).resolve()), "--part", *words]
    ran = subprocess.run(command, check=False, capture_output=True, text=True, env={**os.environ, **threads})
    if ran.returncode:
        raise SystemExit(f"{' '.join(words)} failed:\n{ran.stderr[-3000:]}")
    print(f"{' '.join(words[:2])} done", file=sys.stderr, flush=True)
    found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return found


def part(words: Sequence[str]) -> dict[str, Any]:
    """One process's share."""
    match words:
        case ["make", name, folder, compression]:
            return make(name, Path(folder), float(compression))
        case ["clock", name, variant, threads, folder]:
            return clock(name, variant, int(threads), Path(folder))
        case _:
            return empty()


def total(one: dict[str, Any], kind: str) -> float:
    """Seconds of steps 1 to 4."""
    return float(sum(step[kind] for step in one["timings"].values()))


def speed(timed: Sequence[dict[str, Any]], name: str, variant: str, threads: int, batch: int) -> float:
    """How many times faster than the dense network beside it."""
    one = next(t for t in timed if (t["network"], t["variant"], t["threads"]) == (name, variant, threads))
    dense, other = one["seconds"][str(batch)]
    return float(dense / other)


def disturbed(timed: Sequence[dict[str, Any]], name: str, threads: int) -> bool:
    """Whether the dense network took longer with several threads than with one, as on a machine that is busy."""
    taken = {
        n: [t["seconds"]["1"][0] for t in timed if (t["network"], t["threads"]) == (name, n)] for n in (1, threads)
    }
    return threads > 1 and max(taken[threads]) > max(taken[1])


def claims(
    made: Sequence[dict[str, Any]], timed: Sequence[dict[str, Any]], emptied: dict[str, Any] | None, asked: float
) -> list[dict[str, Any]]:
    """What the figures say of each claim that is to hold."""
    said: list[dict[str, Any]] = []

    def say(which: str, claim: str, holds: bool, figure: str) -> None:
        verdict = "supported" if holds else "not supported"
        said.append({"id": which, "claim": claim, "verdict": verdict, "figure": figure})

    for one in made:
        near = abs(one["reached"] / asked - 1) <= WITHIN
        say("B1", f"{one['network']} {asked:g} times smaller, within 2 %", near, f"{one['reached']:.3f} times")
    for one in (each for each in made if each["network"] == "vgg16"):
        seconds = f"{total(one, 'cpu'):.1f} CPU-seconds, {total(one, 'clock'):.1f} s on the clock"
        say("B3", "vgg16 is pruned in under 10 CPU-seconds", total(one, "cpu") < SECONDS, seconds)
        for threads in THREADS:
            ratio = speed(timed, "vgg16", "reconvene", threads, 1) / speed(timed, "vgg16", "masked", threads, 1)
            claim = f"vgg16 at least 2 times as fast at batch 1 as the masked network, threads {threads}"
            say("B2", claim, ratio >= FASTER, f"{ratio:.2f} times")
            if disturbed(timed, "vgg16", threads):
                said[-1] |= {"verdict": "not tested", "figure": f"the machine is busy; {ratio:.2f} times"}
    if emptied is not None:
        worst = max(each["difference"] for each in emptied["variants"])
        best = max(emptied["variants"], key=lambda each: float(each["smaller"]))
        found = f"differ by {worst:.1g} at most; up to {best['smaller']:.2f} times smaller"
        say("C1", "without empty filters, outputs are equal to 1e-5", worst <= EQUAL, found)
    return said


def show(made: Sequence[dict[str, Any]], timed: Sequence[dict[str, Any]], emptied: dict[str, Any] | None) -> None:
    """The tables."""
    if made:
        show_networks(made, timed)
    if emptied is not None:
        show_emptied(emptied)


def show_networks(made: Sequence[dict[str, Any]], timed: Sequence[dict[str, Any]]) -> None:
    """Sizes, seconds and speed of pruned networks."""
    print(
        "| network | parameters | times smaller | five checks | MACs, of the dense | bytes sent, masked | reconvene |"
    )
    print("| --- " * 7 + "|")
    for one in made:
        dense, masked, ours = (one["counts"][variant] for variant in ("dense", *VARIANTS))
        checked = f"passed, differs by {one['checks']['difference']:.0e}"
        sizes = f"{dense['parameters']:,} | {one['reached']:.3f} | {checked} | {ours['macs'] / dense['macs']:.1%}"
        wire = [f"{each['wire'] / 1e6:.2f} MB" for each in (masked, ours)]
        print(f"| {one['network']} | {sizes} | {wire[0]} | {wire[1]} |")
    print("\nCPU-seconds of each step, one thread:\n")
    steps = list(made[0]["timings"])
    print(f"| network | {' | '.join(steps)} | all | on the clock |")
    print("| --- " * (len(steps) + 3) + "|")
    for one in made:
        each = " | ".join(f"{one['timings'][step]['cpu']:.2f}" for step in steps)
        print(f"| {one['network']} | {each} | {total(one, 'cpu'):.2f} | {total(one, 'clock'):.2f} |")
    print("\nTimes faster than the dense network (its milliseconds), by batch and threads:\n")
    columns = [(batch, threads) for batch in BATCHES for threads in THREADS]
    print(f"| network | {' | '.join(f'batch {b}, threads {t}' for b, t in columns)} |")
    print("| --- " * (len(columns) + 1) + "|")
    for one in made:
        for variant in VARIANTS:
            cells = []
            for batch, threads in columns:
                run = next(
                    t for t in timed if (t["network"], t["variant"], t["threads"]) == (one["network"], variant, threads)
                )
                dense_ms = 1e3 * run["seconds"][str(batch)][0]
                busy = ", busy" if disturbed(timed, one["network"], threads) else ""
                cells.append(f"{speed(timed, one['network'], variant, threads, batch):.2f} ({dense_ms:.1f}{busy})")
            print(f"| {one['network']}, {variant} | {' | '.join(cells)} |")


def show_emptied(emptied: dict[str, Any]) -> None:
    """Sizes and speed without empty filters."""
    print("\nWithout empty filters, against the sparse network with its norms fused:\n")
    print("| weights kept | accuracy | times smaller | fewer MACs | faster at batch 1, 32 | predicted | filters |")
    print("| --- " * 7 + "|")
    for each in emptied["variants"]:
        fast = ", ".join(f"{a / b:.2f}" for a, b in each["seconds"].values())
        units = ", ".join(f"{count} {fate}" for fate, count in each["units"].items())
        sizes = f"{each['smaller']:.2f} | {each['fewer']:.2f}"
        ms = f"{1e3 * each['latency']:.2f} ms, switching {1e3 * each['switching']:.2f} ms"
        print(f"| 1/{each['compression']:g} | {each['accuracy']:.1%} | {sizes} | {fast} | {ms} | {units} |")


def main() -> int:
    """Prune, time, and print; exit status 1 where a claim that is to hold does not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=(*NETWORKS, "empty"), default=(*NETWORKS, "empty"))
    parser.add_argument("--compression", type=float, default=16.21)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--part", nargs="+", help="what a process is started with")
    given = parser.parse_args()
    if given.part:
        print(json.dumps(part(given.part)))
        return 0
    names = [name for name in NETWORKS if name in given.only]
    with tempfile.TemporaryDirectory() as folder:
        made = [process("make", name, folder, str(given.compression)) for name in names]
        timed = [
            process("clock", name, variant, str(threads), folder)
            for name in names
            for variant in VARIANTS
            for threads in THREADS
        ]
    emptied = process("empty") if "empty" in given.only else None
    judged = claims(made, timed, emptied, given.compression)
    if given.json:
        print(json.dumps({"made": made, "timed": timed, "empty": emptied, "claims": judged}))
    else:
        show(made, timed, emptied)
        print()
        for each in judged:
            print(f"{each['id']} {each['claim']}: {each['verdict']} ({each['figure']})")
    return 1 if any(each["verdict"] == "not supported" for each in judged) else 0


if __name__ == "__main__":
    raise SystemExit(main())
