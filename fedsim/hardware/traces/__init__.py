"""Recordings of the world: capacity that changes with time, devices that come and go, rates that users had.

`rates` and `attendance` are what a recording means here, `loading` reads one from a file, `formats` lists the formats
there are, one module each. Knows nothing of links, networks or engines. No recording ships with fedsim.
"""
