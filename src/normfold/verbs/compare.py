"""The verb `compare`: whether one model is slower than another, or one file of figures than another."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from normfold.errors import FindingError, UsageError
from normfold.measure.documents import compare_record
from normfold.measure.stored import Stored, StoredComparison, compare_stored, from_document, read_document
from normfold.models.source import name_of
from normfold.report.blocks import Blocks, Detail, Paragraph
from normfold.report.result import Result
from normfold.runtime.targets import LOCAL, find
from normfold.verbs.bench import DEFAULT_EFFORT, bench
from normfold.verbs.figures import comparison_blocks
from normfold.verbs.timing import settings_of_each

if TYPE_CHECKING:
    from normfold.verbs.timing import Model

REMARK: Final = "Measured at different moments: what the machine did in between is not in the interval."


@dataclass(frozen=True, slots=True, repr=False)
class CompareResult(Result):
    """Time, or count, of the second model over that of the first, for each set of conditions."""

    a: str
    b: str
    figures: tuple[StoredComparison, ...] = ()
    refused: FindingError | None = None
    """Why there are no figures, for a report that says so."""
    stored: bool = False
    """Whether the figures are of two moments."""

    @property
    def slower(self) -> bool:
        """Whether the second model is slower, or executes more instructions, under any of the conditions."""
        return any(one.comparison.verdict in ("slower", "more") for one in self.figures)

    def report(self, detail: Detail = Detail.NORMAL) -> Blocks:
        """A verdict for each set of conditions."""
        remark = (Paragraph(REMARK),) if self.stored and detail > Detail.SUMMARY else ()
        return (*comparison_blocks(self.figures, self.refused), *remark)

    def document(self) -> dict[str, Any]:
        """``result`` of the JSON document."""
        return compare_record(self.a, self.b, self.figures, self.refused)


def compare(
    a: Model | Mapping[str, Any],
    b: Model | Mapping[str, Any],
    *,
    force: bool = False,
    threshold: float = DEFAULT_EFFORT.threshold,
    **options: Any,
) -> CompareResult:
    """How much slower or faster ``b`` is than ``a``, for each set of conditions.

    Two models are timed beside one another, with the ``options`` of `bench`. Two documents ``normfold.bench/1``, or
    files of them (``.json``), are compared as they are: each holds the figures of another moment, so the drift of the
    machine between the two is in the difference and not in its interval.

    Raises:
        UsageError: ``environment-differs``, the documents are from different machines or conditions and ``force`` is
            off; ``bad-measurement``, a document is not one; ``target-unsupported``, the target's figures are outputs.
        FindingError: ``outputs-differ``, the two models compute something else.
        NormfoldError: a model cannot be timed.
    """
    names = _name(a), _name(b)
    if _is_stored(a) != _is_stored(b):
        raise UsageError("usage", "Compare two models or two files of figures, not one of each.")
    if _is_stored(a):
        found = compare_stored(_stored(a), _stored(b), force=force, threshold=threshold)
        return CompareResult(*names, found, stored=True)
    for settings in settings_of_each(options.get("session"), options.get("ep", "cpu"), options.get("precision")):
        find(options.get("target", LOCAL.name)).check_comparing(settings.provider)
    effort = replace(options.pop("effort", DEFAULT_EFFORT), threshold=threshold)
    done = bench(cast("Model", a), cast("Model", b), effort=effort, **options)
    for error in done.refused:
        raise error
    return CompareResult(
        *names,
        tuple(
            StoredComparison(cell.conditions, done.models[0].name, name, comparison)
            for cell in done.cells
            for name, comparison in cell.comparisons.items()
        ),
    )


def _name(one: Model | Mapping[str, Any]) -> str:
    """The path of a file, else the kind of object."""
    return name_of(one) or type(one).__name__


def _is_stored(one: Model | Mapping[str, Any]) -> bool:
    """Whether ``one`` is a document or a file of it, and no model."""
    return isinstance(one, Mapping) or (isinstance(one, str | os.PathLike) and Path(one).suffix.lower() == ".json")


def _stored(one: Model | Mapping[str, Any]) -> Stored:
    return from_document(one) if isinstance(one, Mapping) else read_document(Path(cast("str", one)))
