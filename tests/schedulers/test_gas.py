"""GAS: gradients at once, steps on buffers, activations drawn from running statistics, and what all that costs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import fedsim
from fedsim import seeds
from fedsim.errors import ScriptError, UserError
from fedsim.learning.generating import FULL, Buffer
from fedsim.learning.learners import Batch
from fedsim.learning.operations.generating import Gaussian
from fedsim.learning.plan import DEVICE, SERVER_BLOCK
from fedsim.report import summarise
from fedsim.schedulers.gas import Activations, Block, Gas, Gradient, Trained
from fedsim.script import SERVER, Compute, Connected, Disconnected, Payload, Recv, Send
from fedsim.testing import DEVICES, Hand, Outcome, Steps, by_hand, check_scheduler, simulate, toy
from fedsim.trace import Span, Transfer
from tests.experiment.toys import TOY
from tests.learning.test_oracles import ALONE, batches, centralised, optimizer_of
from tests.learning.toys import MLP, SEED, Federation, bits, furthest
from tests.schedulers.closed_forms import LABEL, loss, macs, measured, state
from tests.schedulers.federations import run
from tests.schedulers.test_mergesfl import tokens

PLAIN: dict[str, Any] = {"generate": False, "adjust_logits": False}
ROUNDS = 3


# ---------------------------------------------------------------------------------- what is computed


@pytest.mark.slow
def test_reduced_to_one_device_and_a_buffer_of_one_it_is_centralised_sgd() -> None:
    """Bitwise, with batch norm: a gradient that is only returned leaves no trace in the running statistics."""
    assert bits(run(ALONE, Gas(buffer=1, **PLAIN), rounds=3).weights) == bits(centralised(ALONE, epochs=3))


def plain_loop(what: Federation, *, turns: int, buffer: int, blocks: int, adjust: bool) -> dict[str, Tensor]:
    """One device: every batch gets a gradient from s as it is; every few of them, s takes a step on all of them."""
    model, data, shard = what.network(), what.data(), what.shards()[0]
    d, s = model.block(0, what.cut), model.block(what.cut, len(model))
    x, y = torch.tensor(data.train.inputs, dtype=torch.float64), torch.tensor(data.train.labels)
    shares = torch.from_numpy(np.bincount(data.train.labels[shard], minlength=4) / len(shard))
    server = optimizer_of(what.optimizer, s)
    held: list[tuple[Tensor, Tensor]] = []
    total: dict[str, Tensor] = {}
    for turn in range(turns):
        own = what.network().block(0, what.cut)
        own.load_state_dict(d.state_dict())
        optimizer = optimizer_of(what.optimizer, own)
        for batch in batches(len(shard), what.batch, 0, turn):
            rows = torch.from_numpy(shard[batch])
            z = own(x[rows])
            before = {name: value.clone() for name, value in s.named_buffers()}
            logits = s(z)
            if adjust:
                logits = logits + torch.log(shares + 1e-12)
            optimizer.zero_grad()
            nn.functional.cross_entropy(logits, y[rows]).backward()
            optimizer.step()
            for name, value in s.named_buffers():
                value.copy_(before[name])
            held.append((z.detach(), y[rows]))
            if len(held) == buffer:
                server.zero_grad()
                out = s(torch.cat([z for z, _ in held]))
                nn.functional.cross_entropy(out, torch.cat([labels for _, labels in held])).backward()
                server.step()
                held = []
        for name, value in own.state_dict().items():
            mine = total.get(name)
            if mine is None:
                total[name] = value.clone()
            else:
                total[name] = mine + value if value.is_floating_point() else torch.maximum(mine, value)
        if (turn + 1) % blocks == 0:
            d.load_state_dict({n: v / blocks if v.is_floating_point() else v for n, v in total.items()})
            total = {}
    return {name: tensor.detach() for name, tensor in model.state_dict().items()}


@pytest.mark.slow
@pytest.mark.parametrize("adjust", [True, False])
def test_it_equals_a_plain_loop(adjust: bool) -> None:
    """With adjusted logits, steps on three batches and means of two blocks of one device: to 1e-9 in float64."""
    what = Federation(sizes=(27,))
    scheduler = Gas(generate=False, adjust_logits=adjust, buffer=3, blocks=2)
    ours = run(what, scheduler, rounds=4).weights
    assert furthest(ours, plain_loop(what, turns=4, buffer=3, blocks=2, adjust=adjust)) < 1e-9


def test_logits_are_corrected_by_the_shares_of_labels() -> None:
    """The gradient at the logits is softmax(logits + log shares) − one-hot; equal shares change nothing."""
    what = replace(MLP, dtype="float64", cut=2)
    bench = what.bench(split=True)
    block, device = bench.learner(SERVER, SERVER_BLOCK), bench.learner(0, DEVICE)
    z, y = bench.do(device.infer(Batch(0, 0, 6))), device.labels(Batch(0, 0, 6))
    shares = (0.5, 0.25, 0.25, 0.0)
    found = bench.tensor(bench.do(block.gradient(z, y, shares)))
    last = what.network()[-1]
    linear = next(part for part in last.modules() if isinstance(part, nn.Linear))
    logits = linear(bench.tensor(z)) + torch.log(torch.tensor(shares, dtype=torch.float64) + 1e-12)
    at_logits = (logits.softmax(1) - nn.functional.one_hot(bench.tensor(y), 4)) / 6
    torch.testing.assert_close(found, at_logits @ linear.weight, rtol=1e-9, atol=1e-12)
    without = bench.tensor(bench.do(block.gradient(z, y)))
    torch.testing.assert_close(bench.tensor(bench.do(block.gradient(z, y, (0.25,) * 4))), without, rtol=1e-9, atol=0)


@pytest.mark.slow
def test_a_gradient_changes_nothing() -> None:
    """Neither weights, nor running statistics, nor the gradients that an optimizer step would find."""
    bench = Federation(cut=1).bench(split=True)
    block, device = bench.learner(SERVER, SERVER_BLOCK), bench.learner(0, DEVICE)
    z, y = bench.do(device.infer(Batch(0, 0, 8))), device.labels(Batch(0, 0, 8))
    before = bits(bench.flat(block.weights()).named())
    bench.do(block.gradient(z, y, (0.25,) * 4))
    assert bits(bench.flat(block.weights()).named()) == before
    other = bench.learner(SERVER, SERVER_BLOCK)
    for one in (block, other):
        bench.do(one.step(z, y))
    assert bits(bench.flat(block.weights()).named()) == bits(bench.flat(other.weights()).named()) != before


# --------------------------------------------------------------------------------------- statistics


def weighted(
    rows: NDArray[np.float64], weights: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and covariance, at once."""
    return np.average(rows, axis=0, weights=weights), np.cov(rows.T, aweights=weights, ddof=0)


