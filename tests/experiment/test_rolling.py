"""Scenarios whose variants move over the model: `pruning.windows: rolling`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import fedsim
from fedsim.errors import UserError
from fedsim.experiment.building import Study
from fedsim.learning.deferring import Deferring
from fedsim.report.variants import coverage_line
from fedsim.script import Command
from fedsim.simulation import Inline
from tests.experiment.test_variants import crop, scenario, study


def rolling(keep: int, **more: Any) -> dict[str, Any]:
    """So many of the 32 channels of the first convolution, and others every round."""
    return crop(keep, windows="rolling", **more)


def channels(made: Study, round: int) -> list[int]:
    """Those of the first convolution that the smallest variant has."""
    windows = made.assembly.variants[-1].windows
    assert windows is not None
    found = windows.support(round).axes["conv1.0.weight"][0]
    assert found is not None
    return [int(each) for each in found]


def test_the_server_holds_all_of_the_model() -> None:
    """Though nobody does: sooner or later all of it is trained. A method decides how many channels, not which."""
    made = study(rolling(8), None, crop(20))
    assert made.assembly.model.units[0].output[0] == 32
    assert [sorted(variant.groups) for variant in made.assembly.variants] == [[1], [0]]
    assert channels(made, 0) == list(range(8))
    assert channels(made, 30) == [0, 1, 2, 3, 4, 5, 30, 31]
    assert study(rolling(8)).assembly.model.units[0].output[0] == 32, "where all devices have the same, too"


def test_every_axis_of_a_real_network_has_its_turn() -> None:
    """Of whatever Reconvene leaves of every layer, also behind a flattening and on both sides of a residual sum."""
    section = {"method": "reconvene", "score": "magnitude", "budget": {"params": "40 %"}, "tau": 1.0}
    made = study({**section, "windows": "rolling", "window_step": 3}, model={"name": "resnet20"})
    (variant,) = made.assembly.variants
    assert variant.windows is not None
    sizes = {name: tensor.shape for name, tensor in made.network().state_dict().items()}
    assert len(variant.windows.channels) > 5
    turns = max(each.rounds(3) for each in variant.windows.channels)
    seen: dict[tuple[str, int], set[int]] = {}
    for round in range(turns):
        support = variant.windows.support(round)
        for name, axes in support.axes.items():
            assert support.shape(name, tuple(sizes[name])) == variant.support.shape(name, tuple(sizes[name]))
            for axis, kept in enumerate(axes):
                if kept is not None:
                    seen.setdefault((name, axis), set()).update(kept.tolist())
    assert seen
    assert all(found == set(range(sizes[name][axis])) for (name, axis), found in seen.items())


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", ["fedavg", "splitfed", "ampere"])
def test_a_round_trains_its_window_and_nothing_else(scheduler: str) -> None:
    """What is outside of it stays, to the bit; after enough rounds all has been trained, and the report says so."""
    sections = (rolling(8, window_step=8), None, crop(8))
    made = study(*sections, scheduler=scheduler, until={"rounds": 4})
    host = Deferring(made.host())
    seen: list[torch.Tensor] = []
    simulation = made.assembly.simulation(Inline(host))
    original = host.run

    def watching(command: Command) -> None:
        original(command)
        if command.method == "mean.result" and command.args:
            value: Any = host.value(command.output)  # type: ignore[arg-type]
            seen.append(value.named()["conv1.0.weight"].clone())

    host.run = watching  # type: ignore[method-assign]
    before = made.network().get_parameter("conv1.0.weight").detach().clone()
    simulation.run()
    assert len(seen) >= 4
    for round, after in enumerate(seen[:4]):
        inside = np.arange(8 * round, 8 * round + 8)
        outside = np.setdiff1d(np.arange(32), inside)
        assert after[outside].equal(before[outside])
        assert not after[inside].equal(before[inside])
        before = after


@pytest.mark.slow
def test_the_report_says_how_much_has_been_reached() -> None:
    """A round no more than before, all rounds together all of it; messages weigh the same in every round."""
    fixed = fedsim.run(scenario(crop(8), None, crop(12), until={"rounds": 6}, learning="off"))
    for learning in ("on", "off"):
        run = fedsim.run(scenario(rolling(8, window_step=4), None, crop(12), until={"rounds": 6}, learning=learning))
        coverage = run.summary["pruning"]["coverage"]
        assert coverage["min"] == coverage["max"] < 0.9
        assert coverage["reached"] == 1.0
        assert coverage_line(coverage).endswith("of the model's parameters, all rounds together 100.0 %")
    assert run.summary["bytes"] == fixed.summary["bytes"]
    assert run.summary["devices"]["macs"] == fixed.summary["devices"]["macs"]
    assert "reached" not in fixed.summary["pruning"]["coverage"]
    assert run.summary["deployment"]["bytes"] == 0, "a rule says where windows are"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"scheduler": "fedasync"}, "scheduler fedasync does not say fresh_rounds"),
        ({"scheduler": "scaffold"}, "scheduler scaffold does not say fresh_rounds"),
        (
            {"training": {"optimizer_state": "keep"}},
            "keep would give the state of some channels to others; set windows: fixed",
        ),
        (
            {"pruning": rolling(8, aggregation="per-variant")},
            "windows move over one model that all variants are parts of",
        ),
        ({"pruning": crop(8, window_step=2)}, "windows are fixed; set windows: rolling, or leave it out"),
    ],
)
def test_where_windows_cannot_move(more: dict[str, Any], message: str) -> None:
    """With the way out."""
    with pytest.raises(UserError, match=message):
        study(more.pop("pruning", rolling(8)), **more)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (rolling(8, masked=0.5), "windows: rolling moves channels, but this method sets weights to zero"),
        (
            rolling(8, window_step=9),
            "window_step 9 is more than the 8 channels that conv1.0 keeps, so some would",
        ),
    ],
)
def test_what_cannot_be_moved(section: dict[str, Any], message: str) -> None:
    """Zeros are not channels; and steps may not leave channels out."""
    with pytest.raises(UserError, match=message):
        study(section)
