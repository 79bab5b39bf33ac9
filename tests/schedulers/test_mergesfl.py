"""MergeSFL: what a merged step computes, what a round costs, and that its two options do what they say."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import fedsim
from fedsim.data import DataSet, from_arrays
from fedsim.errors import ScriptError, UserError
from fedsim.learning.merging import Merge
from fedsim.learning.optimizers import Sgd
from fedsim.learning.plan import DEVICE, SERVER_BLOCK
from fedsim.report import summarise
from fedsim.schedulers.balance import balanced, divergence
from fedsim.schedulers.mergesfl import MergeSFL, Train
from fedsim.schedulers.splitfed import Activations, Gradient, SplitFed, Trained
from fedsim.script import SERVER, Compute, Disconnected, Payload, Recv, Send
from fedsim.testing import DEVICES, Outcome, Steps, by_hand, check_scheduler, simulate, toy
from tests.experiment.toys import TOY
from tests.learning.test_oracles import ALONE, batches, centralised, weighted_mean
from tests.learning.toys import MLP, Federation, bits, furthest
from tests.schedulers.closed_forms import LABEL, loss, macs, measured, state
from tests.schedulers.federations import assemble, run
from tests.schedulers.test_closed_forms import chosen

ROUNDS = 3


# ---------------------------------------------------------------------------------- what is computed


@pytest.mark.slow
def test_one_device_is_centralised_sgd() -> None:
    """Bitwise, over several rounds, with batch norm on both sides of the cut."""
    assert bits(ALONE.run(MergeSFL(), rounds=3)) == bits(centralised(ALONE, epochs=3))


def test_a_device_gets_the_gradient_of_its_own_mean_loss() -> None:
    """Its rows of the merged gradient times Σb/b_k are what it would get alone, to rounding; s has no batch norm."""
    bench = MLP.bench(split=True)
    first, second = bench.node(SERVER), bench.learner(SERVER, SERVER_BLOCK)
    made: dict[int, tuple[Payload, Payload]] = {}
    for k, size in ((2, 7), (0, 3)):
        device = bench.learner(k, DEVICE)
        batch = _batch(size)
        made[k] = bench.do(device.infer(batch)), device.labels(batch)
    alone = {k: bench.tensor(bench.do(second.clone().accumulate(z, y))) for k, (z, y) in made.items()}
    merge = Merge(first, second)
    for k, (z, y) in made.items():
        merge.add(k, z, y)
    shares = dict(merge.shares(bench.do(merge.step())))
    assert list(shares) == [0, 2], "by device number, whoever came first"
    for k, share in shares.items():
        torch.testing.assert_close(bench.tensor(share), alone[k], rtol=1e-5, atol=1e-7)


def _batch(size: int) -> Any:
    from fedsim.learning.learners import Batch

    return Batch(0, 0, size)


def plain_loop(what: Federation, *, rounds: int, steps: int, uniform: bool = False) -> dict[str, Tensor]:
    """Merged training with whole modules: one optimizer for s, a fresh one a round for each device block."""
    model, data, shards = what.network(), what.data(), what.shards()
    d, s = model.block(0, what.cut), model.block(what.cut, len(model))
    assert isinstance(what.optimizer, Sgd)
    rate = what.optimizer.lr
    x, y = torch.tensor(data.train.inputs, dtype=torch.float64), torch.tensor(data.train.labels)
    streams = [
        [b for epoch in range(rounds * steps) for b in batches(len(shard), what.batch, k, epoch)]
        for k, shard in enumerate(shards)
    ]
    server = torch.optim.SGD(s.parameters(), lr=rate)
    for t in range(rounds):
        blocks = []
        for _ in shards:
            own = what.network().block(0, what.cut)
            own.load_state_dict(d.state_dict())
            blocks.append((own, torch.optim.SGD(own.parameters(), lr=rate)))
        for i in range(t * steps, (t + 1) * steps):
            rows = [torch.from_numpy(shard[stream[i]]) for shard, stream in zip(shards, streams, strict=True)]
            outs = [own(x[r]) for (own, _), r in zip(blocks, rows, strict=True)]
            merged = torch.cat([z.detach() for z in outs]).requires_grad_()
            server.zero_grad()
            nn.functional.cross_entropy(s(merged), torch.cat([y[r] for r in rows])).backward()
            server.step()
            assert merged.grad is not None
            total = len(merged)
            for (_, optimizer), z, g in zip(blocks, outs, merged.grad.split([len(z) for z in outs]), strict=True):
                optimizer.zero_grad()
                z.backward(g * (total / len(z)))
                optimizer.step()
        members = [
            ({n: v.clone() for n, v in own.state_dict().items()}, 1 if uniform else len(shards[k]))
            for k, (own, _) in enumerate(blocks)
        ]
        d.load_state_dict(weighted_mean(members))
    return {name: tensor.detach() for name, tensor in model.state_dict().items()}


@pytest.mark.slow
@pytest.mark.parametrize(("norm", "weighting"), [("bn", "samples"), ("gn", "samples"), ("bn", "uniform")])
def test_it_equals_a_plain_loop(norm: str, weighting: Any) -> None:
    """Devices of unequal sizes, ragged last batches, batch norm over the merged batch: to 1e-9 in float64."""
    what = Federation(norm=norm, sizes=(24, 7, 40))
    ours = what.run(MergeSFL(local_steps=4, weighting=weighting), rounds=ROUNDS)
    assert furthest(ours, plain_loop(what, rounds=ROUNDS, steps=4, uniform=weighting == "uniform")) < 1e-9


# ------------------------------------------------------------------------------------- what it costs


@pytest.mark.parametrize("options", [{}, {"local_steps": 1}, {"local_steps": 5, "weighting": "uniform"}], ids=str)
def test_it_costs_its_closed_form(options: dict[str, Any]) -> None:
    """As SplitFed version 2: up S(z+y) + P|d|, down Sz + P|d|; (m + m_bwd) of d and s, s with an input gradient."""
    assembly = toy(MergeSFL(**options), rounds=ROUNDS)
    found = measured(simulate(assembly, learning=False))
    model, cut, batch = assembly.model, assembly.cut, assembly.training.batch
    assert cut is not None
    d, s = model.units[:cut], model.units[cut:]
    held = assembly.samples.tolist()
    steps = options.get("local_steps") or -(-sum(held) // (batch * DEVICES))
    by_device = [([min(batch, n - i) for i in range(0, n, batch)] * ROUNDS * steps)[: ROUNDS * steps] for n in held]
    merged = [sum(sizes) for sizes in zip(*by_device, strict=True)]
    samples, z, size = sum(merged), model.activation_bytes(cut), ROUNDS * DEVICES * state(d)
    assert found.up == {"weights": size, "activations": samples * z, "gradients": 0, "labels": samples * LABEL}
    assert found.down == {"weights": size, "activations": 0, "gradients": samples * z, "labels": 0}
    assert found.device_macs == sum(macs(d, sizes, to_input=False) for sizes in by_device)
    assert found.server_macs == macs(s, merged, to_input=True) + loss(model, merged)
    assert found.aggregate_macs == ROUNDS * DEVICES * sum(unit.trainable for unit in d)


def test_devices_wait_for_gradients_and_for_one_another() -> None:
    """Oracle 6 and 8: all idle time has a cause; that of devices is dependency, and model between rounds."""
    outcome = simulate(toy(MergeSFL(), rounds=ROUNDS), learning=False)
    summary = summarise(outcome.simulation.trace, status="done", wall_seconds=1.0)
    for side in ("server", "devices"):
        idle = summary[side]["idle_by_cause"]
        assert sum(idle.values()) == pytest.approx(summary[side]["idle"], abs=1e-12)
        assert idle["flow"] == idle["unselected"] == idle["load"] == idle["sleep"] == 0
    assert summary["devices"]["idle_by_cause"]["dependency"] > 0
    marks = [mark for mark in outcome.simulation.trace.marks if mark[2] == "consumed"]
    sent = [t for t in outcome.simulation.trace.transfers if t[3] == "Activations"]
    assert len(marks) == len(sent), "every batch is trained, and counted as its device's"


def test_with_over_selection_the_first_ones_complete_iterations_and_rounds() -> None:
    """Two of four are needed: nobody waits for the slow ones, each mean is of two, and the first step is on two."""
    base = toy(MergeSFL(), rounds=ROUNDS)
    whole, first = (simulate(assembly, learning=False).simulation.trace for assembly in (base, replace(base, need=2)))
    assert first.end < 0.5 * whole.end
    plans = base.blocks()
    members = [span[5] // plans[DEVICE].trainable for span in first.spans if span[2] == "aggregate"]
    assert members == [2] * ROUNDS
    began, done = ({t[1] for t in first.transfers if t[3] == kind} for kind in ("Activations", "Trained"))
    assert began > done, "those who are too slow begin a round and give it up"
    merged = [span[7] for span in first.spans if span[0] == SERVER and span[2] == "step"]
    assert merged[0] == 2 * 8


# ------------------------------------------------------------------------------- batches by speed


def regulated(**options: Any) -> Outcome:
    """Rounds of a convolutional network on unequal devices with many samples each; nothing is learnt."""
    what = Federation(sizes=(8,) * DEVICES, shape=(3, 32, 32), cut=1, batch=8)
    assembly = assemble(what, MergeSFL(local_steps=6, **options), what.network(), rounds=5)
    return simulate(replace(assembly, samples=np.full(DEVICES, 5000)), learning=False)


def sizes_by_round(outcome: Outcome) -> list[dict[int, int]]:
    """The batch of each device, round by round."""
    found: list[dict[int, int]] = []
    for span in outcome.simulation.trace.spans:
        if span[0] >= 0 and span[7] > 0:
            while len(found) <= len([m for m in closings(outcome) if m < span[3]]):
                found.append({})
            found[-1].setdefault(span[0], span[7])
            assert found[-1][span[0]] == span[7], "one size a round"
    return found


def closings(outcome: Outcome) -> list[int]:
    """When rounds ended."""
    return [mark[1] for mark in outcome.simulation.trace.marks if mark[2] == "round.close"]


def spread(outcome: Outcome) -> float:
    """Between the first and the last activations of an iteration of the last round, as a share of the iteration."""
    begin = closings(outcome)[-2]
    rows = [t for t in outcome.simulation.trace.transfers if t[3] in ("Activations", "Gradient") and t[10] > begin]
    came = sorted(t[12] for t in rows if t[3] == "Activations")[-DEVICES:]
    sent = max(t[10] for t in rows if t[3] == "Gradient" and t[10] < came[0])
    share: float = (came[-1] - came[0]) / (came[-1] - sent)
    return share


def test_regulated_batches_come_at_the_same_time() -> None:
    """The advertised regulation runs: b_k goes with speed, the fastest has the largest, and all take equally long."""
    plain, outcome = regulated(), regulated(batch_regulation=True, largest_batch=64)
    usual = toy(MergeSFL()).training.batch
    assert all(sizes == dict.fromkeys(range(DEVICES), usual) for sizes in sizes_by_round(plain))
    first, *later = sizes_by_round(outcome)
    assert set(first.values()) == {usual}, "nobody's speed is known in the first round"
    for sizes in later:
        assert max(sizes.values()) == 64
        assert min(sizes.values()) < 48, "the devices are unequal"
    assert spread(plain) > 0.2
    assert spread(outcome) < 0.02


def test_regulation_changes_who_is_weighted_how() -> None:
    """`weighting: batch` tells the server batch sizes, `samples` shard sizes."""
    for weighting, expected in (("batch", 5), ("samples", int(toy(MergeSFL()).samples[1]))):
        device = by_hand(MergeSFL(weighting=weighting), 1)  # type: ignore[arg-type]  # one of the two
        device.answer(Train(_weights(), 0, 1, 5, sender=SERVER))
        trained = _until(device, Trained)
        assert trained.samples == expected
        device.close()


def _weights() -> Payload:
    return Payload(SERVER, 1, toy(MergeSFL()).blocks()[DEVICE].weights)


def _until(steps: Steps, kind: type[Any]) -> Any:
    """Let a device go on, with gradients as it needs them, until it sends a message of `kind`."""
    while not (isinstance(steps.effect, Send) and isinstance(steps.effect.message, kind)):
        match steps.effect:
            case Compute(works=(work,)):
                steps.answer(work.result)
            case Recv():
                plan = toy(MergeSFL()).blocks()[SERVER_BLOCK]
                steps.answer(Gradient(Payload(SERVER, 2, plan.gradients(5)), 0, sender=SERVER))
            case _:
                steps.answer(None)
    return steps.effect.message


# -------------------------------------------------------------------------------- choice by labels


def test_complements_are_chosen_together() -> None:
    """Of devices with one label each, those that together have all labels, whoever is drawn first."""
    amounts = {k: np.eye(3)[k % 3] for k in range(12)}
    target = np.ones(3)
    seen: set[int] = set()
    for seed in range(20):
        found = balanced(amounts, target, 3, np.random.default_rng(seed))
        assert {k % 3 for k in found} == {0, 1, 2}
        seen.update(found)
    assert len(seen) > 6, "all have their turns"


def test_the_choice_is_near_the_best() -> None:
    """Against all subsets with the same first member, of random devices, it is never far off, and mostly the best."""
    rng, best = np.random.default_rng(3), 0
    for trial in range(30):
        amounts = {k: rng.dirichlet(np.full(4, 0.3)) for k in range(9)}
        target = rng.dirichlet(np.full(4, 5.0))
        first = sorted(amounts)[int(np.random.default_rng(trial).integers(9))]
        mixed = partial(_mixed, amounts)
        found = divergence(mixed(balanced(amounts, target, 4, np.random.default_rng(trial))), target)
        all_of_them = [divergence(mixed(c), target) for c in combinations(amounts, 4) if first in c]
        assert found <= np.quantile(all_of_them, 0.1)
        best += found <= min(all_of_them) + 1e-12
    assert best >= 15


def _mixed(amounts: dict[int, NDArray[np.float64]], devices: Sequence[int]) -> NDArray[np.float64]:
    mixture: NDArray[np.float64] = np.sum([amounts[k] for k in devices], axis=0)
    return mixture


def test_divergence_by_hand() -> None:
    """KL((1/2, 1/2) ‖ (1/4, 3/4)) = ½·log 2 + ½·log(2/3); a label that a mixture lacks adds nothing."""
    assert divergence(np.array([3.0, 3.0]), np.array([1.0, 3.0])) == pytest.approx(
        0.5 * np.log(2) + 0.5 * np.log(2 / 3)
    )
    assert divergence(np.array([2.0, 0.0]), np.array([1.0, 1.0])) == pytest.approx(np.log(2))


def test_rounds_go_by_labels_where_asked() -> None:
    """With `selection: kl` the chosen devices' labels are nearer to everybody's than drawn ones are, over 30 rounds."""

    def mean_distance(selection: Any) -> float:
        assembly = toy(MergeSFL(local_steps=1, selection=selection), devices=8, rounds=30, participants=3)
        labels = toy(MergeSFL(selection="kl"), devices=8).labels
        assert labels is not None
        counts = [labels.counts(k) for k in range(8)]
        rounds = chosen(simulate(assembly, learning=False))
        assert all(len(nodes) == 3 for nodes in rounds)
        shares = [np.sum([counts[k] / counts[k].sum() for k in nodes], axis=0) for nodes in rounds]
        return float(np.mean([divergence(share, np.sum(counts, axis=0)) for share in shares]))

    assert mean_distance("kl") < 0.5 * mean_distance("random")


def test_without_labels_a_script_that_asks_for_them_is_told() -> None:
    """A scheduler that forgets to say `needs_labels` learns what to say."""
    assembly = replace(toy(MergeSFL(selection="kl")), labels=None)
    with pytest.raises(ScriptError, match="asks for label counts, but its scheduler does not say needs_labels"):
        assembly.simulation().run()


@pytest.mark.slow
def test_scenarios_have_labels_with_learning_off() -> None:
    """The choice is the same as with learning on, so the run takes as long."""
    options = {"name": "mergesfl", "selection": "kl", "local_steps": 2}
    given: dict[str, Any] = {**TOY, "scheduler": options, "selection": {"kind": "uniform", "count": 2}}
    on, off = (fedsim.run(given, learning=learning) for learning in (True, False))
    assert on.summary["seconds"] == off.summary["seconds"]
    assert len({tuple(json.loads(m[4])["nodes"]) for m in off.trace.marks if m[2] == "round.open"}) > 1


def tokens() -> DataSet:
    """Windows of a text, with a label a token."""
    x = np.arange(120).reshape(20, 6) % 7
    return from_arrays(x, (x + 1) % 7, x[:4], (x[:4] + 1) % 7, name="counting")


def test_text_is_refused_where_samples_need_labels() -> None:
    """Every token has a label there, so no device's labels can be counted."""
    given = {**TOY, "scheduler": {"name": "mergesfl", "selection": "kl"}, "model": {"name": "transformer", "cut": 1}}
    with pytest.raises(
        UserError, match=r"mergesfl with these options goes by the label of each sample, but in .* every"
    ):
        fedsim.run(given, data=tokens)


