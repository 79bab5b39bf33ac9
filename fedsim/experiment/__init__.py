"""The composition root: a scenario becomes a fleet, a scheduler, a runtime and a run folder."""
