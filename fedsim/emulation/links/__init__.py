"""One direction of a link on the wall clock: when frames may go, the thread that lets them, and how links are shared.

Knows neither what frames carry nor how they get to the other side.
"""
