"""The limits of a command: its process is normfold's own, so that they hold wherever it is."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

import click

from normfold import limits
from normfold.cli import param_types as types

_Command = TypeVar("_Command", bound=Callable[..., Any])

GRACE: Final = 0.7
"""Seconds that what looks at the clock by itself has to end before it is interrupted."""
AGAIN: Final = 3.0
"""Seconds until the next interruption, where a library swallowed the first."""

MEMORY_LIMIT: Final = click.option(
    "--memory-limit",
    type=types.memory,
    metavar="SIZE",
    help="Memory that each process may take, such as 2GiB; by default what model and inputs of their size need.",
)


def time_limit(default: str) -> Callable[[_Command], _Command]:
    """``--time-limit``, with a command's own default such as ``3m``."""
    return click.option(
        "--time-limit",
        type=types.duration,
        show_default=default,
        metavar="DURATION",
        help="Time for the whole command, such as 500ms, 90s or 15m.",
    )


@contextmanager
def bounded(seconds: float | None, memory: int | None, usual: str) -> Iterator[None]:
    """Do what is in the ``with`` block within so many seconds and bytes; within the ``usual`` time where none is given.

    Raises:
        EnvironmentUnavailableError: ``timed-out`` or ``out-of-memory``.
    """
    limit = types.duration(usual)
    with limits.limited(seconds, memory, limit), _interrupted_after((seconds or limit) + GRACE), _allocating(memory):
        try:
            yield
        except MemoryError as error:
            raise limits.out_of_memory() from error


@contextmanager
def _interrupted_after(seconds: float) -> Iterator[None]:
    """Interrupt what does not look at the clock, such as a long computation of NumPy's, once it returns."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_number: int, _frame: object) -> None:
        raise limits.timed_out()

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def _allocating(memory: int | None) -> Iterator[None]:
    """Make an allocation beyond ``memory`` fail, which is an error here."""
    if memory is None:
        yield
        return
    from normfold.runtime.memory import data_limit

    with data_limit(memory):
        yield
