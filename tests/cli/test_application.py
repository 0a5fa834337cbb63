"""The application: exit codes, one document on stdout, errors in words."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable

import click
import jsonschema
import pytest

from normfold import __version__
from normfold.cli import application
from normfold.cli.application import VERBS, run
from normfold.cli.command import CommandResult, verb
from normfold.cli.options import RENAMED
from normfold.errors import EnvironmentUnavailableError
from normfold.report.blocks import Verdict
from normfold.report.schema import schema


def document(captured: str) -> dict:
    """The one document on stdout."""
    assert captured.count("\n") == 1
    parsed = json.loads(captured)
    jsonschema.validate(parsed, schema())
    return parsed


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], CommandResult]], None]:
    """Put a function in the place of ``env``'s work."""

    def install(work: Callable[[], CommandResult]) -> None:
        def job(*, progress, detail) -> CommandResult:
            return work()

        command = click.command("env")(verb("env")(job))
        monkeypatch.setattr(application.LazyGroup, "get_command", lambda self, ctx, name: command)

    return install


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["fold", "m.onnx", "--frobnicate", "--json"], "fold"),
        (["fold", "--json"], "fold"),
        (["fold", "m.onnx", "-o", "out.onnx", "--seed", "ten", "--json"], "fold"),
        (["fold", "m.onnx", "-o", "out.onnx", "--external-data", "perhaps", "--json"], "fold"),
        (["fold", "m.onnx", "-o", "out.onnx", "--shape", "x=axb", "--json"], "fold"),
        (["fold", "m.onnx", "-o", "--json"], "fold"),
        (["verify", "a.onnx", "--json"], "verify"),
        (["verify", "a.onnx", "b.onnx", "--rtol", "0", "--json"], "verify"),
        (["melt", "--json"], None),
        (["--json"], None),
        (["--frobnicate", "--json"], None),
    ],
)
def test_usage_errors_are_one_document(
    arguments: list[str], command: str | None, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    parsed = document(capfd.readouterr().out)
    assert parsed["error"]["code"] == "usage"
    assert parsed["command"] == command


def test_a_long_job_says_what_it_does_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    told = threading.Event()

    def job(*, progress, detail) -> CommandResult:
        progress("counting\x1b sheep")
        told.wait(0.2)
        return CommandResult("env")

    monkeypatch.setattr("normfold.cli.command.SECONDS_BETWEEN_LINES", 0.02)
    command = click.command("env")(verb("env")(job))
    monkeypatch.setattr(application.LazyGroup, "get_command", lambda self, ctx, name: command)
    assert run(["env"]) == 0
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) > 1
    assert set(lines) == {"normfold: counting\\x1b sheep (0 s)"}
    assert run(["env", "--quiet"]) == 0
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["flod", "m.onnx"], "No such command 'flod'. Did you mean 'fold'?"),
        (["melt"], "No such command 'melt'."),
        (["fold", "--sead", "1"], "No such option '--sead'. Did you mean '--seed'?"),
        (["fold", "m.onnx", "--input", "x=1x3"], "No such option '--input': it is now called '--shape'."),
        (["fold", "m.onnx", "--provider=cpu"], "No such option '--provider': it is now called '--ep'."),
        (["inspect", "m.onnx", "--input", "x=1x3"], "No such option '--input': it is now called '--shape'."),
        (["verify", "a", "b", "--input", "x=1x3"], "No such option '--input': it is now called '--shape'."),
        (["export", "a:B", "--input", "x=1x3"], "No such option '--input': it is now called '--shape'."),
        (["verify", "a", "b", "--feeds", "f.npz"], "No such option '--feeds': it is now called '--inputs'."),
        (["bench", "m.onnx", "--profile", "edge"], "No such option '--profile': it is now called '--use'."),
        (["bench", "--session-profile", "f"], "No such option '--session-profile': it is now called '--session'."),
        (["bench", "--seconds", "9"], "No such option '--seconds': it is now called '--time-limit'."),
        (["tune", "--minutes", "3"], "No such option '--minutes': it is now called '--time-limit'."),
        (["tune", "m.onnx", "--time-limit", "3"], "'3' is not a duration such as 500ms, 90s or 15m."),
    ],
)
def test_near_misses_and_old_names(arguments: list[str], words: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 2
    assert words in capfd.readouterr().err.splitlines()[0]


def test_every_renamed_option_exists() -> None:
    commands = [application.cli.get_command(click.Context(application.cli), name) for name in VERBS]
    known = {name for command in commands for option in command.params for name in option.opts}
    assert set(RENAMED.values()) <= known
    assert known.isdisjoint(RENAMED)


def test_usage_errors_in_words(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["fold", "--frobnicate"]) == 2
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "Error [usage]: No such option '--frobnicate'.",
        "Try 'normfold fold --help'.",
    ]


