"""The client's end of a worker process: start it, send requests, survive its crashes."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, Literal, cast

from normfold import limits
from normfold.errors import EnvironmentUnavailableError, NormfoldError, UsageError

Kind = Literal[
    "unsupported",
    "invalid",
    "run",
    "custom-ops",
    "provider",
    "fallback",
    "memory",
    "time",
    "crash",
    "target",
    "setting",
    "link",
    "space",
]

FAILURES: Final[dict[Kind, str]] = {
    "unsupported": "no evaluator here can run this model",
    "invalid": "the evaluator rejects the model",
    "run": "the model does not run on these inputs",
    "custom-ops": "the library of custom operators cannot be loaded",
    "provider": "the execution provider cannot be used",
    "fallback": "nodes would run on another execution provider",
    "memory": "the evaluation ran out of memory",
    "time": "the evaluation ran out of time",
    "crash": "the evaluation process crashed",
    "target": "the target lacks what it needs",
    "setting": "the target does not support a setting",
    "link": "the connection to the target was interrupted",
    "space": "there is no space left on the target's disk",
}
"""Every way in which a request can fail, and what it says about it."""
ENVIRONMENT: Final[dict[Kind, tuple[str, str, str]]] = {
    "provider": (
        "provider-unavailable",
        "{}.",
        "normfold env lists the installed execution providers, and how to install others.",
    ),
    "fallback": (
        "provider-fallback",
        "Nodes would run on another execution provider: {}.",
        "Run it regardless: --allow-fallback.",
    ),
    "memory": ("out-of-memory", "There is not enough memory to run {}.", ""),
    "time": ("timed-out", "The worker process timed out on {}.", "Allow more with --worker-timeout."),
    "crash": ("worker-died", "The worker process died: {}.", ""),
    "custom-ops": ("custom-ops", "The custom operators cannot be loaded: {}", ""),
    "target": ("target-unavailable", "The target cannot run {}.", ""),
    "link": ("link-broken", "The connection to the target broke: {}.", ""),
    "space": ("target-full", "There is no space left on the target's disk: {}.", ""),
}
"""Those that are not the caller's fault: code, message and hint."""

_NONE: Final[Mapping[int, Kind]] = {}
PACKAGE_ROOT: Final = str(Path(__file__).resolve().parents[3])
PIECE: Final = 1 << 16
LAST_BYTES: Final = 2000
MOST_BYTES: Final = 256 << 20
"""Longest answer that is read."""
COMPUTING_SECONDS: Final = 10.0
"""Seconds of computing that any request may take where no time limit is set."""
BYTES_PER_SECOND: Final = 20e6
"""A second more for as many bytes of the model."""
USUAL_BYTES: Final = 3 << 29
"""Memory that a process may take beside what it began with, where no memory limit is set."""
COPIES: Final = 32
"""So many times the bytes of the model besides."""
COPIES_OF_INPUTS: Final = 256
"""So many times the bytes of the inputs besides: there may be many intermediate values, and larger ones."""
POLL_SECONDS: Final = 0.1
"""How often is looked whether a process that says nothing is still there."""
ENDING_SECONDS: Final = 1.0
"""Time that a process has to end once its pipe is closed."""


@dataclass(frozen=True, slots=True)
class Failed:
    """A request that was not served."""

    kind: Kind
    message: str

    def __str__(self) -> str:
        return f"{FAILURES[self.kind]}: {self.message}" if self.message else FAILURES[self.kind]

    def error(self, about: str) -> NormfoldError:
        """The same as an error with its code, ``about`` a model."""
        said = f"{about}: {self.message}" if self.message else about
        if self.kind in ENVIRONMENT:
            code, words, hint = ENVIRONMENT[self.kind]
            return EnvironmentUnavailableError(code, words.format(said), hint)
        if self.kind == "setting":
            return UsageError("target-unsupported", f"The target does not support a setting of {said}.")
        return UsageError("not-runnable", f"ONNX Runtime cannot run {said}")


def local(module: str) -> tuple[str, ...]:
    """The command that runs ``module`` in a process of its own on this machine."""
    return sys.executable, "-P", "-m", module


