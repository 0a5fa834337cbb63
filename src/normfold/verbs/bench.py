"""The verbs that time models, for programs: `bench` and `compare`."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from normfold.errors import NormfoldError, UsageError
from normfold.measure.candidate import Candidate, Conditions, Effort, open_candidate
from normfold.measure.documents import bench_record
from normfold.measure.experiment import Experiment
from normfold.measure.figures import Cell
from normfold.measure.run import measure
from normfold.measure.stored import Stored, StoredComparison, compare_stored, from_document, read_document
from normfold.models.data import user_inputs
from normfold.proof.probes import Array
from normfold.records import Progress, silent
from normfold.report.blocks import Blocks, Detail
from normfold.report.environment import environment
from normfold.report.result import Result
from normfold.runtime import session_profile as profiles
from normfold.runtime.providers import PROVIDERS
from normfold.runtime.session_profile import SessionProfile, Use
from normfold.verbs.figures import cell_blocks, node_blocks

if TYPE_CHECKING:
    import onnx
    import onnx_ir

    Model = str | os.PathLike[str] | onnx.ModelProto | onnx_ir.Model

DEFAULT_EFFORT: Final = Effort()


@dataclass(frozen=True, slots=True, repr=False)
class BenchResult(Result):
    """Figures, a cell for each batch size and number of threads, and what they were measured with."""

    models: tuple[Candidate, ...]
    cells: tuple[Cell, ...]
    effort: Effort
    seed: int
    started: str
    environment: Mapping[str, Any] = field(default_factory=dict)

    @property
    def refused(self) -> tuple[NormfoldError, ...]:
        """Why some cells have no figures."""
        return tuple(cell.refused for cell in self.cells if cell.refused)

    def report(self, detail: Detail = Detail.NORMAL) -> Blocks:
        """A table a cell, then what the figures say of each other."""
        return tuple(block for cell in self.cells for block in cell_blocks(self.models, cell, detail))

    def nodes(self) -> Blocks:
        """The nodes that take longest, a table a model and cell."""
        return tuple(block for cell in self.cells for figure in cell.figures for block in node_blocks(figure))

    def document(self) -> dict[str, Any]:
        """All of it, raw samples included, in the format ``normfold.bench/1``."""
        return bench_record(
            self.models, self.cells, self.effort, seed=self.seed, started=self.started, environment=self.environment
        )


def bench(  # noqa: PLR0913 - each keyword is an option of the command line
    models: Model | Sequence[Model],
    *,
    provider: str = "cpu",
    batches: Sequence[int | None] = (None,),
    threads: Sequence[int] = (1,),
    use: Use = "server",
    cpus: Sequence[int] = (),
    session_profile: SessionProfile | str | os.PathLike[str] | None = None,
    inputs: Mapping[str, Sequence[int]] | None = None,
    feeds: Mapping[str, Array] | str | os.PathLike[str] | None = None,
    rtol: float | None = None,
    seed: int = 0,
    custom_ops: Sequence[str] = (),
    allow_fallback: bool = False,
    effort: Effort = DEFAULT_EFFORT,
    progress: Progress = silent,
) -> BenchResult:
    """Time models beside one another; the first is what the others are compared with.

    Every combination of ``batches`` and ``threads`` is a cell of its own. What goes wrong in one, such as a provider
    that is not there or a model that computes something else, is in the cell's ``refused``; it then has no figures.

    Args:
        models: one or more paths, ``ModelProto`` or ``onnx_ir.Model``.
        provider: the execution provider, by its short name such as ``cpu`` or ``cuda``.
        batches: sizes of the inputs' free first dimension; None leaves it as given, or 1.
        threads: threads within an operation.
        use: "server" keeps threads spinning between operations, "edge" lets them sleep.
        cpus: processors to keep to; by default all that this process may use.
        session_profile: settings of every session, or a file of them; ``provider`` is then the profile's own.
        inputs: shapes by input name.
        feeds: arrays by input name, or the path of an ``.npz`` of them.
        rtol: largest deviation of outputs from the first model's, of their range; by default the type decides.
        seed: of the inputs and of the order of blocks.
        custom_ops: libraries of custom operators.
        allow_fallback: accept nodes on another provider than the one asked for.
        effort: how long to measure, and what is demanded of the figures.
        progress: told what is being done.

    Raises:
        ModelFileError: a model cannot be read.
        UsageError: options or settings make no sense.
    """
    given = user_inputs(inputs, feeds)
    settings = settings_of(session_profile, provider)
    check_cpus(cpus)
    started = datetime.now(UTC).isoformat(timespec="seconds")
    with ExitStack() as files:
        progress("reading")
        listed = _listed(models)
        candidates = _named(
            [files.enter_context(open_candidate(model, profile=settings)) for model in listed], list(map(str, listed))
        )
        cells = tuple(
            measure(
                Experiment(
                    candidates,
                    Conditions(batch, count, use, tuple(cpus)),
                    effort,
                    given,
                    seed=seed,
                    rtol=rtol,
                    allow_fallback=allow_fallback,
                    custom_ops=tuple(custom_ops),
                ),
                _prefixed(progress, batch, count),
            )
            for batch, count in itertools.product(batches, threads)
        )
    return BenchResult(candidates, cells, effort, seed, started, environment())


def compare(
    a: Model | Mapping[str, Any],
    b: Model | Mapping[str, Any],
    *,
    force: bool = False,
    threshold: float = DEFAULT_EFFORT.threshold,
    **options: Any,
) -> tuple[StoredComparison, ...]:
    """How much slower or faster ``b`` is than ``a``, for each set of conditions.

    Two models are timed beside one another, with the ``options`` of `bench`. Two documents ``normfold.bench/1``, or
    files of them (``.json``), are compared as they are: each holds the figures of another moment, so the drift of the
    machine between the two is in the difference and not in its interval.

    Raises:
        UsageError: ``environment-differs``, the documents are from different machines or conditions and ``force`` is
            off; ``bad-measurement``, a document is not one.
        NormfoldError: a model cannot be timed.
    """
    if is_stored(a) != is_stored(b):
        raise UsageError("usage", "Compare two models or two files of figures, not one of each.")
    if is_stored(a):
        return compare_stored(_stored(a), _stored(b), force=force, threshold=threshold)
    effort = replace(options.pop("effort", DEFAULT_EFFORT), threshold=threshold)
    done = bench([a, b], effort=effort, **options)  # type: ignore[list-item]
    for error in done.refused:
        raise error
    return tuple(
        StoredComparison(cell.conditions, done.models[0].name, name, comparison)
        for cell in done.cells
        for name, comparison in cell.comparisons.items()
    )


def _listed(models: Model | Sequence[Model]) -> list[Model]:
    listed = list(models) if isinstance(models, Sequence) and not isinstance(models, str) else [models]
    if not listed:
        raise UsageError("usage", "There is no model to time.")
    return listed


def settings_of(profile: SessionProfile | str | os.PathLike[str] | None, provider: str) -> SessionProfile:
    """``profile``, or the one in its file; where there is none, the default settings on ``provider``.

    Raises:
        UsageError: there is no such provider; ``bad-session-profile``.
    """
    if profile is None:
        if provider not in PROVIDERS:
            known = ", ".join(PROVIDERS)
            raise UsageError("usage", f"There is no execution provider {provider!r}.", f"There are: {known}.")
        return SessionProfile(provider=provider)
    return profile if isinstance(profile, SessionProfile) else profiles.read(profile)


def check_cpus(cpus: Sequence[int]) -> None:
    """Raise `UsageError` unless this process may use all of them."""
    known = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(cpus)
    if strange := sorted(set(cpus) - known):
        listed = ", ".join(map(str, sorted(known)))
        raise UsageError("usage", f"Processor {strange[0]} cannot be used.", f"Those that can: {listed}.")


def _named(candidates: Sequence[Candidate], paths: Sequence[str]) -> tuple[Candidate, ...]:
    """Names that tell the candidates apart: file names, else paths, else numbered."""
    names = [one.name for one in candidates]
    if len(set(names)) < len(names):
        names = [path if len(path) < 200 else name for path, name in zip(paths, names, strict=True)]
    unique: list[str] = []
    for name in names:
        copies = (f"{name} #{number}" for number in itertools.count(2))
        unique.append(next(word for word in itertools.chain([name], copies) if word not in unique))
    return tuple(replace(one, name=name) for one, name in zip(candidates, unique, strict=True))


def _prefixed(progress: Progress, batch: int | None, threads: int) -> Progress:
    where = f"threads {threads}" + ("" if batch is None else f", batch {batch}")
    return lambda doing: progress(f"{where}: {doing}")


def is_stored(one: Model | Mapping[str, Any]) -> bool:
    """Whether ``one`` is a document or a file of it, and no model."""
    return isinstance(one, Mapping) or (isinstance(one, str | os.PathLike) and Path(one).suffix.lower() == ".json")


def _stored(one: Model | Mapping[str, Any]) -> Stored:
    return from_document(one) if isinstance(one, Mapping) else read_document(Path(one))  # type: ignore[arg-type]


def worst(comparisons: Iterable[StoredComparison]) -> StoredComparison:
    """The one that speaks loudest against the second model: the slowest relative to the first."""
    return max(comparisons, key=lambda one: float(np.log(one.comparison.ratio.value)))
