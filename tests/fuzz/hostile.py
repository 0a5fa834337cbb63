"""Runs commands on hostile files, each case in a process of its own under limits, and says what went wrong.

Right is: a documented exit code; where the verb fails, an error with a code other than ``internal``; no traceback, no
crash; an output that is whole or absent; nothing left behind; inputs as they were.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import mmap
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

MEMORY = 4 << 30
"""Bytes that a command and all that it starts may have in memory at once."""
SECONDS = 30.0
PATIENCE = 3.0
"""A machine that is busy may take so many times as long."""
SAMPLE_SECONDS = 0.05
EXITS = (0, 1, 2, 3)
PACKAGE = re.compile(r'File "[^"]*/normfold/([^"]+)", line (\d+),? in (\S+)')
Command = tuple[str, ...]


@dataclass(frozen=True)
class Finding:
    """What one command did that it must not do. ``place`` is the innermost frame of normfold, where there is one."""

    kind: str
    place: str
    message: str
    command: Command

    @property
    def signature(self) -> tuple[str, str, str]:
        """Equal for findings with one cause, as far as that can be told."""
        error = self.message.partition(":")[0] if self.kind == "internal" else ""
        return self.kind, self.place, error


@dataclass(frozen=True)
class Done:
    """How one command ended, and what it took; ``computed`` and ``peak`` are of all the processes it started, too."""

    exit: int
    code: str
    seconds: float
    computed: float = 0.0
    peak: int = 0


@dataclass(frozen=True)
class Allowed:
    """What a command may take: seconds, and bytes of all its processes together."""

    seconds: float
    memory: int


def run_case(
    folder: Path, commands: Sequence[Command], seconds: float = SECONDS, memory: int = MEMORY
) -> tuple[list[Done], list[Finding]]:
    """Run ``commands`` with ``folder`` as the working directory; outputs go below its folder ``out``.

    A command that ends its process is a finding, and the next one runs in a new process.
    """
    done: list[Done] = []
    findings: list[Finding] = []
    (folder / "out").mkdir(exist_ok=True)
    while len(done) < len(commands):
        rest = commands[len(done) :]
        longest = PATIENCE * seconds * (len(rest) + 1)
        status = _forked(lambda peak, rest=rest: _serve(folder, rest, Allowed(seconds, memory), peak), longest)
        for line in _lines(folder / "results"):
            record = json.loads(line)
            done.append(Done(**record["done"]))
            findings += [Finding(**{**found, "command": tuple(found["command"])}) for found in record["findings"]]
        if status != 0 and len(done) < len(commands):
            findings.append(_ended(folder, commands[len(done)], status))
            done.append(Done(-1, "", 0.0))
            _empty(folder / "out")
    return done, findings


def _lines(file: Path) -> list[str]:
    with contextlib.suppress(FileNotFoundError):
        lines = file.read_text().splitlines()
        file.unlink()
        return lines
    return []


def _forked(job: Callable[[_Peak], None], seconds: float) -> int:
    """The wait status of ``job`` in a child, killed with all that it started after ``seconds``."""
    peak = _Peak()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            os.setsid()
            job(peak)
            os._exit(0)
        os._exit(70)
    until = time.monotonic() + seconds
    pause, looked, started = 0.001, 0.0, dict[int, str]()
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found or time.monotonic() > until:
            break
        if time.monotonic() > looked + SAMPLE_SECONDS:
            looked, tree = time.monotonic(), _tree(child)
            started |= {pid: _birth(pid) for pid in tree - started.keys()}
            peak.raise_to(sum(map(_resident, tree)))
        time.sleep(pause)
        pause = min(SAMPLE_SECONDS, pause * 1.5)
    _end(child, started)
    if not found:
        _, status = os.waitpid(child, 0)
    return status


def _end(child: int, started: dict[int, str]) -> None:
    """End the group of ``child``, and what it ``started`` in sessions of their own that is still there."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)
    for pid, birth in started.items():
        if birth and pid != child and _birth(pid) == birth:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)


