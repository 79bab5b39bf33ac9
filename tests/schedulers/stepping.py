"""Scripts stepped by hand: everything that they do until they wait, and messages put before them one by one."""

from __future__ import annotations

from fedsim.script import Compute, Message, Recv, Send, Work
from fedsim.testing import Steps


class Stepped:
    """A script that goes from wait to wait; what it sends and computes on the way is kept, in order."""

    def __init__(self, steps: Steps) -> None:
        self.steps = steps
        self.sent: list[tuple[int, Message]] = []
        self.works: list[Work[object]] = []
        self._settle()

    def _settle(self) -> None:
        while self.steps.effect is not None and not isinstance(self.steps.effect, Recv):
            effect = self.steps.effect
            if isinstance(effect, Compute):
                self.works += effect.works
                results = tuple(work.result for work in effect.works)
                self.steps.answer(results[0] if effect.single else results)
            else:
                assert isinstance(effect, Send)
                self.sent += [(to, effect.message) for to in effect.to]
                self.steps.answer(None)

    @property
    def over(self) -> bool:
        """Whether the script has returned."""
        return self.steps.effect is None

    def put(self, *messages: Message) -> None:
        """Let messages wait."""
        for message in messages:
            self.steps.port.mailbox.put(message)

    def take(self) -> Message:
        """Let it take the message that it ranks first of those that wait, and go on to its next wait."""
        message = self.steps.take()
        self._settle()
        return message

    def tell(self, message: Message) -> None:
        """Answer its wait with a message, before which nothing waits."""
        self.put(message)
        assert self.take() is message

    def news(self) -> tuple[list[tuple[int, Message]], list[str]]:
        """What it has sent, and the methods of what it has computed, since this was last asked."""
        sent, works = self.sent, [work.command.method for work in self.works]
        self.sent, self.works = [], []
        return sent, works
