"""Parts put together into a simulation."""

from __future__ import annotations

from fedsim.schedulers.fedavg import FedAvg
from fedsim.simulation import Fault
from fedsim.testing import simulate, toy
from tests.schedulers.closed_forms import batches


def test_a_device_that_returns_goes_on_with_its_order_of_batches() -> None:
    """Else its first samples would be trained again and again, and its last ones never."""
    scheduler = FedAvg(local_steps=1)
    whole = simulate(toy(scheduler, rounds=6), learning=False).simulation.trace
    device = next(k for k, held in enumerate(toy(scheduler).samples.tolist()) if held > 8 and held % 8)
    leave = next(t[12] for t in whole.transfers if t[1] == device) + 1  # its first contribution has just arrived
    fault = Fault(device=device, leave=leave / 1e9, back=leave / 1e9 + 1e-6)
    trace = simulate(toy(scheduler, rounds=6, faults=[fault]), learning=False).simulation.trace
    assert sum(mark[2] == "return" for mark in trace.marks) == 1
    trained = [span[7] for span in trace.spans if span[0] == device]
    assert len(trained) > 3
    held = int(toy(scheduler).samples[device])
    assert trained == batches(held, 8, steps=len(trained))
