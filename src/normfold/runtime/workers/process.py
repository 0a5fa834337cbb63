"""The client's end of a worker process: start it, send requests, survive its crashes."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, cast

from normfold.errors import EnvironmentUnavailableError, NormfoldError, UsageError

Kind = Literal["unsupported", "invalid", "run", "custom-ops", "provider", "memory", "time", "crash"]

FAILURES: Final[dict[Kind, str]] = {
    "unsupported": "no evaluator here can run this model",
    "invalid": "the evaluator rejects the model",
    "run": "the model does not run on these inputs",
    "custom-ops": "the library of custom operators cannot be loaded",
    "provider": "the execution provider cannot be used",
    "memory": "the evaluation ran out of memory",
    "time": "the evaluation ran out of time",
    "crash": "the evaluation process crashed",
}
"""Every way in which a request can fail, and what it says about it."""

PACKAGE_ROOT: Final = str(Path(__file__).resolve().parents[3])


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
        match self.kind:
            case "provider":
                hint = "normfold env lists the installed execution providers, and how to install others."
                return EnvironmentUnavailableError("provider-unavailable", f"{said}.", hint)
            case "memory":
                return EnvironmentUnavailableError("out-of-memory", f"There is not enough memory to run {said}.")
            case "time":
                hint = "Allow more with --worker-timeout."
                return EnvironmentUnavailableError("timed-out", f"The worker process timed out on {said}.", hint)
            case "crash":
                return EnvironmentUnavailableError("worker-died", f"The worker process died: {said}.")
            case "custom-ops":
                return EnvironmentUnavailableError("custom-ops", f"The custom operators cannot be loaded: {said}")
            case _:
                return UsageError("not-runnable", f"ONNX Runtime cannot run {said}")


def local(module: str) -> tuple[str, ...]:
    """The command that runs ``module`` in a process of its own on this machine."""
    return sys.executable, "-P", "-m", module


class WorkerProcess:
    """One worker process, started when first needed and again after it died.

    Every request comes back within ``time_limit`` seconds: with its answer or as `Failed`. Not to be
    shared between threads; `close` may be called from any.
    """

    def __init__(self, command: Sequence[str], *, time_limit: float) -> None:
        """``command`` is anything that speaks `normfold.runtime.workers.protocol` on its standard streams."""
        self._command = tuple(command)
        self._time_limit = time_limit
        self._process: subprocess.Popen[str] | None = None
        self._closed = threading.Event()
        self._folder = tempfile.TemporaryDirectory(prefix="normfold-", ignore_cleanup_errors=True)

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
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                cwd=self._folder.name,
                encoding="utf-8",
            )
        if self._closed.is_set():
            self._process.kill()

    def close(self) -> None:
        """End the process, whatever it is doing, and remove what it wrote."""
        self._closed.set()
        if self._process is not None:
            self._process.kill()

    def dispose(self) -> None:
        """Remove the temporary files; to be called once nothing is being asked any more."""
        self._dispose()
        self._folder.cleanup()

    @property
    def pid(self) -> int | None:
        """The process's id, None before it was started."""
        return self._process.pid if self._process else None

    @property
    def folder(self) -> Path:
        """For files that the two hand to each other; goes away with the process's `dispose`."""
        return Path(self._folder.name)

    @property
    def _log(self) -> Path:
        return Path(self._folder.name) / "stderr.txt"

    def _dispose(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                cast("Any", pipe).close()

    def ask(self, verb: str, **request: object) -> dict[str, Any] | Failed:
        """The reply to one request."""
        try:
            self.start()
        except OSError as error:
            return Failed("crash", f"it cannot be started: {error.strerror}")
        if self._closed.is_set() or self._process is None:
            return Failed("crash", "the process is closed")
        expired = threading.Event()
        timer = threading.Timer(self._time_limit, self._expire, (self._process, expired))
        timer.daemon = True
        timer.start()
        line = _exchange(self._process, json.dumps({"verb": verb, **request}))
        timer.cancel()
        if not line.endswith("\n"):
            return self._died(expired=expired.is_set())
        reply: dict[str, Any] = json.loads(line)
        return reply if reply["ok"] else Failed(reply["kind"], reply["message"])

    @staticmethod
    def _expire(process: subprocess.Popen[str], expired: threading.Event) -> None:
        expired.set()
        process.kill()

    def _died(self, *, expired: bool) -> Failed:
        process = cast("subprocess.Popen[str]", self._process)
        status = process.wait()
        self._dispose()
        if expired:
            return Failed("time", f"more than {self._time_limit:g} s")
        last = self._log.read_text(errors="replace").strip().splitlines()[-1:] if self._log.exists() else []
        return Failed("crash", "; ".join([f"exit status {status}", *last]))


def _exchange(process: subprocess.Popen[str], line: str) -> str:
    """The reply to ``line``; empty or cut short where the process ended instead."""
    stdin, stdout = cast("Any", process.stdin), cast("Any", process.stdout)
    try:
        stdin.write(line + "\n")
        stdin.flush()
        return str(stdout.readline())
    except (OSError, ValueError):
        # The pipe broke under us, or `close` shut it: the caller sees a process without a reply.
        return ""
