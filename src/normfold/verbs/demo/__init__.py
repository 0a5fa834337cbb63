"""The verb `demo`: optimise the network shipped with normfold, on the pictures shipped with it."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from normfold.limits import limited
from normfold.measure.candidate import Effort
from normfold.models import onnxfile
from normfold.models.carried import carried_records
from normfold.models.source import File
from normfold.records import Progress, silent, statistics_record
from normfold.report.blocks import Blocks, Detail, Heading, Paragraph
from normfold.report.result import Result
from normfold.runtime.session_profile import SessionProfile
from normfold.runtime.sessions import open_session
from normfold.verbs.demo import network
from normfold.verbs.optimize import OptimizeResult, optimize

ONE_THREAD: Final = SessionProfile(intra_threads=1)
BATCH: Final = 32
"""Pictures at a time: one alone takes twenty microseconds, most of which no network is."""
EFFORT: Final = Effort(first=4, most=4, per_process=0.25, copies=1)
"""Enough for an interval of a few percent; a few seconds."""
MAX_DROP: Final = 0.5
"""Points of top-1: two of the 450 pictures."""
NORMS: Final = (
    "ONNX Runtime folds norms behind a convolution by itself when it loads a model, so only the others show in the "
    "time of what was folded."
)


@dataclass(frozen=True, slots=True, repr=False)
class DemoResult(Result):
    """What became of the shipped network; ``accuracy`` and ``speed`` are as in the JSON document."""

    optimized: OptimizeResult
    accuracy: dict[str, Any]
    speed: dict[str, Any]
    records: tuple[dict[str, Any], ...] = ()

    def report(self, detail: Detail = Detail.NORMAL) -> Blocks:
        """What `optimize` says, and how many answers changed."""
        blocks = self.optimized.report(detail)
        if detail == Detail.SUMMARY:
            return (*blocks, self._answers())
        title = Heading("digits.onnx, a small network trained on handwritten digits")
        kept = () if self.optimized.found["load"] else (Paragraph("-o DIR keeps the model and its report."),)
        return (title, *blocks[1:], self._answers(), Paragraph(NORMS), *kept)

    def _answers(self) -> Paragraph:
        found = self.accuracy
        return Paragraph(f"{found['changed_answers']} of {found['pictures']} answers changed")

    def document(self) -> dict[str, Any]:
        """As for `fold`, with ``accuracy`` and ``speed``; ``optimized`` is the document of `optimize`."""
        found = self.optimized.found
        sizes = {side: {name: size[name] for name in size if name != "file"} for side, size in found["size"].items()}
        return {
            "source": network.FILE,
            "output": found["output"],
            **{name: found[name] for name in ("decisions", "counts", "verification")},
            "records": list(self.records),
            "size": sizes,
            "unmatched": [],
            "accuracy": self.accuracy,
            "speed": self.speed,
            "optimized": found,
        }


def demo(
    output: File | None = None,
    *,
    time_limit: float | None = None,
    memory_limit: int | None = None,
    progress: Progress = silent,
) -> DemoResult:
    """Optimise the shipped network into the folder ``output``, or a temporary one.

    Raises what `normfold.optimize` raises.
    """
    with limited(time_limit, memory_limit), ExitStack() as stack:
        source = stack.enter_context(network.network())
        folder = Path(output or stack.enter_context(tempfile.TemporaryDirectory(prefix="normfold-")))
        pictures, digits = network.pictures()
        done = optimize(
            source,
            output=folder,
            evaluate={network.INPUT: pictures, "label": digits},
            max_drop=MAX_DROP,
            batch=BATCH,
            threads=1,
            effort=EFFORT,
            without=("tune",),
            progress=progress,
        )
        progress("comparing predictions")
        target = folder / done.found["files"]["model"]
        records = tuple(map(statistics_record, carried_records(onnxfile.read(target).model)))
        accuracy = _accuracy(source, target)
        found = done.found | ({} if output else {"output": None, "load": []})
        return DemoResult(OptimizeResult(found), accuracy, _speed(found), records)


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


def _speed(found: dict[str, Any]) -> dict[str, Any]:
    """Time of the source over that of the result: estimate, interval, and quartiles over rounds."""
    compared = found["times"].get(found["chosen"])
    same = {"ratio": 1.0, "interval": [1.0, 1.0], "verdict": "equivalent", "quartiles": [1.0, 1.0], "rounds": 0}
    if compared is not None:
        ratio = compared["ratio"]
        same = {
            "ratio": 1 / ratio["value"],
            "interval": [1 / ratio["high"], 1 / ratio["low"]],
            "verdict": compared["verdict"],
            "quartiles": [1 / quartile for quartile in reversed(compared["quartiles"])],
            "rounds": compared["rounds"],
        }
    return same | {"batch": BATCH, "threads": 1, "kind": "measured"}
