"""What every verb's result is: a report for people, a document for programs."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from typing import Any, Final

from normfold.report.blocks import Blocks, Detail
from normfold.report.document import write_document

REPR_LINES: Final = 6
"""Lines of a result's ``repr``."""


class Result(ABC):
    """Base of the verbs' results, which are frozen dataclasses with ``repr=False``.

    `report` says what was found as blocks, `document` as plain data for JSON; everything else follows from these.
    """

    __slots__ = ()

    @abstractmethod
    def report(self, detail: Detail = Detail.NORMAL) -> Blocks:
        """What was found, for people."""

    @abstractmethod
    def document(self) -> dict[str, Any]:
        """What was found, for programs: ``result`` of the JSON document."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the result, which is its document where there is no model, in one step.

        Raises:
            OutputError: ``output-not-writable``.
        """
        write_document(path, self.document())

    def __str__(self) -> str:
        from normfold.report.text import plain

        return plain(self.report()).rstrip("\n")

    def __repr__(self) -> str:
        from normfold.report.text import plain

        lines = plain(self.report(Detail.SUMMARY)).splitlines()
        more = ["..."] if len(lines) > REPR_LINES else []
        return "\n".join([f"{type(self).__name__}:", *(f"  {line}" for line in (*lines[:REPR_LINES], *more))])

    def _repr_html_(self) -> str:
        from normfold.report.html import html

        return html(self.report())

    def _repr_markdown_(self) -> str:
        from normfold.report.markdown import markdown

        return markdown(self.report())