def test_json_after_two_dashes_is_a_file_name(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["melt", "--", "--json"]) == 2
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_has_help(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run([name, "--help"]) == 0
    assert "--json" in capfd.readouterr().out


def test_version(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capfd.readouterr().out == f"normfold {__version__}\n"
    assert run(["--version", "--json"]) == 0
    assert document(capfd.readouterr().out)["result"] == {"version": __version__}


@pytest.mark.parametrize(
    ("terminal", "no_color", "coloured"), [(True, "", True), (True, "1", False), (False, "", False)]
)
def test_only_a_terminal_gets_colours(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, no_color: str, coloured: bool
) -> None:
    monkeypatch.setattr(application.sys.stdout, "isatty", lambda: terminal)
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setenv("TERM", "xterm")
    assert ("\x1b" in application._rendered((Verdict("equivalent", "good"),))) is coloured


def test_shell_completion(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("_NORMFOLD_COMPLETE", "bash_complete")
    for typed, found in (("normfold fo", "plain,fold"), ("normfold fold --see", "plain,--seed")):
        monkeypatch.setenv("COMP_WORDS", typed)
        monkeypatch.setenv("COMP_CWORD", str(len(typed.split()) - 1))
        with pytest.raises(SystemExit) as left:
            run([])
        assert left.value.code == 0
        assert capfd.readouterr().out.split() == [found]


def test_a_bug_is_one_line(stub: Callable, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def work() -> CommandResult:
        raise ZeroDivisionError("of\nlines")

    monkeypatch.delenv("NORMFOLD_DEBUG", raising=False)
    stub(work)
    assert run(["env"]) == 2
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].endswith("ZeroDivisionError: of lines")
    assert "NORMFOLD_DEBUG=1" in lines[1]
    assert run(["env", "--json"]) == 2
    assert document(capfd.readouterr().out)["error"]["code"] == "internal"
    monkeypatch.setenv("NORMFOLD_DEBUG", "1")
    assert run(["env", "--json"]) == 2
    captured = capfd.readouterr()
    assert document(captured.out)["error"]["code"] == "internal"
    assert "Traceback" in captured.err


def test_a_missing_environment_is_exit_3(stub: Callable, capfd: pytest.CaptureFixture[str]) -> None:
    def work() -> CommandResult:
        raise EnvironmentUnavailableError("missing-package", "It is not here.", "Install it.")

    stub(work)
    assert run(["env", "--json"]) == 3
    assert document(capfd.readouterr().out)["error"]["hint"] == "Install it."


@pytest.mark.parametrize(("name", "code"), [("onnxruntime.capi", 3), ("normfold.nonsense", 2), (None, 2)])
def test_a_missing_package_is_exit_3(
    stub: Callable, capfd: pytest.CaptureFixture[str], name: str | None, code: int
) -> None:
    def work() -> CommandResult:
        raise ModuleNotFoundError("not here", name=name)

    stub(work)
    assert run(["env", "--json"]) == code
    assert document(capfd.readouterr().out)["error"]["code"] == ("missing-package" if code == 3 else "internal")


def test_what_libraries_print_stays_off_stdout(stub: Callable, capfd: pytest.CaptureFixture[str]) -> None:
    def work() -> CommandResult:
        sys.stdout.write("a library says hello\n")
        os.write(1, b"so does one written in C\n")
        subprocess.run([sys.executable, "-c", "print('and a child process')"], check=True)
        return CommandResult("version", {"version": "1"})

    stub(work)
    assert run(["env", "--json"]) == 0
    captured = capfd.readouterr()
    assert document(captured.out)["ok"] is True
    for words in ("a library says hello", "so does one written in C", "and a child process"):
        assert words in captured.err


def test_interruption(stub: Callable, capfd: pytest.CaptureFixture[str]) -> None:
    def work() -> CommandResult:
        raise KeyboardInterrupt

    stub(work)
    assert run(["env"]) == 130
    assert "Interrupted" in capfd.readouterr().err


def test_a_reader_that_leaves_is_no_crash() -> None:
    script = "from normfold.cli import main; main(['env'])"
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    assert process.wait(timeout=60) == 141


@pytest.mark.parametrize("words", ["env", "env --json", "--version", "--help"])
@pytest.mark.parametrize("stream", [">/dev/full", ">&-", "<&- >&- 2>&-"])
def test_a_result_that_cannot_be_printed(words: str, stream: str) -> None:
    command = f"{sys.executable} -m normfold {words} {stream}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("Error [output-not-writable]") or "2>&-" in stream
    assert "Traceback" not in done.stderr


def test_an_ignored_hangup_stays_ignored() -> None:
    script = "import os, signal; from normfold.cli import main, application"
    script += "; application.run = lambda words: os.kill(os.getpid(), signal.SIGHUP) or 0; main([])"
    command = f"trap '' HUP; exec {sys.executable} -c \"{script}\""
    assert subprocess.run(["sh", "-c", command], check=False, timeout=60).returncode == 0


def test_no_colour_codes_in_a_pipe() -> None:
    run_ = subprocess.run([sys.executable, "-m", "normfold", "env"], capture_output=True, check=True, timeout=60)
    assert b"\x1b" not in run_.stdout
    assert run_.stderr == b""
    assert all(line == line.rstrip() for line in run_.stdout.splitlines())
