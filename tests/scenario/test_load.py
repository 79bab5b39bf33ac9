"""What a right scenario becomes."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import pytest

from fedsim.scenario import Codec, InlineLink, Scenario, TopK, load
from tests.scenario.toys import FULL, REGISTRY, SHORT, Dirichlet, FedAvg, FedOptima, Iid, Sgd, read


def test_every_section_is_read(folder: Path) -> None:
    """The interface's example gives SI floats, option objects and absolute paths."""
    scenario = read(folder, FULL)
    assert (scenario.name, scenario.seed, scenario.devices) == ("eight-boards", 7, 5)
    assert (scenario.model.name, scenario.model.cut) == ("vgg11", 2)
    assert scenario.data.path == folder.parent / "data"
    assert scenario.data.partition.options == Dirichlet(0.3)
    assert scenario.fleet[1].profile == str(folder / "my-board.yaml")
    assert scenario.fleet[1].link == InlineLink.model_validate(
        {"up": "1.25 MB/s", "down": "3.25 MB/s", "latency": "0.025 s"}
    )
    assert scenario.fleet[0].link == "wifi"
    assert scenario.scheduler.options == FedAvg(local_steps=8, deadline=180.0)
    assert scenario.training.optimizer.options == Sgd(0.05, 0.9)
    assert (scenario.listed_faults[0].leave, scenario.listed_faults[0].return_) == (120.0, 300.0)
    assert (scenario.until.accuracy, scenario.until.time) == (0.9, 21600.0)
    assert scenario.learning is True


def test_defaults_and_short_forms(folder: Path) -> None:
    """A name alone stands for a section, and everything else has a default."""
    scenario = load(SHORT, registry=REGISTRY)
    assert scenario.model.name == "vgg5"
    assert scenario.model.cut is None
    assert scenario.data.partition.kind == "iid"
    assert scenario.data.partition.options == Iid()
    assert scenario.training.batch == 32
    assert scenario.training.optimizer.options == Sgd()
    assert scenario.evaluate.samples == "all"
    assert scenario.workers.memory_format == "channels_last"
    partition = load(SHORT | {"data": {"name": "digits", "partition": "iid"}}, registry=REGISTRY)
    assert partition == scenario


def test_codecs_by_their_names_and_in_full(folder: Path) -> None:
    """Payloads travel as they are unless the scenario says otherwise; `topk` alone has its defaults."""
    assert load(SHORT, registry=REGISTRY).codec == Codec(activations="fp32", gradients="fp32", weights="fp32")
    codec = load(SHORT, overrides=["codec.activations=topk", "codec.weights=int8"], registry=REGISTRY).codec
    assert codec == Codec(activations=TopK(kind="topk", fraction=0.1, feedback=False), weights="int8")
    given = {"gradients": {"fraction": "5 %", "feedback": "on"}, "activations": {"kind": "fp16"}}
    codec = load(SHORT | {"codec": given}, registry=REGISTRY).codec
    assert codec == Codec(activations="fp16", gradients=TopK(fraction=0.05, feedback=True))


def test_the_name_is_that_of_the_file(folder: Path) -> None:
    """A file without `name` is called after its stem."""
    assert read(folder, FULL.replace("name: eight-boards\n", "")).name == "x"


def test_a_name_of_the_catalogue_is_found(folder: Path) -> None:
    """`load("quickstart")` reads the shipped file; a path as text works, too."""
    (folder / "scenarios").mkdir(exist_ok=True)
    (folder / "scenarios" / "quickstart.yaml").write_text(FULL.replace("./my-board", "../my-board"))
    scenario = load("quickstart", registry=REGISTRY)
    assert scenario == load("scenarios/quickstart.yaml", registry=REGISTRY)
    assert scenario.data.path == folder / "data"


@pytest.mark.parametrize(
    ("word", "value"), [("on", True), ("yes", True), ("true", True), ("off", False), ("no", False)]
)
def test_switches_take_the_words_of_yaml(folder: Path, word: str, value: bool) -> None:
    """`learning: on | off` and its synonyms are switches."""
    text = FULL.replace("learning: on", f"learning: {word}").replace("accuracy: 90 %, ", "")
    assert read(folder, text).learning is value


def test_mappings_of_any_kind_are_read_and_left_alone(folder: Path) -> None:
    """A scenario from Python may hold tuples and read-only mappings; the caller's data do not change."""
    given = MappingProxyType(SHORT | {"fleet": ({"profile": Path("my-board.yaml")},), "data": {"name": "digits"}})
    before = repr(given)
    assert load(given, registry=REGISTRY).fleet[0].profile == str(folder / "my-board.yaml")
    assert repr(given) == before


def test_updates_replace_what_they_name(folder: Path) -> None:
    """A section of `updates` replaces the file's; a dotted key changes one value; `--set` comes last."""
    scenario = read(
        folder,
        FULL,
        updates={"scheduler": "fedoptima", "until": {"rounds": 40}, "training.batch": 8},
        overrides=["until.rounds=41"],
    )
    assert scenario.scheduler.options == FedOptima()
    assert (scenario.until.accuracy, scenario.until.rounds, scenario.training.batch) == (None, 41, 8)


def test_paths_given_on_the_command_line_start_at_the_current_folder(folder: Path) -> None:
    """What a shell completes is relative to where one is, not to the scenario file."""
    (folder / "deep").mkdir(exist_ok=True)
    (folder / "deep" / "my-board.yaml").write_text("id: toy\n")
    path = folder / "deep" / "x.yaml"
    path.write_text(FULL)
    scenario = load(path, overrides=["data.path=./here"], registry=REGISTRY)
    assert scenario.data.path == folder / "here"
    assert scenario.fleet[1].profile == str(folder / "deep" / "my-board.yaml")


@dataclass(frozen=True)
class Stored:
    """A model with weights in a folder."""

    path: Path


def test_a_models_folder_is_found_from_the_scenario(folder: Path) -> None:
    """As the data's is; one of the user's own keeps its `path` as written."""
    registry = replace(REGISTRY, models={**REGISTRY.models, "stored": Stored})
    given = FULL.replace("model: {name: vgg11, cut: 2}", "model: {name: stored, path: ../weights}")
    (folder / "x.yaml").write_text(given)
    assert load(folder / "x.yaml", registry=registry).model.options == Stored(folder.parent / "weights")
    (folder / "x.yaml").write_text(given.replace("stored", f"{__name__}:Stored"))
    assert load(folder / "x.yaml", registry=registry).model.options.path == Path("../weights")


def test_a_scenario_knows_where_its_values_are(folder: Path) -> None:
    """Later errors can name the line; places survive pickling and do not count in comparisons."""
    scenario = read(folder, FULL, overrides=["seed=7"])
    assert scenario.where("model", "cut") == "(x.yaml, line 3)"
    assert scenario.where("fleet", 1, "link", "up") == "(x.yaml, line 11)"
    assert scenario.where("fleet", 1, "count") == "(x.yaml, line 10)"
    assert scenario.where("seed") == "(--set seed)"
    assert load(SHORT, registry=REGISTRY).where("model") == "(scenario given from Python)"
    again: Scenario = pickle.loads(pickle.dumps(scenario))
    assert again == scenario
    assert again.where("model") == scenario.where("model")
    assert scenario == read(folder, "\n\n" + FULL)
    assert hash(scenario) == hash(again)
