"""Threads for a gRPC server that die with the process: those of Python's own pool keep it alive while a stream is open.

A call that finds no free thread gets a new one, up to a limit, and waits beyond that.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Threads(ThreadPoolExecutor):
    """A pool of daemons; gRPC asks for its type, but nothing of it is used.

    Args:
        name: of its threads.
        limit: how many of them there are at most.
    """

    def __init__(self, name: str, limit: int) -> None:
        super().__init__(max_workers=1)  # which starts none
        self._name = name
        self._limit = limit
        self._changed = threading.Condition()
        self._calls: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._free = 0
        self._threads: set[threading.Thread] = set()
        self._over = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Let a thread make a call."""
        future: Future[T] = Future()
        with self._changed:
            if self._over:
                future.cancel()
                return future
            self._calls.append((future, lambda: fn(*args, **kwargs)))
            if self._free >= len(self._calls):
                self._changed.notify()
            elif len(self._threads) < self._limit:
                thread = threading.Thread(target=self._run, name=f"{self._name} {len(self._threads)}", daemon=True)
                self._threads.add(thread)
                thread.start()
        return future

    def end(self, deadline: float) -> None:
        """Begin no more calls; wait for those that run, up to a reading of `time.monotonic`."""
        with self._changed:
            self._over = True
            self._changed.notify_all()
            threads = [thread for thread in self._threads if thread is not threading.current_thread()]
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _run(self) -> None:
        while True:
            with self._changed:
                self._free += 1
                while not self._calls and not self._over:
                    self._changed.wait()
                self._free -= 1
                if not self._calls:
                    self._threads.discard(threading.current_thread())
                    return
                future, call = self._calls.popleft()
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(call())
                except BaseException as error:  # it belongs to whoever has the future
                    future.set_exception(error)
            del future, call
