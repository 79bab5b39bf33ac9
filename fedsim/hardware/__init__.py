"""Devices, servers and links as data, and what a cost takes on them. Knows nothing of models, torch or clocks."""
