"""The report of `tune` for people: a row for everything that was tried, the verdict, how to load the result."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from normfold.measure import Interval
from normfold.measure.tune.search import Trial
from normfold.report.text import Row, line, table
from normfold.report.words import plural
from normfold.verbs.tune import Tuning, loading_lines, plain_lines

if TYPE_CHECKING:
    from rich.console import Console

STAGES: Final = {"each": "each by itself", "together": "together", "confirmed": "confirmed in new processes"}


def show_tuning(console: Console, done: Tuning, source: str, written: str | None, *, detail: int = 0) -> None:
    """Print what was tried and what came of it; ``written`` is the file of the profile."""
    if detail >= 0:
        line(console, _title(done, source))
        for stage, title in STAGES.items():
            _show_stage(console, title, [trial for trial in done.trials if trial.stage == stage])
        for warning in done.warnings:
            line(console, f"  note: {warning}")
    line(console, verdict(done), "green" if done.better else "yellow")
    if detail >= 0:
        _show_loading(console, done, source, written)


def verdict(done: Tuning) -> str:
    """One sentence."""
    last = done.confirmed
    if last is None:
        return "Nothing that was tried looks faster than the default settings: keep those."
    if last.ratio is None:
        return f"{last.name} could not be confirmed: keep the default settings."
    said = f"{last.name} takes {_interval(last.ratio)} of the time of the default settings"
    if last.better:
        return f"{said}: use it."
    return f"{said}, which is within chance or below the noise floor: keep the default settings."


def _title(done: Tuning, source: str) -> str:
    conditions = done.conditions
    batch = "" if conditions.batch is None else f", batch {conditions.batch}"
    threads = plural(conditions.threads, "thread")
    return f"{source}: {done.model.profile.provider}, {conditions.use}, {threads}{batch}; time over the default's"


def _show_stage(console: Console, title: str, trials: Iterable[Trial]) -> None:
    rows = [_row(trial) for trial in sorted(trials, key=lambda trial: -trial.gain)]
    if rows:
        line(console, f"  {title}")
        table(console, rows)


def _row(trial: Trial) -> Row:
    if trial.refused is not None:
        return "-", trial.name, f"[{trial.refused.code}]"
    ratio = trial.ratio
    return "-" if ratio is None else _interval(ratio), trial.name, ""


def _interval(ratio: Interval) -> str:
    return f"{ratio.value:.3f}x ({ratio.low:.3f} to {ratio.high:.3f})"


def _show_loading(console: Console, done: Tuning, source: str, written: str | None) -> None:
    if written is not None:
        line(console, f"Written to {written}. To load it:")
        for text in loading_lines(source, written):
            line(console, f"    {text}")
    if done.better:
        line(console, "The same with ONNX Runtime alone:")
        for text in plain_lines(source, done.profile):
            line(console, f"    {text}")
