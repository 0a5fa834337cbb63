"""What folding a model comes to."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from normfold.measure.metrics import Score
from normfold.models.carried import carried_records
from normfold.records import (
    Cleaning,
    Decision,
    Fusion,
    Size,
    StatisticsRecord,
    Verification,
    cleaning_record,
    counts,
    decision_record,
    finite,
    fusion_record,
    size_record,
    statistics_record,
    verification_record,
)
from normfold.report.blocks import Blocks, Detail, Heading, Paragraph
from normfold.report.decisions import cleaning_blocks, decision_blocks, fusion_blocks, size_blocks, verification_blocks
from normfold.report.result import Result

T = TypeVar("T")

SIDES: Final = ("before", "after")


@dataclass(frozen=True, slots=True, repr=False)
class FoldResult(Result, Generic[T]):
    """A folded model, of the kind that came in (``onnx_ir.Model`` for a path), with its decisions and its proof.

    ``removed`` and ``added`` are the names that the state of an ``nn.Module`` lost and got.
    """

    model: T
    decisions: tuple[Decision, ...]
    verification: Verification
    removed: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    source: str | None = None
    """The model that was folded, as it was named; None for one in memory."""
    output: str | None = None
    """The file written."""
    sizes: tuple[Size, Size] | None = None
    """How large source and result are; None for a result that was refused."""
    unmatched: tuple[str, ...] = ()
    """Patterns of ``only`` and ``skip`` that match no norm."""
    cleaning: Cleaning | None = None
    """What was taken out of an ONNX model besides."""
    fused: tuple[Fusion, ...] | None = None
    """What became one operation of several; None where that was not asked for."""
    score: Score | None = None
    """The metric of source and result, where the result was to be judged by one."""
    drift: float | None = None
    """Root mean square deviation of the outputs, relative to how they vary, where norms were fitted to data."""
    notes: tuple[str, ...] = ()
    """What the result was written with that the caller did not name."""
    write: Callable[[Path], None] | None = field(default=None, compare=False)
    """How `save` writes the model."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model in one step: an ONNX file, the state of a module as ``.safetensors``, a program as ``.pt2``.

        Raises:
            OutputError: ``output-not-writable``.
        """
        if self.write is None:
            raise ValueError("there is no model to write")
        self.write(Path(path))

    @property
    def records(self) -> tuple[StatisticsRecord, ...]:
        """Mean and deviation by channel of values of ``model``, as its norms knew them; the model carries them."""
        return carried_records(self.model)

    def report(self, detail: Detail = Detail.NORMAL) -> Blocks:
        """A row for every norm, the counts and the proof."""
        named = self.source is not None and detail > Detail.SUMMARY
        title = f"{self.source} -> {self.output}" if self.output else f"{self.source}: nothing written"
        return (
            *((Heading(title),) if named else ()),
            *decision_blocks(self.decisions, detail),
            *(() if self.sizes is None or detail == Detail.SUMMARY else size_blocks(self.decisions, *self.sizes)),
            *(Paragraph(self._unmatched(pattern), "caution") for pattern in self.unmatched),
            *(Paragraph(f"note: {note}", "caution") for note in self.notes),
            *cleaning_blocks(self.cleaning),
            *fusion_blocks(self.fused),
            *verification_blocks(self.verification, min(detail, Detail.NORMAL)),
        )

    def _unmatched(self, pattern: str) -> str:
        example = f"; the first norm is {self.decisions[0].site!r}" if self.decisions else ""
        return f"note: the pattern {pattern!r} matches no norm{example}"

    def document(self) -> dict[str, Any]:
        """Decisions, counts and proof; ``output`` is None where nothing was written."""
        names: dict[str, Any] = {"removed": list(self.removed), "added": list(self.added)}
        names["evaluation"] = None if self.score is None else self.score.document()
        names["notes"] = list(self.notes)
        names["cleaning"] = cleaning_record(self.cleaning) if self.cleaning else None
        return {
            "source": self.source,
            "output": self.output,
            "decisions": [decision_record(decision) for decision in self.decisions],
            "counts": counts(self.decisions),
            "verification": verification_record(self.verification),
            "records": [statistics_record(record) for record in self.records],
            "unmatched": list(self.unmatched),
            "size": None if self.sizes is None else dict(zip(SIDES, map(size_record, self.sizes), strict=True)),
            **({} if self.fused is None else {"fused": [fusion_record(one) for one in self.fused]}),
            **({} if self.drift is None else {"drift": finite(self.drift)}),
            **{key: found for key, found in names.items() if found},
        }
