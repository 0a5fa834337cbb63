"""Which of ONNX Runtime's optimisers changed a model: it logs a line about each at level *info*."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

CHANGED: Final = re.compile(r"GraphTransformer (\S+) modified: 1 ")


def changing(open_session: Callable[[], Any]) -> list[str]:
    """Names of the optimisers that changed the model while ``open_session`` ran at log level `sessions.INFO`."""
    with tempfile.TemporaryFile() as log:
        with _standard_error_to(log.fileno()):
            open_session()
        log.seek(0)
        return list(dict.fromkeys(CHANGED.findall(log.read().decode(errors="replace"))))


@contextmanager
def _standard_error_to(descriptor: int) -> Iterator[None]:
    """What is written to standard error, from C++ too, goes to ``descriptor`` while this lasts."""
    kept = os.dup(2)
    os.dup2(descriptor, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
