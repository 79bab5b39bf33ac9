"""Hosts of a share of the nodes: driven by orders, taking values in from other shares, and able to go on from bytes."""