# ------------------------------------------------------------------------------------------- leaving


def test_a_device_that_leaves_during_an_iteration_is_not_waited_for() -> None:
    """The step is then on the batches of the others, and their shares are scaled for those."""
    steps = by_hand(MergeSFL(local_steps=2), "server", devices=3, rounds=1)
    plans = toy(MergeSFL(), devices=3).blocks()

    def batch(k: int, size: int) -> Activations:
        plan = plans[DEVICE]
        z, y = Payload(k, 1, plan.activations(size)), Payload(k, 2, plan.labels(size))
        return Activations(z, y, 0, sender=k)

    assert isinstance(steps.effect, Send)
    steps.answer(None)
    for answer in (batch(2, 6), Disconnected(1), batch(0, 8)):
        assert isinstance(steps.effect, Recv)
        steps.answer(answer)
    assert isinstance(steps.effect, Compute)
    assert steps.effect.works[0].parts[0].samples == 14
    steps.port.commands.clear()
    steps.answer(steps.effect.works[0].result)
    for k, first, size in ((0, 0, 8), (2, 8, 6)):
        assert isinstance(steps.effect, Send)
        assert steps.effect.to == (k,)
        share = steps.port.commands[-1]
        assert share.method == "merge.share"
        assert share.args[1:] == (first, size, 14 / size)
        steps.answer(None)
    assert isinstance(steps.effect, Recv)
    steps.answer(Disconnected(0))
    steps.answer(batch(2, 8))
    assert isinstance(steps.effect, Compute), "the second iteration has one device left"
    steps.close()


