"""The published JSON Schema of the documents.

``python -m normfold.report.schema`` brings its closed lists up to date.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from normfold.decisions import PREMISES
from normfold.errors import CODES

FILE: Final = Path(__file__).resolve().parents[1] / "schema" / "normfold-1.schema.json"


def schema() -> dict[str, Any]:
    """The schema as the package ships it."""
    published: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return published


def renewed() -> dict[str, Any]:
    """The same with the closed lists of error codes and premises as the code has them."""
    whole = schema()
    whole["$defs"]["code"]["enum"] = list(CODES)
    whole["$defs"]["premise"]["enum"] = list(PREMISES)
    return whole


if __name__ == "__main__":
    FILE.write_text(json.dumps(renewed(), indent=2) + "\n", encoding="utf-8")
