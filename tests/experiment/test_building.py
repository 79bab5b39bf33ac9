"""From a scenario to its parts: participants, limits, evaluation, hold-out, fleet, and errors that name the line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from fedsim.errors import UserError
from fedsim.experiment.building import TICKS, Study, build
from fedsim.experiment.fleet import Fleet, Group
from fedsim.experiment.loading import load_scenario
from fedsim.hardware.links import load_link
from fedsim.hardware.machines import machine
from fedsim.hardware.pricing import nanoseconds
from fedsim.hardware.profiles import load_profile
from fedsim.hardware.sources import Confidence, Source
from fedsim.models.measure import forward_cost
from fedsim.payload.codecs import Codecs, Half, Int8, TopK
from fedsim.scenario import resolved
from fedsim.schedulers.fedavg import FedAvg
from fedsim.script import SERVER, Quality
from tests.experiment.toys import SPLIT, TOY

DEVICES = 3


def built(**updates: Any) -> Study:
    """The toy with some keys changed."""
    return build(load_scenario(TOY, updates={"learning": False, **updates}))


@pytest.mark.parametrize(
    ("selection", "participants"),
    [
        ({"kind": "all"}, 3),
        ({"kind": "uniform", "count": 2}, 2),
        ({"kind": "fraction", "fraction": "50 %"}, 2),
        ({"kind": "fraction", "fraction": 0.01}, 1),
        ({"kind": "fraction", "fraction": 1.0}, 3),
    ],
    ids=str,
)
def test_participants(selection: dict[str, Any], participants: int) -> None:
    """As many devices a round as the selection says, one at least."""
    assert built(selection=selection).assembly.participants == participants


def test_codecs() -> None:
    """Those that the scenario names, where blocks find them."""
    assert built().assembly.training.codecs == Codecs()
    given = {
        "activations": "fp16",
        "gradients": {"kind": "topk", "fraction": "5 %", "feedback": "on"},
        "weights": "int8",
    }
    codecs = Codecs(activations=Half(), gradients=TopK(fraction=0.05, feedback=True), weights=Int8())
    assert built(codec=given).assembly.training.codecs == codecs


def test_evaluation_ticks() -> None:
    """Each model once; with a time limit fifty ticks, unless the scenario says how often."""
    assert TICKS == 50
    assert built().assembly.limits.every is None
    limits = built(until={"time": "100 s"}).assembly.limits
    assert (limits.time, limits.every) == (100, 100 / TICKS)
    assert built(until={"time": "100 s"}, evaluate={"every": "7 s"}).assembly.limits.every == 7
    assert built(evaluate={"every": "7 s"}).assembly.limits.every == 7


@pytest.mark.parametrize(
    ("until", "yes", "no"),
    [
        ({"accuracy": 0.5}, Quality(0.5, 9, 1), Quality(0.49, 0, 1)),
        ({"loss": 1.0}, Quality(0, 1.0, 1), Quality(1, 1.01, 1)),
        ({"perplexity": 2.0}, Quality(0, 0.69, 1), Quality(1, 0.70, 1)),
        ({"accuracy": 0.9, "loss": 1.0}, Quality(0, 0.9, 1), Quality(0.8, 1.1, 1)),
        ({"perplexity": 2.0}, Quality(0, 0.1, 1), Quality(0, float("inf"), 1)),
        ({"loss": 2.0}, Quality(0, 0.1, 1), Quality(0, float("nan"), 1)),
    ],
    ids=str,
)
def test_goals(until: dict[str, float], yes: Quality, no: Quality) -> None:
    """A run ends at the first goal it reaches; no number reaches nothing."""
    reached = built(learning=True, until=until).assembly.limits.reached
    assert reached is not None
    assert reached(yes)
    assert not reached(no)
    assert built().assembly.limits.reached is None


def test_evaluation_on_a_subset() -> None:
    """So many test samples, drawn from the seed."""
    chosen = []
    for seed in (1, 1, 2):
        study = built(learning=True, seed=seed, evaluate={"samples": 50})
        samples: Any = study.host().core.data
        assert samples.held_out_size("test") == 50
        assert len(np.unique(samples.held_out("test", 0, 50)[0].flatten(1), axis=0)) == 50, "none twice"
        chosen.append(samples.held_out("test", 0, 50)[0])
    assert chosen[0].equal(chosen[1])
    assert not chosen[0].equal(chosen[2])
    many: Any = built(learning=True, evaluate={"samples": 10**6}).host().core.data
    assert many.held_out_size("test") == 360, "never more than there are"


@dataclass(frozen=True, kw_only=True)
class Validates(FedAvg):
    """A scheduler that decides by validation results."""

    validates: ClassVar[bool] = True


def test_validation_samples_are_held_out() -> None:
    """A tenth of the training samples is dealt to nobody, and only to schedulers that ask."""
    study = built(learning=True, scheduler=Validates())
    assert study.validation is not None
    assert len(study.validation) == 20
    assert not set(study.validation.tolist()) & set(study.shards.indices.tolist())
    assert sorted([*study.validation.tolist(), *study.shards.indices.tolist()]) == list(range(200))
    assert built(learning=True).validation is None
    with pytest.raises(UserError, match="decides by validation results, which learning: off does not have"):
        built(scheduler=Validates())


def test_whoever_validates_has_its_samples_on_the_host() -> None:
    """Those that were held out, and no others; without them there is no such split."""
    study = built(learning=True, scheduler=Validates())
    assert study.data is not None
    assert study.validation is not None
    samples: Any = study.host().core.data
    assert samples.held_out_size("validation") == 20
    assert samples.held_out("validation", 0, 20)[1].tolist() == study.data.train.labels[study.validation].tolist()
    without: Any = built(learning=True).host().core.data
    with pytest.raises(KeyError, match="validation"):
        without.held_out_size("validation")


def test_owners_stay_with_their_samples_where_some_are_held_out() -> None:
    """A natural partition of what is left: nobody's samples are on two devices."""
    data = {"name": "tests.experiment.toys:owned", "partition": "natural"}
    study = built(learning=True, data=data, scheduler=Validates())
    people = [set((shard // 10).tolist()) for shard in study.shards]
    assert sum(map(len, people)) == len(set.union(*people)) == 6


def test_everything_random_follows_the_seed() -> None:
    """The samples that are read, who holds which, the initial weights, the order of batches, who is chosen."""
    one, again, other = (built(learning=True, seed=seed) for seed in (5, 5, 6))
    for study, same in ((again, True), (other, False)):
        assert study.data is not None
        assert one.data is not None
        assert np.array_equal(study.data.train.inputs, one.data.train.inputs) is same
        assert np.array_equal(study.shards.indices, one.shards.indices) is same
        (mine,), (theirs,) = (list(s.host().core.blocks.values()) for s in (one, study))
        assert mine.initial.buffers[0].equal(theirs.initial.buffers[0]) is same
        assert (study.host().core.seed == one.host().core.seed) is same
        assert (study.assembly.seed == one.assembly.seed) is same


def test_keys_of_training_reach_the_host() -> None:
    """Optimizer state, memory format and the size of images, each with its default."""
    plain = built().assembly.training
    assert (plain.batch, plain.keep_optimizer_state, plain.channels_last) == (16, False, True)
    kept = built(training={"batch": 4, "optimizer_state": "keep"}).assembly.training
    assert (kept.batch, kept.keep_optimizer_state) == (4, True)
    assert not built(workers={"memory_format": "default"}).assembly.training.channels_last
    assert built(data={"name": "digits", "resize": 12}).info.shape == (1, 12, 12)
    assert built(learning=True, data={"name": "digits", "samples": 20, "resize": 12}).info.shape == (1, 12, 12)


def test_a_run_without_a_number_of_rounds_has_none() -> None:
    """Its script goes on until something else ends it."""
    assert built(until={"time": "1 s"}).assembly.rounds is None
    assert built().assembly.rounds == 2


@pytest.mark.parametrize("partition", ["iid", "quantity", {"kind": "dirichlet", "alpha": 0.5}, "shards"], ids=str)
def test_shards_do_not_depend_on_learning(partition: Any) -> None:
    """Who holds what is the same, whether or not the data were opened."""
    data = {**TOY["data"], "partition": partition}
    on, off = built(learning=True, data=data), built(data=data)
    assert np.array_equal(on.shards.indices, off.shards.indices)
    assert np.array_equal(on.assembly.samples, off.assembly.samples)
    assert off.data is None


def test_a_cut_only_where_the_scheduler_cuts() -> None:
    """One scenario serves both kinds of system."""
    assert built().assembly.cut is None
    assert built(scheduler=SPLIT).assembly.cut == 1


def test_a_device_block_that_multiplies_nothing() -> None:
    """An embedding alone has no cost in the model of costs, so time would stand still on the devices."""
    text = {"name": "tinyshakespeare", "tokens": {"length": 16, "tokenizer": "bytes"}}
    with pytest.raises(
        UserError, match=r"with cut: 1 the devices of transformer would multiply nothing \(embedding\).* cut: 2"
    ):
        built(scheduler=SPLIT, data=text, model={"name": "transformer", "cut": 1})


@pytest.mark.parametrize("part", ["device", "server", "splits", "messages"])
def test_a_scheduler_without_one_of_its_parts(part: str) -> None:
    """It is named, before a run would trip over it."""
    parts = {name: vars(FedAvg)[name] for name in ("device", "server", "splits", "messages") if name != part}
    kind: Any = dataclass(frozen=True, kw_only=True)(type("Own", (), {**parts, "__module__": __name__}))
    with pytest.raises(UserError, match=rf"scheduler \S+Own has no {part}; a scheduler has the scripts device\(me\)"):
        built(scheduler=kind())


def fleet() -> Fleet:
    """Three groups."""
    kinds = (("pi-tier-1", "wifi5", 2), ("jetson-tier-4", "lte", 1), ("pi-tier-4", "wifi4", 3))
    groups = tuple(Group(machine(load_profile(profile)), load_link(link), count) for profile, link, count in kinds)
    return Fleet(groups, machine(load_profile("cpu-60g")), load_link("ethernet-1g"))


def test_devices_are_numbered_through_the_groups() -> None:
    """From 0, in order; the server is -1; the node table has a row for each."""
    found = fleet()
    assert found.devices == 6
    assert [found.group_of(k) for k in range(6)] == [0, 0, 1, 2, 2, 2]
    assert [found.machine(k).id for k in (1, 2, 5, SERVER)] == ["pi-tier-1", "jetson-tier-4", "pi-tier-4", "cpu-60g"]
    table = found.table(np.arange(6))
    assert [node.number for node in table] == [-1, *range(6)]
    assert [node.samples for node in table] == [0, *range(6)]
    assert [node.group for node in table] == [-1, 0, 0, 1, 2, 2, 2]
    assert [node.name for node in table[:2]] == ["server", "device 0"]


def test_the_node_table_knows_the_hardware() -> None:
    """Lanes, memory, watts and how far they are to be trusted, of each node's own profile."""
    power = Source(field="power", confidence=Confidence.MEASURED, ref="a meter at the plug")
    devices = load_profile("pi-tier-1").model_copy(update={"lanes": 2, "sources": (power,)})
    server = load_profile("cpu-60g").model_copy(update={"lanes": 3})
    link = load_link({"up": "1 MB/s", "down": "1 MB/s"})
    groups = (Group(machine(devices), link, 1), Group(machine(load_profile("jetson-tier-4")), link, 1))
    found = Fleet(groups, machine(server), link)
    assert found.lanes() == {SERVER: 3, 0: 2}
    rows = found.table([5, 6])
    assert [row.lanes for row in rows] == [3, 2, 1]
    for row, profile in zip(rows, (server, devices, load_profile("jetson-tier-4")), strict=True):
        assert (row.memory, row.idle_watts, row.busy_watts) == (
            profile.memory.usable,
            profile.power.idle,
            profile.power.busy,
        )
    assert [row.power_confidence for row in rows] == ["unverified", "measured", "unverified"]


def test_the_node_table_knows_the_radio() -> None:
    """Its energy, and that it is the figure known least where the machine's power was measured."""
    power = Source(field="power", confidence=Confidence.MEASURED, ref="a meter at the plug")
    measured = machine(load_profile("pi-tier-1").model_copy(update={"sources": (power,)}))
    link = load_link("wifi5")
    assert link.radio is not None
    row = Fleet((Group(measured, link, 1),), measured, load_link("ethernet-1g")).table([5])[1]
    assert (row.radio_watts, row.radio_up, row.radio_down) == (link.radio.active, link.radio.up, link.radio.down)
    assert (row.power_field, row.power_confidence) == ("radio.active of link wifi5", "unverified")


def test_prices_are_those_of_the_profiles() -> None:
    """Each node pays by its own profile; the server is the last."""
    found = fleet()
    cost = forward_cost(built().assembly.model.units, 4)
    price = found.clockwork(1).price
    assert [price(k, cost, 0) for k in (*range(6), SERVER)] == [
        nanoseconds(found.machine(k), cost) for k in (*range(6), SERVER)
    ]


WRONG = """\
name: wrong
model: {name: mlp, cut: 1}
data: {name: digits}
fleet:
  - {profile: pi-tier-1, link: wifi5}
  - {profile: ./board.yaml, link: wifi5}
server: {profile: cpu-60g, link: ./line.yaml}
scheduler: fedavg
until: {rounds: 1}
"""


def test_errors_of_parts_name_the_scenarios_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A profile, a link or data that are wrong: what, in which file, and where the scenario asked for it."""
    monkeypatch.chdir(tmp_path)
    Path("wrong.yaml").write_text(WRONG)
    Path("board.yaml").write_text("id: board\n")
    Path("line.yaml").write_text("up: 3 apples\n")
    with pytest.raises(UserError, match=r"(?s)board\.yaml.*\(wrong\.yaml, line 6\)$"):
        build(load_scenario("wrong.yaml"))
    Path("wrong.yaml").write_text(WRONG.replace("./board.yaml", "pi-tier-4"))
    with pytest.raises(UserError, match=r"(?s)line\.yaml.*\(wrong\.yaml, line 7\)$"):
        build(load_scenario("wrong.yaml"))
    Path("wrong.yaml").write_text(WRONG.replace("./board.yaml", "pi-tier-4").replace("./line.yaml", "lte"))
    for change, line in (("data.samples=9999", r"\(--set data.samples\)|line 3"), ("model=transformer", "--set model")):
        with pytest.raises(UserError, match=line):
            build(load_scenario("wrong.yaml", overrides=[change]))


@pytest.mark.parametrize(
    ("scheduler", "more", "settled"),
    [
        ({"name": "fedoptima"}, {}, {"activation_cap": 2 * DEVICES, "a": 0.5}),
        ({"name": "fedoptima", "staleness": "constant"}, {}, {"a": None}),
        ({"name": "fedasync", "staleness": "hinge"}, {}, {"a": 10.0, "concurrency": DEVICES}),
        ({"name": "oafl", "concurrency": 1}, {}, {"concurrency": 1}),
        ({"name": "fedbuff"}, {"selection": {"kind": "uniform", "count": 2}}, {"concurrency": 2}),
        ({"name": "gas"}, {}, {"concurrency": DEVICES, "buffer": DEVICES, "blocks": DEVICES}),
        ({"name": "ampere"}, {"until": {"rounds": 7}}, {"device_rounds": 7, "server_epochs": 7}),
        ({"name": "ampere", "device_rounds": 2, "server_epochs": 3}, {"until": {"time": "1 s"}}, {"server_epochs": 3}),
    ],
    ids=str,
)
def test_what_a_scheduler_leaves_open_is_written_down(
    scheduler: dict[str, Any], more: dict[str, Any], settled: dict[str, Any]
) -> None:
    """The resolved scenario holds the values that are used, and is the same scenario again."""
    study = build(load_scenario(TOY, updates={"scheduler": scheduler, "learning": False, **more}))
    written = resolved(study.scenario)
    assert settled.items() <= written["scheduler"].items()
    assert study.assembly.scenario == written
    again = build(load_scenario(written))
    assert resolved(again.scenario) == written


def test_a_scheduler_that_cannot_be_settled_is_refused_before_it_runs() -> None:
    """By the line of its section: slots of which there are too few."""
    scheduler = {"name": "fedoptima", "admission": "slot", "activation_cap": DEVICES - 1}
    with pytest.raises(UserError, match=r"gives \d+ devices no slot each; give at least \d+ \("):
        build(load_scenario(TOY, updates={"scheduler": scheduler}))
