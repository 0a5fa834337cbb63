"""What folding a model comes to: the result, and the errors that keep it back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from normfold.errors import NormfoldError
from normfold.models.carried import carried_records
from normfold.records import (
    Decision,
    StatisticsRecord,
    Verification,
    counts,
    decision_record,
    statistics_record,
    verification_record,
)
from normfold.report.blocks import Blocks, Detail, Heading
from normfold.report.decisions import decision_blocks, verification_blocks
from normfold.report.result import Result


@dataclass(frozen=True, slots=True, repr=False)
class FoldResult(Result):
    """A folded model, of the kind that came in (``onnx_ir.Model`` for a path), with its decisions and its proof.

    ``removed`` and ``added`` are the names that the state of an ``nn.Module`` lost and got.
    """

    model: Any
    decisions: tuple[Decision, ...]
    verification: Verification
    removed: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    source: str | None = None
    """The model that was folded, as it was named; None for one in memory."""
    output: str | None = None
    """The file written."""

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
            *verification_blocks(self.verification, min(detail, Detail.NORMAL)),
        )

    def document(self) -> dict[str, Any]:
        """Decisions, counts and proof; ``output`` is None where nothing was written."""
        names = {"removed": list(self.removed), "added": list(self.added)}
        return {
            "source": self.source,
            "output": self.output,
            "decisions": [decision_record(decision) for decision in self.decisions],
            "counts": counts(self.decisions),
            "verification": verification_record(self.verification),
            "records": [statistics_record(record) for record in self.records],
            **{key: found for key, found in names.items() if found},
        }


class UnprovenError(NormfoldError):
    """Nothing here can run the folded model or its source, so it is not handed over.

    ``decisions`` and ``verification`` say what was tried.
    """

    exit_code = 3

    def __init__(
        self, code: str, message: str, hint: str, decisions: tuple[Decision, ...], verification: Verification
    ) -> None:
        super().__init__(code, message, hint)
        self.decisions = decisions
        self.verification = verification


class DiffersError(UnprovenError):
    """The folded model differs from its source, and leaving out single folds does not cure it."""

    exit_code = 1
