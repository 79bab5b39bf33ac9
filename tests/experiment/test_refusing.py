"""A scheduler that cannot do with the way a scenario trains: refused in a sentence, with the line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from fedsim.cli import main
from fedsim.errors import UserError
from fedsim.experiment.building import build
from fedsim.experiment.loading import load_scenario
from fedsim.learning.optimizers import Training
from fedsim.schedulers.fedavg import FedAvg
from tests.experiment.toys import TOY

SCENARIO = """\
name: refused
model: mlp
data: {name: digits, samples: 200}
fleet: [{profile: pi-tier-1, count: 2, link: wifi5}]
server: {profile: cpu-60g, link: ethernet-1g}
scheduler: scaffold
training:
  batch: 16
  optimizer: {name: sgd, lr: 0.1}
until: {rounds: 1}
learning: off
"""
MOMENTUM = SCENARIO.replace("lr: 0.1", "lr: 0.1, momentum: 0.9")
SENTENCE = (
    "scaffold cannot train with momentum 0.9: control variates assume plain steps along gradients; use momentum: 0, or "
    "leave it out"
)


@pytest.mark.parametrize("command", ["run", "check"])
def test_scaffold_and_momentum(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit status 2 and the line of the optimizer, before anything runs."""
    monkeypatch.chdir(tmp_path)
    Path("refused.yaml").write_text(MOMENTUM)
    assert main([command, "refused.yaml"]) == 2
    assert capsys.readouterr().err == f"error: {SENTENCE} (refused.yaml, line 9)\n"
    assert not Path("runs").exists()


def test_an_override_is_named(tmp_path: Path) -> None:
    """Where the optimizer came from there."""
    file = tmp_path / "refused.yaml"
    file.write_text(SCENARIO)
    build(load_scenario(file))
    scenario = load_scenario(file, overrides=["training.optimizer={name: adamw}"])
    with pytest.raises(UserError, match=r"scaffold cannot train with adamw: .* \(--set training\.optimizer\)$"):
        build(scenario)


@dataclass(frozen=True, kw_only=True)
class Picky(FedAvg):
    """A user's own scheduler with a condition of its own."""

    def check(self, training: Training) -> None:
        """Refuse large batches."""
        if training.batch > 8:
            raise ValueError(f"picky wants batches of at most 8, not {training.batch}")


def test_anybodys_scheduler_may_refuse() -> None:
    """By a method `check`, which most do not have."""
    with pytest.raises(UserError, match="picky wants batches of at most 8, not 16"):
        build(load_scenario(TOY, updates={"learning": False, "scheduler": Picky()}))
    few = {"batch": 8, "optimizer": {"name": "sgd", "lr": 0.1}}
    assert build(load_scenario(TOY, updates={"learning": False, "scheduler": Picky(), "training": few}))
