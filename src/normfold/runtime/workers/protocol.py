"""The worker's half of the protocol: JSON lines in, JSON lines out, the same for every worker.

A request is ``{"verb": ..., ...}``, its reply ``{"ok": true, ...}`` or
``{"ok": false, "kind": ..., "message": ...}``. The process ends when its standard input does, even in
the middle of a run, so that it never outlives the command that started it.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, TextIO, TypeVar

VERSION: Final = 2
"""Of the requests and replies, as ``hello`` reports it."""
Request = dict[str, Any]
Reply = dict[str, Any]
T = TypeVar("T")

OUT_OF_MEMORY: Final = ("bad_alloc", "Failed to allocate memory", "Cannot allocate memory")


class RefusedError(Exception):
    """A request that cannot be served; ``kind`` is one of `process.FAILURES`."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def serve(worker: T, verbs: Mapping[str, Callable[[T, Request], Reply]], replies: TextIO) -> None:
    """Answer requests, one after the other, until standard input ends."""
    for line in _requests():
        replies.write(json.dumps(_answer(worker, verbs, line)) + "\n")
        replies.flush()


def own_stdout() -> TextIO:
    """Standard output for replies alone: libraries that print go to standard error from here on."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return replies


def kind_of(error: Exception, otherwise: str) -> str:
    """``memory`` for an allocation that failed, else ``otherwise``."""
    exhausted = isinstance(error, MemoryError) or any(text in str(error) for text in OUT_OF_MEMORY)
    return "memory" if exhausted else otherwise


def sentence(error: Exception) -> str:
    """An exception as one line of bounded length."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text.removeprefix("[ONNXRuntimeError] : ")[:500]


def _answer(worker: T, verbs: Mapping[str, Callable[[T, Request], Reply]], line: str) -> Reply:
    try:
        request = json.loads(line)
        return {"ok": True, **verbs[request["verb"]](worker, request)}
    except RefusedError as error:
        return {"ok": False, "kind": error.kind, "message": str(error)}
    except Exception as error:  # noqa: BLE001  the process's boundary: whatever went wrong is a reply
        message = f"{type(error).__name__}: {sentence(error)}"
        return {"ok": False, "kind": kind_of(error, "crash"), "message": message}


def _requests() -> Iterator[str]:
    """Lines of standard input; a thread watches for its end, because the main one may be deep in a run."""
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def watch() -> None:
        for line in sys.stdin:
            lines.put(line)
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()
    while True:
        yield lines.get()
