"""The other end of `normfold.runtime.workers.timing`: requests as methods, failures as errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from normfold.runtime.workers import arrays
from normfold.runtime.workers.arrays import Entry
from normfold.runtime.workers.evaluation_client import Runnable
from normfold.runtime.workers.process import Failed, WorkerProcess, local

if TYPE_CHECKING:
    from normfold.runtime.workers.arrays import Array

LOCAL: Final = local("normfold.runtime.workers.timing")


class TimingClient:
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

    def open(self, name: str, model: Runnable, session: Mapping[str, Any]) -> dict[str, Any]:
        """Load a model under ``name``."""
        self._process.expect(model.file.stat().st_size)
        return self._ask(model.file.name, "open", name=name, **_files(model), session=dict(session))

    def bind(self, name: str, feeds: Sequence[Entry]) -> dict[str, Any]:
        """Give the model its inputs and run it once."""
        return self._ask(name, "bind", name=name, feeds=list(feeds))

    def try_to_bind(self, name: str, feeds: Sequence[Entry]) -> dict[str, Any] | Failed:
        """The same, where the inputs may not fit."""
        return self._process.ask("bind", name=name, feeds=list(feeds))

    def time(self, blocks: Sequence[tuple[str, int]]) -> dict[str, Any]:
        """Run the blocks in turn."""
        self._process.expect(None)  # time is what it is about, and memory was taken before
        names = " and ".join(dict.fromkeys(name for name, _runs in blocks))
        return self._ask(names, "time", blocks=[list(block) for block in blocks])

    def outputs(self, name: str) -> Mapping[str, Array]:
        """What the model's last run gave."""
        reply = self._ask(name, "outputs", name=name, results=str(self._new_path()))
        return arrays.read(reply["results"])

    def profile(self, model: Runnable, session: Mapping[str, Any], feeds: Sequence[Entry], runs: int) -> dict[str, Any]:
        """Time each node of a model."""
        request = _files(model) | {"session": dict(session), "feeds": list(feeds), "runs": runs}
        return self._ask(model.file.name, "profile", results=str(self._new_path()), **request)

    def optimizers(self, model: Runnable, session: Mapping[str, Any]) -> tuple[str, ...]:
        """Which of ONNX Runtime's optimisers change a model."""
        reply = self._ask(model.file.name, "optimizers", **_files(model), session=dict(session))
        return tuple(reply["changing"])

    def close(self, name: str) -> None:
        """Release the model."""
        self._ask(name, "close", name=name)

    def _ask(self, about: str, verb: str, **request: object) -> dict[str, Any]:
        reply = self._process.ask(verb, **request)
        if isinstance(reply, Failed):
            raise reply.error(about)
        return reply

    def _new_path(self) -> Path:
        self._results += 1
        return self._process.folder / f"results-{self._results}"


def _files(model: Runnable) -> dict[str, str]:
    return {"model": str(model.file.absolute()), "data_folder": str(model.data_folder.absolute())}
