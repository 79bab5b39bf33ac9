"""How far an emulation is from the simulation of the same scenario: a pure function of both traces.

What must agree, and by how much, are the constants below; what else differs is reported.

Payload bytes are equal if every message is. Where rounds decide what is sent (both runs opened the same ones, all of
whose devices had to deliver, and nobody left), messages of a type between two nodes are as many in both runs, of the
same sizes by purpose, and so are totals. Elsewhere real time decides how many are sent before the run ends, and which
batches an asynchronous system drops. So numbers that differ are reported and allowed. Where they are equal, messages
have the same sizes, and thus the same total if there is one size; where they are not, each message of the run that sent
fewer has a size that the other run sent. Messages under way at the end count, lost ones do not.

Knows no scheduler's name, nor how a trace was made.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import median
from typing import Any, Final

import numpy as np

from fedsim.errors import AccountingError
from fedsim.report.columns import SECOND
from fedsim.report.differences import Difference, differences, payload
from fedsim.report.identity import DELIVERED, IN_FLIGHT
from fedsim.report.idle import CAUSES
from fedsim.report.measures import Measures, measure
from fedsim.report.summary import utilisation
from fedsim.report.traffic import DIRECTIONS
from fedsim.runtime.envelopes import ENVELOPE_BYTES
from fedsim.script import SERVER
from fedsim.trace import PURPOSES, Trace, Transfer

TOTAL_WITHIN: Final = 0.05
"""Of the simulated length. The gate; a quiet host should reach 3 %."""

SHARE_WITHIN: Final = 0.05
"""Of a node's time, busy and idle each: five points. The gate; a quiet host should reach three."""

HEADER_BYTES: Final = ENVELOPE_BYTES
"""A message's header on the wire: what a simulation charges for it."""

FRAME_BYTES: Final = 30
"""A frame's head, 17 B, and what gRPC and HTTP/2 put around it."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A figure in both runs."""

    simulated: float
    emulated: float

    @property
    def difference(self) -> float:
        """By how much the emulation's is more."""
        return self.emulated - self.simulated

    @property
    def error(self) -> float:
        """The difference as a share of what was simulated; infinite where that is nothing."""
        if self.emulated == self.simulated:
            return 0.0
        return self.difference / self.simulated if self.simulated else math.copysign(math.inf, self.difference)


@dataclass(frozen=True, slots=True)
class NodeAgreement:
    """A node: shares of its time, and when its last work ended, in seconds."""

    number: int
    name: str
    busy: Pair
    idle: Pair
    causes: Mapping[str, Pair]
    finish: Pair


@dataclass(frozen=True, slots=True)
class Phase:
    """Seconds of all nodes together: computing of a kind, messages of a type under way, waiting for a cause."""

    phase: str
    """`compute`, `transfer` or `wait`."""
    kind: str
    seconds: Pair


@dataclass(frozen=True, slots=True)
class Payload:
    """Bytes of a purpose that were sent in a direction."""

    direction: str
    purpose: str
    nbytes: Pair


@dataclass(frozen=True, slots=True)
class Messages:
    """Messages of a type that were sent in a direction, and the payload of all of them."""

    direction: str
    message: str
    count: Pair
    nbytes: Pair


@dataclass(frozen=True, slots=True)
class Wire:
    """What went over the wire, in bytes, frames and messages; `payload` that arrived, and all that was sent."""

    nbytes: int
    frames: int
    messages: int
    arrived: int
    sent: int

    @property
    def most(self) -> int:
        """Bytes that there may be: the payload and so many for each message and each frame."""
        return self.sent + HEADER_BYTES * self.messages + FRAME_BYTES * self.frames

    @property
    def within(self) -> bool:
        """Whether there are as many bytes as there should be."""
        return self.arrived <= self.nbytes <= self.most


@dataclass(frozen=True, slots=True)
class Agreement:
    """An emulation beside the simulation; see the module."""

    seconds: Pair
    nodes: tuple[NodeAgreement, ...]
    phases: tuple[Phase, ...]
    payload: tuple[Payload, ...]
    messages: tuple[Messages, ...]
    wrong_bytes: tuple[str, ...]
    """Messages whose payload differs, a sentence each."""
    determined: bool
    """Whether rounds decide what is sent."""
    wire: Wire | None
    """None where the emulation does not say."""
    differences: tuple[Difference, ...]
    """The first of each kind, the most telling one first."""
    weights: bool | None
    """Whether the final weights are the same to the bit; None without weights."""


