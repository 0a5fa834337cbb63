"""The other end of `normfold.runtime.workers.evaluation`."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from normfold.runtime.workers.arrays import Entry, read, write
from normfold.runtime.workers.process import Failed, WorkerProcess, local

if TYPE_CHECKING:
    from normfold.runtime.workers.arrays import Array


Drawn = Mapping[str, tuple[str, Mapping[str, int | Sequence[int]]]]
"""By any name a value, and how windows of it lie."""


@dataclass(frozen=True, slots=True)
class Runnable:
    """A model's file, and the folder that its external data is relative to.

    ``locations`` are the files of that data by their names in the model, for workers on another machine.
    """

    file: Path
    data_folder: Path
    locations: Mapping[str, Path] = field(default_factory=dict, compare=False)


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


class WorkerClient(WorkerProcess):
    """A worker that holds one model at a time; limits as in `WorkerProcess`."""

    def __init__(self, *, time_limit: float, threads: int) -> None:
        super().__init__(local("normfold.runtime.workers.evaluation"), time_limit=time_limit)
        self._threads = threads
        self._numbers = itertools.count()

    def load(
        self,
        model: Runnable,
        *,
        extra_outputs: Sequence[str] = (),
        custom_ops: Sequence[str] = (),
        evaluator: str = "",
        optimised: bool = False,
        precise: bool = False,
    ) -> Loaded | Failed:
        """Load ``model`` in place of the one held; ``evaluator`` as in `Loaded` insists on that one.

        ``extra_outputs`` are names of values of the main graph to be outputs besides its own. ``optimised`` lets ONNX
        Runtime rearrange the computation as it likes; ``precise`` computes in float64, and answers in it.
        """
        reply = self.ask(
            "load",
            model=str(model.file.absolute()),
            data_folder=str(model.data_folder.absolute()),
            extra_outputs=list(extra_outputs),
            custom_ops=[str(Path(library).absolute()) for library in custom_ops],
            threads=self._threads,
            evaluator=evaluator.partition(" ")[0],
            optimised=optimised,
            precise=precise,
        )
        if isinstance(reply, Failed):
            return reply
        return Loaded(reply["evaluator"], tuple(reply["outputs"]), reply["seconds"])

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str] = ()) -> Ran | Failed:
        """Run the model held on ``feeds``, for ``outputs`` or, if none are named, all of them."""
        number = next(self._numbers)
        try:
            entries = write(self.folder / f"feeds-{number}", feeds)
        except OSError as error:
            return Failed("crash", f"the inputs cannot be written to {self.folder}: {error.strerror}")
        reply = self.ask("run", feeds=entries, outputs=list(outputs), results=str(self.folder / f"results-{number}"))
        _remove(entries)
        if isinstance(reply, Failed):
            return reply
        values = read(reply["results"])
        _remove(reply["results"])
        return Ran(values, reply["seconds"])

    def observe(
        self, feeds: Mapping[str, Array], axes: Mapping[str, int | None], patches: Drawn | None = None
    ) -> Failed | None:
        """Run the model held on ``feeds``, and let the worker keep statistics of the values that ``axes`` names.

        ``axes`` has the axis of the channels of each, negative, or None where they do not matter. ``patches`` has, by
        any name that is no value's, one of these values and the fields of the `Patches` that are drawn of it.
        """
        number = next(self._numbers)
        try:
            entries = write(self.folder / f"feeds-{number}", feeds)
        except OSError as error:
            return Failed("crash", f"the inputs cannot be written to {self.folder}: {error.strerror}")
        reply = self.ask("observe", feeds=entries, axes=dict(axes), patches=dict(patches or {}))
        _remove(entries)
        return reply if isinstance(reply, Failed) else None

    def observed(self) -> Mapping[str, Mapping[str, Array]] | Failed:
        """What `Observed.arrays` has of each value since the model was loaded, and `Patches.arrays` of windows."""
        reply = self.ask("observed", results=str(self.folder / f"results-{next(self._numbers)}"))
        if isinstance(reply, Failed):
            return reply
        found: dict[str, dict[str, Array]] = {}
        for key, array in read(reply["results"]).items():
            kind, _, name = key.partition(" ")
            found.setdefault(name, {})[kind] = array
        _remove(reply["results"])
        return found

    def release(self) -> None:
        """Let go of the model held."""
        if self._process is not None and self._process.poll() is None:
            self.ask("release")


def _remove(entries: Iterable[Entry]) -> None:
    """Delete the files; arrays mapped from them stay valid, and systems that forbid it keep them until the end."""
    for entry in entries:
        with contextlib.suppress(OSError):
            Path(entry["file"]).unlink()
