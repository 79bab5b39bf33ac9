"""FedAvg and SplitFed stepped by hand, effect after effect, as their papers' algorithms read."""

from __future__ import annotations

from typing import Any

import pytest

from fedsim.learning.plan import DEVICE, MODEL, SERVER_BLOCK
from fedsim.schedulers import fedavg, splitfed
from fedsim.schedulers.fedavg import FedAvg
from fedsim.schedulers.splitfed import SplitFed
from fedsim.script import SERVER, UNSENT, Compute, Disconnected, Payload, Recv, Send
from fedsim.testing import Steps, by_hand, toy


def methods(steps: Steps) -> list[str]:
    """The commands without duration that the script has given so far; forgets them."""
    found = [command.method for command in steps.port.commands]
    steps.port.commands.clear()
    return found


def awaits_recv(steps: Steps, *kinds: type[Any]) -> None:
    """The script waits for a message of these kinds."""
    assert isinstance(steps.effect, Recv)
    assert steps.effect.kinds == kinds


def sends(steps: Steps, *to: int) -> Any:
    """The script sends one message to these nodes; returns the message."""
    assert isinstance(steps.effect, Send)
    assert steps.effect.to == to
    assert steps.effect.message.sender == UNSENT
    return steps.effect.message


def computes(steps: Steps) -> Any:
    """The script runs one work; returns the work."""
    assert isinstance(steps.effect, Compute)
    (work,) = steps.effect.works
    return work


def weights(node: int, number: int, of: str, scheduler: Any) -> Payload:
    """A handle on a block's weights."""
    return Payload(node, number, toy(scheduler).blocks()[of].weights)


