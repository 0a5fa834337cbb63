"""The JSON document of schema ``normfold/1``, and how documents are written to files."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from normfold.errors import NormfoldError, OutputError

SCHEMA: Final = "normfold/1"

Json = dict[str, Any]


def document(command: str | None, result: Mapping[str, Any], *, ok: bool, error: NormfoldError | None) -> Json:
    """The whole document; ``command`` is null where the command line names no verb."""
    return {
        "schema": SCHEMA,
        "command": command,
        "ok": ok,
        "error": None if error is None else error.record(),
        "result": dict(result),
    }


def write_document(path: str | os.PathLike[str], document: Mapping[str, Any], *, indent: int | None = None) -> None:
    """Write ``document``, whole or not at all; raises as `write_bytes`."""
    write_bytes(path, (json.dumps(document, indent=indent, allow_nan=False) + "\n").encode())


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write ``data``, whole or not at all.

    Raises:
        OutputError: ``output-not-writable``.
    """
    target = writable(path)
    part = target.with_name(f".{target.name}.part")
    try:
        part.write_bytes(data)
        part.replace(target)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise OutputError("output-not-writable", f"{path} cannot be written: {error.strerror}") from error


def writable(path: str | os.PathLike[str]) -> Path:
    """``path``, given that a file could be written there: better known before a long job than after it.

    Raises:
        OutputError: ``output-not-writable``.
    """
    target = Path(path)
    if target.is_dir() or not target.parent.is_dir():
        because = "it is a folder" if target.is_dir() else "its folder does not exist"
        raise OutputError("output-not-writable", f"{path} cannot be written: {because}.")
    return target
