"""Measures of a run and the files that show them: pure functions of a trace.

Knows roles, rounds and purposes, and no scheduler's name; nor how the trace was made.
"""

from fedsim.report.agreement import Agreement, Verdict, agreement, verdict
from fedsim.report.comparison import Outcome, Table, grids
from fedsim.report.energy import energy_label
from fedsim.report.folder import RunFolder, read_run, read_summary, write_comparison, write_run, write_summary
from fedsim.report.identity import check_emulated, check_identity
from fedsim.report.idle import CAUSES
from fedsim.report.measures import Measures, measure
from fedsim.report.quality import spread, time_to
from fedsim.report.show import show, table
from fedsim.report.summary import summarise

__all__ = [
    "CAUSES",
    "Agreement",
    "Measures",
    "Outcome",
    "RunFolder",
    "Table",
    "Verdict",
    "agreement",
    "check_emulated",
    "check_identity",
    "energy_label",
    "grids",
    "measure",
    "read_run",
    "read_summary",
    "show",
    "spread",
    "summarise",
    "table",
    "time_to",
    "verdict",
    "write_comparison",
    "write_run",
    "write_summary",
]
