"""FedOptima's task scheduler: what the server does next of all that waits."""

from __future__ import annotations

from collections import Counter
from typing import Final, Literal

from fedsim.script import Message

Dequeue = Literal["least_consumed", "round_robin", "fifo"]
Priority = Literal["aggregation", "training", "fifo"]

_NOTICES: Final = -1  # who is there has to be known before anything else
_BATCHES: Final = 1
_BLOCKS: Final = {"aggregation": 0, "fifo": 1, "training": 2}


class Tasks:
    """An order of messages: device blocks to mix in (`aggregation`) and batches to train on (`training`)."""

    def __init__(
        self, dequeue: Dequeue, priority: Priority, *, aggregation: type[Message], training: type[Message]
    ) -> None:
        self._dequeue, self._blocks = dequeue, _BLOCKS[priority]
        self._aggregation, self._training = aggregation, training
        self._turn = 0
        self.consumed: Counter[int] = Counter()
        """c_k: batches of each device that the server block has been trained on."""
        self.last: Counter[int] = Counter()
        """The turn in which that last happened."""

    def consume(self, device: int) -> None:
        """A batch of `device` has been trained."""
        self._turn += 1
        self.consumed[device] += 1
        self.last[device] = self._turn

    def rank(self, message: Message) -> tuple[int, int]:
        """The lowest comes next; of equals, the one that came first. It only grows while a message waits."""
        if isinstance(message, self._aggregation):
            return self._blocks, 0
        if isinstance(message, self._training):
            return _BATCHES, self._order(message.sender)
        return _NOTICES, 0

    def _order(self, device: int) -> int:
        match self._dequeue:
            case "least_consumed":
                return self.consumed[device]
            case "round_robin":
                return self.last[device]
            case "fifo":
                return 0