def test_a_fedavg_device() -> None:
    """Algorithm 1, ClientUpdate: take w_t, train E epochs of batches B, return w_k; then wait for the next round."""
    me = by_hand(FedAvg(local_epochs=2), 1)
    held = int(toy(FedAvg()).samples[1])
    w = weights(SERVER, 1, MODEL, FedAvg())
    for _ in range(2):
        awaits_recv(me, fedavg.Train)
        methods(me)
        me.answer(fedavg.Train(w, 0, sender=SERVER))
        assert me.port.commands[0].args == (w,)
        assert methods(me) == ["load"]
        work = computes(me)
        assert work.command.method == "train"
        assert sum(part.samples for part in work.parts) == 2 * held
        assert [part.samples for part in work.parts[: len(work.parts) // 2]] == [
            min(8, held - start) for start in range(0, held, 8)
        ]
        me.answer(None)
        trained = sends(me, SERVER)
        assert isinstance(trained, fedavg.Trained)
        assert (trained.samples, trained.weights.nbytes) == (held, w.nbytes)
        assert methods(me) == ["weights", "close"]
        me.answer(None)
    me.close()


def test_a_fedavg_server() -> None:
    """Algorithm 1, server: publish w_0; a round sends w_t to all, waits for each, and averages; then it returns."""
    scheduler = FedAvg()
    me = by_hand(scheduler, "server", devices=3, rounds=1)
    assert [len(model) for model in me.port.published] == [1]
    train = sends(me, 0, 1, 2)
    assert isinstance(train, fedavg.Train)
    assert (train.weights,) == me.port.published[0]
    methods(me)
    me.answer(None)
    for k in (2, 0, 1):
        awaits_recv(me, fedavg.Trained, Disconnected)
        assert methods(me) == (["mean.open"] if k == 2 else []), "nothing but waiting"
        me.answer(fedavg.Trained(weights(k, 7, MODEL, scheduler), samples=10 * (k + 1), round=0, sender=k))
        if k != 1:
            assert [command.args[0::2] for command in me.port.commands] == [(k, 10 * (k + 1))]
            assert methods(me) == ["mean.add"]
    mean = computes(me)
    assert mean.command.method == "mean.result"
    assert mean.parts[0].cost.macs == 3 * toy(scheduler).blocks()[MODEL].trainable
    assert me.answer(mean.result) is None
    assert me.port.published[-1] == (mean.result,)
    assert [(name, value) for name, value, _ in me.port.marks] == [("round.open", 0), ("round.close", 0)]


def test_a_fedavg_server_without_anyone_left() -> None:
    """An empty round averages nothing: the weights stay, and the round is recorded."""
    me = by_hand(FedAvg(), "server", devices=2, rounds=1)
    me.answer(None)
    me.answer(Disconnected(0, sender=0))
    awaits_recv(me, fedavg.Trained, Disconnected)
    assert me.answer(Disconnected(1, sender=1)) is None
    first, second = me.port.published
    assert first == second


def test_a_splitfed_device() -> None:
    """Algorithm 1, ClientUpdate and ClientBackprop: for each batch forward, send z and y, wait, backward."""
    me = by_hand(SplitFed(local_steps=2), 0)
    d = weights(SERVER, 1, DEVICE, SplitFed())
    awaits_recv(me, splitfed.Train)
    methods(me)
    me.answer(splitfed.Train(d, 0, sender=SERVER))
    for batch in range(2):
        z = computes(me)
        assert z.command.method == "forward"
        assert methods(me) == ([] if batch else ["load"])
        me.answer(z.result)
        smashed = sends(me, SERVER)
        assert smashed.values is z.result
        assert smashed.labels.nbytes == 8 * 8, "int64 labels of a batch of 8"
        assert methods(me) == ["labels"]
        me.answer(None)
        awaits_recv(me, splitfed.Gradient, splitfed.Train)
        gradient = Payload(SERVER, 5 + batch, z.result.meta)
        me.answer(splitfed.Gradient(gradient, 0, sender=SERVER))
        step = computes(me)
        assert step.command.method == "backward"
        assert step.command.args[0] is gradient
        me.answer(None)
    trained = sends(me, SERVER)
    assert trained.weights.nbytes == d.nbytes
    me.answer(None)
    awaits_recv(me, splitfed.Train)
    me.close()


def test_a_splitfed_server() -> None:
    """Algorithm 1, server: a copy a device; each batch is trained on its device's copy; both halves are averaged."""
    scheduler = SplitFed()
    me = by_hand(scheduler, "server", devices=2, rounds=1)
    assert [len(model) for model in me.port.published] == [2]
    train = sends(me, 0, 1)
    assert train.weights is me.port.published[0][0]
    assert methods(me).count("copy") == 2
    me.answer(None)
    meta = toy(scheduler).blocks()[DEVICE]
    copies: dict[int, int] = {}
    for k in (1, 0, 1):
        awaits_recv(me, splitfed.Activations, splitfed.Trained, Disconnected)
        z = Payload(k, 3, meta.activations(8))
        me.answer(splitfed.Activations(z, Payload(k, 4, meta.labels(8)), 0, sender=k))
        step = computes(me)
        assert step.command.method == "train_step"
        assert copies.setdefault(k, step.command.learner) == step.command.learner
        me.answer(step.result)
        gradient = sends(me, k)
        assert gradient.values is step.result
        assert gradient.values.nbytes == z.nbytes
        me.answer(None)
    assert copies[0] != copies[1]
    for k in (0, 1):
        awaits_recv(me, splitfed.Activations, splitfed.Trained, Disconnected)
        me.answer(splitfed.Trained(weights(k, 9, DEVICE, scheduler), samples=8, round=0, sender=k))
    d = computes(me)
    me.answer(d.result)
    s = computes(me)
    blocks = toy(scheduler).blocks()
    assert (d.result.nbytes, s.result.nbytes) == (blocks[DEVICE].weights.nbytes, blocks[SERVER_BLOCK].weights.nbytes)
    assert me.answer(s.result) is None
    assert me.port.published[-1] == (d.result, s.result)


def test_a_splitfed_server_drops_the_copy_of_a_device_that_left() -> None:
    """What comes from it afterwards is ignored; its copy is closed and takes no part in the mean."""
    scheduler = SplitFed()
    me = by_hand(scheduler, "server", devices=2, rounds=1)
    me.answer(None)
    methods(me)
    me.answer(Disconnected(1, sender=1))
    assert methods(me) == ["close"]
    blocks = toy(scheduler).blocks()
    late = splitfed.Activations(
        Payload(1, 3, blocks[DEVICE].activations(8)), Payload(1, 4, blocks[DEVICE].labels(8)), 0, sender=1
    )
    me.answer(late)
    awaits_recv(me, splitfed.Activations, splitfed.Trained, Disconnected)
    me.answer(splitfed.Trained(weights(1, 9, DEVICE, scheduler), samples=8, round=0, sender=1))
    awaits_recv(me, splitfed.Activations, splitfed.Trained, Disconnected)
    assert methods(me) == [], "neither a step nor a member of the mean"
    me.answer(splitfed.Trained(weights(0, 9, DEVICE, scheduler), samples=8, round=0, sender=0))
    assert computes(me).parts[0].cost.macs == blocks[DEVICE].trainable, "a mean of one"
    me.close()


def test_a_message_out_of_the_mailbox_has_come_once() -> None:
    """`take` answers with the first one of a kind that is awaited; a script that asks what has arrived sees it once."""
    server = by_hand(FedAvg(), "server", devices=2, rounds=1)
    sends(server, 0, 1)
    server.answer(None)
    assert server.port.arrived(fedavg.Trained) == []
    trained = [fedavg.Trained(weights(k, 1, MODEL, FedAvg()), 24, 0, sender=k) for k in range(2)]
    for message in trained:
        server.port.mailbox.put(message)
    assert server.take() is trained[0]
    assert server.port.arrived(fedavg.Trained) == trained
    server.close()
    with pytest.raises(AssertionError, match=r"none of \['Train'\] is in the mailbox"):
        by_hand(FedAvg(), 0).take()
