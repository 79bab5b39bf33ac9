"""The virtual clock: an engine that interprets scripts, and the workers that do the real work meanwhile."""

from fedsim.runtime.conditions import Ending, Fault, Limits, Shortage
from fedsim.runtime.envelopes import ENVELOPE_BYTES
from fedsim.runtime.memory import Ledger
from fedsim.simulation.engine import Simulation
from fedsim.simulation.workers import Inline, TimingOnly, Workers

__all__ = [
    "ENVELOPE_BYTES",
    "Ending",
    "Fault",
    "Inline",
    "Ledger",
    "Limits",
    "Shortage",
    "Simulation",
    "TimingOnly",
    "Workers",
]
