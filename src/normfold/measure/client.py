"""The other end of `normfold.runtime.timing`: requests as methods, failures as errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from normfold.measure.candidate import Candidate
from normfold.measure.checks import Values, error_of
from normfold.runtime import Failed, tensors
from normfold.runtime.tensors import Entry
from normfold.runtime.worker_process import WorkerProcess, local

LOCAL: Final = local("normfold.runtime.timing")


class Client:
    """One fresh process that times models; leaving the ``with`` block ends it.

    Every method raises a `NormfoldError` with a code of its own where the process refuses, dies, hangs or runs out of
    memory.
    """

    def __init__(self, *, time_limit: float, command: Sequence[str] = LOCAL) -> None:
        self._process = WorkerProcess(command, time_limit=time_limit)
        self._results = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.close()
        self._process.dispose()

    @property
    def pid(self) -> int | None:
        """The process's id."""
        return self._process.pid

    def hello(self, cpus: Sequence[int], pool: int, *, preload: bool) -> dict[str, Any]:
        """Import ONNX Runtime there; what was found."""
        return self._ask("the models", "hello", cpus=list(cpus), pool=pool, preload=preload)

    def open(self, name: str, candidate: Candidate, session: Mapping[str, Any]) -> dict[str, Any]:
        """Load a model under ``name``."""
        return self._ask(candidate.name, "open", name=name, **_files(candidate), session=dict(session))

    def bind(self, name: str, feeds: Sequence[Entry]) -> dict[str, Any]:
        """Give the model its inputs and run it once."""
        return self._ask(name, "bind", name=name, feeds=list(feeds))

    def try_to_bind(self, name: str, feeds: Sequence[Entry]) -> dict[str, Any] | Failed:
        """The same, where the inputs may not fit."""
        return self._process.ask("bind", name=name, feeds=list(feeds))

    def time(self, blocks: Sequence[tuple[str, int]]) -> dict[str, Any]:
        """Run the blocks in turn."""
        names = " and ".join(dict.fromkeys(name for name, _runs in blocks))
        return self._ask(names, "time", blocks=[list(block) for block in blocks])

    def outputs(self, name: str) -> Values:
        """What the model's last run gave."""
        reply = self._ask(name, "outputs", name=name, results=str(self._new_path()))
        return tensors.read(reply["results"])

    def profile(
        self, candidate: Candidate, session: Mapping[str, Any], feeds: Sequence[Entry], runs: int
    ) -> dict[str, Any]:
        """Time each node."""
        request = _files(candidate) | {"session": dict(session), "feeds": list(feeds), "runs": runs}
        return self._ask(candidate.name, "profile", results=str(self._new_path()), **request)

    def optimizers(self, candidate: Candidate, session: Mapping[str, Any]) -> tuple[str, ...]:
        """Which of ONNX Runtime's optimisers change the model."""
        reply = self._ask(candidate.name, "optimizers", **_files(candidate), session=dict(session))
        return tuple(reply["changing"])

    def close(self, name: str) -> None:
        """Release the model."""
        self._ask(name, "close", name=name)

    def _ask(self, about: str, verb: str, **request: object) -> dict[str, Any]:
        reply = self._process.ask(verb, **request)
        if isinstance(reply, Failed):
            raise error_of(about, reply)
        return reply

    def _new_path(self) -> Path:
        self._results += 1
        return self._process.folder / f"results-{self._results}"


def _files(candidate: Candidate) -> dict[str, str]:
    model = candidate.model
    return {"model": str(model.file.absolute()), "data_folder": str(model.data_folder.absolute())}
