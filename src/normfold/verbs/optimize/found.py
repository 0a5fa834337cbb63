"""From the stages to the document: which result is handed over, and everything that is known of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from normfold.errors import FindingError
from normfold.pipeline.stages import Json, digest
from normfold.records import counts
from normfold.report.environment import environment
from normfold.report.words import counts_sentence, plural
from normfold.verbs.inspect import InspectResult, inspect
from normfold.verbs.optimize.job import SOURCE, Job, Step, within
from normfold.verbs.optimize.result import decision_of
from normfold.verbs.optimize.source import Origin

SAME: Final[Json] = {
    "status": "equivalent",
    "because": "it is the source as it came",
    "max_abs": None,
    "max_rel": None,
    "rtol": None,
    "budget": None,
    "inputs": [],
    "first_parting": None,
}
"""The comparison of a model with itself."""
STANDING: Final = frozenset({"part-folded", "lowered", "converted", "kept"})
"""Outcomes after which there is a norm, or what is left of one."""


def machine() -> Json:
    """What figures depend on besides the model and the conditions."""
    known = environment()
    packages = {name: known["packages"][name] for name in ("onnxruntime", "onnx")}
    return {"processor": known["processor"], "cpus": known["cpus"], "platform": known["platform"], **packages}


def planned(job: Job, found: Origin) -> Json:
    """The document of a dry run."""
    inspected = inspect(found.file, progress=job.progress)
    return _document(job, found, inspected) | {"plan": _plan(job, found, inspected)}


def _plan(job: Job, found: Origin, inspected: InspectResult) -> list[Json]:
    request = job.request
    judged = "" if request.metric is None else f", at most {request.max_drop:g} lost of {request.metric.name}"
    data = "without data" if request.calibrate is None else "on the calibration data"
    where = f"{request.ep}, {request.target}, {request.use}, {plural(request.threads, 'thread')}"
    does = {
        "fold": counts_sentence(inspected.decisions),
        "convert": "norms that stay, to a cheaper kind where that is exact and faster",
        "quantize": f"{request.width}, {data}{judged}" if request.evaluate is not None else "",
        "evaluate": "the accuracy of each result beside the source's" if request.evaluate is not None else "",
        "measure": f"source and results in fresh processes, in turns ({where})",
        "tune": "session settings of the best",
    }
    entries = [{"stage": "export", "does": "to ONNX, norms and all", "because": ""}] if found.step else []
    for stage, what in does.items():
        because = "not asked for" if stage in request.without else "" if what else "no evaluation data: --evaluate"
        entries.append({"stage": stage, "does": "" if because else what, "because": because})
    return entries


def outcome(job: Job, found: Origin) -> tuple[Json, Path]:
    """Run the stages; the document of what came of them, and the file of the model to hand over.

    Raises:
        NormfoldError: the source cannot be run or timed, or the data do not fit it.
    """
    inspected = inspect(found.file, progress=job.progress)
    steps: dict[str, Step] = {step.stage: step for step in _made(job)}
    steps["evaluate"] = job.evaluate(list(steps.values()))
    steps |= {name: within(step, steps["evaluate"], job.request.max_drop) for name, step in steps.items()}
    measured = job.measure(list(steps.values()))
    for name, error in measured.record["refused"].items():
        steps[name] = steps[name].refuse(error)
    steps["measure"] = measured
    chosen = measured.record["chosen"]
    file = found.file if chosen == SOURCE else _model(steps[chosen])
    steps["tune"] = job.tune(file)
    exported = {} if found.step is None else {"export": found.step}
    document = _document(job, found, inspected) | _chosen(job, steps, chosen, file)
    document["stages"] = [step.document() for step in (exported | steps).values()]
    return document, file


def _made(job: Job) -> list[Step]:
    """The stages that make models, each from the best before it."""
    folded = job.fold()
    best = folded.model or job.file
    converted = job.convert(best)
    best = converted.model or best
    return [folded, converted, job.quantize(best)]


def _base(job: Job, steps: Mapping[str, Step]) -> Path:
    """What was quantised."""
    made = (steps[name].made for name in ("convert", "fold"))
    return next((file for file in made if file is not None), job.file)


def _model(step: Step) -> Path:
    assert step.model is not None  # noqa: S101 - what was timed has a file
    return step.model


def _document(job: Job, found: Origin, inspected: InspectResult) -> Json:
    """What is known before anything is done."""
    decisions = inspected.document()
    return {
        "source": found.document(),
        "output": None,
        "files": {},
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "configuration": job.request.echo(),
        "data": dict(job.data),
        "plan": [],
        "stages": [],
        "chosen": None,
        "inspected": decisions["norms"],
        "decisions": [norm["would"] for norm in decisions["norms"]],
        "counts": decisions["counts"],
        "verification": {**SAME, "status": "skipped", "because": "a dry run compares nothing"},
        "accuracy": None,
        "shifted": {},
        "times": {},
        "figures": {},
        "size": None,
        "norms": None,
        "front": [],
        "quantized": [],
        "session": None,
        "refused": None,
        "warnings": [],
        "load": [],
        "environment": environment(),
    }


def _chosen(job: Job, steps: Mapping[str, Step], chosen: str, file: Path) -> Json:
    """What is known of the model handed over, beside the source."""
    record = steps["measure"].record
    decisions = _decisions(steps, chosen)
    tuned = steps["tune"].record
    quantized = steps["quantize"].record.get("quantize", {})
    sizes = {"before": job.sizes(job.file), "after": job.sizes(file)}
    if chosen == "quantize":
        # Operators on codes do what those that they stand for did.
        sizes["after"]["macs"] = job.sizes(_base(job, steps))["macs"]
    standing = sum(one["role"] == "norm" and one["outcome"] in STANDING for one in decisions)
    evaluated = steps["evaluate"].record.get("shifted", {})
    shifts = {shift: found[chosen] for shift, found in evaluated.items() if chosen in found}
    figures = {side: _figure(record["figures"][name]) for side, name in (("before", SOURCE), ("after", chosen))}
    return {
        "chosen": chosen,
        "sha256": digest(file),
        "decisions": decisions,
        "counts": counts(map(decision_of, decisions)),
        "verification": _verification(steps, chosen),
        "accuracy": steps["evaluate"].record.get("accuracy", {}).get(chosen),
        "shifted": shifts,
        "times": record["comparisons"],
        "figures": figures,
        "size": sizes,
        "norms": {"before": sum(one["role"] == "norm" for one in decisions), "after": standing},
        "front": quantized.get("front", []),
        "quantized": quantized.get("nodes", []) if chosen == "quantize" else [],
        "session": tuned if tuned.get("changed") else None,
        "refused": _late(job, record, chosen),
        "warnings": [*record["warnings"], *_lost(shifts, job.request.max_drop)],
    }


def _lost(shifts: Mapping[str, Json], most: float | None) -> Iterator[str]:
    """Where the result loses more on shifted inputs than it may on clean ones."""
    for shift, accuracy in shifts.items():
        if most is not None and accuracy["drop"] > most:
            lost = f"{accuracy['drop']:.3g} {accuracy['unit']}".rstrip()
            yield f"on inputs with {shift}, {accuracy['metric']} is worse by {lost}, above the budget of {most:g}"


def _decisions(steps: Mapping[str, Step], chosen: str) -> list[Json]:
    """What became of every norm in the model handed over."""
    folded: list[Json] = steps["fold"].record.get("fold", {}).get("decisions", [])
    if chosen == SOURCE:
        return [one if one["outcome"] == "kept" else _left(one, steps) for one in folded]
    built_on = steps["convert"].made is not None and chosen in ("convert", "quantize")
    converted = steps["convert"].record["decisions"] if built_on else []
    by_site = {one["site"]: one for one in converted}
    return [by_site.get(one["site"], one) for one in folded]


def _left(decision: Json, steps: Mapping[str, Step]) -> Json:
    """A norm that could go, in a source that is handed over as it came."""
    because = f"the folded model was refused: {steps['fold'].says}"
    refusal = {"premise": "verification-failed", "because": because}
    return decision | {"outcome": "kept", "into": [], "rules": [], "refused_by": [refusal]}


def _verification(steps: Mapping[str, Step], chosen: str) -> Json:
    if chosen == SOURCE:
        return SAME
    record = steps[chosen].record
    found: Json = record.get("verification") or record[chosen]["verification"]
    return found


def _figure(record: Json) -> Json:
    """Milliseconds, bytes of memory and microseconds of nodes."""
    details = record["details"] or {}
    memory = None
    if details.get("peak_rss") is not None and details.get("rss_before") is not None:
        memory = details["peak_rss"] - details["rss_before"]
    scaled = {end: None if one is None else one / 1e6 for end, one in record["latency_ns"].items()}
    nodes = [[one["name"], one["operator"], round(one["microseconds"], 2)] for one in details.get("nodes", [])]
    return {"ms": scaled, "memory": memory, "load_ms": record["load_ns"] / 1e6, "nodes": nodes}


def _late(job: Job, record: Json, chosen: str) -> Json | None:
    """The finding that the best model takes longer than was asked for."""
    limit = job.request.max_latency
    if limit is None:
        return None
    seconds = record["figures"][chosen]["latency_ns"]["value"] / 1e9
    ratio = 1.0 if chosen == SOURCE else record["comparisons"][chosen]["ratio"]["value"]
    found = seconds if job.request.absolute else ratio
    if found <= limit:
        return None
    said = f"{seconds * 1e3:.3g} ms" if job.request.absolute else f"{ratio:.3g}x the time of the source"
    message = f"The fastest model takes {said}; {job.request.latency} was asked for."
    return FindingError("budget-missed", message, "--force writes it.").record()
