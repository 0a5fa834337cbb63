"""The demonstration: fold the shipped network, then compare answers and speed with ONNX Runtime."""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from normfold.records import Decision, Progress, Verification, silent
from normfold.runtime.session_profile import SessionProfile
from normfold.runtime.sessions import open_session
from normfold.verbs import demo
from normfold.verbs import fold as api

ONE_THREAD: Final = SessionProfile(intra_threads=1)
"""As a small network is usually run."""
ROUNDS: Final = 60
WARM_UP: Final = 10
RUNS: Final = 5
"""Runs of one network before the other has its turn."""


@dataclass(frozen=True, slots=True)
class Demonstration:
    """What folding did to the shipped network; records are as in the JSON document."""

    decisions: tuple[Decision, ...]
    verification: Verification
    accuracy: dict[str, Any]
    speed: dict[str, Any]


def run(output: str | None = None, *, progress: Progress = silent) -> Demonstration:
    """Fold the network into ``output`` or a temporary folder and compare the two.

    Raises what `normfold.fold` raises.
    """
    with demo.network() as source, tempfile.TemporaryDirectory(prefix="normfold-") as folder:
        target = Path(output or Path(folder) / "folded.onnx")
        done = api.fold(source, target, progress=progress)
        progress("comparing answers and speed")
        before, after = (open_session(file, ONE_THREAD) for file in (source, target))
        return Demonstration(done.decisions, done.verification, _accuracy(before, after), _speed(before, after))


def _accuracy(before: Any, after: Any) -> dict[str, Any]:
    """Share of held-out pictures told right, and how many answers changed."""
    pictures, digits = demo.pictures()
    answers = [session.run([demo.OUTPUT], {demo.INPUT: pictures})[0].argmax(axis=1) for session in (before, after)]
    return {
        "pictures": len(digits),
        "before": float((answers[0] == digits).mean()),
        "after": float((answers[1] == digits).mean()),
        "changed_answers": int((answers[0] != answers[1]).sum()),
    }


def _speed(before: Any, after: Any) -> dict[str, Any]:
    """Median over rounds of time before / time after, both networks taking turns within a round."""
    pictures, _digits = demo.pictures()
    feeds = {demo.INPUT: pictures[:1]}

    def seconds(session: Any) -> float:
        start = time.perf_counter()
        for _run in range(RUNS):
            session.run(None, feeds)
        return time.perf_counter() - start

    rounds = [(seconds(before), seconds(after)) for _round in range(WARM_UP + ROUNDS)][WARM_UP:]
    low, middle, high = statistics.quantiles((first / second for first, second in rounds), n=4)
    return {"ratio": middle, "quartiles": [low, high], "rounds": ROUNDS, "batch": 1, "threads": 1, "kind": "measured"}
