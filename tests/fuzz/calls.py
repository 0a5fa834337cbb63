"""Calls the library on mutated models, thousands of times in one process, and says what went wrong.

Right is: a result, whose document and words can be made, or a `NormfoldError` with a code other than ``internal``; an
output that is whole or absent; nothing left behind; an answer within the limits of time and memory. The process may
be lost: the next one goes on behind the call that ended it, which is a finding.

What these calls do not cover is covered by ``fuzz.hostile``: the command line, the workers that run models, proofs.
"""

from __future__ import annotations

import faulthandler
import io
import json
import math
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from fuzz.hostile import MEMORY, SECONDS, Finding, _fork_checkers, _innermost
from fuzz.mutations import Random, mutate_bytes

PER_PROCESS = 500
"""Cases after which a new process takes over, so that what one leaks does not count against another."""
END = b"end\n"
"""What a process says last: one that ends without it was ended."""
SIDE = 0.1
"""Part of the cases that have files beside a model, too."""


@dataclass(frozen=True)
class Case:
    """A model, what was done to it, and what is called with it."""

    data: bytes
    mutations: str
    calls: tuple[str, ...]


@dataclass(frozen=True)
class Execution:
    """One call and what it came to: the code of an error, or nothing where there is a result."""

    number: int
    call: str
    code: str = ""
    seconds: float = 0.0
    finding: Finding | None = None


Make = Callable[[int], Case]
Call = Callable[[bytes, Path], object]


def calls_of(data: bytes, rng: Random) -> tuple[str, ...]:
    """What is called with a model: reading and deciding, folding and writing, and one thing more."""
    others = ("to rms", "to instance", "fold a proto")
    beside = (rng.choice(list(BESIDE)),) if rng.random() < SIDE else ()
    return ("inspect", "fold", rng.choice(others if _is_parsed(data) else others[:2]), *beside)


def _is_parsed(data: bytes) -> bool:
    try:
        onnx.ModelProto.FromString(data)
    except DecodeError:
        return False
    return True


# ------------------------------------------------------------------------------------------------------- what is called


def _inspect(data: bytes, folder: Path) -> object:
    import normfold

    return normfold.inspect(_written(data, folder))


def _fold(data: bytes, folder: Path) -> object:
    import normfold

    output = folder / "out" / "o.onnx"
    result = normfold.fold(_written(data, folder), verify=False, output=output)
    onnx.load(output)
    return result


def _fold_proto(data: bytes, _folder: Path) -> object:
    import normfold

    proto = onnx.ModelProto.FromString(data)
    result = normfold.fold(proto, verify=False, allow_inserted=True, allow_contrib=True)
    if proto.SerializeToString() != onnx.ModelProto.FromString(data).SerializeToString():
        raise AssertionError("the model that was passed is not what it was")
    result.model.SerializeToString()
    return result


def _convert(data: bytes, folder: Path, to: str) -> object:
    import normfold

    return normfold.convert(_written(data, folder), to=to, verify=False)


