"""Every kind of wrong scenario, and the message that says what, where, the rule and the way out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from fedsim.errors import UserError
from fedsim.scenario import ScenarioError, load
from tests.scenario.toys import FULL, REGISTRY, SHORT, read

# what to replace in FULL, with what, the message
CASES: list[tuple[str, str, str]] = [
    ("seed: 7", "sed: 7", "sed: unknown key; did you mean seed? (x.yaml, line 2)"),
    (
        "seed: 7",
        "xyzzy: 7",
        "xyzzy: unknown key; the keys here are access, auxiliary, codec, data, emulation, evaluate, faults, fleet, "
        "learning, mode, model, name, network, norm, on_oom, pruning, scheduler, seed, selection, server, strict, "
        "training, until, workers (x.yaml, line 2)",
    ),
    ("seed: 7", "seed: -1", "seed: -1 does not fit; give 0 or more (x.yaml, line 2)"),
    ("seed: 7", "seed: 7.5", "seed: 7.5 does not fit; give a whole number (x.yaml, line 2)"),
    ("seed: 7", "seed: on", "seed: 'on' does not fit; give a whole number (x.yaml, line 2)"),
    ("seed: 7", "seed: true", "seed: true does not fit; give a whole number (x.yaml, line 2)"),
    ("seed: 7", "seed:", "seed: no value is given; give a whole number (x.yaml, line 2)"),
    ("seed: 7", "seed: 2001-01-01", "seed: '2001-01-01' does not fit; give a whole number (x.yaml, line 2)"),
    ("seed: 7", "seed: 3:00", "seed: '3:00' does not fit; give a whole number (x.yaml, line 2)"),
    ("seed: 7", "seed: " + "9" * 30, f"seed: {'9' * 30} does not fit; give less than {2**63} (x.yaml, line 2)"),
    (
        "name: eight-boards",
        "name: eight boards",
        "name: 'eight boards' does not fit a folder's name; use letters, digits, '-', '_' and '.', and begin with a "
        "letter or digit, at most 100 of them (x.yaml, line 1)",
    ),
    ("name: eight-boards", "name: 8", "name: 8 does not fit; give text (x.yaml, line 1)"),
    (
        "name: vgg11",
        "name: vgg12",
        "model.name: unknown model 'vgg12'; did you mean vgg11? there are: vgg11, vgg5; module:Class names one of "
        "your own (x.yaml, line 3)",
    ),
    ("name: vgg11, ", "", "model.name: missing; add it, as in 'name: vgg5' (x.yaml, line 3)"),
    ("{name: vgg11, cut: 2}", "[vgg11]", "model: a list does not fit; give a name or a mapping {name: NAME}"),
    ("{name: vgg11, cut: 2}", "", "model: no value is given; give a name or a mapping {name: NAME} (x.yaml, line 3)"),
    ("name: vgg11", "name: 3", "model.name: 3 does not fit; give the name of a model or module:Class (x.yaml, line 3)"),
    ("cut: 2", "cut: 0", "model.cut: 0 does not fit; give 1 or more (x.yaml, line 3)"),
    ("cut: 2", "cut: best", "model.cut: 'best' does not fit; give the index of a unit, or auto (x.yaml, line 3)"),
    ("cut: 2", "cut: true", "model.cut: true does not fit; give a whole number (x.yaml, line 3)"),
    (
        "cut: 2",
        "objective: speed",
        "model.objective: 'speed' does not fit; give time, device_memory, device_macs, bytes or activation_bytes "
        "(x.yaml, line 3)",
    ),
    ("cut: 2", "wide: 2", "model.wide: unknown key; did you mean width? (x.yaml, line 3)"),
    (
        "cut: 2",
        "options: 2",
        "model.options: unknown key; the keys here are cut, name, objective, weights, width (x.yaml, line 3)",
    ),
    (
        "name: cifar10\n  path: ../data",
        "name: cifar",
        "data.name: unknown data set 'cifar'; did you mean cifar10? there are: cifar10, digits; files of your own need "
        "their path, and module:Class names a class of your own (x.yaml, line 5)",
    ),
    ("name: cifar10", "name: [1]", "data.name: a list does not fit; give the name of a data set or module:Class"),
    ("path: ../data", "path: 3", "data.path: 3 does not fit; give a path (x.yaml, line 6)"),
    ("path: ../data", "resize: 0", "data.resize: 0 does not fit; give 1 or more (x.yaml, line 6)"),
    (
        "path: ../data",
        "tokens: {length: 9}",
        "data.tokens.tokenizer: missing; add it, as in 'tokenizer: bytes' (x.yaml, line 6)",
    ),
    ("kind: dirichlet", "kind: dirichlett", "data.partition.kind: unknown partition 'dirichlett'; did you mean"),
    (
        "kind: dirichlet, alpha: 0.3",
        "kind: dirichlet",
        "data.partition.alpha: missing; it has no default, so add it (x.yaml, line 7)",
    ),
    ("alpha: 0.3", "alpha: true", "data.partition.alpha: true does not fit; give a number (x.yaml, line 7)"),
    ("alpha: 0.3", "alpha: .nan", "data.partition.alpha: nan does not fit; give a finite number (x.yaml, line 7)"),
    ("alpha: 0.3", "alpha: inf", "data.partition.alpha: 'inf' does not fit; give a finite number (x.yaml, line 7)"),
    (
        "profile: pi-4",
        "profile: pi-5",
        "fleet.0.profile: unknown profile 'pi-5'; did you mean pi-4? there are: big, pi-4, or give a path to a .yaml "
        "file (x.yaml, line 9)",
    ),
    ("./my-board.yaml", "./your-board.yaml", "fleet.1.profile: profile file './your-board.yaml' does not exist"),
    ("profile: ./my", "profile: ~nobody-at-all/my", "fleet.1.profile: profile file '~nobody-at-all/my-board.yaml' can"),
    ("link: wifi", "link: wify", "fleet.0.link: unknown link 'wify'; did you mean wifi?"),
    (
        "link: wifi",
        "link: 3",
        "fleet.0.link: 3 does not fit; give the name of a link, or its rates, {up: 10 Mbit/s, down: 20 Mbit/s}",
    ),
    ("profile: pi-4", "profil: pi-4", "fleet.0.profil: unknown key; did you mean profile? (x.yaml, line 9)"),
    ("count: 4", "count: 0", "fleet.0.count: 0 does not fit; give 1 or more (x.yaml, line 9)"),
    ("count: 4", "count: true", "fleet.0.count: true does not fit; give a whole number (x.yaml, line 9)"),
    (
        "up: 10 Mbit/s",
        "up: 10",
        "fleet.1.link.up: 10 has no unit; a data rate is given in bit/s, kbit/s, Mbit/s, Gbit/s, Tbit/s, B/s, kB/s, "
        "MB/s, GB/s, TB/s, KiB/s, MiB/s, GiB/s, TiB/s; write it like 20 Mbit/s or 2 MB/s (x.yaml, line 11)",
    ),
    ("up: 10 Mbit/s", "up: 0 Mbit/s", "fleet.1.link.up: '0 Mbit/s' is out of range; a data rate here is greater than"),
    (
        "up: 10 Mbit/s, down: 26 Mbit/s",
        "up: 1 MB/s",
        "fleet.1.link.down: missing; add it, as in 'down: 26 Mbit/s' (x.yaml, line 11)",
    ),
    ("up: 10 Mbit/s", "upp: 10 Mbit/s", "fleet.1.link.upp: unknown key; did you mean up? (x.yaml, line 11)"),
    ("server: {profile: big", "server: {profile: bigg", "server.profile: unknown profile 'bigg'; did you mean big?"),
    (
        "local_steps: 8",
        "local_step: 8",
        "scheduler.local_step: unknown key; did you mean local_steps? (x.yaml, line 13",
    ),
    ("local_steps: 8", "count: 8", "scheduler.count: unknown key; the keys here are deadline, fast, how, local_steps"),
    (
        "local_steps: 8",
        "local_steps: a",
        "scheduler.local_steps: 'a' does not fit; give a whole number (x.yaml, line 13",
    ),
    ("local_steps: 8", "how: means", "scheduler.how: 'means' does not fit; give mean or median; did you mean mean?"),
    ("local_steps: 8", "fast: maybe", "scheduler.fast: 'maybe' does not fit; give on or off (x.yaml, line 13)"),
    ("local_steps: 8", "weights: [1, true]", "scheduler.weights.1: true does not fit; give a number (x.yaml, line 13)"),
    ("local_steps: 8", "weights: 1", "scheduler.weights: 1 does not fit; give a list (x.yaml, line 13)"),
    (
        "deadline: 3 min",
        "deadline: 3",
        "scheduler.deadline: 3 has no unit; a duration is given in s, ms, us, µs, ns, min, h, d; write it like 30 s, "
        "250 ms or 6 h (x.yaml, line 13)",
    ),
    ("deadline: 3 min", "deadline: 3:00", "scheduler.deadline: '3:00' has the unit ':00', but a duration is given in"),
    ("name: sgd", "name: adam", "training.optimizer.name: unknown optimizer 'adam'; there are: sgd; those of"),
    ("name: sgd", "name: my:Own", "training.optimizer.name: unknown optimizer 'my:Own'; there are: sgd; those of your"),
    ("batch: 16", "dtype: float16", "training.dtype: 'float16' does not fit; give float32 or float64; did you mean"),
    ("{batch: 16", "{batch: many", "training.batch: 'many' does not fit; give a whole number (x.yaml, line 14)"),
    ("device: 3", "device: 5", "faults.0.device: device 5, but the fleet has devices 0 to 4; give one of these"),
    ("return: 300 s", "return: 90 s", "faults.0.return: the device returns before it leaves; give a later time than"),
    ("return: 300 s", "return_: 90 s", "faults.0.return_: unknown key; did you mean return? (x.yaml, line 15)"),
    (
        "[{device: 3, leave: 120 s, return: 300 s}]",
        "[{device: 3, leave: 2 min}, {device: 3, leave: 120 h}]",
        "faults.1.leave: device 3 is already away since 2 min, and it never returns; let it return before it leaves",
    ),
    (
        "return: 300 s}",
        "return: 300 s}, {device: 3, leave: 200 s}",
        "faults.1.leave: device 3 is already away since 2 min, and it is back at 5 min; let it return before it leaves",
    ),
    (
        "{accuracy: 90 %, rounds: 200, time: 6 h}",
        "{}",
        "until: nothing ends the run; give at least one of rounds, time, accuracy, loss, perplexity (x.yaml, line 16)",
    ),
    ("{accuracy: 90 %, rounds: 200, time: 6 h}", "3", "until: 3 does not fit; give a mapping of keys, such as {key: v"),
    ("accuracy: 90 %", "accuracy: 150 %", "until.accuracy: '150 %' does not fit; give 1 or less (x.yaml, line 16)"),
    ("accuracy: 90 %", "perplexity: 1", "until.perplexity: 1 does not fit; give more than 1"),
    ("accuracy: 90 %", "loss: .inf", "until.loss: inf does not fit; give a finite number (x.yaml, line 16)"),
    ("time: 6 h", "time: six hours", "until.time: 'six hours' is not a duration; write it like 30 s, 250 ms or 6 h"),
    (
        "samples: all",
        "samples: some",
        "evaluate.samples: 'some' does not fit; give all or a whole number (x.yaml, line",
    ),
    ("samples: all", "samples: 0", "evaluate.samples: 0 does not fit; give all or 1 or more (x.yaml, line 17)"),
    ("mode: simulate", "mode: dream", "mode: 'dream' does not fit; give simulate or emulate (x.yaml, line 18)"),
    (
        "mode: simulate\nlearning: on",
        "mode: emulate\nlearning: off\n",
        "mode: emulate does the real work, so it needs learning: on; or set mode: simulate (x.yaml, line 18)",
    ),
    (
        "mode: simulate",
        "mode: emulate\nnetwork: {discipline: fair}",
        "network.discipline: fair lets the messages of one connection share it, but an emulation sends them one after "
        "the other; set discipline: fifo, or mode: simulate (x.yaml, line 19)",
    ),
    (
        "mode: simulate",
        "emulation: {dilation: fast}",
        "emulation.dilation: 'fast' does not fit; give a number, or auto (x.yaml, line 18)",
    ),
    (
        "mode: simulate",
        "emulation: {dilation: 0}",
        "emulation.dilation: 0 does not fit; give more than 0 (x.yaml, line 18)",
    ),
    (
        "mode: simulate",
        "emulation: {inbox: 3 KiB}",
        "emulation.inbox: '3 KiB' does not fit; give 1048576 or more (x.yaml, line 18)",
    ),
    ("mode: simulate", "emulation: {limit: 30}", "emulation.limit: 30"),
    (
        "mode: simulate",
        "pruning: corp",
        "pruning.method: unknown pruning method 'corp'; did you mean crop? there are: ",
    ),
    ("mode: simulate", "pruning: 3", "pruning: 3 does not fit; give a mapping of keys"),
    ("mode: simulate", "pruning: {method: crop, rouding: 4}", "pruning.rouding: unknown key; did you mean rounding?"),
    (
        "mode: simulate",
        "pruning: {method: crop, budget: {parms: 0.5}}",
        "pruning.budget.parms: unknown key; did you mean params?",
    ),
    (
        "mode: simulate",
        "pruning: {rounding: 4}",
        "pruning.rounding: unknown key; the keys here are aggregation, calibration, fit, manifest, method, scope, "
        "window_step, windows; options of a method need method (x.yaml, line 18)",
    ),
    (
        "mode: simulate",
        "pruning: {method: crop, manifest: small}",
        "pruning.manifest: a method, and a manifest that says what another one has done; leave one of them out",
    ),
    (
        "mode: simulate",
        "pruning: {fit: memory}",
        "pruning.fit: it is for a method; add method, or leave it out (x.yaml, line 18)",
    ),
    (
        "count: 4,",
        "count: 4, pruning: {method: crop, rounding: x},",
        "fleet.0.pruning.rounding: 'x' does not fit; give",
    ),
    (
        "count: 4,",
        "count: 4, pruning: {method: crop, scope: model},",
        "fleet.0.pruning.scope: unknown key; the keys here are budget, calibration, fit, manifest, method, rounding",
    ),
    ("mode: simulate", "workers: {kind: rays}", "workers.kind: 'rays' does not fit; give inline or ray"),
    ("mode: simulate", "workers: {threads: 0}", "workers.threads: 0 does not fit; give 1 or more (x.yaml, line 18)"),
    ("count: 4", "power_mode: 4", "fleet.0.power_mode: 4 does not fit; give text (x.yaml, line 9)"),
    ("count: 4", "clock: 1.2", "fleet.0.clock: 1.2 has no unit; a frequency is given in Hz, kHz, MHz, GHz, THz; write"),
    (
        "count: 4",
        "access: lab",
        "fleet.0.access: unknown access point 'lab'; there are none; add it to the scenario's access (x.yaml, line 9)",
    ),
    (
        "mode: simulate",
        "access: {lab: {up: 3 MB/s, down: 3 MB/s}}",
        "access.lab: no group of the fleet is behind it; add access: lab to one, or remove it (x.yaml, line 18)",
    ),
    ("mode: simulate", "access: {lab: {up: 3 MB/s}}", "access.lab.down: missing; add it, as in 'down: 300 Mbit/s'"),
    ("mode: simulate", "access: [lab]", "access: a list does not fit; give a mapping of keys"),
    ("latency: 25 ms", "latency: 1 s, rtt: 2 s", "fleet.1.link.latency: rtt is given, too; keep one (latency is one"),
    ("latency: 25 ms", "loss: 100 %", "fleet.1.link.loss: 1.0 does not fit; give less than 1"),
    ("latency: 25 ms", "trace: {reader: ucc}", "fleet.1.link.trace.path: missing; add it, as in 'path: drive.csv'"),
    ("mode: simulate", "network: {loss: some}", "network.loss: 'some' does not fit; give delay, mathis or off"),
    ("mode: simulate", "network: {window: 0 B}", "network.window: '0 B' is out of range"),
    ("mode: simulate", "network: {efficiency: 0}", "network.efficiency: 0.0 does not fit; give more than 0"),
    ("mode: simulate", "network: {rttbias: on}", "network.rttbias: unknown key; did you mean rtt_bias?"),
    ("mode: simulate", "auxiliary: pyramid", "auxiliary.kind: 'pyramid' does not fit; give scaled_layer or linear"),
    ("mode: simulate", "auxiliary: {rate: 0.1}", "auxiliary.rate: unknown key; did you mean ratio?"),
    ("mode: simulate", "auxiliary: {options: 3}", "auxiliary.options: unknown key; the keys here are kind, ratio"),
    ("mode: simulate", "auxiliary: 3", "auxiliary: 3 does not fit; give a kind of head or a mapping {kind: scaled_la"),
    (
        "mode: simulate",
        "codec: {weights: topk}",
        "codec.weights: top-k would set most of a model's weights to zero; give fp16 or int8 (x.yaml, line 18)",
    ),
    (
        "mode: simulate",
        "codec: {weights: {kind: topk, fraction: 5 %}}",
        "codec.weights: top-k would set most of",
    ),
    ("mode: simulate", "codec: {weights: int4}", "codec.weights: 'int4' does not fit; give fp32, fp16 or int8 (x.yaml"),
    (
        "mode: simulate",
        "codec: {activations: 8}",
        "codec.activations: 8 does not fit; give fp32, fp16, int8 or topk",
    ),
    (
        "mode: simulate",
        "codec: {gradients: {kind: topk, fraction: 60 %}}",
        "codec.gradients.fraction: 0.6 does not fit; give 0.5 or less (x.yaml, line 18)",
    ),
    (
        "mode: simulate",
        "codec: {gradients: {fractions: 5 %}}",
        "codec.gradients.fractions: unknown key; did you mean",
    ),
    (
        "mode: simulate",
        "codec: {activations: {feedback: on}}",
        "codec.activations.feedback: what was not sent of some samples would be added to others; remove it, or give it",
    ),
    ("mode: simulate", "codec: {labels: fp16}", "codec.labels: unknown key; the keys here are activations, gradients,"),
    ("mode: simulate", "codec: int8", "codec: 'int8' does not fit; give a mapping of keys, such as {key: value}"),
    ("mode: simulate", "on_oom: ignore", "on_oom: 'ignore' does not fit; give refuse, leave or record"),
    ("count: 4", "availability: a.csv", "fleet.0.availability: faults are given, too; keep one of them (x.yaml, line"),
    ("[{device: 3, leave: 120 s, return: 300 s}]", "{availability: 3}", "faults.availability: 3 does not fit; give"),
    (
        "[{device: 3, leave: 120 s, return: 300 s}]",
        "{device: 3}",
        "faults.device: unknown key; the keys here are availab",
    ),
    (
        "mode: simulate",
        "selection: {kind: over, over: 3}",
        "selection: kind over needs count; add it, as in 'count: 10' (x.yaml, line 18)",
    ),
    (
        "mode: simulate",
        "selection: {kind: over, count: 3, window: 60 s}",
        "selection: kind over needs over; add it, as in 'over: 2' (x.yaml, line 18)",
    ),
    (
        "mode: simulate",
        "selection: {kind: over, count: 3, over: 3}",
        "selection.over: 3 devices a round and 3 more are 6, but the fleet has 5; give 2 or less (x.yaml, line 18)",
    ),
    (
        "mode: simulate",
        "selection: {kind: over, count: 5, over: 1}",
        "selection.over: 5 devices a round and 1 more are 6, but the fleet has 5; give a smaller count (x.yaml, line",
    ),
    (
        "mode: simulate",
        "selection: {kind: over, count: 6, over: 1}",
        "selection.count: 6 devices a round, but the fleet has 5; give 5 or less (x.yaml, line 18)",
    ),
    (
        "mode: simulate",
        "selection: {kind: uniform, count: 3, over: 1}",
        "selection.over: only kind over takes it, and the kind is uniform; remove it (x.yaml, line 18)",
    ),
    ("mode: simulate", "selection: {kind: over, count: 3, over: 0}", "selection.over: 0 does not fit; give 1 or more"),
    (
        "mode: simulate",
        "selection: {window: 0 s}",
        "selection.window: '0 s' is out of range; a duration here is greater",
    ),
    ("mode: simulate", "selection: {window: 60}", "selection.window: 60 has no unit; a duration is given in"),
    ("mode: simulate", "selection: {kind: uniform}", "selection: kind uniform needs count; add it, as in 'count: 10'"),
    (
        "mode: simulate",
        "selection: {count: 3}",
        "selection.count: only kinds uniform and over take it, and the kind is all; remove it (x.yaml, line 18)",
    ),
    (
        "mode: simulate",
        "selection: {kind: uniform, count: 6}",
        "selection.count: 6 devices a round, but the fleet has 5; give 5 or less (x.yaml, line 18)",
    ),
    (
        "mode: simulate",
        "selection: {kind: fraction, fraction: 0}",
        "selection.fraction: 0 does not fit; give more than 0 (x.yaml, line 18)",
    ),
    ("learning: on", "learning: perhaps", "learning: 'perhaps' does not fit; give on or off (x.yaml, line 19)"),
    (
        "learning: on",
        "learning: off",
        "until.accuracy: needs learning: on, since timing only trains nothing; give a fixed count, until.rounds, "
        "instead (x.yaml, line 16)",
    ),
]
JARGON = re.compile(r"pydantic|Input should|union_tag|function-|validation error|Traceback|object at 0x|\[type=")


@pytest.mark.parametrize(("old", "new", "message"), CASES, ids=[message.split(" (")[0][:60] for *_, message in CASES])
def test_one_mistake_is_told_in_a_sentence(folder: Path, old: str, new: str, message: str) -> None:
    """One wrong value gives one message with what, the rule, the way out, the file and the line."""
    assert old in FULL
    with pytest.raises(ScenarioError) as caught:
        read(folder, FULL.replace(old, new, 1))
    lines = str(caught.value).split("\n  ")
    assert any(message in line for line in lines), str(caught.value)
    assert not JARGON.search(str(caught.value))
    assert all(re.search(r"\(x\.yaml, line \d+\)$", line) for line in lines[-1:])
    assert len(lines) <= 3, "one mistake is not told many times"


@pytest.mark.parametrize("section", ["model", "data", "server", "scheduler", "until", "fleet"])
def test_a_missing_section_shows_how_to_write_it(folder: Path, section: str) -> None:
    """What has no default is asked for, with an example."""
    with pytest.raises(ScenarioError, match=rf"^{section}: missing; add it, as in '{section}: .+' \(scenario given"):
        load({key: value for key, value in SHORT.items() if key != section}, registry=REGISTRY)


def test_all_errors_of_a_file_are_listed_in_order_of_line(folder: Path) -> None:
    """Several mistakes, whichever stage finds them, come in one list."""
    text = FULL.replace("learning: on", "lerning: on").replace("seed: 7", "seed: x").replace("vgg11", "vgg9")
    with pytest.raises(ScenarioError) as caught:
        read(folder, text.replace("count: 4", "count: -1"))
    first, *lines = str(caught.value).split("\n  ")
    assert first == "4 errors in x.yaml:"
    assert [re.findall(r"line (\d+)", line) for line in lines] == [["2"], ["3"], ["9"], ["19"]]
    assert [problem.path for problem in caught.value.problems] == [
        ("seed",),
        ("model", "name"),
        ("fleet", 0, "count"),
        ("lerning",),
    ]


def test_a_long_list_of_errors_is_cut(folder: Path) -> None:
    """Ten are shown and the others counted."""
    with pytest.raises(ScenarioError) as caught:
        load(SHORT | {f"wrong{index}": 1 for index in range(15)}, registry=REGISTRY)
    lines = str(caught.value).split("\n  ")
    assert lines[0] == "15 errors in the scenario:"
    assert (len(lines), lines[-1]) == (12, "... and 5 more")


def test_a_fleet_needs_devices(folder: Path) -> None:
    """No group at all is one mistake, and a wrong group is not also counted as a missing one."""
    with pytest.raises(ScenarioError, match=r"^fleet: an empty list does not fit; give a list of 1 or more"):
        load(SHORT | {"fleet": []}, registry=REGISTRY)
    with pytest.raises(
        ScenarioError, match=r"^fleet\.0: 3 does not fit; give a mapping of keys, such as \{key: value\}"
    ):
        load(SHORT | {"fleet": [3]}, registry=REGISTRY)


def test_sections_that_are_not_mappings_are_told_so(folder: Path) -> None:
    """A list, a number or nothing in the place of a section."""
    for wrong, said in (([1], "a list does not fit"), (3, "3 does not fit"), (None, "no value is given")):
        for key in ("training", "selection", "server", "workers", "evaluate"):
            with pytest.raises(ScenarioError, match=rf"^{key}: {said}; give a mapping of keys"):
                load(SHORT | {key: wrong}, registry=REGISTRY)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("quikstart", "unknown scenario 'quikstart'"),
        ("./none.yaml", "scenario file './none.yaml' does not exist"),
        (Path("none"), "scenario file none cannot be read: No such file or directory; check the path"),
        (Path("."), "cannot be read: Is a directory"),
        (Path("a\0b"), "cannot be read: "),
        ({3: 4}, "3 is no key of a scenario; keys are strings"),
    ],
)
def test_a_source_that_cannot_be_read(folder: Path, source: Any, message: str) -> None:
    """Wrong paths and names are the user's errors, too."""
    with pytest.raises(UserError, match=re.escape(message)):
        load(source, registry=REGISTRY)


