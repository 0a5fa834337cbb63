"""The verb `tune`: session settings with which a model runs faster than with the default ones.

ONNX Runtime's defaults are a guess for every model at once. `tune` tries what could be set otherwise for one model on
one machine, and keeps to the defaults unless something beats them beyond chance.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from normfold import limits
from normfold.limits import limited
from normfold.measure import Candidate, Conditions, Effort, Experiment, SessionProfile
from normfold.measure.documents import comparison_record, model_record
from normfold.measure.tune.changes import OFF, Changes, applied, possible_changes
from normfold.measure.tune.search import Search, Trial, promising, winner
from normfold.models.data import Arrays, Shapes, user_inputs
from normfold.records import Progress, silent
from normfold.report.blocks import Blocks, Code, Column, Detail, Heading, Paragraph, Row, Table, Verdict
from normfold.report.document import write_document
from normfold.report.environment import environment
from normfold.report.result import Result
from normfold.report.words import plural
from normfold.runtime import processors
from normfold.runtime.example_lines import loading_lines, plain_lines
from normfold.runtime.session_profile import SPINNING, Use
from normfold.runtime.targets import LOCAL, Target, find
from normfold.runtime.targets.timing_client import TimingClient
from normfold.verbs.figures import ratio_interval
from normfold.verbs.timing import check_target, open_candidates, session_settings

if TYPE_CHECKING:
    from normfold.verbs.timing import Model

STAGES: Final = {"each": "each by itself", "together": "together", "confirmed": "confirmed in new processes"}
EFFORT: Final = Effort(details=False)
LATE: Final = "the time limit was reached before everything was tried and confirmed: --time-limit allows more"
SECONDS: Final = 180.0
"""Time limit where none is given."""


@dataclass(frozen=True, slots=True, repr=False)
class TuneResult(Result):
    """What was tried, and the settings that came of it."""

    model: Candidate
    conditions: Conditions
    optimizers: tuple[str, ...]
    """Optimisers of ONNX Runtime that change the model and can be switched off."""
    trials: tuple[Trial, ...]
    """In order; the last is the confirmation, where there was anything to confirm."""
    profile: SessionProfile
    """The default settings where nothing beat them."""
    warnings: tuple[str, ...] = ()
    environment: Mapping[str, Any] = field(default_factory=dict)

    @property
    def confirmed(self) -> Trial | None:
        """The winner timed again; None where nothing looked better than the default."""
        return next((trial for trial in self.trials if trial.stage == "confirmed"), None)

    @property
    def better(self) -> bool:
        """Whether the profile beats the default settings."""
        return self.confirmed is not None and self.confirmed.better

    def report(self, detail: Detail = Detail.NORMAL) -> Blocks:
        """A row for everything that was tried, and the verdict."""
        verdict = Verdict(self._verdict(), "good" if self.better else "caution")
        if detail == Detail.SUMMARY:
            return (verdict,)
        conditions = self.conditions
        batch = "" if conditions.batch is None else f", batch {conditions.batch}"
        place = "" if conditions.target == LOCAL.name else f"{conditions.target}, "
        where = f"{self.model.profile.provider}, {place}{conditions.use}, {plural(conditions.threads, 'thread')}{batch}"
        notes = tuple(Paragraph(f"note: {warning}") for warning in self.warnings)
        return Heading(f"{self.model.name}: {where}"), self._trials(), *notes, verdict

    def _trials(self) -> Table:
        columns = (Column("stage"), Column("session settings"), Column("time over the default's"))
        ordered = sorted(self.trials, key=lambda trial: (list(STAGES).index(trial.stage), -trial.gain))
        return Table(columns, tuple(map(_trial_row, ordered)))

    def _verdict(self) -> str:
        last = self.confirmed
        if last is None:
            return "No setting tried looks faster than the default settings: keep those."
        if last.ratio is None:
            return f"{last.name} could not be confirmed: keep the default settings."
        sentence = f"{last.name} takes {ratio_interval(last.ratio).text} of the time of the default settings"
        if last.better:
            return f"{sentence}: use it."
        return f"{sentence}, which is within chance or below the noise floor: keep the default settings."

    def loading(self, source: str, written: str | None) -> Blocks:
        """How to load the model in ``source`` with these settings, which may be in the file ``written``."""
        from_file = (
            (Paragraph(f"Written to {written}. To load it:"), Code(tuple(loading_lines(source, written))))
            if written is not None
            else ()
        )
        alone = (
            (Paragraph("The same with ONNX Runtime alone:"), Code(tuple(plain_lines(source, self.profile))))
            if self.better
            else ()
        )
        return (*from_file, *alone)

    def document(self) -> dict[str, Any]:
        """All of it; ``profile`` is what `save` writes."""
        return {
            "model": model_record(self.model),
            "environment": dict(self.environment),
            "batch": self.conditions.batch,
            "threads": self.conditions.threads,
            "use": self.conditions.use,
            "target": self.conditions.target,
            "optimizers": list(self.optimizers),
            "trials": [_trial_record(trial) for trial in self.trials],
            "better": self.better,
            "profile": self.profile.to_json(),
            "warnings": list(self.warnings),
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the profile.

        Raises:
            OutputError: the file cannot be written.
        """
        write_document(path, self.profile.to_json(), indent=2)