@pytest.mark.parametrize("whole", [True, False])
def test_running_statistics_are_those_of_all_that_came(whole: bool) -> None:
    """Four batches with weights of their own, one after the other, equal one pass over all rows, to rounding."""
    rng = np.random.default_rng(2)
    parts = [rng.normal(i, 1 + i, (5 + i, 3)) for i in range(4)]
    weights = [1, 5, 2, 40]
    running: Gaussian | None = None
    for part, weight in zip(parts, weights, strict=True):
        fresh = Gaussian.of(torch.from_numpy(part), torch.full((len(part),), weight, dtype=torch.float64), whole=whole)
        running = fresh if running is None else running.joined(fresh)
    assert running is not None
    each = np.concatenate([np.full(len(part), float(weight)) for part, weight in zip(parts, weights, strict=True)])
    mean, covariance = weighted(np.concatenate(parts), each)
    np.testing.assert_allclose(running.mean.numpy(), mean, rtol=1e-12)
    np.testing.assert_allclose(running.spread.numpy(), covariance if whole else np.diag(covariance), rtol=1e-12)
    assert running.weight == each.sum()


@pytest.mark.parametrize("whole", [True, False])
def test_what_is_drawn_has_the_statistics(whole: bool) -> None:
    """Means and covariances of 20,000 draws; a diagonal one draws values that do not hang together."""
    rng = np.random.default_rng(4)
    rows = rng.normal(size=(50, 3)) @ np.array([[1.0, 0.8, 0.0], [0.0, 0.5, 0.3], [0.0, 0.0, 2.0]]) + [1, -2, 3]
    known = Gaussian.of(torch.from_numpy(rows), torch.ones(50, dtype=torch.float64), whole=whole)
    drawn = known.drawn(torch.from_numpy(rng.standard_normal((20_000, 3)))).numpy()
    mean, covariance = weighted(rows, np.ones(50))
    np.testing.assert_allclose(drawn.mean(0), mean, atol=0.05)
    np.testing.assert_allclose(np.cov(drawn.T), covariance if whole else np.diag(np.diag(covariance)), atol=0.1)