def _written(data: bytes, folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(data)
    return path


def _arrays(data: bytes, folder: Path) -> object:
    from normfold.models.data import read_arrays

    path = folder / "inputs.npz"
    path.write_bytes(mutate_bytes(NPZ, Random(data)))
    return read_arrays(path)


def _profile(data: bytes, folder: Path) -> object:
    from normfold.runtime import session_profile

    return session_profile.read(_json(PROFILE, data, folder))


def _figures(data: bytes, folder: Path) -> object:
    import normfold

    path = _json(FIGURES, data, folder)
    return normfold.compare(path, path)


def _json(document: dict[str, Any], data: bytes, folder: Path) -> Path:
    """``document`` damaged in a way that follows from the model: other values, or other bytes."""
    rng = Random(data)
    text = json.dumps(mutate_json(document, rng) if rng.random() < 0.8 else document)
    path = folder / "document.json"
    path.write_bytes(text.encode() if rng.random() < 0.8 else mutate_bytes(text.encode(), rng))
    return path


def mutate_json(document: Any, rng: Random) -> Any:
    """A copy with one value replaced, left out or put elsewhere."""
    copy = json.loads(json.dumps(document))
    places = list(_places(copy))
    where, key = rng.choice(places)
    other, elsewhere = rng.choice(places)
    match rng.randrange(4):
        case 0:
            del where[key]
        case 1:
            where[key] = other[elsewhere]
        case 2 if isinstance(where, dict):
            where[rng.choice(("\n", "", "unknown", str(elsewhere)))] = where.pop(key)
        case _:
            where[key] = rng.choice((None, True, -1, 0, 2**63, 10**400, 1e308, math.nan, "", "a\nb", [], {}, [[]]))
    # What was put inside itself has no text.
    return copy if _is_finite(copy, 20) else document


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    keys = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    for key in keys:
        yield value, key
        yield from _places(value[key])


def _is_finite(value: Any, depth: int) -> bool:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return depth > 0 and all(_is_finite(one, depth - 1) for one in inside)


def _npz() -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, x=np.zeros((1, 3, 4, 4), np.float32), n=np.arange(7))
    return file.getvalue()


NPZ = _npz()
PROFILE = {
    "schema": "normfold.session/1",
    "provider": "cpu",
    "intra_threads": 2,
    "inter_threads": 1,
    "options": {"enable_mem_pattern": True},
    "config": {"session.intra_op.allow_spinning": "0"},
    "provider_options": {},
    "disabled_optimizers": ["ConstantFolding"],
}
FIGURES = {
    "schema": "normfold.bench/1",
    "environment": {
        "processor": "Abacus 3000",
        "cpus": 2,
        "cpu_features": ["avx2"],
        "packages": {"onnxruntime": "1.31.1"},
        "gpus": [{"name": "g", "driver": "1"}],
    },
    "models": [{"name": "net", "sha256": None, "session": {"provider": "cpu"}}],
    "cells": [
        {
            "batch": 1,
            "threads": 2,
            "use": "server",
            "cpus": [],
            "figures": [{"name": "net"}],
            "samples": [{"ns": {"net": [[1000 + k] * 10] * 9}, "steady_from": None} for k in range(5)],
            "control": {"value": 1.0, "low": 0.999, "high": 1.001},
        }
    ],
}
BESIDE: dict[str, Call] = {"npz": _arrays, "profile": _profile, "figures": _figures}
CALLS: dict[str, Call] = {
    "inspect": _inspect,
    "fold": _fold,
    "fold a proto": _fold_proto,
    "to rms": lambda data, folder: _convert(data, folder, "rms"),
    "to instance": lambda data, folder: _convert(data, folder, "instance"),
    **BESIDE,
}


# ------------------------------------------------------------------------------------------------ in the first process


def executions(make: Make, numbers: range, seconds: float = SECONDS, memory: int = MEMORY) -> Iterator[Execution]:
    """Every call of the cases with ``numbers``, in order."""
    number, position = numbers.start, 0
    while number in numbers:
        end = min(number + PER_PROCESS, numbers.stop)
        with _Process(make, (number, position), end, (seconds, memory)) as process:
            for execution in process.done():
                yield execution
                number, position = execution.number, position + 1 if execution.number == number else 1
            status = process.wait()
        if process.is_done:
            number, position = end, 0
            continue
        number, position = _next(make, number, position)
        if number >= end:
            continue
        call = make(number).calls[position]
        yield Execution(number, call, "", seconds, _ended(process.said, call, status))
        position += 1


def _next(make: Make, number: int, position: int) -> tuple[int, int]:
    return (number, position) if position < len(make(number).calls) else (number + 1, 0)


def _ended(said: str, call: str, status: int) -> Finding:
    if "Timeout (" in said:
        return Finding("timeout", _innermost(said), "did not end in time", (call,))
    what = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else f"exit {os.WEXITSTATUS(status)}"
    return Finding("crash", _innermost(said), f"{what}: {said.strip()[:200]}", (call,))