def tune(
    model: Model,
    *,
    example_inputs: Any = None,
    ep: str = "cpu",
    threads: int | None = None,
    batch: int | None = None,
    use: Use = "server",
    time_limit: float | None = None,
    memory_limit: int | None = None,
    cpus: Sequence[int] = (),
    target: str = LOCAL.name,
    shapes: Shapes | None = None,
    inputs: Arrays | str | os.PathLike[str] | None = None,
    rtol: float | None = None,
    seed: int = 0,
    custom_ops: Sequence[str] = (),
    allow_fallback: bool = False,
    effort: Effort = EFFORT,
    progress: Progress = silent,
) -> TuneResult:
    """Look for settings of ONNX Runtime's session with which a model runs faster than with the default ones.

    Every setting is timed beside the default, those that seem to pay are put together, and what comes out best is
    timed once more in new processes. Only that last figure decides: the settings win where they are faster beyond
    chance and beyond the noise floor.

    Args:
        model: a path, a ``ModelProto``, an ``onnx_ir.Model`` or an ``nn.Module``.
        example_inputs: for a module, which is exported with them.
        ep: the execution provider, by its short name such as ``cpu`` or ``cuda``.
        threads: threads within an operation; None starts from one for each core and searches.
        batch: size of the inputs' free first dimension; None leaves it as given, or 1.
        use: "server" lets threads spin between operations, "edge" lets them sleep.
        time_limit: seconds for the whole call; by default three minutes. What is chosen by then is the result.
        memory_limit: bytes that each process may take; by default what model and inputs of their size need.
        cpus: processors to run on; by default all that are available.
        target: where the model runs: "local" or "ssh://user@host".
        shapes: by input name, for inputs with free sizes.
        inputs: arrays by input name, or the path of an ``.npz`` of them.
        rtol: tolerance: largest deviation from the outputs with optimisations off; by default the type decides.
        seed: for the random inputs and the order of blocks.
        custom_ops: libraries of custom operators.
        allow_fallback: accept nodes that run on another execution provider than ``ep``.
        effort: how hard the winner is timed.
        progress: told what is being done.

    Raises:
        ModelFileError: the model cannot be read.
        UsageError: options are invalid, or the model does not run.
        EnvironmentUnavailableError: the provider, or the memory or time to run the model with default settings.
    """
    with limited(time_limit, memory_limit, SECONDS):
        default, place = session_settings(None, ep), find(target)
        check_target(place, default, cpus, custom_ops)
        place.check_tuning()
        place.check_clock(default.provider, "tuning")
        with open_candidates([model], example_inputs, default) as opened, place.reached() as reached:
            found, cores = _processors(reached, cpus)
            conditions = Conditions(batch, threads or cores, use, tuple(cpus), reached.name)
            experiment = Experiment(
                opened,
                conditions,
                replace(effort, details=False),
                user_inputs(shapes, inputs),
                seed=seed,
                rtol=rtol,
                allow_fallback=allow_fallback,
                custom_ops=tuple(custom_ops),
                target=reached,
            )
            search = Search(experiment, limits.remaining() or SECONDS, progress)
            search.check()
            optimizers = search.optimizers()
            counts = () if threads else _counts(len(found))
            trials = _searched(search, possible_changes(ep, use, conditions.threads, counts, len(found), optimizers))
        last = trials[-1] if trials else None
        changes: Changes = last.changes if last is not None and last.stage == "confirmed" and last.better else ()
        profile = _final(applied(default, changes), threads, use)
        warnings = (*search.warnings, *((LATE,) if limits.remaining() == 0 else ()))
        return TuneResult(opened[0], conditions, optimizers, tuple(trials), profile, warnings, environment())


def _searched(search: Search, changes: Changes) -> list[Trial]:
    trials = search.each(changes)
    chosen = promising(trials)
    if len(chosen) > 1:
        together = search.together(chosen) if search.has_time_for("together") else []
        trials += together
        chosen = winner(together) if together else chosen[:1]
    return [*trials, search.confirm(chosen)] if chosen else trials


def _processors(target: Target, cpus: Sequence[int]) -> tuple[Sequence[int], int]:
    """Those of the target that may be used, and how many cores they belong to, which is known of this machine only."""
    if not target.remote:
        found = processors.usable(cpus)
        return found, processors.cores(found)
    with TimingClient(time_limit=EFFORT.worker_timeout, target=target) as client:
        there: Sequence[int] = client.hello(cpus, 0)["cpus"] or (0,)
    return there, len(there)


def _counts(processors: int) -> tuple[int, ...]:
    """Numbers of threads worth a try: powers of two, and one for each processor."""
    return tuple(
        sorted({*(2**power for power in range(processors.bit_length()) if 2**power <= processors), processors})
    )


def _final(profile: SessionProfile, threads: int | None, use: Use) -> SessionProfile:
    """With what was given for the search, so that the file says all of it."""
    config = {**dict.fromkeys(SPINNING, OFF), **profile.config} if use == "edge" else profile.config
    return replace(profile, intra_threads=profile.intra_threads or threads, config=config)


def _trial_row(trial: Trial) -> Row:
    if trial.refused is not None:
        return STAGES[trial.stage], trial.name, f"- [{trial.refused.code}]"
    return STAGES[trial.stage], trial.name, "-" if trial.ratio is None else ratio_interval(trial.ratio)


def _trial_record(trial: Trial) -> dict[str, Any]:
    return {
        "stage": trial.stage,
        "changes": [change.name for change in trial.changes],
        "comparison": None if trial.comparison is None else comparison_record(trial.comparison),
        "refused": None if trial.refused is None else trial.refused.record(),
        "better": trial.better,
    }