def test_fewer_samples_than_values_can_be_drawn_from() -> None:
    """A covariance of one sample, or of two in ten dimensions, is not definite; draws stay near what was seen."""
    for count in (1, 2):
        rows = torch.arange(10.0 * count).reshape(count, 10)
        known = Gaussian.of(rows, torch.ones(count), whole=True)
        drawn = known.drawn(torch.from_numpy(np.random.default_rng(1).standard_normal((500, 10))).float())
        assert drawn.isfinite().all()
        across = rows.std(0, correction=0).clamp_min(1e-3)
        assert ((drawn.mean(0) - rows.mean(0)).abs() < 0.3 * across + 1e-2).all()
        assert (drawn.std(0) < 1.3 * across + 1e-2).all()


def filled(covariance: Any, *, missing: bool) -> tuple[Any, Buffer, list[Tensor]]:
    """A server's buffer with two batches of a device, of three labels or four."""
    bench = MLP.bench(split=True)
    device, labels = bench.learner(0, DEVICE), MLP.data().train.labels
    buffer = Buffer(bench.node(SERVER), covariance, range(5) if missing else range(4))
    made = []
    for batch in (Batch(0, 0, 12), Batch(0, 12, 12)):
        z, y = bench.do(device.infer(batch)), device.labels(batch)
        buffer.add(0, z, y, np.bincount(bench.tensor(y), minlength=4).tolist())
        made.append(bench.tensor(z))
    assert set(labels.tolist()) == set(range(4))
    return bench, buffer, made


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_every_label_is_filled_up(covariance: Any) -> None:
    """Real samples come first, as they are; then each label's draws, until it has as many as asked."""
    bench, buffer, made = filled(covariance, missing=False)
    work = buffer.replenished(10)
    z, y = bench.tensor(bench.do(work)), bench.tensor(buffer.labels())
    real = torch.cat(made)
    assert z[:24].equal(real)
    counts = np.bincount(y[:24], minlength=4)
    assert np.bincount(y).tolist() == np.maximum(counts, 10).tolist()
    assert y[24:].tolist() == sorted(y[24:].tolist())
    for label in range(4):
        drawn, own = z[24:][y[24:] == label], real[y[:24] == label]
        assert ((drawn - own.mean(0)).abs() < 6 * own.std(0, correction=0) + 1e-2).all()
    assert len(buffer) == 0


def test_nothing_is_drawn_before_all_labels_are_known() -> None:
    """A label that samples exist of, but that has not come yet, keeps the server to real ones."""
    bench, buffer, made = filled("auto", missing=True)
    z = bench.tensor(bench.do(buffer.replenished(10)))
    assert z.equal(torch.cat(made))
    assert len(bench.tensor(buffer.labels())) == 24


