"""Evaluation beside other work: tasks run one after the other on one worker process."""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self, TypeVar

from normfold.runtime import processors
from normfold.runtime.workers.evaluation_client import WorkerClient

T = TypeVar("T")


class Evaluator:
    """A worker process and the queue before it.

    A task is a function of the `WorkerClient`. Tasks run strictly in the order submitted, in a thread
    that mostly waits for the process, so the caller goes on meanwhile. Leaving the ``with`` block ends
    the process at once.
    """

    def __init__(self, *, time_limit: float = 300.0, threads: int | None = None) -> None:
        """``time_limit``: seconds for one load or run; ``threads``: default, the processors available."""
        self._client = WorkerClient(time_limit=time_limit, threads=threads or len(processors.usable()))
        self._tasks = ThreadPoolExecutor(max_workers=1, thread_name_prefix="normfold-evaluator")

    def start(self) -> None:
        """Start the process now, so that its imports overlap with what the caller does next."""
        self._tasks.submit(self._client.start)

    def expect(self, nbytes: int) -> None:
        """Let each task that follows compute no longer than models of so many bytes do, as `WorkerProcess.expect`."""
        self.submit(lambda client: client.expect(nbytes))

    def submit(self, task: Callable[[WorkerClient], T]) -> Future[T]:
        """Queue ``task``, under the limits of the caller; its result, or what it raised, is the future's."""
        return self._tasks.submit(contextvars.copy_context().run, task, self._client)

    def close(self) -> None:
        """End the process; tasks that wait are cancelled, the one running sees its worker crash."""
        self._client.close()
        self._tasks.shutdown(wait=True, cancel_futures=True)
        self._client.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
