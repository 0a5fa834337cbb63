"""Instructions that a job takes, where an emulator with a plug-in runs this process and counts them.

The plug-in watches for two system calls that mark the beginning and the end, and writes what lay between them to a
file in the working directory (``targets/emulator/counts.c``).
"""

from __future__ import annotations

import ctypes
import gc
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from normfold.runtime.workers.protocol import RefusedError

MARK: Final = 0x6E66
BEGIN, END = 1, 2
COUNTS: Final = Path("counts")
TURNS: Final = 8
SECONDS: Final = 2.0
"""A job that takes longer is counted once."""


def counted(job: Callable[[], object]) -> dict[str, int]:
    """Fewest counts of ``job`` by class, those of the marks themselves taken away.

    The interpreter around it does a little more now and then: a short job is counted several times.

    Raises:
        RefusedError: nothing counts here.
    """
    gc.collect()
    gc.disable()
    try:
        marks, whole = _fewest(lambda: None), _fewest(job)
    finally:
        gc.enable()
    return {name: max(0, count - marks[name]) for name, count in whole.items()}


def _fewest(job: Callable[[], object]) -> dict[str, int]:
    until, found = time.monotonic() + SECONDS, [_between(job)]
    while len(found) < TURNS and time.monotonic() < until:
        found.append(_between(job))
    return min(found, key=lambda counts: sum(counts.values()))


def _between(job: Callable[[], object]) -> dict[str, int]:
    # A call that the system refuses, and the plug-in sees; without the exception that os.getpriority would raise.
    mark = ctypes.CDLL(None).getpriority
    COUNTS.unlink(missing_ok=True)
    mark(MARK, BEGIN)
    job()
    mark(MARK, END)
    try:
        found: dict[str, int] = json.loads(COUNTS.read_text(encoding="utf-8"))
    except OSError as error:
        raise RefusedError("target", "counts: nothing counts instructions there") from error
    return found
