"""Models that come quantised: refused, made floating point, or quantised anew from what they stand for."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Final

import onnx_ir

from normfold._version import __version__
from normfold.backends.onnx import remove_dead_weight
from normfold.backends.onnx.dequantize import dequantize, quantization_of
from normfold.errors import FindingError, UsageError
from normfold.models import onnxfile
from normfold.models.source import OnnxSource, runnable
from normfold.passes.quantize.figures import NodeFigures, Point, Width
from normfold.pipeline.fold_onnx import Target
from normfold.pipeline.quantize.run import Done
from normfold.proof.comparison import Setup, verify
from normfold.proof.files import about
from normfold.records import Verification
from normfold.runtime import CHECKER, Evaluator

FLOAT: Final[Width] = "fp32"
BUDGET: Final = 0.05
"""Deviation from the source, relative to the output's range, of the network in floating point with the quantisers still
in it: sums are rounded in another order, here and there to the next step."""
PROVEN: Final = "compared with its quantisers left in; they were then taken out"


def settled(evaluator: Evaluator, source: OnnxSource, setup: Setup, *, requantize: bool) -> OnnxSource:
    """``source``, or the network in floating point that it stands for where it is to be quantised anew.

    Raises:
        UsageError: ``already-quantized``.
        FindingError: ``result-differs``.
        ModelFileError: ``cannot-dequantize``.
    """
    found = quantization_of(source.fresh())
    if found is None:
        return source
    if not requantize:
        parts = ", ".join(f"{part.count} {part.operator} ({part.form})" for part in found.parts[:3])
        hint = "--requantize starts anew from what its codes stand for, --width fp32 makes it floating point."
        raise UsageError("already-quantized", f"The model is quantised already: {parts or 'its quantisers'}.", hint)
    model, _ = dequantized(evaluator, source, setup)
    return OnnxSource(model.clone, source.digest, proto=source.proto)


def dequantized(evaluator: Evaluator, source: OnnxSource, setup: Setup) -> tuple[onnx_ir.Model, Verification]:
    """The network in floating point that ``source`` stands for, and the proof.

    Raises:
        FindingError: ``result-differs``: what it computes with its quantisers is not what the source computes.
        ModelFileError: ``cannot-dequantize``.
    """
    simulation = source.fresh()
    dequantize(simulation, simulated=True)
    with ExitStack() as files:
        ours, theirs = files.enter_context(source.runnable()), files.enter_context(runnable(simulation))
        proof = verify(evaluator, ours, theirs, replace(about(source.fresh(), setup), rtol=BUDGET))
    if proof.status != "equivalent":
        message = f"The network that the codes stand for computes something else: {proof.because}"
        raise FindingError("result-differs", message, "Please report this.")
    model = source.fresh()
    dequantize(model)
    remove_dead_weight(model, CHECKER.infer)
    said = "; ".join(filter(None, [proof.because, PROVEN]))
    return model, replace(proof, status="within-budget", because=said, budget=BUDGET)


def floating(evaluator: Evaluator, source: OnnxSource, setup: Setup, target: Target) -> Done:
    """Write the network in floating point that ``source`` stands for to ``target``.

    Raises:
        UsageError: ``usage``, nothing is quantised.
        FindingError, ModelFileError: as of `dequantized`.
    """
    if quantization_of(source.fresh()) is None:
        raise UsageError("usage", "The model is not quantised: it is in floating point already.")
    model, proof = dequantized(evaluator, source, setup)
    model.metadata_props["normfold.version"] = __version__
    if source.digest is not None:
        model.metadata_props["normfold.source.sha256"] = source.digest
    with ExitStack() as files:
        file = files.enter_context(runnable(model.clone())).file
        problem = CHECKER.rejection(file).result()
        nbytes = file.stat().st_size
    if problem is not None:
        raise FindingError("invalid-model", f"The model in floating point is not valid ONNX: {problem}", "Report this.")
    if target.path is not None:
        path = Path(target.path)
        with onnxfile.stage(
            model, path, external=target.external_data, source=source.file, in_place=target.in_place
        ) as staged:
            staged.commit()
    nodes = tuple(NodeFigures(str(node.name or node.outputs[0].name), node.op_type, FLOAT) for node in model.graph)
    point = Point("dequantised", "qdq", FLOAT, nbytes, chosen=True)
    return Done(model, point, nodes, (), proof, (point,), source.nbytes)
