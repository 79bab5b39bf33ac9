"""`fedsim calibrate`: what it prints and writes, what it refuses at once, and that runs are priced by what it wrote."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from fedsim.calibration import running, surroundings
from fedsim.calibration.networks import BATCHES, NETWORKS, TYPICAL
from fedsim.calibration.running import Outcome, Plan
from fedsim.calibration.timing import QUICK, USUAL
from fedsim.cli import calibrating, main
from fedsim.hardware.machines import machine
from fedsim.hardware.pricing import nanoseconds
from fedsim.hardware.profiles import load_profile
from fedsim.learning.optimizers import Sgd, Training
from fedsim.learning.plan import MODEL, plans
from fedsim.models.building import build
from fedsim.models.counting import measure
from fedsim.models.options import Mlp
from tests.calibration.machines import observed, outcome, true
from tests.cli.toys import parsed

Heard = Callable[[str, float], None]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of one's own, on a machine of four cores."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(surroundings, "cores", lambda: 4)
    monkeypatch.setattr(surroundings, "cpu_name", lambda: "A processor, 4 cores")


class Made:
    """Stands in for the measuring: the plans that it was given, and a fit to a made-up machine."""

    def __init__(self) -> None:
        self.plans: list[Plan] = []
        self.outcome = outcome()

    def calibrate(self, plan: Plan, heard: Heard) -> Outcome:
        """The outcome, at once."""
        heard("mlp", 0.5)
        self.plans.append(plan)
        return self.outcome


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Made:
    """The measuring, replaced."""
    stand_in = Made()
    monkeypatch.setattr(calibrating, "calibrate", stand_in.calibrate)
    return stand_in


@pytest.mark.usefixtures("made")
def test_a_table_of_networks_and_the_profile(capsys: pytest.CaptureFixture[str]) -> None:
    """A line a network and typical batch, the fit, the errors, the file's name last; no wider than a terminal."""
    assert main(["calibrate", "--out", "mine.yaml"]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert max(map(len, lines[:12])) <= 80
    assert lines[0] == "A processor, 4 cores; cpu, threads: 1, others' load 2%, scatter of repeats 1%"
    assert lines[1].split() == [
        "network",
        "batch",
        "forward",
        "error",
        "fwd",
        "+",
        "bwd",
        "error",
        "optimizer",
        "error",
    ]
    assert [tuple(line.split()[:2]) for line in lines[2:10]] == [
        (name, batch) for name in ("dense", "plain", "mobile", "words") for batch in ("8", "32")
    ]
    assert "fit: gemm 50 GMAC/s, of it linear 90%, conv 80%; memory 12.5 GB/s, of it optimizer 240%, copy 128%" in out
    assert "overhead 5 µs, of convolutions 120 µs" in out
    assert re.search(r"left out, at batch 8 and 32: mean error 0\.\d% \(limit 25%\): forward 0\.\d%, forward \+ ", out)
    assert lines[-1] == "mine.yaml"
    assert err == ""
    assert load_profile("./mine.yaml", Path()).id == "mine"


@pytest.mark.usefixtures("made")
def test_no_line_is_folded(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A narrower or a wider output gets the same lines."""
    outputs = []
    for columns in ("40", "80", "200"):
        monkeypatch.setenv("COLUMNS", columns)
        assert main(["calibrate"]) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1] == outputs[2]


@pytest.mark.usefixtures("made")
def test_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    """One document with every measurement, numbers in seconds, bytes and MACs; without --out nothing is written."""
    assert main(["calibrate", "--json"]) == 0
    found = parsed(capsys.readouterr().out)
    assert (found["schema"], found["profile"], found["threads"], found["processor"]) == (1, None, 1, "cpu")
    assert found["fit"]["gemm"] == 50e9
    assert (found["fit"]["overhead"]["linear"], found["fit"]["overhead"]["conv"]) == (5e-6, 120e-6)
    assert found["fit"]["efficiency"]["conv"] == pytest.approx(0.8, rel=5e-3)
    assert found["rates"] == {"products": {"512": 40e9, "1024": 50e9}, "copy": 16e9, "overhead": 4e-6}
    assert found["left_out_typical"]["batches"] == [8, 32]
    assert set(found["left_out_by_part"]) == {"forward", "forward + backward", "optimizer"}
    assert set(found["models"]) == {"dense", "plain", "mobile", "words"}
    first = found["measurements"][0]
    assert (first["model"], first["batch"], first["part"], first["optimizer"]) == ("dense", 1, "forward", "sgd")
    assert first["priced"] == pytest.approx(first["measured"], rel=5e-3)
    assert list(Path().iterdir()) == []


def test_what_is_measured(made: Made) -> None:
    """All networks and batch sizes on every core; with --quick and --models less."""
    assert main(["calibrate"]) == 0
    assert main(["calibrate", "--quick", "--threads", "2", "--models", "transformer, mlp,vgg5", "--allow-load"]) == 0
    usual, quick = made.plans
    assert ([n.name for n in usual.networks], usual.threads) == (list(NETWORKS), 4)
    assert (usual.batches, usual.patience, usual.allow_load) == (BATCHES, USUAL, False)
    assert ([n.name for n in quick.networks], quick.threads) == (["mlp", "vgg5", "transformer"], 2)
    assert (quick.batches, quick.patience, quick.allow_load) == (TYPICAL, QUICK, True)


def test_what_to_beware_of_is_noted(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    """On standard error, a line each; the status stays 0, since there is a profile."""
    made.outcome = outcome(load=0.4)
    assert main(["calibrate"]) == 0
    assert capsys.readouterr().err == "note: other processes took 40% of the machine while it was measured\n"


def test_batches_that_were_too_slow_are_left_empty(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    """A network without a time at batch 32 has a line without figures."""
    made.outcome = outcome([o for o in observed(true()) if (o.network, o.batch) != ("plain", 32)])
    assert main(["calibrate"]) == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("plain")][1] == [
        "plain",
        "32",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--models", "vgg6,mlp,cnn"], "unknown network to measure 'vgg6'; did you mean vgg5?"),
        (["--models", "mlp"], "1 network to measure (mlp); a fit needs at least 3"),
        (["--threads", "5"], "--threads 5, but this process may use 4 cores, and more threads than cores"),
        (["--threads", "0"], "--threads 0, but this process may use 4 cores"),
        (["--out", "Mine.yaml"], "--out Mine.yaml is no name of a profile"),
        (["--out", "there.yaml"], "--out there.yaml already exists; choose another name, or replace it with --force"),
        (["--out", "m.yaml", "--idle", "3"], "--idle '3': '3' has no unit; a power is given in W, mW, kW"),
        (["--out", "m.yaml", "--busy", "1 W"], "--idle 3 W and --busy 1 W; a machine draws at least as much busy"),
    ],
)
def test_mistakes_are_refused_before_anything_is_measured(
    made: Made, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    """Status 2, and one sentence with the way out."""
    Path("there.yaml").touch()
    assert main(["calibrate", *arguments]) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")
    assert made.plans == []


def test_without_cuda_there_is_no_gpu_to_measure(
    made: Made, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 2 at once."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main(["calibrate", "--processor", "gpu"]) == 2
    assert "finds no CUDA device; measure the CPU with --processor cpu" in capsys.readouterr().err
    assert made.plans == []


@pytest.mark.usefixtures("made")
def test_a_profile_is_replaced_with_force() -> None:
    """And says what the command line said."""
    Path("mine.yaml").write_text("old")
    arguments = ["--force", "--kind", "laptop", "--idle", "4 W", "--busy", "30 W"]
    assert main(["calibrate", "--out", "mine.yaml", *arguments]) == 0
    found = load_profile("./mine.yaml", Path())
    assert (found.kind.value, found.power.idle, found.power.busy) == ("laptop", 4.0, 30.0)


SCENARIO = """\
name: calibrated
seed: 3
model: {name: mlp, hidden: [512]}
data: {name: digits, samples: 320}
fleet: [{profile: ./mine.yaml, count: 1, link: wifi5}]
server: {profile: gpu-3t, link: ethernet-1g}
scheduler: {name: fedavg, local_steps: 4}
training: {batch: 32, optimizer: {name: sgd, lr: 0.1}}
until: {rounds: 2}
"""


@pytest.mark.slow
def test_a_run_is_priced_by_the_profile_that_was_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """This machine, measured for real, if briefly: a device of it computes for as many nanoseconds as its steps cost.

    The price of such a step lies within a factor of four of the time that a step of the network like it took, on
    whatever else is busy here.
    """
    monkeypatch.setattr(surroundings, "WINDOW", 0.05)
    monkeypatch.setattr(running, "warm_up", lambda _target, _clock: None)
    monkeypatch.setattr(surroundings, "cores", lambda: 1)
    options = ["--quick", "--models", "mlp,lenet5,vgg5", "--threads", "1", "--allow-load", "--json"]
    assert main(["calibrate", "--out", "mine.yaml", *options]) == 0
    measured = parsed(capsys.readouterr().out)["measurements"]

    Path("calibrated.yaml").write_text(SCENARIO)
    assert main(["run", "calibrated.yaml", "--set", "learning=off", "--out", "run"]) == 0
    summary = json.loads(Path("run/summary.json").read_text())
    board = machine(load_profile("./mine.yaml", Path()))
    network = build("mlp", Mlp(hidden=[512]), input=(1, 8, 8), classes=10, kind="image", device="cpu")
    step = plans(measure(network), None, Training(batch=32, optimizer=Sgd(lr=0.1)))[MODEL].train_part(32).cost
    busy = summary["devices"]["busy"] * summary["seconds"]
    assert busy == pytest.approx(2 * 4 * nanoseconds(board, step) / 1e9, rel=1e-6)

    [gradients] = [
        one["measured"]
        for one in measured
        if (one["model"], one["batch"], one["part"]) == ("mlp", 32, "forward + backward")
    ]
    same = build("mlp", Mlp(hidden=[512]), input=(1, 28, 28), classes=10, kind="image", device="cpu")
    whole = plans(measure(same), None, Training(batch=32, optimizer=Sgd(lr=0.1)))[MODEL].train_part(32).cost
    assert 0.25 < nanoseconds(board, whole) / 1e9 / gradients < 4
