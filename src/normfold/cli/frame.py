"""The frame around every verb: lazy loading, one answer on stdout, errors in words, an exit code."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click

from normfold._version import __version__
from normfold.cli.answer import Answer
from normfold.errors import EnvironmentUnavailableError, NormfoldError, UsageError
from normfold.report.words import printable

if TYPE_CHECKING:
    from rich.console import Console

VERBS: Final = ("inspect", "fold", "export", "verify", "bench", "compare", "tune", "demo", "env")
RENAMED: Final = {
    "--input": "--shape",
    "--provider": "--ep",
    "--profile": "--use",
    "--session-profile": "--session",
    "--seconds": "--time-limit",
    "--minutes": "--time-limit",
}
"""What options were called, and what they are called now."""
INTERRUPTED: Final = 130
BROKEN_PIPE: Final = 141
BUG_HINT: Final = "Please report this; NORMFOLD_DEBUG=1 in the environment shows where it happened."


class LazyGroup(click.Group):
    """A group that imports a verb's module when the verb is named."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Verbs in the order of the help page."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load ``normfold.cli.<verb>`` and take its ``command``."""
        if cmd_name not in VERBS:
            return None
        module = importlib.import_module(f"normfold.cli.{cmd_name}")
        command: click.Command = module.command
        return command


def _print_version(ctx: click.Context, _option: click.Parameter, wanted: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    if ctx.obj:
        click.echo(Answer(command="version", result={"version": __version__}).to_json())
    else:
        click.echo(f"normfold {__version__}")
    ctx.exit()


@click.group(cls=LazyGroup, no_args_is_help=False, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Print it.")
@click.option("--json", is_flag=True, expose_value=False, help="Print one JSON document instead of text.")
def cli() -> None:
    """Fold normalisation layers out of trained networks, and prove the result."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and leave the process with its exit code."""
    signal.signal(signal.SIGTERM, _terminated)
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def _terminated(number: int, _frame: object) -> NoReturn:
    """End by way of every clean-up on the stack: half-written files go."""
    sys.exit(128 + number)


def run(arguments: Sequence[str]) -> int:
    """Run the command line; return 0 done, 1 a finding, 2 bad usage or input, 3 nothing to run it with."""
    options = list(arguments)
    as_json = "--json" in (options[: options.index("--")] if "--" in options else options)
    try:
        answer = _answer(options, as_json)
        if answer is None:
            return 0
        _emit(answer, as_json)
    except (click.Abort, KeyboardInterrupt):
        _say("Interrupted.")
        return INTERRUPTED
    except BrokenPipeError:
        _abandon_stdout()
        return BROKEN_PIPE
    return answer.exit_code


def guarded(command: str, job: Callable[[], Answer]) -> Answer:
    """Run ``job`` with stdout kept for its answer; turn whatever it raises into a failed answer."""
    try:
        with _stray_output_on_stderr():
            return job()
    except NormfoldError as error:
        return Answer(command=command, exit_code=error.exit_code, error=error)
    except ModuleNotFoundError as error:
        return _missing(command, error)
    except Exception as error:  # noqa: BLE001 - the last line of defence between a bug and the user
        return _bug(command, error)


def _answer(arguments: list[str], as_json: bool) -> Answer | None:
    """Parse and run; ``None`` where click has already answered (help, version)."""
    try:
        outcome: Any = cli.main(arguments, prog_name="normfold", standalone_mode=False, obj=as_json)
    except click.ClickException as error:
        return _usage(arguments, error)
    except (click.Abort, BrokenPipeError):
        raise
    except Exception as error:  # noqa: BLE001 - a verb's module that cannot be imported ends here
        return _bug(_named_verb(arguments), error)
    return outcome if isinstance(outcome, Answer) else None


def _usage(arguments: list[str], error: click.ClickException) -> Answer:
    context = error.ctx if isinstance(error, click.UsageError) else None
    path = context.command_path if context else "normfold"
    usage = UsageError("usage", _renamed(error) or error.format_message(), f"Try '{path} --help'.")
    return Answer(command=_named_verb(arguments), exit_code=2, error=usage)


def _renamed(error: click.ClickException) -> str | None:
    """What to say where an option is called what it once was."""
    if not isinstance(error, click.NoSuchOption) or error.ctx is None:
        return None
    new = RENAMED.get(error.option_name)
    known = {name for parameter in error.ctx.command.params for name in parameter.opts}
    return f"The option {error.option_name} is {new} now." if new in known else None


def _missing(command: str, error: ModuleNotFoundError) -> Answer:
    package = (error.name or "").partition(".")[0]
    if package in ("", "normfold"):
        return _bug(command, error)
    missing = EnvironmentUnavailableError(
        "missing-package", f"The package {package} is not installed.", "Install normfold with its requirements again."
    )
    return Answer(command=command, exit_code=missing.exit_code, error=missing)


def _bug(command: str | None, error: Exception) -> Answer:
    if os.environ.get("NORMFOLD_DEBUG"):
        import traceback

        traceback.print_exception(error, file=sys.stderr)
    words = " ".join(f"{type(error).__name__}: {error}".split())
    bug = NormfoldError("internal", f"normfold {__version__} failed: {words}", BUG_HINT)
    return Answer(command=command, exit_code=bug.exit_code, error=bug)


def _named_verb(arguments: Sequence[str]) -> str | None:
    return next((word for word in arguments if word in VERBS), None)


def _emit(answer: Answer, as_json: bool) -> None:
    if as_json:
        _write(answer.to_json() + "\n")
        return
    if answer.show is not None:
        _write(_rendered(answer.show))
    if answer.error is not None:
        _say(f"Error [{answer.error.code}]: {answer.error.message}")
        if answer.error.hint:
            _say(answer.error.hint)


def _write(text: str) -> None:
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
    sys.stdout.flush()


def _rendered(show: Callable[[Console], None]) -> str:
    """The text that ``show`` prints, whole before any of it is written."""
    from rich.console import Console

    # A pipe has no width: a line cut at 80 columns cannot be searched.
    width = None if sys.stdout.isatty() else 10_000
    console = Console(width=width, highlight=False, markup=False, emoji=False, soft_wrap=width is not None)
    with console.capture() as captured:
        show(console)
    return captured.get()


def _say(text: str) -> None:
    with suppress(OSError):
        click.echo(printable(text), err=True)


def _abandon_stdout() -> None:
    """Point stdout at nothing, or Python complains again when it flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


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
