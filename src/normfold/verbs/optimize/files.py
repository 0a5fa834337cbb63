"""The files that `optimize` hands over: the model, its reports, its card, its bill of materials, its session."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from normfold._version import __version__
from normfold.models import onnxfile
from normfold.pipeline.stages import Json, digest
from normfold.proof.probes import input_specs
from normfold.report.document import document as whole_document
from normfold.report.document import write_bytes, write_document
from normfold.report.markdown import markdown
from normfold.runtime.example_lines import loading_lines
from normfold.runtime.providers import PROVIDERS
from normfold.verbs.optimize.bill import bill
from normfold.verbs.optimize.card import card
from normfold.verbs.optimize.job import SOURCE, Job
from normfold.verbs.optimize.page import whole_page

MODEL: Final = "model.onnx"
SESSION: Final = "session.json"
FILES: Final = {
    "model": MODEL,
    "report": "report.json",
    "page": "report.html",
    "card": "MODEL.md",
    "bill": "model.cdx.json",
}
"""What is always written."""


def write(found: Json, model: Path, job: Job, folder: Path) -> None:
    """Write ``model`` and everything that is said of it to ``folder``, and note in ``found`` what was written.

    Each file is whole or not there; the report comes last.

    Raises:
        OutputError: ``output-not-writable``.
    """
    job.progress("writing")
    target = folder / MODEL
    _write_model(found, model, target, job)
    session = found["session"]
    found["output"] = str(folder)
    found["files"] = FILES | ({} if session is None else {"session": SESSION})
    if session is not None:
        write_document(folder / SESSION, session["profile"], indent=2)
    else:
        (folder / SESSION).unlink(missing_ok=True)
    found["sha256"] = digest(target)
    found["load"] = _lines(target, folder / SESSION if session is not None else None, job.request.ep)
    write_bytes(folder / FILES["card"], markdown(card(found)).encode())
    write_document(folder / FILES["bill"], bill(found), indent=2)
    whole = whole_document("optimize", found, ok=found["refused"] is None, error=None)
    write_bytes(folder / FILES["page"], whole_page(whole, job.file).encode())
    write_document(folder / FILES["report"], whole, indent=1)


def _write_model(found: Json, model: Path, target: Path, job: Job) -> None:
    read = onnxfile.read(model)
    if found["chosen"] == SOURCE and not read.data_files:
        part = target.with_name(f".{target.name}.part")
        shutil.copyfile(model, part)
        part.replace(target)
        return
    made = read.model
    if found["chosen"] != SOURCE:
        made.metadata_props["normfold.version"] = __version__
        made.metadata_props["normfold.source.sha256"] = str(found["source"]["path_sha256"] or found["source"]["sha256"])
        if found["data"]["calibrate"] is not None:
            made.metadata_props["normfold.calibration.sha256"] = found["data"]["calibrate"]
    onnxfile.write(made, target, external=job.request.external_data, source=read)


def _lines(model: Path, session: Path | None, ep: str) -> list[str]:
    """The Python that loads ``model``."""
    if session is not None:
        return list(loading_lines(model, session))
    names = ", ".join(f"{one.name!r}: {_identifier(one.name)}" for one in input_specs(onnxfile.read(model).model))
    return [
        "import onnxruntime as ort",
        f"session = ort.InferenceSession({str(model)!r}, providers=[{PROVIDERS[ep]!r}])",
        f"outputs = session.run(None, {{{names}}})",
    ]


def _identifier(name: str) -> str:
    """A name for the array of an input."""
    return name if name.isidentifier() else "array"
