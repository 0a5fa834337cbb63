"""The other end of `normfold.runtime.worker`: starts the process, asks, and outlives whatever befalls it."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, cast

import normfold
from normfold.runtime.tensors import Array, Entry, read, write

Kind = Literal["unsupported", "invalid", "run", "custom-ops", "memory", "time", "crash"]

FAILURES: Final[dict[Kind, str]] = {
    "unsupported": "no evaluator here can run this model",
    "invalid": "the evaluator rejects the model",
    "run": "the model does not run on these inputs",
    "custom-ops": "the library of custom operators cannot be loaded",
    "memory": "the evaluation ran out of memory",
    "time": "the evaluation ran out of time",
    "crash": "the evaluation process crashed",
}
"""Every way in which a request can fail, and what it says about it."""

PACKAGE_ROOT: Final = str(Path(normfold.__file__).parent.parent)


@dataclass(frozen=True, slots=True)
class Runnable:
    """A model's file, and the folder that its external data is relative to."""

    file: Path
    data_folder: Path


@dataclass(frozen=True, slots=True)
class Failed:
    """A request that was not served."""

    kind: Kind
    message: str

    def __str__(self) -> str:
        return f"{FAILURES[self.kind]}: {self.message}" if self.message else FAILURES[self.kind]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model in the worker: which evaluator holds it, its outputs in order, seconds taken to load."""

    evaluator: str
    outputs: tuple[str, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class Ran:
    """Outputs of one run by name, in the order asked for, and the seconds it took."""

    outputs: dict[str, Array]
    seconds: float


class WorkerClient:
    """One worker process, started when first needed and again after it died.

    Every request comes back within ``time_limit`` seconds: with its answer or as `Failed`. Not to be
    shared between threads; `close` may be called from any.
    """

    def __init__(self, *, time_limit: float, threads: int) -> None:
        self._time_limit = time_limit
        self._threads = threads
        self._process: subprocess.Popen[str] | None = None
        self._closed = threading.Event()
        self._folder = tempfile.TemporaryDirectory(prefix="normfold-", ignore_cleanup_errors=True)
        self._numbers = itertools.count()

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
        environment |= {"ORT_DISABLE_TELEMETRY": "1", "OPENBLAS_NUM_THREADS": "1"}
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "normfold.runtime.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                cwd=self._folder.name,
                encoding="utf-8",
            )
        if self._closed.is_set():
            self._process.kill()

    def load(
        self,
        model: Runnable,
        *,
        extra_outputs: Sequence[str] = (),
        custom_ops: Sequence[str] = (),
        evaluator: str = "",
        optimised: bool = False,
    ) -> Loaded | Failed:
        """Load ``model`` in place of the one held; ``evaluator`` as in `Loaded` insists on that one.

        ``extra_outputs`` are names of values of the main graph to be outputs besides its own. ``optimised`` lets ONNX
        Runtime rearrange the computation as it likes.
        """
        reply = self._ask(
            "load",
            model=str(model.file.absolute()),
            data_folder=str(model.data_folder.absolute()),
            extra_outputs=list(extra_outputs),
            custom_ops=[str(Path(library).absolute()) for library in custom_ops],
            threads=self._threads,
            evaluator=evaluator.partition(" ")[0],
            optimised=optimised,
        )
        if isinstance(reply, Failed):
            return reply
        return Loaded(reply["evaluator"], tuple(reply["outputs"]), reply["seconds"])

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str] = ()) -> Ran | Failed:
        """Run the model held on ``feeds``, for ``outputs`` or, if none are named, all of them."""
        number = next(self._numbers)
        folder = Path(self._folder.name)
        try:
            entries = write(folder / f"feeds-{number}", feeds)
        except OSError as error:
            return Failed("crash", f"the inputs cannot be written to {folder}: {error.strerror}")
        reply = self._ask("run", feeds=entries, outputs=list(outputs), results=str(folder / f"results-{number}"))
        _remove(entries)
        if isinstance(reply, Failed):
            return reply
        values = read(reply["results"])
        _remove(reply["results"])
        return Ran(values, reply["seconds"])

    def release(self) -> None:
        """Let go of the model held."""
        if self._process is not None and self._process.poll() is None:
            self._ask("release")

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

    def _ask(self, verb: str, **request: object) -> dict[str, Any] | Failed:
        try:
            self.start()
        except OSError as error:
            return Failed("crash", f"it cannot be started: {error.strerror}")
        if self._closed.is_set() or self._process is None:
            return Failed("crash", "the evaluator is closed")
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


def _remove(entries: Iterable[Entry]) -> None:
    """Delete the files; arrays mapped from them stay valid, and systems that forbid it keep them until the end."""
    for entry in entries:
        with contextlib.suppress(OSError):
            Path(entry["file"]).unlink()


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