def _birth(pid: int) -> str:
    """When a process began, which tells it from a later one of the same number; empty where it is gone."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return ""


class _Peak:
    """Bytes, shared by a process and the child that it forks."""

    def __init__(self) -> None:
        self._held = mmap.mmap(-1, 8)

    def raise_to(self, size: int) -> None:
        self._held[:] = max(size, self.taken()).to_bytes(8, "little")

    def taken(self) -> int:
        return int.from_bytes(self._held[:], "little")

    def clear(self) -> None:
        self._held[:] = bytes(8)


def _tree(pid: int) -> set[int]:
    """``pid`` and every process that it started, and those that they started."""
    found, todo = {pid}, [pid]
    while todo:
        parent = todo.pop()
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{parent}/task").iterdir():
                fresh = {int(child) for child in (task / "children").read_text().split()} - found
                found |= fresh
                todo += fresh
    return found


def _resident(pid: int) -> int:
    """Bytes of a process in memory, without what files hold as well; 0 where it is gone."""
    with contextlib.suppress(OSError):
        resident, shared = Path(f"/proc/{pid}/statm").read_text().split()[1:3]
        return (int(resident) - int(shared)) * resource.getpagesize()
    return 0


def _computed() -> float:
    """Seconds of computing of this process and of those it started that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _serve(folder: Path, commands: Sequence[Command], limits: Allowed, peak: _Peak) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (limits.memory + MEMORY,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.chdir(folder)
    os.environ["NORMFOLD_DEBUG"] = "1"
    os.environ["TMPDIR"] = str(folder / "tmp")
    Path("tmp").mkdir(exist_ok=True)
    results = os.open("results", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    _redirect("stdout", 1)
    _redirect("stderr", 2)
    sys.stdin = Path(os.devnull).open()  # noqa: SIM115 - until the process ends
    _fork_checkers()
    for command in commands:
        before = _digests()
        done, findings = _one(command, limits, peak)
        findings += _looked(command, done, before)
        record = {"done": asdict(done), "findings": [asdict(found) for found in findings]}
        os.write(results, (json.dumps(record) + "\n").encode())


class _Forked:
    """A checking process that begins with what this one has imported: as `subprocess.Popen`, and ten times as fast."""

    def __init__(self, log: IO[bytes]) -> None:
        theirs, self._asking = os.pipe()
        self._answering, answers = os.pipe()
        self.pid = os.fork()
        self._status: int | None = None
        if self.pid == 0:
            os.setsid()
            for given, number in ((theirs, 0), (answers, 1), (log.fileno(), 2)):
                os.dup2(given, number)
            os.closerange(3, 256)
            sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - until the process ends
            from normfold.runtime.workers import checking

            checking.main()
        os.close(theirs)
        os.close(answers)
        self.stdin, self.stdout = os.fdopen(self._asking, "wb", 0), os.fdopen(self._answering, "rb", 0)

    def poll(self) -> int | None:
        if self._status is None:
            found, status = os.waitpid(self.pid, os.WNOHANG)
            self._status = os.waitstatus_to_exitcode(status) if found else None
        return self._status

    def wait(self, timeout: float | None = None) -> int:
        until = time.monotonic() + (10.0 if timeout is None else timeout)
        while self.poll() is None:
            if time.monotonic() > until:
                raise subprocess.TimeoutExpired("checking", timeout or 10.0)
            time.sleep(0.001)
        return self._status or 0

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


def _fork_checkers() -> None:
    """Importing onnx anew for each command would be most of what a fuzzer does."""
    from normfold.runtime.workers import checking, process  # noqa: F401 - imported before the fork

    def popen(command: Sequence[str], **options: Any) -> Any:
        return _Forked(options["stderr"]) if command[-1].endswith(".checking") else subprocess.Popen(command, **options)

    shim = SimpleNamespace(PIPE=subprocess.PIPE, TimeoutExpired=subprocess.TimeoutExpired, Popen=popen)
    process.subprocess = shim


def _redirect(name: str, number: int) -> None:
    handle = os.open(name, os.O_CREAT | os.O_RDWR | os.O_TRUNC | os.O_APPEND)
    os.dup2(handle, number)
    setattr(sys, name, open(number, "w", encoding="utf-8", closefd=False))  # noqa: SIM115 - until the process ends


def _one(command: Command, limits: Allowed, peak: _Peak) -> tuple[Done, list[Finding]]:
    from normfold.cli import main

    for name in ("stdout", "stderr"):
        os.truncate(name, 0)
    peak.clear()
    faulthandler.enable(2)
    faulthandler.dump_traceback_later(PATIENCE * limits.seconds, exit=True, file=2)
    started, before, code, escaped = time.monotonic(), _computed(), -1, ""
    try:
        main(command)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is a finding
        escaped = f"{type(error).__name__}: {error}"
    faulthandler.cancel_dump_traceback_later()
    sys.stdout.flush()
    sys.stderr.flush()
    taken, computed = time.monotonic() - started, _computed() - before
    said = Path("stderr").read_text(errors="replace")
    answer, complaint = _answer(Path("stdout").read_text(errors="replace"))
    error = answer.get("error") or {}
    done = Done(code, str(error.get("code", "")), round(taken, 3), round(computed, 3), peak.taken())
    findings = [] if "--help" in command else _judged(command, done, escaped or complaint, said, error)
    return done, findings + _excess(command, done, limits)


def _excess(command: Command, done: Done, limits: Allowed) -> list[Finding]:
    """What it took too much of. Where others use the machine, the clock alone says nothing."""
    is_busy = os.getloadavg()[0] > (os.cpu_count() or 1)
    findings = []
    if done.seconds > limits.seconds and (done.computed > limits.seconds or not is_busy):
        findings.append(Finding("slow", "", f"{done.seconds:.0f} s, {done.computed:.0f} s of computing", command))
    if done.peak > limits.memory:
        findings.append(Finding("memory", "", f"{done.peak / (1 << 30):.1f} GiB", command))
    return findings


def _judged(command: Command, done: Done, broken: str, said: str, error: dict[str, str]) -> list[Finding]:
    place = _innermost(said)
    if done.code == "internal":
        message = error["message"].partition("failed: ")[2] or error["message"]
        return [Finding("internal", place, message[:300], command)]
    if broken:
        return [Finding("escaped", place, broken[:300], command)]
    if "Traceback (most recent call last)" in said:
        return [Finding("traceback", place, said.strip().splitlines()[-1][:300], command)]
    if done.exit not in EXITS or (done.exit in (2, 3) and not done.code):
        return [Finding("exit", "", f"exit {done.exit} with code {done.code!r}", command)]
    return []


def _answer(text: str) -> tuple[dict[str, dict[str, str]], str]:
    """The document on stdout, and what is wrong with it."""
    try:
        document = json.loads(text)
    except ValueError:
        return {}, f"stdout: not one JSON document: {text[:100]!r}"
    return document, "" if isinstance(document, dict) else f"stdout: not an object: {text[:100]!r}"


def _innermost(said: str) -> str:
    """The innermost frame of normfold in the last traceback."""
    last = said.rpartition("Traceback (most recent call last)")[2] or said
    frames = PACKAGE.findall(last)
    return "{}:{} {}".format(*frames[-1]) if frames else ""


def _ended(folder: Path, command: Command, status: int) -> Finding:
    """The finding for a command that took its process with it; faulthandler lists the innermost frame first."""
    said = (folder / "stderr").read_text(errors="replace") if (folder / "stderr").exists() else ""
    frames = PACKAGE.findall(said)
    place = "{}:{} {}".format(*frames[0]) if frames else ""
    if "Timeout (" in said:
        return Finding("timeout", place, "did not end in time", command)
    if os.WIFSIGNALED(status):
        head = next((line for line in said.splitlines() if line.strip()), "")
        return Finding("crash", place, f"{signal.Signals(os.WTERMSIG(status)).name}: {head[:200]}", command)
    return Finding("crash", place, f"exit status {os.WEXITSTATUS(status)}", command)


def _digests() -> dict[str, str]:
    """Contents of the regular files of the case, outputs left out."""
    own = ("results", "stdout", "stderr")
    files = [file for file in Path().iterdir() if file.name not in own and file.is_file() and not file.is_symlink()]
    return {file.name: sha256(file.read_bytes()).hexdigest() for file in files if file.stat().st_size < 1 << 26}


def _looked(command: Command, done: Done, before: dict[str, str]) -> list[Finding]:
    """What the files say: inputs that changed, outputs that should not be there or cannot be read."""
    findings = []
    if changed := sorted(name for name, digest in (_digests().items() ^ before.items())):
        findings.append(Finding("input changed", "", ", ".join(changed), command))
    wanted = {Path(word).name for word in command if word.startswith("out/")} if done.exit == 0 else set()
    found = {file.name for file in Path("out").iterdir() if not file.name.endswith(".data")}
    if done.exit in (2, 3) and found:
        findings.append(Finding("half-written", "", f"exit {done.exit} and {', '.join(sorted(found))}", command))
    elif done.exit == 0 and found != wanted:
        findings.append(Finding("leftover", "", f"{sorted(found)} instead of {sorted(wanted)}", command))
    findings += [
        Finding("half-written", "", f"{name} cannot be read", command)
        for name in sorted(found)
        if name.endswith(".onnx") and not _is_whole(Path("out") / name)
    ]
    left = sorted(file.name for file in Path("tmp").iterdir())
    if left:
        findings.append(Finding("leftover", "", f"temporary files: {re.sub(r'-[a-z0-9_]+', '-*', str(left))}", command))
    for folder in ("out", "tmp"):
        _empty(Path(folder))
    return findings


def _is_whole(file: Path) -> bool:
    import onnx

    try:
        onnx.load(file)
    except Exception:  # noqa: BLE001 - any reason will do
        return False
    return True


def _empty(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(exist_ok=True)
