"""The other end of `normfold.runtime.workers.timing`: requests as methods, failures as errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from normfold.errors import EnvironmentUnavailableError
from normfold.runtime.profile import node_times
from normfold.runtime.targets import LOCAL, Target
from normfold.runtime.targets.transfer import Sent, SharedDisk
from normfold.runtime.workers import arrays
from normfold.runtime.workers.arrays import Entry
from normfold.runtime.workers.evaluation_client import Runnable
from normfold.runtime.workers.process import Failed, WorkerProcess
from normfold.runtime.workers.protocol import VERSION

if TYPE_CHECKING:
    from normfold.runtime.workers.arrays import Array


class TimingClient:
    """One fresh process that times models; leaving the ``with`` block ends it.

    Every method raises a `NormfoldError` with a code of its own where the process refuses, dies, hangs or runs out of
    memory.
    """

    def __init__(self, *, time_limit: float, target: Target = LOCAL) -> None:
        self._target = target
        self._process = WorkerProcess(target.command, time_limit=time_limit, exits=target.exits)
        folder = self._process.folder
        self._files = Sent(folder, partial(self._ask, "a file")) if target.travels else SharedDisk(folder)

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

    def hello(
        self,
        cpus: Sequence[int],
        pool: int,
        *,
        threads: int = 1,
        preload: bool = False,
        providers: Sequence[str] = ("cpu",),
    ) -> dict[str, Any]:
        """Import ONNX Runtime there, with what these execution providers need; what was found.

        Raises:
            EnvironmentUnavailableError: ``worker-version``, it is not the worker of this version.
        """
        settings = {"threads": threads, "preload": preload, "providers": list(providers)}
        reply = self._ask("the models", "hello", cpus=list(cpus), pool=pool, **settings)
        if reply.get("protocol") != VERSION:
            found = f"version {reply.get('protocol', 'unknown')} of the protocol, not {VERSION}"
            message = f"The worker of the target {self._target.name} speaks {found}."
            raise EnvironmentUnavailableError("worker-version", message)
        return reply

    def open(self, name: str, model: Runnable, session: Mapping[str, Any]) -> dict[str, Any]:
        """Load a model under ``name``."""
        self._process.expect(None if self._target.travels else model.file.stat().st_size)
        files = self._files.model(model)
        return self._ask(model.file.name, "open", name=name, **files, session=dict(session))

    def bind(self, name: str, feeds: Sequence[Entry]) -> dict[str, Any]:
        """Give the model its inputs and run it once."""
        return self._ask(name, "bind", name=name, feeds=self._files.feeds(feeds))

    def try_to_bind(self, name: str, feeds: Sequence[Entry]) -> dict[str, Any] | Failed:
        """The same, where the inputs may not fit."""
        return self._process.ask("bind", name=name, feeds=self._files.feeds(feeds))

    def time(self, blocks: Sequence[tuple[str, int]]) -> dict[str, Any]:
        """Run the blocks in turn."""
        self._process.expect(None)  # time is what it is about, and memory was taken before
        names = " and ".join(dict.fromkeys(name for name, _runs in blocks))
        return self._ask(names, "time", blocks=[list(block) for block in blocks])

    def count(self, name: str) -> dict[str, int]:
        """Instructions of a run by class, and the bytes that they move, on a target that counts."""
        self._process.expect(None)
        counts: dict[str, int] = self._ask(name, "count", name=name)["counts"]
        return counts

    def outputs(self, name: str) -> Mapping[str, Array]:
        """What the model's last run gave."""
        reply = self._ask(name, "outputs", name=name, results=self._files.results())
        return arrays.read(self._files.written(reply["results"]))

    def profile(self, model: Runnable, session: Mapping[str, Any], feeds: Sequence[Entry], runs: int) -> dict[str, Any]:
        """Time each node of a model."""
        request = {"session": dict(session), "feeds": self._files.feeds(feeds), "runs": runs}
        results = self._files.results()
        reply = self._ask(model.file.name, "profile", results=results, **self._files.model(model), **request)
        # Where the worker only hands over what the profiler wrote, that is read here.
        return node_times(self._files.fetched(reply["trace"])) if "trace" in reply else reply

    def optimizers(self, model: Runnable, session: Mapping[str, Any]) -> tuple[str, ...]:
        """Which of ONNX Runtime's optimisers change a model."""
        reply = self._ask(model.file.name, "optimizers", **self._files.model(model), session=dict(session))
        return tuple(reply["changing"])

    def reduce(self, model: Runnable, session: Mapping[str, Any], ort: Path, operators: Path) -> None:
        """Write a model in ONNX Runtime's format, and the list of its operators; on this machine only."""
        self._process.expect(model.file.stat().st_size)
        files = {**self._files.model(model), "ort": str(ort), "operators": str(operators)}
        self._ask(model.file.name, "reduce", **files, session=dict(session))

    def compile(self, model: Runnable, session: Mapping[str, Any]) -> int:
        """Bytes of what the provider's compiler makes of a model for its own processor."""
        self._process.expect(None)
        results = self._files.results()
        reply = self._ask(
            model.file.name, "compile", results=results, **self._files.model(model), session=dict(session)
        )
        return int(reply["context_bytes"])

    def close(self, name: str) -> None:
        """Release the model."""
        self._ask(name, "close", name=name)

    def _ask(self, about: str, verb: str, **request: object) -> dict[str, Any]:
        reply = self._process.ask(verb, **request)
        if isinstance(reply, Failed):
            raise reply.error(about)
        return reply
