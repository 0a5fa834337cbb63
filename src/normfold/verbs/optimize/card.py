"""The model card, ``MODEL.md``: what was done, with what evidence, on which data, and what that does not show."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from normfold.pipeline.stages import Json
from normfold.report.blocks import Block, Blocks, Code, Heading, KeyValues, Paragraph, Verdict
from normfold.report.words import counts_sentence, plural
from normfold.verbs.optimize.result import (
    before_after,
    decision_of,
    proof_words,
    refusals,
    stage_table,
    tuned,
    verdict_words,
)

PURPOSE: Final = {"calibrate": "calibration", "evaluate": "evaluation", "inputs": "comparison and timing"}


def card(found: Json) -> Blocks:
    """The card of the model that ``found`` is about."""
    source = found["source"]
    head = (
        ("made from", f"{source['name'] or source['kind']}, SHA-256 {source['path_sha256'] or source['sha256']}"),
        ("SHA-256", found["sha256"]),
        ("made by", f"normfold {found['environment']['normfold']}, {found['started']}"),
    )
    return (
        Heading("model.onnx"),
        Verdict(*verdict_words(found)),
        KeyValues(head),
        Heading("What was done"),
        stage_table(found),
        Paragraph(counts_sentence(map(decision_of, found["decisions"]))),
        *refusals(found),
        Heading("Evidence"),
        Paragraph(proof_words(found)),
        before_after(found),
        *tuned(found),
        Paragraph(_measured_on(found)),
        Heading("Data"),
        *_data(found),
        Heading("Limits"),
        *(Paragraph(sentence) for sentence in _limits(found)),
        Heading("How to load it"),
        Code(tuple(found["load"])),
    )


def _measured_on(found: Json) -> str:
    """The conditions of the figures."""
    asked, here = found["configuration"], found["environment"]
    batch = "" if asked["batch"] is None else f", batch {asked['batch']}"
    threads = f"{asked['threads']} threads" if asked["threads"] != 1 else "1 thread"
    return (
        f"Times were measured with ONNX Runtime {here['packages']['onnxruntime']} on {here['processor']}, "
        f"{asked['ep']}, {asked['target']}, {threads}{batch}, source and result in turns in fresh processes; "
        "intervals are of 95 %."
    )


def _data(found: Json) -> Iterator[Block]:
    pairs = tuple(
        (PURPOSE[name], f"{found['configuration'][name]}, SHA-256 of the values {sha256}")
        for name, sha256 in found["data"].items()
        if sha256 is not None
    )
    yield KeyValues(pairs) if pairs else Paragraph("None were given: test inputs were random and adversarial.")


def _limits(found: Json) -> Iterator[str]:
    """What the evidence does not show."""
    yield "Times hold for this processor, these versions and these settings; on others the order may be another."
    accuracy = found["accuracy"]
    if accuracy is None:
        yield "The accuracy was not measured on data: outputs were compared with the source's on test inputs."
    else:
        yield (
            f"The accuracy is that on {accuracy['samples']} samples; other inputs, and classes that are rare among "
            "them, may lose more than the average."
        )
    if found["chosen"] == "quantize":
        width = found["quantized"] and next((one["width"] for one in found["quantized"] if not one["because"]), "int8")
        yield f"It computes in {width}: outputs differ from the source's, within the budget stated above."
    remarked: dict[str, list[str]] = {}
    for norm in found["inspected"]:
        for remark in norm["health"]:
            remarked.setdefault(remark, []).append(norm["site"])
    for remark, sites in remarked.items():
        also = f" and {plural(len(sites) - 1, 'norm')} more" if len(sites) > 1 else ""
        yield f"The statistics of {sites[0]}{also}: {remark}."