@dataclass(frozen=True, slots=True)
class NodeErrors:
    """By how much a node's shares differ, the median of all emulations: points as fractions, without sign."""

    name: str
    busy: float
    idle: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """What all emulations of a scenario come to: medians of the sizes of errors, and what misses the gate."""

    runs: int
    total: float
    nodes: tuple[NodeErrors, ...]
    misses: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Whether the gate holds."""
        return not self.misses


def agreement(
    simulated: Trace,
    emulated: Trace,
    *,
    fidelity: Mapping[str, Any] | None = None,
    same_weights: bool | None = None,
    measures: Measures | None = None,
) -> Agreement:
    """Put an emulation beside the simulation of the same scenario.

    Args:
        fidelity: `summary.fidelity` of the emulation: its `dilation` and `wire`.
        same_weights: whether both runs ended with the same weights, to the bit.
        measures: those of the simulation, where the caller has them.

    Raises:
        AccountingError: the traces are of different nodes.
    """
    if [node.number for node in simulated.nodes] != [node.number for node in emulated.nodes]:
        raise AccountingError("the simulation and the emulation are of different nodes; compare runs of one scenario")
    told = fidelity or {}
    one, other = measure(simulated) if measures is None else measures, measure(emulated)
    sent = _sent(simulated), _sent(emulated)
    fixed = _determined(simulated, emulated)
    return Agreement(
        seconds=Pair(one.seconds, other.seconds),
        nodes=tuple(_nodes(one, other)),
        phases=tuple(chain(_computing(one, other), _flowing(one, other), _waiting(one, other))),
        payload=tuple(_payload(*sent)),
        messages=tuple(_messages(*sent)),
        wrong_bytes=tuple(_wrong(*sent, {node.number: node.name for node in simulated.nodes}, determined=fixed)),
        determined=fixed,
        wire=_wire(emulated, told.get("wire")),
        differences=differences(simulated, emulated, float(told.get("dilation") or 1.0)),
        weights=same_weights,
    )


def verdict(found: Sequence[Agreement]) -> Verdict:
    """The verdict on one or several emulations: times by the median, bytes in every one."""
    total = median(abs(one.seconds.error) for one in found)
    nodes = tuple(
        NodeErrors(
            rows[0].name,
            median(abs(row.busy.difference) for row in rows),
            median(abs(row.idle.difference) for row in rows),
        )
        for rows in zip(*(one.nodes for one in found), strict=True)
    )
    return Verdict(len(found), total, nodes, tuple(_misses(found, total, nodes)))


def _misses(found: Sequence[Agreement], total: float, nodes: Sequence[NodeErrors]) -> Iterator[str]:
    if total > TOTAL_WITHIN:
        yield f"the length of the run is off by {total:.1%}; at most {TOTAL_WITHIN:.0%}"
    for node in nodes:
        for name, error in (("busy", node.busy), ("idle", node.idle)):
            if error > SHARE_WITHIN:
                yield f"{node.name}: {name} is off by {error * 100:.1f} points; at most {SHARE_WITHIN * 100:.0f}"
    yield from dict.fromkeys(sentence for one in found for sentence in one.wrong_bytes)
    for wire in (one.wire for one in found):
        if wire is not None and not wire.within:
            yield (
                f"{wire.nbytes} bytes on the wire for a payload of {wire.arrived}; at least that and at most "
                f"{wire.most}, which is {HEADER_BYTES} B a message and {FRAME_BYTES} B a frame more"
            )


def _nodes(one: Measures, other: Measures) -> Iterator[NodeAgreement]:
    shares = [tuple(np.nan_to_num(part) for part in utilisation(measures)) for measures in (one, other)]
    ends = [_finished(measures) for measures in (one, other)]
    for row, node in enumerate(one.columns.nodes):
        busy, idle = ([float(share[index][..., row].sum()) for share in shares] for index in (0, 1))
        causes = {cause: Pair(*(float(s[1][index, row]) for s in shares)) for index, cause in enumerate(CAUSES)}
        finish = Pair(*(float(end[row]) / SECOND for end in ends))
        yield NodeAgreement(node.number, node.name, Pair(*busy), Pair(*idle), causes, finish)


def _finished(measures: Measures) -> Any:
    """When the last work of each node ended that was not lost; 0 for none."""
    spans, last = measures.columns.spans, np.zeros(len(measures.columns.nodes), np.int64)
    np.maximum.at(last, spans.node[~spans.wasted], spans.end[~spans.wasted])
    return last


def _computing(one: Measures, other: Measures) -> Iterator[Phase]:
    def seconds(measures: Measures) -> Counter[str]:
        spans = measures.columns.spans
        return _totals(spans.kind.names, spans.kind.codes, spans.end - spans.start)

    yield from _phases("compute", seconds(one), seconds(other))


def _flowing(one: Measures, other: Measures) -> Iterator[Phase]:
    def seconds(measures: Measures) -> Counter[str]:
        sent = measures.columns.transfers
        flow = np.where(sent.outcome.among(DELIVERED), sent.arrived - sent.started, 0)
        return _totals(sent.message.names, sent.message.codes, flow)

    yield from _phases("transfer", seconds(one), seconds(other))


def _waiting(one: Measures, other: Measures) -> Iterator[Phase]:
    def seconds(measures: Measures) -> Counter[str]:
        return Counter(dict(zip(CAUSES, measures.accounts.idle.sum(axis=1).tolist(), strict=True)))

    yield from _phases("wait", seconds(one), seconds(other))


def _totals(names: Sequence[str], codes: Any, amounts: Any) -> Counter[str]:
    totals = np.zeros(len(names), np.int64)
    np.add.at(totals, codes, amounts)
    return Counter(dict(zip(names, totals.tolist(), strict=True)))


def _phases(phase: str, one: Counter[str], other: Counter[str]) -> Iterator[Phase]:
    """All there is of a phase, and each kind that either run has."""
    yield Phase(phase, "", Pair(one.total() / SECOND, other.total() / SECOND))
    for kind in dict.fromkeys((*one, *other)):
        if one[kind] or other[kind]:
            yield Phase(phase, kind, Pair(one[kind] / SECOND, other[kind] / SECOND))


def _sent(trace: Trace) -> list[Transfer]:
    """What was sent and not lost."""
    return [sent for sent in map(Transfer._make, trace.transfers) if sent.outcome in (DELIVERED, IN_FLIGHT)]


def _direction(sent: Transfer) -> str:
    return DIRECTIONS[0] if sent.target == SERVER else DIRECTIONS[1]


def _payload(one: Sequence[Transfer], other: Sequence[Transfer]) -> Iterator[Payload]:
    totals = []
    for sent in (one, other):
        found: Counter[tuple[str, str]] = Counter()
        for transfer in sent:
            for purpose, nbytes in zip(PURPOSES, payload(transfer), strict=False):  # without the last: envelopes
                found[_direction(transfer), purpose] += nbytes
        totals.append(found)
    for direction in DIRECTIONS:
        for purpose in PURPOSES[:-1]:
            pair = Pair(*(found[direction, purpose] for found in totals))
            if pair.simulated or pair.emulated:
                yield Payload(direction, purpose, pair)


def _messages(one: Sequence[Transfer], other: Sequence[Transfer]) -> Iterator[Messages]:
    counts: list[Counter[tuple[str, str]]] = []
    sizes: list[Counter[tuple[str, str]]] = []
    for sent in (one, other):
        counts.append(Counter((_direction(transfer), transfer.message) for transfer in sent))
        sizes.append(Counter())
        for transfer in sent:
            sizes[-1][_direction(transfer), transfer.message] += sum(payload(transfer))
    for key in dict.fromkeys((*counts[0], *counts[1])):
        yield Messages(*key, Pair(*(found[key] for found in counts)), Pair(*(found[key] for found in sizes)))


def _wrong(
    one: Sequence[Transfer], other: Sequence[Transfer], names: Mapping[int, str], *, determined: bool
) -> Iterator[str]:
    """Messages of a type between two nodes whose payload is not the same, as far as it must be."""
    expected, found = _sizes(one), _sizes(other)
    for key in sorted(expected.keys() | found.keys()):
        here, there = expected.get(key, Counter()), found.get(key, Counter())
        message, source, target = key
        who = f"{message} from {names[source]} to {names[target]}"
        counts, payloads = [], []
        for sizes in (here, there):
            counts.append(sizes.total())
            payloads.append(sum(sum(size) * count for size, count in sizes.items()))
        if determined:
            if counts[0] != counts[1]:
                yield f"{who}: {counts[0]} simulated, {counts[1]} emulated, though rounds decide how many"
            elif here != there:
                yield f"{who}: {counts[0]} in both, a payload of {payloads[0]} B simulated, {payloads[1]} B emulated"
            continue
        odd = here.keys() ^ there.keys()
        if counts[0] != counts[1]:
            fewer, more = sorted((here, there), key=Counter.total)
            odd = fewer.keys() - more.keys()
        if odd:
            yield f"{who}: one of {sum(min(odd))} B of payload, a size that the other run has not sent"


def _sizes(sent: Sequence[Transfer]) -> dict[tuple[str, int, int], Counter[tuple[int, ...]]]:
    found: dict[tuple[str, int, int], Counter[tuple[int, ...]]] = {}
    for transfer in sent:
        key = transfer.message, transfer.source, transfer.target
        found.setdefault(key, Counter())[payload(transfer)] += 1
    return found


def _determined(simulated: Trace, emulated: Trace) -> bool:
    """Whether both opened the same rounds, for all of whose devices they waited, without limit, and nobody left."""
    opened = []
    for trace in (simulated, emulated):
        if any(name == "leave" for _, _, name, *_ in trace.marks):
            return False
        rounds = []
        for _, _, name, number, detail in trace.marks:
            if name != "round.open":
                continue
            known = json.loads(detail) if detail else {}
            nodes = known.get("nodes", [])
            if known.get("need", len(nodes)) != len(nodes) or "until" in known:
                return False
            rounds.append((number, sorted(nodes)))
        closed = sum(name == "round.close" for _, _, name, *_ in trace.marks)
        if closed != len(rounds):
            return False
        opened.append(rounds)
    return bool(opened[0]) and opened[0] == opened[1]


def _wire(trace: Trace, told: Mapping[str, Any] | None) -> Wire | None:
    """The bytes that nodes have counted, beside the payload that the trace says they have sent."""
    if told is None:
        return None
    sent = [Transfer._make(row) for row in trace.transfers]
    arrived = sum(sum(payload(transfer)) for transfer in sent if transfer.outcome == DELIVERED)
    everything = sum(sum(payload(transfer)) for transfer in sent)
    return Wire(int(told["bytes"]), int(told["frames"]), int(told["messages"]), arrived, everything)
