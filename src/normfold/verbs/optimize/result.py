"""What optimising a model comes to: the document, and the blocks that are made of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from normfold.core.premises import PREMISES
from normfold.errors import FindingError
from normfold.models import onnxfile
from normfold.records import Certificate, Decision, Probe, Refusal, Verification
from normfold.report.blocks import (
    Block,
    Blocks,
    Cell,
    Code,
    Column,
    Detail,
    Heading,
    Interval,
    Names,
    Paragraph,
    Row,
    Table,
    Tone,
    Verdict,
)
from normfold.report.decisions import decision_blocks, verification_blocks
from normfold.report.result import Result
from normfold.report.words import bytes_words, count_words, counts_sentence, verification_sentence

Json = dict[str, Any]
TONES: Final[dict[str, Tone]] = {"kept": "good", "unchanged": "plain", "refused": "caution", "skipped": "plain"}
JUDGED: Final[dict[str, Tone]] = {"faster": "good", "equivalent": "good", "inconclusive": "caution", "slower": "bad"}
PREMISE: Final = {str(premise): premise for premise in PREMISES}


@dataclass(frozen=True, slots=True, repr=False)
class OptimizeResult(Result):
    """The best model of those that the stages made, or the plan of a dry run; all of it is in ``found``."""

    found: Json
    """``result`` of the JSON document."""

    @property
    def output(self) -> Path | None:
        """The folder written to; None where no model was written."""
        return None if self.found["output"] is None else Path(self.found["output"])

    @property
    def model(self) -> Any:
        """The model handed over, an ``onnx_ir.Model``; None where none was written."""
        return None if self.output is None else onnxfile.read(self.output / self.found["files"]["model"]).model

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """What became of each norm."""
        return tuple(map(decision_of, self.found["decisions"]))

    @property
    def verification(self) -> Verification:
        """The comparison of the model handed over with its source, or with what its codes stand for."""
        return verification_of(self.found["verification"])

    @property
    def refused(self) -> FindingError | None:
        """Why no model was written."""
        given = self.found["refused"]
        return None if given is None else FindingError(given["code"], given["message"], given["hint"])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model handed over to a file of its own, in one step.

        Raises:
            OutputError: ``output-not-writable``.
        """
        if self.output is None:
            raise ValueError("there is no model to write")
        onnxfile.write(self.model, Path(path))

    def document(self) -> Json:
        """All of it."""
        return self.found

    def report(self, detail: Detail = Detail.NORMAL) -> Blocks:
        """The stages, what there is before and after, what was refused, the verdict, and how to load the result."""
        found = self.found
        verdict = Verdict(*verdict_words(found))
        if detail == Detail.SUMMARY:
            return (verdict,)
        title = f"{found['source']['name'] or found['source']['kind']} -> {found['output'] or 'nothing written'}"
        if not found["stages"]:
            return Heading(title), plan_table(found), verdict
        return (
            Heading(title),
            stage_table(found),
            *(decision_blocks(self.decisions, detail) if detail == Detail.FULL else self._norms()),
            before_after(found),
            *refusals(found),
            *(Paragraph(f"note: {warning}", "caution") for warning in found["warnings"]),
            *verification_blocks(self.verification, Detail.NORMAL),
            *tuned(found),
            verdict,
            *loading(found),
        )

    def _norms(self) -> Iterator[Block]:
        """The counts, and of those that stayed the premises that kept them."""
        yield Paragraph(counts_sentence(self.decisions))
        kept: dict[str, list[str]] = {}
        for one in self.decisions:
            if one.outcome in ("kept", "part-folded"):
                reasons = dict.fromkeys(str(refusal.premise) for refusal in one.refused_by)
                kept.setdefault(f"{one.outcome} for {', '.join(reasons)}", []).append(one.site)
        for title, sites in kept.items():
            yield Names(f"{title}:", tuple(sites[:3]), more=max(0, len(sites) - 3), tone="caution")


def plan_table(found: Json) -> Table:
    """What would be done."""
    columns = (Column("stage"), Column("does"))
    rows = tuple((entry["stage"], entry["does"] or f"nothing: {entry['because']}") for entry in found["plan"])
    return Table(columns, rows)


def stage_table(found: Json) -> Table:
    """A row for every stage; times are over the source's."""
    columns = (Column("stage"), Column("outcome"), Column("what"), Column("time"), Column("took", "right"))
    rows: list[Row] = []
    for entry in found["stages"]:
        compared = found["times"].get(entry["stage"])
        ratio = "" if compared is None else ratio_of(compared["ratio"])
        took = "resumed" if entry["resumed"] else f"{entry['seconds']:.1f} s" if entry["seconds"] else ""
        refused = f"[{entry['refused']['code']}]" if entry["refused"] else entry["says"]
        rows.append((entry["stage"], entry["outcome"], refused, ratio, took))
    return Table(columns, tuple(rows), tuple(TONES[entry["outcome"]] for entry in found["stages"]))


def before_after(found: Json) -> Table:
    """Norms, nodes, sizes, memory, time and accuracy of the source and of what is handed over."""
    columns = (Column(), Column("before", "right"), Column("after", "right"))
    return Table(columns, tuple(_rows(found)))


