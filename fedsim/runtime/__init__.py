"""What both runtimes share, on the virtual clock and on the wall clock: nothing here lets time pass.

Conditions of a run, envelopes of messages, spans of works, memory of nodes, and scripts as coroutines.
"""
