"""The tools for authors of schedulers: stepping by hand, and toy runs."""

from __future__ import annotations

from fedsim.schedulers.fedavg import FedAvg
from fedsim.script import Connected, Disconnected, Send
from fedsim.simulation import Ending
from fedsim.testing import by_hand, simulate, toy


def test_a_hand_is_a_port() -> None:
    """Messages put into its mailbox are polled, absence is seen, closing ends the script."""
    steps = by_hand(FedAvg(), "server", devices=2, rounds=None)
    port = steps.port
    assert steps.effect is not None
    port.mailbox.put(Connected(1, sender=1))
    assert port.poll(Disconnected) is None
    assert port.poll(Connected) == Connected(1, sender=1)
    steps.close()


def test_devices_that_are_away_are_not_asked() -> None:
    """The next round is sent to those that are there."""
    steps = by_hand(FedAvg(), "server", devices=3, rounds=2)
    steps.port.absent = {1}
    steps.answer(None)
    for device in (0, 1, 2):
        steps.answer(Disconnected(device, sender=device))
    assert isinstance(steps.effect, Send)
    assert steps.effect.to == (0, 2)
    steps.close()


def test_toy_runs_are_alike_with_learning_off() -> None:
    """The toy run learns something; timing only takes the same virtual time."""
    on, off = (
        simulate(toy(FedAvg(local_epochs=5), rounds=4)),
        simulate(toy(FedAvg(local_epochs=5), rounds=4), learning=False),
    )
    assert on.ending is off.ending is Ending.SERVER
    assert on.simulation.trace.end == off.simulation.trace.end
    accuracies = [mark[3] for mark in on.simulation.trace.marks if mark[2] == "evaluate"]
    assert accuracies[-1] > accuracies[0]
    assert off.weights is None