def test_tallies_are_those_of_the_labels_that_travel() -> None:
    """The script's counts and the host's labels of the same batches agree, over passes and orders of asking."""
    what = replace(MLP, sizes=(20, 13))
    ran = run(what, Gas(), rounds=1)
    labels = ran.assembly.labels
    assert labels is not None
    for device, epoch, start in ((0, 0, 0), (1, 0, 8), (0, 2, 16), (0, 0, 8), (1, 1, 0)):
        batch = Batch(epoch, start, min(8, what.sizes[device] - start))
        y = ran.host.core.data.labels(ran.host.core.indices(device, batch))
        assert labels.tally(SEED, device, batch) == tuple(np.bincount(y, minlength=4).tolist())
        whole = ran.host.core.data.labels(torch.tensor(what.shards()[device]))
        assert labels.counts(device).tolist() == np.bincount(whole, minlength=4).tolist()
    assert labels.held() == tuple(np.unique(what.data().train.labels).tolist())


# ------------------------------------------------------------------------------------- what it costs


def sizes_of_steps(held: int, batch: int, turns: int, buffer: int, labels: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Real and drawn samples of each server step of one device, from the labels in its order of training."""
    found, waiting, known = [], [], set()
    for turn in range(turns):
        order = seeds.generator(11, 0, "batches", turn).permutation(held)
        for start in range(0, held, batch):
            waiting.append(labels[order[start : start + batch]])
            if len(waiting) == buffer:
                here = np.bincount(np.concatenate(waiting), minlength=3)
                known |= set(np.flatnonzero(here).tolist())
                drawn = int(np.maximum(batch - here, 0).sum()) if len(known) == 3 else 0
                found.append((int(here.sum()), drawn))
                waiting = []
    return found


@pytest.mark.parametrize("buffer", [1, 3])
@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_it_costs_its_closed_form(buffer: int, covariance: Any) -> None:
    """A turn: up HB(z+y) + |d|, down HBz + |d|; (m + m_bwd) of d, and of s for each batch and each sample of a step."""
    assembly = toy(Gas(buffer=buffer, covariance=covariance), devices=1, rounds=ROUNDS)
    outcome = simulate(assembly, learning=False)
    found, model, cut, batch = measured(outcome), assembly.model, assembly.cut, assembly.training.batch
    assert cut is not None
    assert assembly.labels is not None
    d, s, held = model.units[:cut], model.units[cut:], int(assembly.samples[0])
    sizes = [min(batch, held - start) for start in range(0, held, batch)] * ROUNDS
    z = model.activation_bytes(cut)
    up = {"weights": ROUNDS * state(d), "activations": sum(sizes) * z, "gradients": 0, "labels": sum(sizes) * LABEL}
    assert found.up == up
    down = (ROUNDS + 1) * state(d)  # one more: the turn that begins when the run ends
    assert found.down == {"weights": down, "activations": 0, "gradients": sum(sizes) * z, "labels": 0}
    assert found.device_macs == macs(d, sizes, to_input=False)
    labels = assembly.labels.labels[assembly.labels.shards[0]]
    steps = sizes_of_steps(held, batch, ROUNDS, buffer, labels)
    assert any(drawn for _, drawn in steps)
    spans = [Span(*span) for span in outcome.simulation.trace.spans if span[0] == SERVER]
    by_kind = {kind: sum(span.macs for span in spans if span.kind == kind) for kind in ("gradient", "step", "generate")}
    totals = [real + drawn for real, drawn in steps]
    assert by_kind["gradient"] == macs(s, sizes, to_input=True) + loss(model, sizes)
    assert by_kind["step"] == macs(s, totals, to_input=False) + loss(model, totals)
    values = z // 4
    width = values if covariance == "full" else 1
    statistics = sum(real * values * (1 + width) + drawn * values * width for real, drawn in steps)
    if covariance == "diagonal":
        assert by_kind["generate"] == statistics
    else:
        assert 0 <= by_kind["generate"] - statistics <= len(steps) * 3 * values**3 // 3, "and factorisations"
    assert found.aggregate_macs == ROUNDS * sum(unit.trainable for unit in d)


def test_matrices_are_kept_up_to_a_size() -> None:
    """`auto` is a full covariance up to 1,024 values a sample and a diagonal above; memory and MACs go with it."""

    def cost(values: int) -> tuple[int, int]:
        port = Hand(SERVER)
        from fedsim.learning.learners import Node
        from fedsim.payload.meta import Shape, TensorMeta
        from fedsim.script import Purpose

        z = Payload(0, 1, TensorMeta(Purpose.ACTIVATIONS, (Shape("z", (4, values)),)))
        y = Payload(0, 2, TensorMeta(Purpose.LABELS, (Shape("y", (4,), "int64"),)))
        buffer = Buffer(Node(port), "auto", (0, 1))
        buffer.add(0, z, y, (4, 0))
        work = buffer.replenished(4)
        return work.command.holds, work.parts[0].cost.macs

    assert cost(FULL) == (4 * FULL * (1 + FULL), 4 * FULL * (1 + FULL))
    assert cost(FULL + 1) == (4 * (FULL + 1) * 2, 4 * (FULL + 1) * 2)


def test_time_goes_with_the_batch_and_nothing_is_free() -> None:
    """Device MACs go with B; downloads, gradients and server steps take time; bytes of a transfer go with its batch."""
    held = np.full(DEVICES, 32)
    per_batch = {}
    for batch in (8, 16):
        base = toy(Gas(), rounds=1)
        sized = replace(base, samples=held, training=replace(base.training, batch=batch), labels=None)
        outcome = simulate(replace(sized, scheduler=Gas(**PLAIN)), learning=False)
        trace = outcome.simulation.trace
        spans, rows = [Span(*s) for s in trace.spans], [Transfer(*row) for row in trace.transfers]
        forward = {span.macs for span in spans if span.kind == "forward"}
        assert len(forward) == 1
        per_batch[batch] = forward.pop(), {row.activations for row in rows if row.message == "Activations"}.pop()
        assert all(span.end > span.start for span in spans)
        assert {"gradient", "step"} <= {span.kind for span in spans if span.node == SERVER}
        assert all(row.arrived > row.started for row in rows if row.outcome == "delivered")
    assert per_batch[16] == (2 * per_batch[8][0], 2 * per_batch[8][1])


# ------------------------------------------------------------------------------------- who waits for whom


def idle(outcome: Outcome) -> tuple[dict[str, float], dict[str, float]]:
    """Idle time by cause, of the server and of devices."""
    summary = summarise(outcome.simulation.trace, status="done", wall_seconds=1.0)
    for side in ("server", "devices"):
        assert sum(summary[side]["idle_by_cause"].values()) == pytest.approx(summary[side]["idle"], abs=1e-12)
    return summary["server"]["idle_by_cause"], summary["devices"]["idle_by_cause"]


def test_nobody_waits_for_stragglers() -> None:
    """Oracle 7: no straggler wait; that for gradients remains; with a crew, the others sit out."""
    server, devices = idle(simulate(toy(Gas(), rounds=ROUNDS), learning=False))
    assert server["straggler"] == devices["straggler"] == devices["unselected"] == 0
    assert devices["dependency"] > 0
    server, devices = idle(simulate(toy(Gas(concurrency=2), rounds=ROUNDS), learning=False))
    assert server["straggler"] == devices["straggler"] == 0
    assert devices["unselected"] > 0


def test_an_idle_device_takes_the_place_of_one_that_is_done() -> None:
    """With two of four at once there are never more, and everybody has turns; by hand, the next one is another one."""
    outcome = simulate(toy(Gas(concurrency=2), rounds=ROUNDS), learning=False)
    rows = [Transfer(*row) for row in outcome.simulation.trace.transfers]
    begun = [(row.queued, 1) for row in rows if row.message == "Block"]
    done = [(row.arrived, -1) for row in rows if row.message == "Trained"]
    assert max(np.cumsum([change for _, change in sorted(begun + done)])) == 2
    assert {row.target for row in rows if row.message == "Block"} == set(range(DEVICES))
    steps = by_hand(Gas(concurrency=2), "server", devices=4)
    turns = started(steps, 2)
    first = next(iter(turns))
    steps.answer(trained(first, turns[first]))
    assert isinstance(steps.effect, Send)
    assert steps.effect.to[0] not in turns


def test_what_was_consumed_is_what_steps_were_taken_on() -> None:
    """Marks come with the step, a batch each; what is left in the buffer at the end has none."""
    outcome = simulate(toy(Gas(buffer=3), rounds=ROUNDS), learning=False)
    trace = outcome.simulation.trace
    marks = [mark[1] for mark in trace.marks if mark[2] == "consumed"]
    steps = [span[4] for span in trace.spans if span[2] == "step"]
    assert marks == [end for end in steps for _ in range(3)]
    gradients = sum(span[2] == "gradient" for span in trace.spans)
    assert 0 <= gradients - len(marks) <= 3


# ------------------------------------------------------------------------------------- by hand


def activations(k: int, turn: int, size: int = 8) -> Activations:
    """A device's first batch."""
    plan = toy(Gas()).blocks()[DEVICE]
    z, y = Payload(k, 1, plan.activations(size)), Payload(k, 2, plan.labels(size))
    return Activations(z, y, turn, 0, 0, sender=k)


def trained(k: int, turn: int) -> Trained:
    """A device's block."""
    return Trained(Payload(k, 3, toy(Gas()).blocks()[DEVICE].weights), turn, sender=k)


def computes(steps: Steps) -> list[str]:
    """The methods of the works that the script runs now, one after the other; sends are let through."""
    found = []
    while not isinstance(steps.effect, Recv) and steps.effect is not None:
        if isinstance(steps.effect, Compute):
            (work,) = steps.effect.works
            found.append(work.command.method)
            steps.answer(work.result)
        else:
            steps.answer(None)
    return found


def started(steps: Steps, devices: int) -> dict[int, int]:
    """Let the server send its first blocks: the turn of each device."""
    turns = {}
    for _ in range(devices):
        assert isinstance(steps.effect, Send)
        assert isinstance(steps.effect.message, Block)
        turns[steps.effect.to[0]] = steps.effect.message.turn
        steps.answer(None)
    return turns


def test_the_server_by_hand() -> None:
    """A gradient for each batch, at once; a step at Q of them, on drawn samples as well; d is a mean of two blocks."""
    steps = by_hand(Gas(buffer=2, blocks=2), "server", devices=2)
    turns = started(steps, 2)
    steps.answer(activations(0, turns[0]))
    assert computes(steps) == ["gradient"]
    steps.answer(activations(1, turns[1]))
    assert computes(steps) == ["gradient", "buffer.replenish", "step"]
    steps.port.commands.clear()
    steps.answer(trained(1, turns[1]))
    assert computes(steps) == []
    assert len(steps.port.published) == 1
    added = [command.args for command in steps.port.commands if command.method == "mean.add"]
    steps.answer(trained(1, turns[1] + 1))
    assert computes(steps) == ["mean.result"], "the same device twice counts as two"
    added += [command.args for command in steps.port.commands if command.method == "mean.add"][1:]
    assert [(slot, weight) for slot, _, weight in added] == [(0, 1), (1, 1)]
    assert len(steps.port.published) == 2


def test_recent_batches_weigh_more() -> None:
    """1, 2, … within a turn; a turn that begins after an aggregation starts at the server's steps so far."""
    steps = by_hand(Gas(buffer=1, blocks=1), "server", devices=1, rounds=5)
    turn = started(steps, 1)[0]
    weights = []
    for _ in range(3):
        for _ in range(2):
            steps.answer(activations(0, turn))
            computes(steps)
        steps.answer(trained(0, turn))
        computes(steps)
        turn += 1
    weights = [command.args[2] for command in steps.port.commands if command.method == "buffer.add"]
    assert weights == [1, 2, 3, 4, 7, 8]


def test_a_batch_from_before_its_device_left_is_trained_but_not_answered() -> None:
    """It stays valid; the gradient would be for nobody. The returned device has a turn of its own."""
    steps = by_hand(Gas(buffer=2), "server", devices=2)
    turns = started(steps, 2)
    steps.answer(Disconnected(0))
    steps.answer(Connected(0))
    assert isinstance(steps.effect, Send)
    fresh = steps.effect.message
    assert isinstance(fresh, Block)
    assert steps.effect.to == (0,)
    assert fresh.turn not in turns.values()
    steps.answer(None)
    steps.answer(activations(0, turns[0]))
    assert computes(steps) == []
    steps.answer(trained(0, turns[0]))
    assert computes(steps) == [], "nor is a block from before it left the end of its new turn"
    steps.answer(activations(0, fresh.turn))
    assert computes(steps) == ["gradient", "buffer.replenish", "step"]


def test_a_device_goes_over_to_a_newer_turn() -> None:
    """While it waits for a gradient of a turn that the server has given up: else it would wait for ever."""
    device = by_hand(Gas(), 1)
    plans = toy(Gas()).blocks()
    w = Payload(SERVER, 1, plans[DEVICE].weights)
    assert isinstance(device.effect, Recv)
    device.answer(Block(w, 0, 4, sender=SERVER))
    assert computes(device) == ["forward"]
    device.answer(Gradient(Payload(SERVER, 2, plans[SERVER_BLOCK].gradients(8)), 3, sender=SERVER))
    assert isinstance(device.effect, Recv), "a gradient of an earlier turn is none"
    device.port.commands.clear()
    device.answer(Block(w, 0, 5, sender=SERVER))
    assert [command.method for command in device.port.commands][:2] == ["abandon", "load"]
    assert isinstance(device.effect, Compute)
    device.close()


# ------------------------------------------------------------------------------------------- the rest


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [{"concurrency": 2, "local_steps": 3}, {"buffer": 3, "blocks": 2, "covariance": "diagonal"}, PLAIN],
    ids=str,
)
def test_it_conforms(options: dict[str, Any]) -> None:
    """Whatever its options."""
    check_scheduler(Gas(**options))


