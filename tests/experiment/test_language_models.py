"""Language models in scenarios: published weights and tokenizers, real training, the same clock without it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from fedsim import run
from fedsim.errors import UserError
from fedsim.experiment.building import build
from fedsim.experiment.loading import load_scenario
from fedsim.learning.plan import DEVICE, SERVER_BLOCK
from tests.checkpoints.files import llama_keys, llama_tensors, tokenizer_keys, trained_tokenizer, write_gguf

pytestmark = pytest.mark.slow  # transformers takes seconds to import

TEXT = "".join(f"The cat of house {n % 7} has {n % 5} hats, and the dog has {n % 3}.\n" for n in range(400))
SYSTEMS: Mapping[str, Mapping[str, Any]] = {
    "fedavg": {"name": "fedavg", "local_steps": 6},
    "splitfed": {"name": "splitfed", "local_steps": 6},
    "ampere": {"name": "ampere", "local_steps": 6, "server_epochs": 1},
    "fedoptima": {"name": "fedoptima", "local_steps": 6},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text, and a model in a GGUF file with the tokenizer that was trained on it."""
    made = tmp_path_factory.mktemp("model")
    (made / "text.txt").write_text(TEXT)
    tokenizer = trained_tokenizer(TEXT)
    keys = llama_keys() | tokenizer_keys(tokenizer)
    write_gguf(made / "tiny.gguf", "llama", keys, llama_tensors(vocabulary=tokenizer.get_vocab_size()), "Q8_0")
    return made


def scenario(folder: Path, **updates: Any) -> dict[str, Any]:
    """Three devices of two kinds, and the model of the folder."""
    return {
        "name": "language",
        "seed": 2,
        "model": {"name": "llama", "path": str(folder), "cut": 2},
        "data": {
            "name": "text",
            "path": str(folder / "text.txt"),
            "tokens": {"length": 16, "tokenizer": "model"},
            "partition": "contiguous",
        },
        "fleet": [{"profile": "raspberry-pi-4b", "count": 2}, {"profile": "jetson-nano", "count": 1}],
        "server": {"profile": "rtx-a6000"},
        "scheduler": SYSTEMS["fedavg"],
        "training": {"batch": 8, "optimizer": {"name": "adamw", "lr": 0.003}},
        "until": {"rounds": 4},
        "evaluate": {"samples": 20},
        **updates,
    }


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_published_model_is_trained(folder: Path, system: str) -> None:
    """Its perplexity on held-out text falls under every kind of system; a run without learning has the same clock."""
    source = scenario(folder, scheduler=SYSTEMS[system])
    done = run(source)
    first, last = done.curves[0]["loss"], done.curves[-1]["loss"]
    assert last < 0.8 * first, (first, last)
    metric = done.summary["metric"]
    assert metric["name"] == "perplexity"
    assert metric["final"] == pytest.approx(math.exp(last))
    timed = run(source, learning=False)
    assert timed.summary["seconds"] == done.summary["seconds"]
    assert timed.summary["bytes"] == done.summary["bytes"]


def test_a_goal_in_perplexity_ends_a_run(folder: Path) -> None:
    """As soon as an evaluation reaches it."""
    whole = run(scenario(folder))
    goal = math.exp(whole.curves[2]["loss"]) * 1.001
    ended = run(scenario(folder, until={"rounds": 4, "perplexity": goal}))
    assert ended.curves == whole.curves[:3]


def test_the_server_owns_its_head(folder: Path) -> None:
    """A tied model is untied by the cut: both sides have a matrix of the vocabulary, and both are counted."""
    study = build(load_scenario(scenario(folder, scheduler=SYSTEMS["fedoptima"], learning=False)))
    blocks, width = study.assembly.blocks(), 64
    assert study.info.classes == study.assembly.model.classes > 256
    table = study.info.classes * width
    shapes = {name: {s.name: s.elements for s in plan.weights.shapes} for name, plan in blocks.items()}
    assert shapes[DEVICE]["embedding.weight"] == shapes[SERVER_BLOCK]["head.1.weight"] == table
    head = [name for name in shapes[DEVICE] if name.startswith("aux_")]
    assert any("self_attn" in name for name in head), "a decoder block"
    assert not any(shapes[DEVICE][name] >= table for name in head), "no vocabulary of its own"


def test_the_tokenizer_of_a_model_without_one(folder: Path) -> None:
    """Drawn models have none."""
    source = scenario(folder, model={"name": "llama", "cut": 2}, learning=False)
    with pytest.raises(
        UserError, match=r"tokens\.tokenizer: model is the tokenizer of a model with a path, and llama "
    ):
        build(load_scenario(source))


def test_a_tokenizer_of_another_model_may_be_too_large(folder: Path) -> None:
    """Then the model's own is the way out."""
    made = write_gguf(folder / "other.gguf", "llama", llama_keys(), llama_tensors(vocabulary=200))
    source = scenario(folder, model={"name": "llama", "path": str(made), "cut": 2}, learning=False)
    source["data"]["tokens"]["tokenizer"] = str(folder / "tiny.gguf")
    with pytest.raises(UserError, match=r"vocabulary of 200 tokens, but the data have \d\d\d; give the model a larger"):
        build(load_scenario(source))
    made.unlink()


# --------------------------------------------------------------------------------------------- inference


def test_a_published_model_answers(folder: Path) -> None:
    """For real and timing only alike: half a sample is the prompt, the rest are new tokens."""
    source = scenario(folder, scheduler={"name": "inference"}, until={"rounds": 3})
    done, timed = run(source), run(source, learning=False)
    assert done.summary["inference"] == timed.summary["inference"]
    boards, jetson = done.summary["inference"]
    assert (boards["requests"], boards["tokens"], jetson["tokens"]) == (6, 6 * 8, 3 * 8)
    assert boards["first_token_s"]["p50"] < boards["latency_s"]["p50"]
    assert done.curves[0]["loss"] == done.curves[-1]["loss"], "nothing is trained"
