"""What a verb hands back: the result as data, the result for people, and the exit code."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from normfold.report.document import document

if TYPE_CHECKING:
    from rich.console import Console

    from normfold.errors import NormfoldError


@dataclass(frozen=True, slots=True)
class Answer:
    """One verb's outcome; ``exit_code`` 1 is a finding, 2 and 3 come with an ``error``."""

    command: str | None
    result: Mapping[str, Any] = field(default_factory=dict)
    show: Callable[[Console], None] | None = None
    exit_code: int = 0
    error: NormfoldError | None = None

    def to_json(self) -> str:
        """The document of schema normfold/1, on one line."""
        whole = document(self.command, self.result, ok=self.exit_code == 0, error=self.error)
        return json.dumps(whole, allow_nan=False)
