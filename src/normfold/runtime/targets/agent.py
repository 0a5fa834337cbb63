"""The agent: the worker of this package in one file, which any Python that has ONNX Runtime can run."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Final

PACKAGE: Final = Path(__file__).resolve().parents[2]
PARTS: Final = ("_version.py", "errors.py", "limits.py", "runtime/*.py", "runtime/workers/*.py")
"""What the worker imports of this package."""
MAIN: Final = "from normfold.runtime.workers.timing import main\n\nmain()\n"


def agent() -> bytes:
    """The file; the same bytes each time."""
    files = {str(path.relative_to(PACKAGE.parent)): path.read_bytes() for path in sorted(_parts())}
    # The package's own first lines are for users, and import more than a worker needs.
    files |= {f"{PACKAGE.name}/__init__.py": b"", "__main__.py": MAIN.encode()}
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    return held.getvalue()


def _parts() -> set[Path]:
    return {path for part in PARTS for path in PACKAGE.glob(part)}
