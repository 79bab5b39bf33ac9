"""Rankings: one forward, a small file, and what follows from them without another forward."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fedsim.errors import UserError
from fedsim.pruning.mosaic import Mosaic, Ranking, drawn, plan, rank
from fedsim.pruning.mosaic.adapters import Decoders, found
from fedsim.pruning.mosaic.ranking import BlockRanking, current
from fedsim.pruning.pruned import fingerprint
from tests.pruning.mosaic import tiny

pytestmark = pytest.mark.slow  # transformers takes seconds to import


def test_a_ranking_says_what_it_was_made_of() -> None:
    """Model, windows, and blocks; the model is as before."""
    model = tiny.units()
    before = fingerprint(model)
    windows = drawn(range(20), count=4, length=tiny.LENGTH, description={"text": "numbers"})
    made = rank(model, windows)
    assert made.parent == before == fingerprint(model)
    assert made.calibration == windows.described()
    assert made.privacy == "public"
    assert [block.name for block in made.blocks] == ["block1.layer", "block2.layer"]
    assert rank(model, replace(windows, privacy="device-private")).privacy == "device-private"


@pytest.mark.parametrize("score", ["wanda", "magnitude", "taylor", "fluctuation"])
def test_files_bring_everything_back(tmp_path: Path, score: Any) -> None:
    """The same digest, hence the same plan; and the same bytes when written again."""
    model = tiny.whole()
    options = Mosaic(unit_score=score, alpha=1.0)
    made = rank(model, tiny.windows(), options)
    first, second = tmp_path / "first.safetensors", tmp_path / "new" / "second.safetensors"
    made.save(first)
    read = Ranking.load(first)
    read.save(second)
    assert read.digest == made.digest
    assert first.read_bytes() == second.read_bytes()
    assert plan(model, read, options).text() == plan(model, made, options).text()


def test_other_factors_need_no_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outliers by M = 3 from a ranking for 5 are those of a ranking for 3, without running anything."""
    model = tiny.whole()
    blocks = found(Decoders(), model)
    five, three = (rank(model, tiny.windows(), Mosaic(outlier_factor=factor)) for factor in (5.0, 2.0))
    monkeypatch.setattr(Decoders, "run", None)
    assert five.distribution(model, blocks, 2.0) == three.distribution(model, blocks, 2.0)
    assert five.distribution(model, blocks, 2.0) != five.distribution(model, blocks, 5.0)


def test_other_scores_follow_or_are_refused() -> None:
    """Metric and magnitude follow from weights and norms; the loss and variances do not."""
    model = tiny.whole()
    blocks = found(Decoders(), model)
    wanda, magnitude = (rank(model, tiny.windows(), Mosaic(unit_score=score)) for score in ("wanda", "magnitude"))
    assert torch.allclose(magnitude.units(model, blocks, "wanda")[1].groups.float(), wanda.blocks[1].units.groups)
    assert torch.allclose(wanda.units(model, blocks, "magnitude")[0].heads.float(), magnitude.blocks[0].units.heads)
    with pytest.raises(UserError, match=r"unit_score taylor needs a pass of its own .*made for wanda; rank the model"):
        wanda.units(model, blocks, "taylor")


def test_rankings_of_thirty_blocks_are_below_a_megabyte(tmp_path: Path) -> None:
    """30 blocks of width 576, 9 heads and 1,536 channels: the sizes of SmolLM2-135M, other values."""
    made = rank(tiny.whole(), tiny.windows())
    block = made.blocks[0]

    def grown() -> BlockRanking:
        norms = {p: tiny.positive(1536 if p == "down" else 576) for p in block.norms}
        units = replace(block.units, heads=tiny.positive(9), groups=tiny.positive(3), channels=tiny.positive(1536))
        return replace(block, norms=norms, units=units)

    file = tmp_path / "ranking.safetensors"
    replace(made, blocks=tuple(grown() for _ in range(30))).save(file)
    assert 400_000 < file.stat().st_size < 1_000_000


