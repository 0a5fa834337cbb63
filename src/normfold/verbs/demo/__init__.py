"""The verb `demo`: fold the network shipped with normfold, then compare predictions and speed."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from normfold.limits import limited
from normfold.measure.candidate import Effort
from normfold.measure.figures import Cell, Sample
from normfold.records import Progress, silent
from normfold.report.blocks import Blocks, Detail, Heading, Paragraph
from normfold.report.result import Result
from normfold.runtime.session_profile import SessionProfile
from normfold.runtime.sessions import open_session
from normfold.verbs.bench import bench
from normfold.verbs.demo import network
from normfold.verbs.fold import fold
from normfold.verbs.fold_result import FoldResult

ONE_THREAD: Final = SessionProfile(intra_threads=1)
EFFORT: Final = Effort(first=4, most=4, per_process=0.25, copies=1, details=False)
"""Enough for an interval of a few percent; a few seconds."""


@dataclass(frozen=True, slots=True, repr=False)
class DemoResult(Result):
    """What folding did to the shipped network; ``accuracy`` and ``speed`` are as in the JSON document."""

    folded: FoldResult[Any]
    accuracy: dict[str, Any]
    speed: dict[str, Any]

    def report(self, detail: Detail = Detail.NORMAL) -> Blocks:
        """The fold, then the network's predictions and its speed before and after."""
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
        # The document holds the time of the source over that of the result.
        time, low, high = (1 / ratio for ratio in (found["ratio"], *reversed(found["interval"])))
        return Paragraph(
            f"speed: takes {time:.2f}x the time of the source ({low:.2f} to {high:.2f}; batch 1, one thread, "
            f"{found['rounds']} rounds in turns): {found['verdict']}. ONNX Runtime folds norms behind a convolution by "
            "itself when it loads a model, so only the others can show here."
        )

    def document(self) -> dict[str, Any]:
        """As for `fold`, and ``accuracy`` and ``speed``."""
        return {**self.folded.document(), "accuracy": self.accuracy, "speed": self.speed}


def demo(
    output: str | None = None,
    *,
    time_limit: float | None = None,
    memory_limit: int | None = None,
    progress: Progress = silent,
) -> DemoResult:
    """Fold the shipped network into ``output`` or a temporary folder, and compare the two.

    Raises what `normfold.fold` and `normfold.bench` raise.
    """
    with limited(time_limit, memory_limit):
        with network.network() as source, tempfile.TemporaryDirectory(prefix="normfold-") as folder:
            target = Path(output or Path(folder) / "folded.onnx")
            folded = fold(source, output=target, progress=progress)
            progress("comparing predictions")
            accuracy = _accuracy(source, target)
            timed = bench(source, target, effort=EFFORT, progress=progress)
        for error in timed.refused:
            raise error
        return DemoResult(replace(folded, source=network.FILE, output=output), accuracy, _speed(timed.cells[0]))


def _accuracy(source: Path, target: Path) -> dict[str, Any]:
    """Share of held-out pictures classified correctly, and how many predictions changed."""
    pictures, digits = network.pictures()
    sessions = (open_session(file, ONE_THREAD) for file in (source, target))
    before, after = (session.run([network.OUTPUT], {network.INPUT: pictures})[0].argmax(axis=1) for session in sessions)
    return {
        "pictures": len(digits),
        "before": float((before == digits).mean()),
        "after": float((after == digits).mean()),
        "changed_answers": int((before != after).sum()),
    }


def _speed(cell: Cell) -> dict[str, Any]:
    """Time of the source over that of the result: estimate, interval, and quartiles over rounds."""
    ((folded, comparison),) = cell.comparisons.items()
    ratios = np.concatenate([_ratios(sample, folded) for sample in cell.samples])
    return {
        "ratio": 1 / comparison.ratio.value,
        "interval": [1 / comparison.ratio.high, 1 / comparison.ratio.low],
        "verdict": comparison.verdict,
        "quartiles": np.quantile(ratios, (0.25, 0.75)).tolist(),
        "rounds": len(ratios),
        "batch": 1,
        "threads": cell.conditions.threads,
        "kind": "measured",
    }


def _ratios(sample: Sample, folded: str) -> Sequence[float]:
    """The ratio in each round of a process."""
    ratios: list[float] = (sample.used(sample.reference) / sample.used(folded)).tolist()
    return ratios
