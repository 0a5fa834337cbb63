"""The other end of `normfold.runtime.workers.checking`: one process that all calls of a program share.

It is started by the first, and ends with the program, or when `close` is called. A model that crashes it harms nobody
else: the next request starts another.
"""

from __future__ import annotations

import atexit
import base64
import contextvars
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Final, TypeVar, cast

from normfold.runtime.workers.process import Failed, WorkerProcess, local

T = TypeVar("T")
Found = Sequence[Mapping[str, tuple[int, Sequence[int | str | None] | None]]]

SECONDS: Final = 60.0
"""Time that one request may take."""


class Checker:
    """A `WorkerProcess` behind a lock; what is asked is asked in a thread, so that the caller may go on meanwhile."""

    def __init__(self) -> None:
        self._process: WorkerProcess | None = None
        self._lock = threading.Lock()

    def start(self) -> None:
        """Start the process now, so that its imports overlap with what the caller does next."""
        with self._lock:
            self._held().start()

    def infer(self, model: bytes, *, follow: bool) -> Future[Found | None]:
        """What shape inference finds in a serialised model, graph by graph; None where it crashes, or takes too long.

        ``follow`` lets it follow the elements of sizes. After a crash, operators whose inputs have no type stay out.
        """
        return _beside(lambda: self._infer(base64.b64encode(model).decode(), follow=follow))

    def rejection(self, file: Path) -> Future[str | None]:
        """Why the ONNX checker or shape inference rejects ``file``, in one line, or that they crash on it."""
        return _beside(lambda: self._rejection(file))

    def close(self) -> None:
        """End the process, if there is one."""
        process, self._process = self._process, None
        if process is not None:
            process.close()
            with self._lock:
                process.dispose()

    def abandon(self) -> None:
        """Leave the process to the one that this one was forked from."""
        self.__init__()  # type: ignore[misc]

    def _held(self) -> WorkerProcess:
        if self._process is None:
            self._process = WorkerProcess(local("normfold.runtime.workers.checking"), time_limit=SECONDS, scratch=False)
        return self._process

    def _infer(self, model: str, *, follow: bool) -> Found | None:
        for careful in (False, True):
            with self._lock:
                self._held().expect(len(model))
                reply = self._held().ask("infer", model=model, follow=follow, careful=careful)
            if not isinstance(reply, Failed):
                return cast("Found", reply["graphs"])
            if reply.kind != "crash":
                break
        return None

    def _rejection(self, file: Path) -> str | None:
        with self._lock:
            self._held().expect(file.stat().st_size)
            reply = self._held().ask("check", model=str(file.absolute()))
        if isinstance(reply, Failed):
            return f"the checker does not get through it: {reply}"
        return reply["problem"] or None


def _beside(job: Callable[[], T]) -> Future[T]:
    """What ``job`` comes to, in a thread of its own, under the limits of the caller."""
    future: Future[T] = Future()
    context = contextvars.copy_context()

    def work() -> None:
        try:
            future.set_result(context.run(job))
        except BaseException as error:  # noqa: BLE001 - the future raises it
            future.set_exception(error)

    threading.Thread(target=work, daemon=True, name="normfold-checker").start()
    return future


CHECKER: Final = Checker()
atexit.register(CHECKER.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=CHECKER.abandon)
