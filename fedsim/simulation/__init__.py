"""The virtual clock: an engine that interprets scripts, and the workers that do the real work meanwhile."""

from fedsim.simulation.engine import Ending, Simulation
from fedsim.simulation.workers import Inline, TimingOnly, Workers

__all__ = ["Ending", "Inline", "Simulation", "TimingOnly", "Workers"]
