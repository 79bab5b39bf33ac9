"""Learning as works: handles for scripts (no torch) and the host that runs what they ask for (torch)."""
