"""The verb `bench`: how long models take, beside one another."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from normfold import limits
from normfold.errors import FindingError, NormfoldError
from normfold.limits import limited
from normfold.measure.candidate import Candidate, Conditions, Effort
from normfold.measure.deadline import ALLOWED, Deadline
from normfold.measure.documents import bench_record
from normfold.measure.experiment import Experiment
from normfold.measure.figures import Cell, Figure
from normfold.measure.run import measure
from normfold.models.data import Arrays, Shapes, user_inputs
from normfold.records import Progress, silent
from normfold.report.blocks import Blocks, Detail
from normfold.report.environment import environment
from normfold.report.result import Result
from normfold.runtime.session_profile import Use
from normfold.runtime.targets import LOCAL, find
from normfold.verbs.figures import cell_blocks, node_blocks
from normfold.verbs.timing import check_target, on_each, open_candidates, settings_of_each

if TYPE_CHECKING:
    from normfold.verbs.timing import Model, Session

DEFAULT_EFFORT: Final = Effort()
SHARE: Final = 0.9
"""Part of the time that is left for measuring; the rest is for what the figures come to."""


@dataclass(frozen=True, slots=True, repr=False)
class BenchResult(Result):
    """Figures, a cell for each batch size and number of threads, and the settings they were measured with."""

    models: tuple[Candidate, ...]
    cells: tuple[Cell, ...]
    effort: Effort
    seed: int
    started: str
    environment: Mapping[str, Any] = field(default_factory=dict)

    @property
    def figures(self) -> tuple[Figure, ...]:
        """The figures of all cells."""
        return tuple(figure for cell in self.cells for figure in cell.figures)

    @property
    def refused(self) -> tuple[NormfoldError, ...]:
        """Why some cells have no figures."""
        return tuple(cell.refused for cell in self.cells if cell.refused)

    @property
    def missed(self) -> tuple[FindingError, ...]:
        """Which models miss their deadline."""
        findings = (one.punctuality.finding(one.name) for one in self.figures if one.punctuality is not None)
        return tuple(finding for finding in findings if finding is not None)

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


def bench(
    *models: Model,
    example_inputs: Any = None,
    ep: str | Sequence[str] = "cpu",
    precision: str | None = None,
    batch: int | Sequence[int] | None = None,
    threads: int | Sequence[int] = 1,
    use: Use = "server",
    cpus: Sequence[int] = (),
    target: str = LOCAL.name,
    session: Session | None = None,
    shapes: Shapes | None = None,
    inputs: Arrays | str | os.PathLike[str] | None = None,
    rtol: float | None = None,
    seed: int = 0,
    custom_ops: Sequence[str] = (),
    allow_fallback: bool = False,
    deadline: float | None = None,
    misses: float = ALLOWED,
    effort: Effort = DEFAULT_EFFORT,
    time_limit: float | None = None,
    memory_limit: int | None = None,
    progress: Progress = silent,
) -> BenchResult:
    """Time models beside one another; the first is what the others are compared with.

    Every combination of ``batch`` and ``threads`` is a cell of its own. An error in one, such as an execution provider
    that is unavailable or a model whose outputs differ, is the cell's ``refused``; it then has no figures.

    Args:
        models: one or more paths, ``ModelProto``, ``onnx_ir.Model`` or ``nn.Module``.
        example_inputs: for modules, which are exported with them.
        ep: the execution provider, by its short name such as ``cpu`` or ``cuda``; of several, such as
            ``cpu,openvino``, each model is measured on each.
        precision: "f32", "bf16" or "f16": what execution providers compute in that let one choose, such as openvino.
        batch: batch sizes, for inputs whose first dimension is free; None leaves it as given, or 1.
        threads: threads within an operation; one number or several.
        use: "server" keeps threads spinning between operations, "edge" lets them sleep.
        cpus: processors to run on; by default all that are available.
        target: where the models run: "local", another one that `normfold.env` lists, or "ssh://user@host".
        session: settings of every session, or a file of them; ``ep`` is then that of the settings.
        shapes: by input name, for inputs with free sizes.
        inputs: arrays by input name, or the path of an ``.npz`` of them.
        rtol: tolerance: largest deviation from the first model's outputs, relative to their range; by default the
            type decides.
        seed: for the random inputs and the order of blocks.
        custom_ops: libraries of custom operators.
        allow_fallback: accept nodes that run on another execution provider than ``ep``.
        deadline: seconds that a run may take; `BenchResult.missed` says which models take longer too often.
        misses: share of runs that may miss the deadline.
        effort: how long to measure, and the precision aimed at.
        time_limit: seconds for the whole call; by default one minute.
        memory_limit: bytes that each process may take; by default what model and inputs of their size need.
        progress: told what is being done.

    Raises:
        ModelFileError: a model cannot be read.
        UsageError: options or settings are invalid.
        EnvironmentUnavailableError: the target cannot run here, or cannot be reached.
    """
    with limited(time_limit, memory_limit, effort.time_limit):
        settings, place = settings_of_each(session, ep, precision), find(target)
        for one in settings:
            check_target(place, one, cpus, custom_ops)
            if deadline is not None:
                place.check_clock(one.provider, "a deadline")
        started = datetime.now(UTC).isoformat(timespec="seconds")
        progress("reading")
        with open_candidates(models, example_inputs, settings[0]) as opened, place.reached() as reached:
            candidates = on_each(opened, settings)
            first = Experiment(
                candidates,
                Conditions(use=use, cpus=tuple(cpus), target=reached.name),
                effort,
                user_inputs(shapes, inputs),
                seed=seed,
                rtol=rtol,
                allow_fallback=allow_fallback,
                custom_ops=tuple(custom_ops),
                deadline=None if deadline is None else Deadline(deadline, misses),
                target=reached,
            )
            pairs = list(itertools.product(_each(batch), _each(threads)))
            cells = tuple(
                _cell(first, size, count, len(pairs) - done, progress) for done, (size, count) in enumerate(pairs)
            )
        return BenchResult(candidates, cells, effort, seed, started, environment())


def _each(values: int | Sequence[int] | None) -> Sequence[int | None]:
    return values if isinstance(values, Sequence) else (values,)


def _cell(experiment: Experiment, batch: int | None, threads: int | None, left: int, progress: Progress) -> Cell:
    """The figures for one batch size and number of threads, in its share of the time: ``left`` cells need theirs."""
    effort = replace(experiment.effort, time_limit=SHARE * (limits.remaining() or 0.0) / left)
    where = f"threads {threads}" + ("" if batch is None else f", batch {batch}")
    conditions = replace(experiment.conditions, batch=batch, threads=threads or 1)
    return measure(
        replace(experiment, conditions=conditions, effort=effort), lambda doing: progress(f"{where}: {doing}")
    )