def test_a_mapping_that_holds_itself(folder: Path) -> None:
    """Data without end are refused."""
    endless: dict[str, Any] = {}
    endless["model"] = endless
    with pytest.raises(UserError, match="nested more than 40 deep"):
        load(endless, registry=REGISTRY)


def test_a_data_folder_that_cannot_be(folder: Path) -> None:
    """A path of no user, or too long for the system."""
    for path in ("~nobody-at-all/data", "x" * 5000):
        with pytest.raises(ScenarioError, match=r"data\.path: the path cannot be used: .*; give a folder"):
            load(SHORT | {"data": {"name": "digits", "path": path}}, registry=REGISTRY)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "nothing is there; give a mapping of keys, such as 'model: vgg5' (x.yaml, line 1)"),
        ("- a\n", "a list is no scenario; give a mapping of keys"),
        ("just text", "'just text' is no scenario; give a mapping of keys"),
        ("\n\n3", "3 is no scenario; give a mapping of keys, such as 'model: vgg5' (x.yaml, line 3)"),
    ],
)
def test_a_file_that_is_no_mapping(folder: Path, text: str, message: str) -> None:
    """A file must hold keys."""
    with pytest.raises(ScenarioError, match=re.escape(message)):
        read(folder, text)


def test_a_file_that_is_not_utf_8(folder: Path) -> None:
    """Bytes that are no text."""
    (folder / "latin.yaml").write_bytes(b"name: caf\xe9")
    with pytest.raises(UserError, match=r"latin\.yaml is not text in UTF-8 \(byte 9\); save it as UTF-8"):
        load("./latin.yaml", registry=REGISTRY)


def test_files_of_ones_own_may_have_any_name(folder: Path) -> None:
    """With a path, the name is looked for there, when the data are read."""
    file = folder / "x.yaml"
    file.write_text(FULL.replace("name: cifar10", "name: my-pictures"), encoding="utf-8")
    assert load(file, registry=REGISTRY).data.name == "my-pictures"
