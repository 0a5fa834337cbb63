"""What every verb's command has: its options, its progress, its errors in words, and its result."""

from __future__ import annotations

import functools
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from typing import Any, Final

import click

from normfold._version import __version__
from normfold.cli.bounds import MEMORY_LIMIT, bounded, time_limit
from normfold.cli.configuration import CONFIG
from normfold.errors import EnvironmentUnavailableError, NormfoldError
from normfold.records import Progress, silent
from normfold.report.blocks import Blocks, Detail
from normfold.report.document import document
from normfold.report.words import printable

SECONDS_BETWEEN_LINES: Final = 10.0
"""How long a job is silent where its progress does not go to a terminal."""
BUG_HINT: Final = "Please report this; NORMFOLD_DEBUG=1 in the environment prints the traceback."


@dataclass(frozen=True, slots=True)
class CommandResult:
    """What a command prints and the exit code it ends with; 1 is a finding, 2 and 3 come with an ``error``."""

    command: str | None
    result: Mapping[str, Any] = field(default_factory=dict)
    report: Blocks = ()
    exit_code: int = 0
    error: NormfoldError | None = None
    markdown: bool = False
    """Whether the report is printed as Markdown."""

    def to_json(self) -> str:
        """The document of schema normfold/1, on one line."""
        whole = document(self.command, self.result, ok=self.exit_code == 0, error=self.error)
        return json.dumps(whole, allow_nan=False)


def verb(name: str, limit: str = "15m") -> Callable[[Callable[..., CommandResult]], Callable[..., CommandResult]]:
    """Add the options every verb has and run it guarded; it is called with ``progress`` and ``detail``.

    ``progress`` reports on stderr. ``detail`` is what --quiet and --verbose ask for. ``limit`` is the time that it may
    take by default.
    """

    def decorate(job: Callable[..., CommandResult]) -> Callable[..., CommandResult]:
        @time_limit(limit)
        @MEMORY_LIMIT
        @CONFIG
        @click.option("--json", is_flag=True, expose_value=False, help="Print one JSON document instead of text.")
        @click.option("-q", "--quiet", is_flag=True, help="Print the summary only, and no progress.")
        @click.option("-v", "--verbose", is_flag=True, help="Print every row, however many there are.")
        @functools.wraps(job)
        def wrapped(
            *, quiet: bool, verbose: bool, time_limit: float | None, memory_limit: int | None, **options: Any
        ) -> CommandResult:
            def work() -> CommandResult:
                with bounded(time_limit, memory_limit, limit), _progress(quiet=quiet) as progress:
                    return job(progress=progress, detail=Detail(verbose - quiet), **options)

            return guarded(name, work)

        return wrapped

    return decorate


def guarded(command: str, job: Callable[[], CommandResult]) -> CommandResult:
    """Run ``job`` with stdout kept for its result; turn whatever it raises into a failed result."""
    try:
        with _stray_output_on_stderr():
            return job()
    except NormfoldError as error:
        return failed(command, error)
    except ModuleNotFoundError as error:
        return _missing(command, error)
    except Exception as error:  # noqa: BLE001 - the last line of defence between a bug and the user
        return bug(command, error)


def failed(command: str | None, error: NormfoldError) -> CommandResult:
    """The result of a command that ended in ``error``."""
    return CommandResult(command, exit_code=error.exit_code, error=error)


def bug(command: str | None, error: Exception) -> CommandResult:
    """The result of a command that ended in an error that nobody raised on purpose."""
    if os.environ.get("NORMFOLD_DEBUG"):
        import traceback

        traceback.print_exception(error, file=sys.stderr)
    words = " ".join(f"{type(error).__name__}: {error}".split())
    return failed(command, NormfoldError("internal", f"normfold {__version__} failed: {words}", BUG_HINT))


def _missing(command: str, error: ModuleNotFoundError) -> CommandResult:
    package = (error.name or "").partition(".")[0]
    if package in ("", "normfold"):
        return bug(command, error)
    message, hint = f"The package {package} is not installed.", "Reinstall normfold with its requirements."
    return failed(command, EnvironmentUnavailableError("missing-package", message, hint))


@contextmanager
def _progress(*, quiet: bool) -> Iterator[Progress]:
    """A line that changes on a terminal; elsewhere, a line now and then, for jobs that take long."""
    if quiet:
        yield silent
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.text import Text

        with Console(stderr=True).status("starting") as status:
            yield lambda doing: status.update(Text(doing))
    else:
        with _lines_in_between() as progress:
            yield progress


@contextmanager
def _lines_in_between() -> Iterator[Progress]:
    """Say on stderr every `SECONDS_BETWEEN_LINES` what is being done, and for how long the job has run."""
    doing, done, begun = ["starting"], threading.Event(), time.monotonic()

    def tell() -> None:
        while not done.wait(SECONDS_BETWEEN_LINES):
            click.echo(f"normfold: {printable(doing[0])} ({time.monotonic() - begun:.0f} s)", err=True)

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield lambda now: doing.__setitem__(0, now)
    finally:
        done.set()
        teller.join()


@contextmanager
def _stray_output_on_stderr() -> Iterator[None]:
    """Send what libraries and their child processes print on stdout to stderr.

    Custom operators print from C, so the descriptor itself is redirected, not only `sys.stdout`.
    """
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        os.dup2(2, 1)
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