def test_text_is_refused() -> None:
    """There is no label a sample to keep statistics by."""
    given = {**TOY, "scheduler": {"name": "gas"}, "model": {"name": "transformer", "cut": 1}}
    with pytest.raises(UserError, match="gas with these options goes by the label of each sample"):
        fedsim.run(given, data=tokens)


def test_labels_are_asked_for_only_where_they_are_needed() -> None:
    """Without drawing and adjusting it runs on anything; with either, a run without labels says what is missing."""
    simulate(replace(toy(Gas(**PLAIN), rounds=1), labels=None), learning=False)
    for scheduler in (Gas(adjust_logits=False), Gas(generate=False)):
        assert scheduler.needs_labels
        with pytest.raises(ScriptError, match="does not say needs_labels"):
            simulate(replace(toy(scheduler, rounds=1), labels=None), learning=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"buffer": 0}, "buffer 0 must be 1 or more"),
        ({"blocks": 0}, "blocks 0 must be 1 or more"),
        ({"concurrency": 0}, "concurrency 0 must be 1 or more"),
        ({"covariance": "full", "generate": False}, "covariance: full is for activations that are drawn: generate: on"),
        ({"local_steps": 0}, "local_steps 0 must be 1 or more"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    """By value and rule."""
    with pytest.raises(ValueError, match=message):
        Gas(**options)