def test_rankings_of_other_models_are_refused() -> None:
    """By the fingerprint."""
    ranking = rank(tiny.whole(), tiny.windows())
    with pytest.raises(UserError, match=r"made of another model than this LlamaForCausalLM \(fingerprint .*rank this"):
        current(ranking, tiny.whole(seed=1), Mosaic())


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    """Missing, of another kind, or of another version."""
    from safetensors.torch import save_file

    with pytest.raises(UserError, match=r"nothing.safetensors cannot be read as a ranking"):
        Ranking.load(tmp_path / "nothing.safetensors")
    (tmp_path / "text").write_text("no")
    with pytest.raises(UserError, match="cannot be read as a ranking"):
        Ranking.load(tmp_path / "text")
    save_file({"a": torch.zeros(1)}, tmp_path / "other")
    with pytest.raises(UserError, match="other is no ranking that this version of fedsim has written; rank the model"):
        Ranking.load(tmp_path / "other")


def test_models_with_nan_are_refused() -> None:
    """The first projection that has one is named."""
    model = tiny.filled(tiny.units(), 1)
    with torch.no_grad():
        model.get_parameter("block2.layer.self_attn.v_proj.weight")[0, 0] = torch.nan
    with pytest.raises(UserError, match=r"block2.layer.self_attn.v_proj: 1 of 432 weights have a metric"):
        rank(model, tiny.windows())


def test_fluctuation_is_of_what_the_whole_model_hands_on() -> None:
    """By block: variances of what o and down read over all tokens of all windows, times their columns' squares."""
    model, seen = deepcopy(tiny.whole()), {}
    names = [f"model.layers.{n}.{each}" for n in (0, 1) for each in ("self_attn.o_proj", "mlp.down_proj")]
    for name in names:
        model.get_submodule(name).register_forward_pre_hook(lambda _, x, name=name: seen.update({name: x[0]}))
    tiny.logits(model, tiny.windows())
    amounts = {
        name: x.flatten(0, 1).double().var(0, correction=0) * model.get_parameter(f"{name}.weight").square().sum(0)
        for name, x in seen.items()
    }
    made = rank(tiny.whole(), tiny.windows(), Mosaic(unit_score="fluctuation"))
    for number, block in enumerate(made.blocks):
        o, down = (amounts[name].detach().float() for name in names[2 * number : 2 * number + 2])
        torch.testing.assert_close(block.units.channels, down, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(block.units.heads, o.reshape(9, 4).sum(1), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(block.units.groups, o.reshape(3, 12).sum(1), rtol=1e-4, atol=1e-4)


def test_taylor_is_of_the_loss_over_all_windows() -> None:
    """By channel and query head: weights times gradients of the mean loss, in magnitude, over the weights it owns."""
    model, tokens = deepcopy(tiny.whole()), tiny.windows()
    logits = model(input_ids=tokens, use_cache=False).logits[:, :-1]
    cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()

    def amounts(name: str) -> Tensor:
        weight: Tensor = model.get_parameter(f"{name}.weight")
        assert weight.grad is not None
        return (weight.detach() * weight.grad).abs()

    made = rank(tiny.whole(), tokens, Mosaic(unit_score="taylor"))
    for number, block in enumerate(made.blocks):
        mlp, attention = (f"model.layers.{number}.{each}" for each in ("mlp", "self_attn"))
        channels = amounts(f"{mlp}.gate_proj").sum(1) + amounts(f"{mlp}.up_proj").sum(1)
        channels += amounts(f"{mlp}.down_proj").sum(0)
        heads = amounts(f"{attention}.q_proj").sum(1) + amounts(f"{attention}.o_proj").sum(0)
        torch.testing.assert_close(block.units.channels, channels, rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(block.units.heads, heads.reshape(9, 4).sum(1), rtol=1e-3, atol=1e-6)
