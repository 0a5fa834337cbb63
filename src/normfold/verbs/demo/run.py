"""The demonstration: fold the shipped network, then compare answers and speed with ONNX Runtime."""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from normfold.records import Progress, silent
from normfold.report.blocks import Blocks, Detail, Heading, Paragraph
from normfold.report.result import Result
from normfold.runtime.session_profile import SessionProfile
from normfold.runtime.sessions import open_session
from normfold.verbs import demo
from normfold.verbs.fold import fold
from normfold.verbs.fold_result import FoldResult

ONE_THREAD: Final = SessionProfile(intra_threads=1)
"""As a small network is usually run."""
ROUNDS: Final = 60
WARM_UP: Final = 10
RUNS: Final = 5
"""Runs of one network before the other has its turn."""


@dataclass(frozen=True, slots=True, repr=False)
class Demonstration(Result):
    """What folding did to the shipped network; records are as in the JSON document."""

    folded: FoldResult[Any]
    accuracy: dict[str, Any]
    speed: dict[str, Any]

    def report(self, detail: Detail = Detail.NORMAL) -> Blocks:
        """The fold, then the network's answers and its speed before and after."""
        title = Heading("digits.onnx, a small network trained on handwritten digits")
        body = replace(self.folded, source=None).report(detail)
        return (*((title,) if detail > Detail.SUMMARY else ()), *body, self._accuracy_words(), self._speed_words())

    def _accuracy_words(self) -> Paragraph:
        found = self.accuracy
        return Paragraph(
            f"accuracy: {found['before']:.2%} before, {found['after']:.2%} after; "
            f"{found['changed_answers']} of {found['pictures']} answers changed"
        )

    def _speed_words(self) -> Paragraph:
        found = self.speed
        low, high = found["quartiles"]
        return Paragraph(
            f"speed: {found['ratio']:.2f}x of the source (quartiles {low:.2f} to {high:.2f}; batch 1, one thread, "
            f"{found['rounds']} rounds in turns). ONNX Runtime folds norms behind a convolution by itself when it "
            "loads a model, so only the others can show here."
        )

    def document(self) -> dict[str, Any]:
        """As for `fold`, and ``accuracy`` and ``speed``."""
        return {**self.folded.document(), "accuracy": self.accuracy, "speed": self.speed}


def run(output: str | None = None, *, progress: Progress = silent) -> Demonstration:
    """Fold the network into ``output`` or a temporary folder and compare the two.

    Raises what `normfold.fold` raises.
    """
    with demo.network() as source, tempfile.TemporaryDirectory(prefix="normfold-") as folder:
        target = Path(output or Path(folder) / "folded.onnx")
        done = fold(source, output=target, progress=progress)
        progress("comparing answers and speed")
        before, after = (open_session(file, ONE_THREAD) for file in (source, target))
        return Demonstration(
            replace(done, source="digits.onnx", output=output), _accuracy(before, after), _speed(before, after)
        )


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
