"""The wall-clock runtime: a process a node, throttled to its profile, over gRPC with links shaped to theirs.

Scripts, hosts and traces are those of a simulation. Nothing here knows a scheduler or a scenario file.
"""
