"""Measuring this machine and fitting a profile to what was measured.

`running` is the procedure: what else the machine does (`surroundings`), its plain rates (`rates`), the times of real
networks (`stepping`), the profile that prices these best (`fitting`), how far it is off (`accuracy`), and the file with
the evidence (`writing`). Knows nothing of scenarios, schedulers and runs.
"""
