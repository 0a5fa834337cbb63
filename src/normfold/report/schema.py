"""The published JSON Schemas of the documents.

``python -m normfold.report.schema`` brings their closed lists up to date.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final, get_args

from normfold.core.premises import PREMISES
from normfold.errors import CODES
from normfold.records import Outcome, Status, counts

FOLDER: Final = Path(__file__).resolve().parent / "schemas"
FILE: Final = FOLDER / "normfold-1.schema.json"
BENCH_FILE: Final = FOLDER / "normfold-bench-1.schema.json"


def schema(file: Path = FILE) -> dict[str, Any]:
    """A schema as the package ships it; by default, that of what the commands print."""
    published: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return published


def renewed(file: Path = FILE) -> dict[str, Any]:
    """The same with the closed lists of codes, premises, outcomes and statuses as the code has them."""
    whole = schema(file)
    defined = whole["$defs"]
    for name, closed in (("code", CODES), ("premise", PREMISES)):
        if name in defined:
            defined[name]["enum"] = list(closed)
    if "decision" in defined:
        defined["decision"]["properties"]["outcome"]["enum"] = list(get_args(Outcome))
        defined["verification"]["properties"]["status"]["enum"] = list(get_args(Status))
        defined["counts"]["required"] = list(counts(()))
        defined["counts"]["properties"] = {key: {"type": "integer", "minimum": 0} for key in counts(())}
    return whole


if __name__ == "__main__":
    for each in (FILE, BENCH_FILE):
        each.write_text(json.dumps(renewed(each), indent=2) + "\n", encoding="utf-8")
