"""The verb `undo`: the source of an optimised model, found again by its hash."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from normfold.errors import ModelFileError, OutputError, UsageError
from normfold.limits import limited
from normfold.models import onnxfile
from normfold.models.source import File
from normfold.pipeline.stages import FOLDER, MODEL, digest
from normfold.records import Progress, silent
from normfold.report.blocks import Blocks, Detail, Paragraph, Verdict
from normfold.report.result import Result

REPORT: Final = "report.json"


@dataclass(frozen=True, slots=True, repr=False)
class UndoResult(Result):
    """Where the source was found, and where it is now."""

    found: str
    output: str
    sha256: str

    def report(self, detail: Detail = Detail.NORMAL) -> Blocks:
        """The two places."""
        verdict = Verdict(f"the source is in {self.output}", "good")
        if detail == Detail.SUMMARY:
            return (verdict,)
        return Paragraph(f"found at {self.found}, SHA-256 {self.sha256}"), verdict

    def document(self) -> dict[str, Any]:
        """The same."""
        return {"found": self.found, "output": self.output, "sha256": self.sha256}


def undo(
    folder: File,
    *,
    output: File | None = None,
    time_limit: float | None = None,
    memory_limit: int | None = None,
    progress: Progress = silent,
) -> UndoResult:
    """Write the source of what `optimize` wrote to ``folder``; that of a module is the export that it was made from.

    Args:
        folder: what `optimize` wrote to.
        output: where the source goes; by default ``source.onnx`` (or ``.pt2``) in ``folder``.
        time_limit: seconds for the whole call; by default 15 minutes.
        memory_limit: bytes that each process may take.
        progress: called with what is being done.

    Raises:
        UsageError: ``usage``, the folder has no report of `optimize`.
        ModelFileError: ``file-not-found``, the source is nowhere near.
        OutputError: the source cannot be written.
    """
    with limited(time_limit, memory_limit):
        source = _source(Path(folder))
        wanted = source["path_sha256"] or source["sha256"]
        progress("searching")
        places = list(dict.fromkeys(_places(Path(folder), source)))
        at = next((place for place in places if place.is_file() and digest(place) == wanted), None)
        if at is None:
            looked = ", ".join(map(str, places))
            hint = "Put it back there, or into that folder, under its name."
            raise ModelFileError("file-not-found", f"No file with the SHA-256 {wanted} is at {looked}.", hint)
        target = Path(folder) / f"source{at.suffix}" if output is None else Path(output)
        progress("writing")
        _copy(at, target)
        return UndoResult(str(at), str(target), wanted)


def _source(folder: Path) -> dict[str, Any]:
    try:
        whole = json.loads((folder / REPORT).read_text(encoding="utf-8"))
        source: dict[str, Any] = whole["result"]["source"]
        if whole["command"] != "optimize" or not isinstance(source["sha256"], str):
            raise KeyError("source")
    except (OSError, ValueError, KeyError, TypeError) as error:
        hint = "Name the folder that `normfold optimize` wrote to."
        raise UsageError("usage", f"{folder} has no {REPORT} of optimize.", hint) from error
    return source


def _places(folder: Path, source: dict[str, Any]) -> Iterator[Path]:
    """Where the source may be: where it was, beside the result, in the folder that we are in, among the stages."""
    if source["path"] is not None:
        path = Path(source["path"])
        yield from (path, folder / path.name, Path.cwd() / path.name)
    else:
        yield from sorted((folder / FOLDER).glob(f"*/{MODEL}"))


def _copy(at: Path, target: Path) -> None:
    """Copy a model, its data with it, in one step."""
    if target.exists() and target.samefile(at):
        return
    if at.suffix == ".onnx":
        read = onnxfile.read(at)
        if read.data_files:
            onnxfile.write(read.model, target, source=read)
            return
    part = target.with_name(f".{target.name}.part")
    try:
        shutil.copyfile(at, part)
        part.replace(target)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise OutputError("output-not-writable", f"{target} cannot be written: {error.strerror}.") from error
