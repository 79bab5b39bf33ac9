"""Simulation and emulation of federated and split-federated learning on heterogeneous edge devices."""