def _rows(found: Json) -> Iterator[Row]:
    before, after = found["size"]["before"], found["size"]["after"]
    yield "norms", str(found["norms"]["before"]), str(found["norms"]["after"])
    yield "nodes", str(before["nodes"]), str(after["nodes"])
    yield "file", bytes_words(before["file"]), bytes_words(after["file"])
    if before["macs"] is not None and after["macs"] is not None:
        yield "MACs", count_words(before["macs"]), count_words(after["macs"])
    memory = [figure["memory"] for figure in (found["figures"]["before"], found["figures"]["after"])]
    if None not in memory:
        yield "memory", bytes_words(memory[0]), bytes_words(memory[1])
    yield "latency", *(milliseconds(found["figures"][side]["ms"]) for side in ("before", "after"))
    accuracy = found["accuracy"]
    if accuracy is not None:
        yield accuracy["metric"], *(scored(accuracy, side) for side in ("before", "after"))
    for shift, shown in found["shifted"].items():
        yield f"{shown['metric']}, {shift}", *(scored(shown, side) for side in ("before", "after"))


def scored(accuracy: Json, side: str) -> str:
    """A metric as a report shows it: points with two decimals."""
    return f"{accuracy[side]:.2f}" if accuracy["unit"] == "points" else f"{accuracy[side]:.5g}"


def milliseconds(bounds: Json) -> Cell:
    """A time as a report shows it."""
    return _with_bounds(bounds, " ms")


def ratio_of(bounds: Json) -> Cell:
    """A ratio of times as a report shows it."""
    return _with_bounds(bounds, "x")


def _with_bounds(bounds: Json, unit: str) -> Cell:
    value, low, high = (bounds[name] for name in ("value", "low", "high"))
    # One process has no spread.
    return f"{value:.4g}{unit}" if low is None or high is None else Interval(value, low, high, unit=unit)


def _span(bounds: Json, digits: str = ".3g") -> str:
    """The ends of an interval in words."""
    low, high = bounds["low"], bounds["high"]
    return "no interval" if low is None or high is None else f"{low:{digits}} to {high:{digits}}"


def refusals(found: Json) -> Blocks:
    """Every stage that was refused, with its code and why."""
    return tuple(
        Paragraph(f"{entry['stage']} refused [{entry['refused']['code']}]: {entry['refused']['message']}", "caution")
        for entry in found["stages"]
        if entry["refused"] is not None
    )


def tuned(found: Json) -> Blocks:
    """What the session settings bring, where they do."""
    session = found["session"]
    if session is None:
        return ()
    ratio = session["comparison"]["ratio"]
    said = f"with {session['name']} it takes {ratio['value']:.3g}x of that time again ({_span(ratio)})"
    return (Paragraph(said, "good"),)


def verdict_words(found: Json) -> tuple[str, Tone]:
    """The sentence that all of it comes down to."""
    if not found["stages"]:
        return "a dry run: nothing was done", "plain"
    if found["refused"] is not None:
        return f"refused [{found['refused']['code']}]: {found['refused']['message']}", "bad"
    compared = found["times"].get(found["chosen"])
    if compared is None:
        return "the source as it came: nothing that was tried is better", "caution"
    ratio, verdict = compared["ratio"], compared["verdict"]
    said = f"takes {ratio['value']:.3g}x the time of its source ({_span(ratio)}): {verdict}"
    accuracy = found["accuracy"]
    if accuracy is not None:
        change = accuracy["difference"]
        said += f"; {accuracy['metric']} {change['value']:+.3g} ({_span(change, '+.3g')}) {accuracy['unit']}".rstrip()
        said += f" on {accuracy['samples']} samples"
    return said, JUDGED[verdict]


def loading(found: Json) -> Blocks:
    """The lines of Python that load the result."""
    return () if not found["load"] else (Paragraph("To load it:"), Code(tuple(found["load"])))


def proof_words(found: Json) -> str:
    """The comparison in a sentence."""
    return verification_sentence(verification_of(found["verification"]))


def decision_of(record: Json) -> Decision:
    """The decision that a document holds."""
    certificate = None
    if "label" in record:
        figures = {name: record.get(name) for name in ("bound", "r2", "constant_share")}
        certificate = Certificate(record["label"], record.get("condition", ""), **figures)
    return Decision(
        record["site"],
        record["norm"],
        record["outcome"],
        tuple(record["into"]),
        tuple(record["rules"]),
        tuple(Refusal(PREMISE[one["premise"]], one["because"]) for one in record["refused_by"]),
        record["error"],
        record.get("to"),
        certificate,
        record["role"],
    )


def verification_of(record: Json) -> Verification:
    """The comparison that a document holds."""
    return Verification(
        record["status"],
        record["because"],
        record["max_abs"],
        record["max_rel"],
        record["rtol"],
        record["budget"],
        tuple(Probe(one["name"], tuple(one["shape"]), one["dtype"], one["made"]) for one in record["inputs"]),
        record["first_parting"],
    )
