"""An experiment: which candidates, under which conditions, with what effort, on which inputs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from normfold import limits
from normfold.errors import UsageError
from normfold.measure.candidate import CONTROL, COPIED_BELOW, Candidate, Conditions, Effort
from normfold.measure.deadline import Deadline
from normfold.models.data import UserInputs
from normfold.runtime.session_profile import SessionProfile, Threading, session_request, threading_of
from normfold.runtime.targets import LOCAL, FigureKind, Target


@dataclass(frozen=True, slots=True)
class Experiment:
    """What one call of `measure` times."""

    candidates: tuple[Candidate, ...]
    conditions: Conditions
    effort: Effort
    given: UserInputs = field(default_factory=UserInputs)
    seed: int = 0
    rtol: float | None = None
    allow_fallback: bool = False
    custom_ops: tuple[str, ...] = ()
    deadline: Deadline | None = None
    target: Target = LOCAL
    """Where the models run: its worker serves the verbs of `normfold.runtime.workers.timing`."""

    @property
    def reference(self) -> Candidate:
        """The candidate that the others are compared with."""
        return self.candidates[0]

    @property
    def names(self) -> tuple[str, ...]:
        """Of everything that is timed, the control included."""
        return (*(one.name for one in self.candidates), *((CONTROL,) if self.effort.control else ()))

    def candidate(self, name: str) -> Candidate:
        """The candidate of that name; the control is the reference."""
        return next((one for one in self.candidates if one.name == name), self.reference)

    @property
    def entropy(self) -> int:
        """Seed of its orders: different for different conditions, so that no two cells share them."""
        return self.seed * 1_000_003 + self.conditions.threads * 1009 + (self.conditions.batch or 0)

    @property
    def kind(self) -> FigureKind:
        """What the figures are.

        Raises:
            UsageError: ``target-unsupported``, they would be of two kinds.
        """
        kinds = sorted({self.target.kind_of(one.profile.provider) for one in self.candidates})
        if len(kinds) > 1:
            message = f"Figures of different kinds are not compared: {' and '.join(kinds)}."
            raise UsageError("target-unsupported", message)
        return kinds[0]

    @property
    def copies(self) -> int:
        """Sessions of each model in each process; one of large models, and where memory is short."""
        large = any((one.nbytes or 0) > COPIED_BELOW for one in self.candidates)
        short = self.conditions.use == "edge" and limits.memory_limit() is not None
        return 1 if large or short else self.effort.copies

    @property
    def threading(self) -> Threading:
        """How the sessions of one process get their threads."""
        profiles = [one.profile for one in self.candidates]
        found = threading_of(profiles, self.conditions.threads, self.conditions.use)
        return found if self.target.pools else Threading(0)

    def session(self, profile: SessionProfile, threading: Threading | None = None) -> dict[str, Any]:
        """The settings of a session, as a worker's request has them."""
        shared = self.threading if threading is None else threading
        asked = session_request(profile, self.conditions.threads, self.conditions.use, shared, self.custom_ops)
        return asked | {"allow_fallback": self.allow_fallback}

    @property
    def on_gpu(self) -> bool:
        """Whether a provider runs on an NVIDIA GPU, and needs CUDA's libraries."""
        return any(one.profile.on_nvidia for one in self.candidates)
