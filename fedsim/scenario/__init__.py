"""Scenario files: read, checked, written back. Knows names and types, not what they stand for, and imports no torch."""

from fedsim.scenario.dump import dump, resolved
from fedsim.scenario.errors import ScenarioError
from fedsim.scenario.load import load
from fedsim.scenario.registry import Arguments, Registry, import_object
from fedsim.scenario.schema import (
    Data,
    Evaluate,
    Fault,
    Group,
    InlineLink,
    Model,
    Optimizer,
    Partition,
    Scenario,
    Scheduler,
    Section,
    Selection,
    Server,
    Tokens,
    Training,
    Until,
    Workers,
)

__all__ = [
    "Arguments",
    "Data",
    "Evaluate",
    "Fault",
    "Group",
    "InlineLink",
    "Model",
    "Optimizer",
    "Partition",
    "Registry",
    "Scenario",
    "ScenarioError",
    "Scheduler",
    "Section",
    "Selection",
    "Server",
    "Tokens",
    "Training",
    "Until",
    "Workers",
    "dump",
    "import_object",
    "load",
    "resolved",
]
