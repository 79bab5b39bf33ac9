"""The current global model and its quality over time. Knows nothing of when it is asked."""

from __future__ import annotations

from collections.abc import Callable

from fedsim.runtime.published import Published, told
from fedsim.script import SERVER, Payload, Quality
from fedsim.simulation.workers import Workers


class Evaluation:
    """Measures the published model and records what comes of it.

    `reached` says whether a quality ends the run; `mark` records a moment.
    """

    def __init__(
        self, workers: Workers, mark: Callable[..., None], reached: Callable[[Quality], bool] | None = None
    ) -> None:
        self.published: Published | None = None
        self._workers = workers
        self._mark = mark
        self._reached = reached
        self._recorded: Published | None = None

    def publish(self, version: int, model: tuple[Payload, ...]) -> Published:
        """Name the current global model."""
        self.published = Published(version, model)
        self._mark(SERVER, "publish", version, None)
        return self.published

    def measure(self, trained: int, published: Published | None = None) -> bool:
        """Record the quality of a model, by default the current one; answers whether it ends the run.

        `trained` is the number of samples that devices have trained so far.
        """
        published = published or self.published
        if published is None:
            return False
        quality = published.measured(lambda model: self._workers.evaluate(model, "test"))
        if quality is None:
            return False  # nothing is learnt
        self._recorded = published
        self._mark(SERVER, "evaluate", quality.accuracy, told(quality, published.version, trained))
        return self._reached is not None and self._reached(quality)

    def measure_last(self, trained: int) -> None:
        """Record the current model's quality, unless that was the last thing recorded."""
        if self.published is not self._recorded:
            self.measure(trained)