class _Process:
    """A process that makes calls, one after the other, and says what each came to."""

    def __init__(self, make: Make, start: tuple[int, int], end: int, limits: tuple[float, int]) -> None:
        self.said = ""
        self.is_done = False
        self._status: int | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="fuzz-", ignore_cleanup_errors=True)
        reading, writing = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            status = 70
            try:
                os.setsid()
                os.close(reading)
                _serve(make, start, end, limits, Path(self._folder.name), writing)
                status = 0
            finally:
                os._exit(status)
        os.close(writing)
        self._results = os.fdopen(reading, "rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._results.close()
        if self._status is None:
            os.kill(self._pid, signal.SIGKILL)
            self.wait()
        self._folder.cleanup()

    def done(self) -> Iterator[Execution]:
        for line in self._results:
            self.is_done = line == END
            if self.is_done:
                return
            record = json.loads(line)
            found = record.pop("finding")
            finding = Finding(**{**found, "command": tuple(found["command"])}) if found else None
            yield Execution(**record, finding=finding)

    def wait(self) -> int:
        """The status with which it ended."""
        if self._status is None:
            _, self._status = os.waitpid(self._pid, 0)
            self.said = (Path(self._folder.name) / "stderr").read_text(errors="replace")
        return self._status


# ---------------------------------------------------------------------------------------------------- in the other ones


def _serve(make: Make, start: tuple[int, int], end: int, limits: tuple[float, int], folder: Path, results: int) -> None:
    seconds, memory = limits
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + memory,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.chdir(folder)
    for name in ("out", "tmp"):
        (folder / name).mkdir()
    tempfile.tempdir = str(folder / "tmp")
    errors = os.open("stderr", os.O_CREAT | os.O_RDWR | os.O_APPEND)
    os.dup2(errors, 2)
    sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - until the process ends
    faulthandler.enable(errors)
    warnings.simplefilter("ignore")
    warnings.simplefilter("error", np.exceptions.ComplexWarning)  # half of a number is gone
    _fork_checkers()
    from normfold.runtime import session_profile  # noqa: F401 - before the first call is timed

    first, position = start
    for number in range(first, end):
        case = make(number)
        for call in case.calls[position:]:
            os.ftruncate(errors, 0)
            faulthandler.dump_traceback_later(seconds, exit=True, file=errors)
            execution = _executed(number, call, case.data, folder)
            faulthandler.cancel_dump_traceback_later()
            os.write(results, (json.dumps(asdict(execution)) + "\n").encode())
        position = 0
    os.write(results, END)


def _executed(number: int, call: str, data: bytes, folder: Path) -> Execution:
    from normfold import NormfoldError

    code, finding, started = "", None, time.monotonic()
    try:
        said(CALLS[call](data, folder))
    except NormfoldError as error:
        code = error.code
        # A result that is not valid ONNX is a bug, too.
        if code == "internal" or error.hint == "Please report this.":
            finding = _finding("internal", call, error)
    except Exception as error:  # noqa: BLE001 - what the command line calls `internal`
        finding = _finding("internal", call, error)
    finding = finding or _left(folder, call, whole=code == "" and call == "fold")
    return Execution(number, call, code, round(time.monotonic() - started, 4), finding)


def said(result: Any) -> None:
    """Make of ``result`` what the command line makes of it."""
    if hasattr(result, "document"):
        json.dumps(result.document())
        repr(result)


def _finding(kind: str, call: str, error: Exception) -> Finding:
    place = _innermost("".join(traceback.format_exception(error)))
    return Finding(kind, place, f"{type(error).__name__}: {error}"[:300], (call,))


def _left(folder: Path, call: str, *, whole: bool) -> Finding | None:
    """What lies where nothing should; the folders are emptied."""
    found = sorted(path for name in ("out", "tmp") for path in (folder / name).iterdir())
    wanted = ["o.onnx"] if whole else []
    names = [path.name for path in found if not path.name.endswith(".data")]
    for path in found:
        path.unlink() if path.is_file() else None
    return None if names == wanted else Finding("leftover", "", f"{names} instead of {wanted}", (call,))
