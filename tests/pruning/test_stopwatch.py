"""The stopwatch: turns, threads and what it leaves behind."""

from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor, nn

from fedsim.pruning.calls import drawn, of_images, of_text
from fedsim.pruning.stopwatch import timed
from tests.pruning.cuts import tiny_llama


class Noted(nn.Module):
    """Notes who was called, and how."""

    def __init__(self, name: str, calls: list[str]) -> None:
        super().__init__()
        self.name, self.calls = name, calls

    def forward(self, x: Tensor) -> Tensor:
        assert not self.training
        assert not torch.is_grad_enabled()
        self.calls.append(self.name)
        return x


def test_models_are_called_in_turns_in_eval_mode_without_gradients() -> None:
    """After two calls each that do not count; at least five do."""
    calls: list[str] = []
    models = {name: Noted(name, calls) for name in "ab"}
    found = timed(models, lambda model: model(torch.zeros(1)), seconds=0)
    assert calls == [*"aabb", *"ab" * 5]
    assert all(each.repeats == 5 and 0 < each.p50 <= each.p95 for each in found.values())
    assert all(model.training for model in models.values())


def spin(seconds: float) -> float:
    """Keep the processor busy; gives back for how long that was."""
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        pass
    return time.perf_counter() - began


def test_quantiles_are_of_the_calls_that_count() -> None:
    """Never below what the calls themselves saw: of five, the third, and nearly the longest."""
    planned = iter([0, 0, 0, 0, 0.004, 0.004, 0.024])
    spent: list[float] = []
    found = timed({"x": nn.Identity()}, lambda _: spent.append(spin(next(planned))), seconds=0)["x"]
    third, fourth, longest = sorted(spent[2:])[2:]
    assert found.p50 >= third >= 0.004
    assert found.p95 >= 0.8 * longest + 0.2 * fourth >= 0.02


def test_what_makes_a_call_ready_is_not_timed() -> None:
    """Nothing takes less time than that."""
    ready: list[float] = []

    class Prepared:
        def ready(self, _model: nn.Module) -> None:
            ready.append(spin(0.002))

        def __call__(self, _model: nn.Module) -> None:
            pass

    found = timed({"x": nn.Identity()}, Prepared(), seconds=0.04)["x"]
    assert len(ready) == found.repeats + 2
    assert found.p50 < min(ready)


def test_threads_are_as_before_afterwards() -> None:
    """Also where a model fails."""
    before = torch.get_num_threads()
    seen = []

    def fail(_model: nn.Module) -> None:
        seen.append(torch.get_num_threads())
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        timed({"x": nn.Identity()}, fail, threads=2)
    assert seen == [2]
    assert torch.get_num_threads() == before


def test_images_are_called_by_batches() -> None:
    """Of one sample, over and over."""
    shapes = []
    for call in of_images(torch.zeros(2, 3, 4, 4), (1, 8)).values():
        call(lambda x: shapes.append(tuple(x.shape)))  # type: ignore[arg-type]
    assert shapes == [(1, 3, 4, 4), (8, 3, 4, 4)]


@pytest.mark.slow
def test_a_token_after_a_prompt_is_that_of_a_longer_prompt() -> None:
    """The cache holds the prompt, each time anew, and each model has its own."""
    model, other = tiny_llama().eval(), tiny_llama(seed=1).eval()
    tokens = drawn(model, length=9, vocabulary=61, seed=0)
    calls = of_text(model, tokens)
    assert list(calls) == ["prompt of 9 tokens", "one token after 9"]
    step = calls["one token after 9"]
    longer = torch.cat([tokens[:1], tokens[:1, -1:]], 1)
    with torch.no_grad():
        for each in (model, other, model):
            step.ready(each)  # type: ignore[attr-defined]
            torch.testing.assert_close(step(each)[0, -1], each(input_ids=longer).logits[0, -1])
