"""Scenario files: read, checked, written back. Knows names and types, not what they stand for, and imports no torch."""

from fedsim.scenario.codec import Codec, TopK
from fedsim.scenario.dump import dump, resolved
from fedsim.scenario.errors import ScenarioError
from fedsim.scenario.load import load
from fedsim.scenario.network import AccessPoint, InlineLink, Network
from fedsim.scenario.overrides import Change
from fedsim.scenario.pruning import Calibration, Pruned, Pruning
from fedsim.scenario.registry import Arguments, Registry, import_object
from fedsim.scenario.schema import (
    Churn,
    Data,
    Emulation,
    Evaluate,
    Fault,
    Group,
    Model,
    Optimizer,
    Partition,
    Scenario,
    Scheduler,
    Selection,
    Server,
    Tokens,
    Training,
    Until,
    Workers,
)
from fedsim.scenario.section import File, Section
from fedsim.scenario.sweeps import Axis, Sweep

__all__ = [
    "AccessPoint",
    "Arguments",
    "Axis",
    "Calibration",
    "Change",
    "Churn",
    "Codec",
    "Data",
    "Emulation",
    "Evaluate",
    "Fault",
    "File",
    "Group",
    "InlineLink",
    "Model",
    "Network",
    "Optimizer",
    "Partition",
    "Pruned",
    "Pruning",
    "Registry",
    "Scenario",
    "ScenarioError",
    "Scheduler",
    "Section",
    "Selection",
    "Server",
    "Sweep",
    "Tokens",
    "TopK",
    "Training",
    "Until",
    "Workers",
    "dump",
    "import_object",
    "load",
    "resolved",
]