class WorkerProcess:
    """One worker process, started when first needed and again after it died.

    Every request comes back within ``time_limit`` seconds, or when the job's own limit is reached: with its answer or
    as `Failed`. Whatever the process prints or does, it is killed with all that it started. Not to be shared between
    threads; `close` may be called from any.
    """

    def __init__(
        self, command: Sequence[str], *, time_limit: float, scratch: bool = True, exits: Mapping[int, Kind] = _NONE
    ) -> None:
        """``command`` is anything that speaks `normfold.runtime.workers.protocol` on its standard streams.

        ``scratch``: whether it gets a `folder` to work in. ``exits``: statuses that it ends with for other reasons
        than a crash.
        """
        self._command = tuple(command)
        self._exits = exits
        self._time_limit = time_limit
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = threading.Event()
        self._computing: float | None = None
        self._memory: int | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="normfold-", ignore_cleanup_errors=True) if scratch else None
        self._log: IO[bytes] | None = None

    def start(self) -> None:
        """Start the process without waiting for it."""
        if self._closed.is_set() or (self._process is not None and self._process.poll() is None):
            return
        self._dispose()
        environment = dict(os.environ)
        # This package first: it may have been imported from a path that a new process does not know.
        paths = [PACKAGE_ROOT, environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        # NumPy's own thread pool is of no use to the worker, and its stacks count as memory.
        environment["OPENBLAS_NUM_THREADS"] = "1"
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - `_dispose` closes it
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment,
            cwd=self._folder.name if self._folder else os.sep,
            # A session of its own, so that what a custom operator starts can be ended with it.
            start_new_session=True,
        )
        if self._closed.is_set():
            _kill(self._process)

    def expect(self, nbytes: int | None) -> None:
        """Give each request what a model of so many bytes may need of computing and memory, with None all there is.

        A few bytes can say: compute for ever. Who sets a limit means that one and no other.
        """
        self._memory = None if nbytes is None else USUAL_BYTES + COPIES * nbytes
        unlimited = nbytes is None or limits.is_given()
        self._computing = None if unlimited else COMPUTING_SECONDS + (nbytes or 0) / BYTES_PER_SECOND

    def close(self) -> None:
        """End the process, whatever it is doing, and remove what it wrote."""
        self._closed.set()
        if self._process is not None:
            _kill(self._process)

    def dispose(self) -> None:
        """Remove the temporary files; to be called once nothing is being asked any more."""
        self._dispose()
        if self._folder:
            self._folder.cleanup()

    @property
    def pid(self) -> int | None:
        """The process's id, None before it was started."""
        return self._process.pid if self._process else None

    @property
    def folder(self) -> Path:
        """For files that the two hand to each other; goes away with the process's `dispose`."""
        if self._folder is None:
            raise ValueError("this process has no folder")
        return Path(self._folder.name)

    def _dispose(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        _kill(process)
        process.wait()
        for pipe in (process.stdin, process.stdout, self._log):
            with contextlib.suppress(OSError):
                cast("IO[bytes]", pipe).close()

    def ask(self, verb: str, **request: object) -> dict[str, Any] | Failed:
        """The reply to one request.

        Raises:
            EnvironmentUnavailableError: ``timed-out``, the limit of the whole job is reached.
        """
        limits.check()
        try:
            self.start()
        except OSError as error:
            return Failed("crash", f"it cannot be started: {error.strerror}")
        if self._closed.is_set() or self._process is None:
            return Failed("crash", "the process is closed")
        left = limits.remaining()
        until = time.monotonic() + (self._time_limit if left is None else min(left, self._time_limit))
        memory = limits.memory_limit() or self._usual_memory(request.get("feeds"))
        asked = json.dumps({"verb": verb, "memory_limit": memory, **request}).encode() + b"\n"
        clock = Clock(self._process.pid, until, self._computing)
        line = exchange(self._process, asked, clock)
        reply = _parsed(line)
        if reply is None:
            return self._died(line, clock)
        if reply["ok"]:
            return reply
        allow = "; --memory-limit allows more" if reply["kind"] == "memory" and self._memory is not None else ""
        return Failed(reply["kind"], reply["message"] + allow)

    def _usual_memory(self, feeds: object) -> int | None:
        """Bytes that a request may take where nobody said so; None: what the machine has."""
        if self._memory is None:
            return None
        files = [Path(entry["file"]) for entry in cast("Sequence[Mapping[str, str]]", feeds or ())]
        return self._memory + COPIES_OF_INPUTS * sum(file.stat().st_size for file in files)

    def _died(self, line: bytes, clock: Clock) -> Failed:
        """What became of a process that gave no answer, or one that cannot be read; there is none from here on."""
        process = cast("subprocess.Popen[bytes]", self._process)
        late, computed = clock.is_late(), clock.has_computed_long()
        ended, said = process.poll(), self._last_words()
        self._dispose()
        if late:
            limits.check()
            return Failed("time", f"more than {self._time_limit:g} s")
        if computed and clock.computing is not None:
            # Other requests are about the same model, in other words: together they have twice the time of one.
            self._computing = clock.computing / 2
            return Failed("time", f"more than {clock.computing:.0f} s of computing; --time-limit allows more")
        if ended is None or line.endswith(b"\n"):
            return Failed("crash", "its answer cannot be read")
        return Failed(self._exits.get(ended or 0, "crash"), "; ".join([f"exit status {ended}", *said]))

    def _last_words(self) -> list[str]:
        """The last line on the process's standard error, if there is one."""
        log = cast("IO[bytes]", self._log)
        log.seek(max(0, log.seek(0, os.SEEK_END) - LAST_BYTES))
        return log.read().decode(errors="replace").strip().splitlines()[-1:]


class Clock:
    """When a process has had its time: at ``until``, or after ``computing`` seconds in which it had a processor.

    On a busy machine those take longer.
    """

    def __init__(self, pid: int, until: float, computing: float | None) -> None:
        self.until, self.computing = until, computing
        self._pid, self._began, self._spent = pid, time.monotonic(), computed(pid)

    def is_late(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() >= self.until

    def has_computed_long(self) -> bool:
        """Whether it had its seconds of computing; threads that compute beside each other do not count twice."""
        if self.computing is None:
            return False
        return min(computed(self._pid) - self._spent, time.monotonic() - self._began) > self.computing


def exchange(process: subprocess.Popen[bytes], line: bytes, clock: Clock) -> bytes:
    """The line with which ``process`` answers ``line``; cut short where it ends, closes its pipe or takes too long.

    A process that it started may hold the pipe open: its own end counts, not the pipe's.
    """
    stdin, stdout = cast("IO[bytes]", process.stdin).fileno(), cast("IO[bytes]", process.stdout).fileno()
    os.set_blocking(stdin, False)
    os.set_blocking(stdout, False)
    todo, reply = memoryview(line), bytearray()
    with selectors.DefaultSelector() as streams:
        streams.register(stdout, selectors.EVENT_READ)
        streams.register(stdin, selectors.EVENT_WRITE)
        while not reply.endswith(b"\n"):
            ready = {key.fd for key, _ in streams.select(POLL_SECONDS)}
            if clock.is_late() or (not ready and (process.poll() is not None or clock.has_computed_long())):
                break
            try:
                if stdin in ready:
                    todo = todo[os.write(stdin, todo[:PIECE]) :]
                    if not todo:
                        streams.unregister(stdin)
                if stdout in ready:
                    piece = os.read(stdout, PIECE)
                    reply += piece
                    if not piece or len(reply) > MOST_BYTES:
                        break
            except OSError:
                # The pipe broke under us, or `close` shut it: the caller sees a process without a reply.
                break
    if not reply.endswith(b"\n"):
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(min(max(clock.until - time.monotonic(), 0.0), ENDING_SECONDS))
    return bytes(reply)


def computed(pid: int) -> float:
    """Seconds that the threads of a process had a processor, together; 0 where unknown."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except OSError:
        return 0.0


def _parsed(line: bytes) -> dict[str, Any] | None:
    """The reply in ``line``; None where it is none."""
    try:
        reply = json.loads(line.decode()) if line.endswith(b"\n") else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(reply, dict) or not isinstance(reply.get("ok"), bool):
        return None
    known = reply["ok"] or (reply.get("kind") in FAILURES and isinstance(reply.get("message"), str))
    return reply if known else None


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End ``process`` and all that it started, which may outlive it."""
    with contextlib.suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