def test_what_the_server_has_learnt_stays_when_all_leave() -> None:
    """An empty round: d is as it was, s is not; and the run goes on."""
    from fedsim.simulation import Fault

    what = replace(MLP, sizes=(24, 24))
    whole = run(what, MergeSFL(local_steps=4), rounds=1)
    middle = next(s for s in whole.simulation.trace.spans if s[0] == SERVER and s[2] == "step")[4] / 1e9 + 1e-6
    faults = [Fault(device=k, leave=middle, back=middle + 1) for k in (0, 1)]
    left = run(what, MergeSFL(local_steps=4), rounds=1, faults=faults)
    initial = what.network().state_dict()
    changed = {name for name, tensor in left.weights.items() if not tensor.equal(initial[name])}
    assert changed == {name for name in initial if not name.startswith(next(iter(initial)).split(".")[0])}


# ------------------------------------------------------------------------------------------- the rest


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"local_steps": 3},
        {"batch_regulation": True, "weighting": "batch"},
        {"selection": "kl", "batch_regulation": True},
    ],
    ids=str,
)
def test_it_conforms(options: dict[str, Any]) -> None:
    """Whatever its options."""
    check_scheduler(MergeSFL(**options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"local_steps": 0}, "local_steps 0 must be 1 or more"),
        ({"largest_batch": 0}, "largest_batch 0 must be 1 or more"),
        ({"largest_batch": 32}, "largest_batch 32 is for batch_regulation: on; leave it out"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    """By value and rule."""
    with pytest.raises(ValueError, match=message):
        MergeSFL(**options)


def test_merging_is_not_serving_one_after_the_other() -> None:
    """Two devices: one merged step is no pair of SplitFed's steps, so the server ends elsewhere."""
    what = replace(MLP, sizes=(16, 16))
    merged = run(what, MergeSFL(local_steps=2), rounds=1).weights
    in_turns = run(what, SplitFed(version=2, local_steps=2), rounds=1).weights
    assert furthest(merged, in_turns) > 1e-4
