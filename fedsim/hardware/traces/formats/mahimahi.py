"""Mahimahi's packet delivery traces (Netravali et al., USENIX ATC 2015; ravinet/mahimahi).

Each line is a moment in whole milliseconds at which one packet of 1500 bytes can leave; several lines may name the
same one. The trace repeats after its last moment. One file holds one direction. The packets contain IP and TCP
headers, so this is capacity on the wire. Single packets are counted together over steps of half a second, as
Mahimahi's own graphs do: a change of capacity for each packet would be one event of the network for each.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from fedsim.errors import shown
from fedsim.hardware.traces.files import TraceFile
from fedsim.hardware.traces.formats.reading import Choice, Directions, Format
from fedsim.hardware.traces.rates import Series

PACKET: Final = 1500
"""Bytes of a delivery opportunity: PACKET_SIZE in Mahimahi's link_queue.hh."""

_LONGEST: Final = 10**9  # ms; eleven days


def _rates(file: TraceFile, choice: Choice) -> Directions:
    """The packets of a step are those after its beginning and up to its end; one at 0 belongs to the first."""
    step = max(1, round(choice.step * 1000))
    counts = [0]
    last = 0
    for number, line in file.lines():
        if not (line.isascii() and line.isdigit()) or int(line) > _LONGEST:
            raise file.error(f"{shown(line)} is no time in whole milliseconds up to {_LONGEST:.0e}; correct it", number)
        moment = int(line)
        if moment < last:
            raise file.error(f"{moment} ms comes after {last} ms; times must not go back", number)
        last = moment
        index = max(moment - 1, 0) // step
        if index >= len(counts):
            counts.extend([0] * (index - len(counts) + 1))
        counts[index] += 1
    if last == 0:
        raise file.error("the trace lasts 0 ms; give one that takes time")
    starts = np.arange(len(counts)) * step / 1000
    widths = np.diff(starts, append=last / 1000)
    return Directions(Series(starts, np.array(counts) * PACKET / widths, last / 1000))


def _recognises(head: bytes) -> bool:
    lines = head.split(b"\n")[:3]
    return all(line.strip().isdigit() for line in lines if line) and lines[0] != b""


FORMAT: Final = Format(
    name="mahimahi",
    holds="packets of one direction over time",
    recognises=_recognises,
    rates=_rates,
    measured="line",
    one_way=True,
    choices=frozenset({"step"}),
)
