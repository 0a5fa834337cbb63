"""The search: every change beside the default, then the promising ones together, then the winner once more.

What looks best among many is partly luck, so the figure that it was chosen by is not the one that is reported: the
winner is timed again, alone beside the default, in new processes and to the usual standard.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from normfold import limits
from normfold.errors import NormfoldError
from normfold.measure import Candidate, Cell, Comparison, Effort, Experiment, Interval, SessionProfile, measure
from normfold.measure.schedule import LEAST_ROUNDS, block_runs
from normfold.measure.statistics import THRESHOLD
from normfold.measure.tune.changes import DEFAULT, LEVEL, Change, Changes, applied, name_of
from normfold.records import Progress
from normfold.runtime.targets.timing_client import TimingClient

Stage = Literal["each", "together", "confirmed"]

MOST_AT_ONCE: Final = 7
"""Settings beside the default in one process."""
HELD_BYTES: Final = 4 << 30
"""What the models of one process may add up to, as files."""
PROMISING: Final = 0.005
"""Relative gain from which a change goes on to the second round."""
NEAR: Final = 0.01
"""Relative difference below which two sets of changes are taken for equally good."""
MOST_TOGETHER: Final = 3
"""Changes that go on."""
SHARES: Final = {"each": 0.5, "together": 0.2, "confirmed": 0.3}
"""Of the time, by stage, in their order."""
SHARE: Final = 0.9
"""Part of what is left that goes into measuring at the end."""
SHORT: Final = (2, 3)
"""Least and most processes of a stage that only chooses; the least where a run takes long."""


@dataclass(frozen=True, slots=True)
class Trial:
    """Settings timed beside the default ones: how they compared, or why they did not."""

    stage: Stage
    changes: Changes
    comparison: Comparison | None = None
    refused: NormfoldError | None = None

    @property
    def name(self) -> str:
        """The changes in words."""
        return name_of(self.changes)

    @property
    def ratio(self) -> Interval | None:
        """Time over that of the default settings."""
        return None if self.comparison is None else self.comparison.ratio

    @property
    def gain(self) -> float:
        """Share of the time that is saved."""
        return 0.0 if self.ratio is None else 1.0 - self.ratio.value

    @property
    def better(self) -> bool:
        """Whether it is faster beyond chance and beyond the noise floor."""
        return self.comparison is not None and self.comparison.called and self.gain > 0


class Search:
    """Times sets of changes under the conditions of ``experiment``, whose only candidate is the model as it is."""

    def __init__(self, experiment: Experiment, seconds: float, progress: Progress) -> None:
        self._experiment = experiment
        self._seconds = seconds
        self._progress = progress
        self._measured = 0
        self._run = 0.0
        """Seconds that a run takes with the default settings."""
        self.warnings: tuple[str, ...] = ()

    @property
    def default(self) -> Candidate:
        """The model with the default settings."""
        return self._experiment.reference

    def optimizers(self) -> tuple[str, ...]:
        """Those that change the model and can be switched off.

        Raises:
            NormfoldError: the model cannot be loaded with the default settings.
        """
        self._progress("listing the optimisers that change the model")
        changing = self._changing(self.default.profile)
        fixed = self._changing(replace(self.default.profile, disabled_optimizers=changing)) if changing else ()
        return tuple(name for name in changing if name not in fixed)

    def _changing(self, profile: SessionProfile) -> tuple[str, ...]:
        experiment = self._experiment
        with TimingClient(time_limit=experiment.effort.worker_timeout, target=experiment.target) as client:
            client.hello(experiment.conditions.cpus, 0, preload=experiment.on_gpu)
            return client.optimizers(self.default.model, experiment.session(profile))

    def check(self) -> None:
        """Raise the `NormfoldError` that says why the model cannot be timed with the default settings, if so."""
        self._progress("trying the default settings")
        brief = replace(self._experiment.effort, first=1, most=1, per_process=0.01, copies=1, control=False)
        self._run = self._measure((), brief).figure(DEFAULT).latency.value / 1e9

    def each(self, changes: Changes) -> list[Trial]:
        """Every change by itself."""
        shared = [change for change in changes if not change.threads]
        own = [change for change in changes if change.threads]
        at_once = self._at_once()
        groups = [part[at : at + at_once] for part in (shared, own) for at in range(0, len(part), at_once)]
        effort = self._short("each", [len(group) for group in groups])
        trials: list[Trial] = []
        for number, group in enumerate(groups, 1):
            if not self.has_time_for("each"):
                break
            alone = [(change,) for change in group]
            trials += self._compared("each", alone, effort, f"round {number} of {len(groups)}")
        return trials

    def together(self, promising: Changes) -> list[Trial]:
        """The most promising change, the two most promising ones, and so on; and each again by itself.

        A level switches off what single changes do, so it is not put together with any.
        """
        single = [change for change in promising if change.knob != LEVEL]
        sets = [tuple(single[: count + 1]) for count in range(len(single))]
        sets += [alone for change in promising if (alone := (change,)) not in sets]
        return self._compared("together", sets, self._short("together", [len(sets)]), "putting together")

    def confirm(self, changes: Changes) -> Trial:
        """The chosen settings once more, in new processes, until the interval is narrow."""
        effort = replace(self._experiment.effort, time_limit=SHARE * (limits.remaining() or 0.0))
        self._progress(f"confirming {name_of(changes)}")
        try:
            cell = self._measure((changes,), effort)
        except NormfoldError as error:
            return Trial("confirmed", changes, refused=error)
        self.warnings = cell.warnings
        return Trial("confirmed", changes, cell.comparisons[name_of(changes)])

    def has_time_for(self, stage: Stage) -> bool:
        """Whether the share of ``stage`` is not used up: what is chosen has to be confirmed in what is left."""
        stages = list(SHARES)
        later = sum(SHARES[other] for other in stages[stages.index(stage) + 1 :])
        left = limits.remaining()
        return left is None or left > later * self._seconds

    def _at_once(self) -> int:
        held = HELD_BYTES // max(self.default.nbytes or 0, 1)
        return max(1, min(MOST_AT_ONCE, held - 1))

    def _short(self, stage: Stage, groups: Sequence[int]) -> Effort:
        """Good enough to choose by, for groups of so many settings beside the default: no interval is asked for."""
        seconds = self._seconds * SHARES[stage]
        runs = sum(1 + group for group in groups) * LEAST_ROUNDS * block_runs(max(self._run, 1e-7))
        fewest, most = SHORT
        processes = min(most, max(fewest, int(seconds / max(runs * self._run, 1e-9))))
        each = seconds / (processes * max(len(groups), 1))
        return replace(
            self._experiment.effort, first=processes, most=processes, per_process=each, copies=1, control=False
        )

    def _compared(self, stage: Stage, sets: Sequence[Changes], effort: Effort, where: str) -> list[Trial]:
        """A trial each; a set with which the model does not run or computes something else is found by halving."""
        if not sets:
            return []
        self._progress(f"{where}: {', '.join(map(name_of, sets))}"[:100])
        try:
            cell = self._measure(sets, effort)
        except NormfoldError as error:
            if limits.remaining() == 0:
                return []
            if len(sets) == 1:
                return [Trial(stage, sets[0], refused=error)]
            half = len(sets) // 2
            return [
                trial for part in (sets[:half], sets[half:]) for trial in self._compared(stage, part, effort, where)
            ]
        return [Trial(stage, changes, cell.comparisons[name_of(changes)]) for changes in sets]

    def _measure(self, sets: Sequence[Changes], effort: Effort) -> Cell:
        default = replace(self.default, name=DEFAULT)
        tried = (replace(default, name=name_of(one), profile=applied(default.profile, one)) for one in sets)
        self._measured += 1
        experiment = replace(
            self._experiment,
            candidates=(default, *tried),
            effort=effort,
            seed=self._experiment.seed * 1000 + self._measured,
        )
        cell = measure(experiment)
        if cell.refused is not None:
            raise cell.refused
        return cell


def promising(trials: Sequence[Trial]) -> Changes:
    """The changes that seem to pay, the best first, one of each knob."""
    chosen: dict[str, Change] = {}
    for trial in sorted(trials, key=lambda trial: -trial.gain):
        (change,) = trial.changes
        if trial.gain > PROMISING:
            chosen.setdefault(change.knob, change)
    return tuple(chosen.values())[:MOST_TOGETHER]


def winner(trials: Sequence[Trial]) -> Changes:
    """The fewest changes that come within `NEAR` of the best.

    A level switches off more than is known to hurt: it wins where nothing else comes within `THRESHOLD` of it.
    """
    precise = [trial for trial in trials if all(change.knob != LEVEL for change in trial.changes)]
    compete = precise if _best(precise) > max(PROMISING, _best(trials) - THRESHOLD) else trials
    good = [trial for trial in compete if trial.gain >= max(_best(compete) - NEAR, PROMISING)]
    return min(good, key=lambda trial: (len(trial.changes), -trial.gain)).changes if good else ()


def _best(trials: Sequence[Trial]) -> float:
    return max((trial.gain for trial in trials), default=0.0)
