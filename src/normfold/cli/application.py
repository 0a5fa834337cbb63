"""The application around the verbs: lazy loading, one result on stdout, errors in words, an exit code."""

from __future__ import annotations

import gc
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from difflib import get_close_matches
from typing import Any, Final, NoReturn

import click

from normfold._version import __version__
from normfold.cli.command import CommandResult, bug, failed
from normfold.cli.options import RENAMED
from normfold.errors import NormfoldError, OutputError, UsageError
from normfold.report import text
from normfold.report.blocks import Blocks
from normfold.report.markdown import markdown
from normfold.report.words import printable

VERBS: Final = (
    *("optimize", "inspect", "fold", "convert", "advise", "export", "quantize"),
    *("verify", "bench", "compare", "tune", "ort", "undo", "demo", "env"),
)
INTERRUPTED: Final = 130
BROKEN_PIPE: Final = 141
COLLECTED: Final = 10_000
"""Objects made between two looks for garbage. At Python's 700, a tenth of a fold is spent looking, and finds little."""
TERMINATING: Final = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGQUIT") if hasattr(signal, name))


class LazyGroup(click.Group):
    """A group that imports a verb's module when the verb is named."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """Verbs in the order of the help page."""
        return list(VERBS)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load ``normfold.cli.<verb>`` and take its ``command``."""
        if cmd_name not in VERBS:
            return None
        module = importlib.import_module(f"normfold.cli.{cmd_name}")
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The verb that ``args`` begin with; where there is none, verbs of a similar name are suggested."""
        if args[0] not in VERBS and not ctx.resilient_parsing:
            ctx.fail(f"No such command {args[0]!r}.{_suggestion(args[0], VERBS)}")
        return super().resolve_command(ctx, args)


def _print_version(ctx: click.Context, _option: click.Parameter, wanted: object) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    if ctx.obj:
        click.echo(CommandResult(command="version", result={"version": __version__}).to_json())
    else:
        click.echo(f"normfold {__version__}")
    ctx.exit()


@click.group(cls=LazyGroup, no_args_is_help=False, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version and exit.",
)
@click.option("--json", is_flag=True, expose_value=False, help="Print one JSON document instead of text.")
def cli() -> None:
    """Fold normalisation layers out of trained networks, and prove the result."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and leave the process with its exit code."""
    _open_missing_streams()
    gc.set_threshold(COLLECTED)
    for number in TERMINATING:
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup sets it
            signal.signal(number, _terminated)
    code = run(sys.argv[1:] if arguments is None else arguments)
    # Else the interpreter looks twice for garbage among all modules and the whole model on its way out.
    gc.freeze()
    sys.exit(code)


def _terminated(number: int, _frame: object) -> NoReturn:
    """End by way of every clean-up on the stack: half-written files go, and no second signal cuts that short."""
    for ignored in TERMINATING:
        signal.signal(ignored, signal.SIG_IGN)
    sys.exit(128 + number)


def _open_missing_streams() -> None:
    """Open a standard stream that is closed, or the next file opened would take its number, and what is printed.

    Standard output is opened for reading, so that writing a result to it fails aloud.
    """
    for number, name, flags in ((0, "stdin", os.O_RDONLY), (1, "stdout", os.O_RDONLY), (2, "stderr", os.O_WRONLY)):
        if getattr(sys, name) is None:
            os.open(os.devnull, flags)
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))


def run(arguments: Sequence[str]) -> int:
    """Run the command line; return 0 done, 1 a finding, 2 bad usage or input, 3 environment unavailable."""
    options = list(arguments)
    as_json = "--json" in (options[: options.index("--")] if "--" in options else options)
    try:
        result = _result(options, as_json=as_json)
        if result is None:
            return 0
        _emit(result, as_json=as_json)
    except (click.Abort, KeyboardInterrupt):
        _complain("Interrupted.")
        return INTERRUPTED
    except BrokenPipeError:
        _abandon_stdout()
        return BROKEN_PIPE
    except OSError as error:
        _abandon_stdout()
        _complain(f"Error [output-not-writable]: The result cannot be printed: {error.strerror}.")
        return OutputError.exit_code
    finally:
        _end_checker()
    return result.exit_code


def _end_checker() -> None:
    """End the process that the calls of a program share, if this one started it."""
    runtime = sys.modules.get("normfold.runtime")
    if runtime is not None:
        runtime.CHECKER.close()


def _result(arguments: list[str], *, as_json: bool) -> CommandResult | None:
    """Parse and run; ``None`` where click has already printed all there is (help, version)."""
    try:
        returned: Any = cli.main(arguments, prog_name="normfold", standalone_mode=False, obj=as_json)
    except click.ClickException as error:
        return _misused(arguments, error)
    except NormfoldError as error:  # of a configuration, which is read while the command line is parsed
        return failed(_named_verb(arguments), error)
    except (click.Abort, OSError):  # an OSError of a verb is in its result: this one is from printing help
        raise
    except Exception as error:  # noqa: BLE001 - a verb's module that cannot be imported ends here
        return bug(_named_verb(arguments), error)
    return returned if isinstance(returned, CommandResult) else None


def _misused(arguments: list[str], error: click.ClickException) -> CommandResult:
    context = error.ctx if isinstance(error, click.UsageError) else None
    path = context.command_path if context else "normfold"
    message = _unknown_option(error) if isinstance(error, click.NoSuchOption) else error.format_message()
    return failed(_named_verb(arguments), UsageError("usage", message, f"Try '{path} --help'."))


def _unknown_option(error: click.NoSuchOption) -> str:
    known = {name for option in error.ctx.command.params for name in option.opts} if error.ctx else set()
    if (renamed := RENAMED.get(error.option_name)) in known:
        return f"No such option {error.option_name!r}: it is now called {renamed!r}."
    return f"No such option {error.option_name!r}.{_suggestion(error.option_name, sorted(known))}"


def _suggestion(written: str, names: Sequence[str]) -> str:
    return "".join(f" Did you mean {near!r}?" for near in get_close_matches(written, names, n=1))


def _named_verb(arguments: Sequence[str]) -> str | None:
    return next((word for word in arguments if word in VERBS), None)


def _emit(result: CommandResult, *, as_json: bool) -> None:
    if as_json:
        _write(result.to_json() + "\n")
        return
    _write(markdown(result.report) if result.markdown else _rendered(result.report))
    if result.error is not None:
        _complain(f"Error [{result.error.code}]: {result.error.message}")
        if result.error.hint:
            _complain(result.error.hint)


def _write(output: str) -> None:
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(output.encode(encoding, "backslashreplace").decode(encoding))
    sys.stdout.flush()


def _rendered(report: Blocks) -> str:
    """Coloured for a terminal, unless NO_COLOR is set; plain for a pipe."""
    return text.coloured(report) if sys.stdout.isatty() and not os.environ.get("NO_COLOR") else text.plain(report)


def _complain(words: str) -> None:
    with suppress(OSError):
        click.echo(printable(words), err=True)


def _abandon_stdout() -> None:
    """Point stdout at nothing, or Python complains again when it flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
