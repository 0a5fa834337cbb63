"""The published JSON Schemas of the documents.

``python -m normfold.report.schema`` brings their closed lists up to date.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from normfold.core.premises import PREMISES
from normfold.errors import CODES

FOLDER: Final = Path(__file__).resolve().parent / "schemas"
FILE: Final = FOLDER / "normfold-1.schema.json"
BENCH_FILE: Final = FOLDER / "normfold-bench-1.schema.json"


def schema(file: Path = FILE) -> dict[str, Any]:
    """A schema as the package ships it; by default, that of what the commands print."""
    published: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return published


def renewed(file: Path = FILE) -> dict[str, Any]:
    """The same with the closed lists of error codes and premises as the code has them."""
    whole = schema(file)
    for name, closed in (("code", CODES), ("premise", PREMISES)):
        if name in whole["$defs"]:
            whole["$defs"][name]["enum"] = list(closed)
    return whole


if __name__ == "__main__":
    for each in (FILE, BENCH_FILE):
        each.write_text(json.dumps(renewed(each), indent=2) + "\n", encoding="utf-8")
