"""A weighted mean of models, in one fixed order of additions, whoever comes first.

Members stand by node number in runs. Inside a run they are added from left to right; the sums of runs are
added in order. A run can be summed wherever its members are, so the bits do not depend on the number of workers; a
member that is early is held until its turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedsim.learning.sums import run_of, runs
from fedsim.payload.tensors import FlatTensors, Layout

_Held = tuple[FlatTensors, int]


class _Run:
    """The sum of a few consecutive members, added from left to right.

    A member is multiplied by its weight and added in one operation (a fused multiply-add, where the CPU has one).
    """

    def __init__(self, members: Sequence[int]) -> None:
        self._waiting = list(members)  # whose turn has not come, in order
        self._early: dict[int, _Held] = {}
        self.total: tuple[Tensor, ...] | None = None
        self.shared = False
        """Whether the total lies in memory that is not to be written to."""

    def add(self, member: int, value: FlatTensors, weight: int) -> None:
        self._early[member] = (value, weight)
        while self._waiting and self._waiting[0] in self._early:
            self._take(self._waiting.pop(0))

    @property
    def complete(self) -> bool:
        """Whether nobody is waited for."""
        return not self._waiting

    def skip(self, member: int) -> None:
        """Wait no longer for a member, which does not come."""
        self._waiting.remove(member)

    def finish(self) -> None:
        """Add those who came, without waiting for the others any longer."""
        for member in self._waiting:
            if member in self._early:
                self._take(member)
        self._waiting.clear()

    def _take(self, member: int) -> None:
        value, weight = self._early.pop(member)
        if self.total is None:
            self.total = value.clone().buffers
            for buffer in self.total:
                if buffer.is_floating_point():
                    buffer.mul_(weight)
            return
        for mine, theirs in zip(self.total, value.buffers, strict=True):
            _accumulate(mine, theirs, weight)


def _accumulate(total: Tensor, values: Tensor, weight: int) -> None:
    if total.is_floating_point():
        total.add_(values, alpha=weight)
    else:
        torch.maximum(total, values, out=total)


@dataclass(frozen=True)
class Sums:
    """A part of a mean: whole runs, summed up elsewhere."""

    weight: int
    """Of the members that have come there since the last such part."""
    runs: dict[int, tuple[Tensor, ...]]
    """By the number of the run: the sum of its members, buffer by buffer."""


class RunningMean:
    """Σ weight·member / Σ weight over the members that came; integer tensors take the largest value.

    Args:
        layout: of what members hold.
        expected: the members that may come, in order.
        whole: whether all that come do so here, so that a run can be added to the runs before it once it is complete.
    """

    def __init__(self, layout: Layout, expected: Sequence[int], *, whole: bool = True) -> None:
        self._layout = layout
        self._whole = whole
        self._added = 0
        """Runs that are in the total."""
        self._total: tuple[Tensor, ...] | None = None
        self._runs = [_Run(members) for members in runs(expected)]
        self._run_of = {member: self._runs[number] for member, number in run_of(expected).items()}
        self.weight = 0
        """Of all that have come."""

    def add(self, member: int, value: FlatTensors, weight: int) -> None:
        """Take in one member's tensors; each member comes at most once."""
        assert value.layout is self._layout, "weights of another block"
        assert weight > 0, f"weight {weight} of member {member}"
        run = self._run_of.pop(member, None)
        assert run is not None, f"member {member} is not expected, or came before"
        run.add(member, value, weight)
        self.weight += weight
        if self._whole:
            self._advance()

    def skip(self, member: int) -> None:
        """Wait no longer for a member, which does not come."""
        self._run_of.pop(member).skip(member)

    def _advance(self) -> None:
        """Add the runs that are complete, in order."""
        while self._added < len(self._runs) and self._runs[self._added].complete:
            run = self._runs[self._added]
            self._added += 1
            if run.total is None:
                continue
            if self._total is None:
                self._total = FlatTensors(self._layout, run.total).clone().buffers if run.shared else run.total
            else:
                for mine, theirs in zip(self._total, run.total, strict=True):
                    _accumulate(mine, theirs, 1)
            run.total = None

    def sums(self, runs: Sequence[int] | None = None) -> Sums:
        """What has come of some runs, or of all, as a part of a mean that is put together elsewhere; gone here."""
        assert not self._whole, "all that comes to this mean comes here"
        made: dict[int, tuple[Tensor, ...]] = {}
        for number in range(len(self._runs)) if runs is None else runs:
            run = self._runs[number]
            run.finish()
            if run.total is not None:
                made[number], run.total = run.total, None
        weight, self.weight = self.weight, 0
        return Sums(weight, made)

    def join(self, sums: Sums) -> None:
        """Take in runs that were summed up elsewhere, and are only read; none of their members has come here."""
        assert not self._whole, "all that comes to this mean comes here"
        for number, total in sums.runs.items():
            run = self._runs[number]
            assert run.total is None, f"run {number} was summed up in two places"
            run.total, run.shared = total, True
        self.weight += sums.weight

    def result(self) -> FlatTensors:
        """The mean; the members' own tensors are no longer needed."""
        made = self.total()
        for buffer in made.buffers:
            if buffer.is_floating_point():
                buffer.div_(self.weight)
        return made

    def total(self) -> FlatTensors:
        """The sum, before it is divided by the weight."""
        for run in self._runs[self._added :]:
            run.finish()
        self._advance()
        assert self._total is not None, "a mean of nothing"
        return FlatTensors(self._layout, self._total)
