"""Finished runs in the records of trackers: TensorBoard's event files, and MLflow's experiments.

All that goes there follows from a run folder, so a run may be sent when it ends or any time later. Trackers are extras:
each is imported where it is used, and only there.
"""

from fedsim.report.tracking.targets import Target, parse

__all__ = ["Target", "parse"]
