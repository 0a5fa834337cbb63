"""What must hold of every fold of a random network, checked against ONNX Runtime and, in doubt, in float64."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from folding import assert_speaks, is_valid
from fuzz.builder import NotPossible
from fuzz.graphs import random_feeds, random_model
from normfold.backends.onnx import OnnxGraph
from normfold.decisions import Decision
from normfold.engine import fold

Feeds = Mapping[str, np.ndarray]
Status = Literal["right", "rounding", "skipped", "wrong"]
CLOSE = 1e-5
"""Deviation in float32, of a value's range, that needs no second look."""
EXACT = 1e-9
"""Deviation in float64 that an exact fold stays below."""
SINGLE_INPUTS = {"Resize": (1, 2), "Upsample": (1,)}
"""Inputs that are float32 whatever the data is."""


@dataclass(frozen=True)
class Outcome:
    """What became of one network."""

    seed: int
    status: Status
    reason: str = ""
    norms: int = 0
    folded: int = 0
    nodes: int = 0
    error: float = 0.0
    """Largest deviation in float32, relative to the value's range."""


class BatchNormalization(OpRun):  # type: ignore[misc]
    """At inference. The reference evaluator's own normalises by the batch for opsets from 9 to 13."""

    op_domain = ""

    def _run(self, x, scale, bias, mean, var, epsilon=1e-5, **_):  # noqa: PLR0917
        parts = (part.reshape(-1, *[1] * (x.ndim - 2)) for part in (scale, bias, mean, var))
        scale, bias, mean, var = parts
        return (scale * (x - mean) / np.sqrt(var + epsilon) + bias,)


class Wrong(Exception):
    """A property that every fold has does not hold."""


def check_seed(seed: int) -> Outcome:
    """Make the network of ``seed``, fold it, and say whether that was right."""
    try:
        model = random_model(seed)
    except NotPossible:
        return Outcome(seed, "skipped", "no output")
    feeds = random_feeds(model, seed)
    if not is_valid(model):
        return Outcome(seed, "skipped", "the checker rejects the source")
    try:
        before = run(model, feeds, [])
    except Exception as problem:  # noqa: BLE001 - ONNX Runtime raises classes that it does not export
        return Outcome(seed, "skipped", f"ONNX Runtime: {str(problem)[:400]}")
    if not all(np.isfinite(v).all() for v in before.values()):
        return Outcome(seed, "skipped", "the source is not finite")
    return check_model(model, feeds, seed)


def check_model(model: onnx.ModelProto, feeds: Feeds, seed: int = -1) -> Outcome:
    """Fold ``model`` and say whether that was right."""
    decisions: tuple[Decision, ...] = ()
    try:
        result, decisions = folded(model)
        check_frame(model, result)
        check_decisions(decisions)
        check_again(result)
        error = check_values(model, result, feeds)
        status: Status = "right" if error <= CLOSE else "rounding"
        if error > CLOSE:
            check_in_double(model, feeds, error)
        reason = ""
    except Exception as problem:  # noqa: BLE001 - a crash of any kind is a finding
        status, error, reason = "wrong", float("nan"), f"{type(problem).__name__}: {problem}"
    gone = sum(decision.outcome == "folded" for decision in decisions)
    return Outcome(seed, status, reason, len(decisions), gone, len(model.graph.node), error)


def folded(model: onnx.ModelProto) -> tuple[onnx.ModelProto, tuple[Decision, ...]]:
    """The folded model and its decisions; ``model`` stays as it is."""
    graph = OnnxGraph(ir.from_proto(model))
    decisions = fold(graph).decisions
    return ir.to_proto(graph.model), decisions


def claim(condition: object, reason: str) -> None:
    if not condition:
        raise Wrong(reason)


def check_frame(source: onnx.ModelProto, result: onnx.ModelProto) -> None:
    """The result is a valid model with the source's inputs, outputs and versions."""
    onnx.checker.check_model(result, full_check=True)
    held = {tensor.name for tensor in source.graph.initializer}
    data = [v for v in source.graph.input if v.name not in held]
    claim([v for v in result.graph.input if v.name in {d.name for d in data}] == data, "the inputs changed")
    claim(
        [(v.name, v.type.tensor_type.elem_type) for v in source.graph.output]
        == [(v.name, v.type.tensor_type.elem_type) for v in result.graph.output],
        "the outputs changed",
    )
    claim(source.ir_version == result.ir_version, "the IR version changed")
    claim(list(source.opset_import) == list(result.opset_import), "the opset changed")
    if source.ir_version >= 4:
        overridable = {v.name for v in source.graph.input} & held
        claim(overridable <= {v.name for v in result.graph.input}, "an input with a default went")


def check_decisions(decisions: tuple[Decision, ...]) -> None:
    """Every norm is decided once, and one that stays says why."""
    sites = [decision.site for decision in decisions]
    claim(len(set(sites)) == len(sites), "two decisions have one site name")
    for decision in decisions:
        claim(bool(decision.refused_by) == (decision.outcome != "folded"), f"no reason: {decision}")
        claim(bool(decision.rules) == (decision.outcome != "kept"), f"no rule: {decision}")
        claim(bool(decision.into) or decision.outcome == "kept", f"folded into nothing: {decision}")
        for refusal in decision.refused_by:
            assert_speaks(refusal)


def check_again(result: onnx.ModelProto) -> None:
    """A second fold finds nothing left to do."""
    again, decisions = folded(result)
    late = [decision for decision in decisions if decision.outcome != "kept"]
    claim(not late, f"folding again does more: {late[:1]}")
    ops = ([node.op_type for node in m.graph.node] for m in (result, again))
    claim(len({tuple(kinds) for kinds in ops}) == 1, "folding again changes the graph")


def check_values(source: onnx.ModelProto, result: onnx.ModelProto, feeds: Feeds) -> float:
    """The largest deviation of outputs, and of values whose name both models have."""
    shared = sorted(made(source) & made(result))
    before, after = run(source, feeds, shared), run(result, feeds, shared)
    return largest_deviation(before, after)


def check_in_double(model: onnx.ModelProto, feeds: Feeds, error: float) -> None:
    """The same fold in float64: what is left there is no rounding."""
    source = in_double(model)
    result, _ = folded(source)
    shared = sorted(made(source) & made(result))
    doubles = {k: v.astype(np.float64) if v.dtype == np.float32 else v for k, v in feeds.items()}
    before, after = (_reference(m, doubles, shared) for m in (source, result))
    left = largest_deviation(before, after)
    if left > EXACT:
        name = max(before, key=lambda n: deviation(before[n], after[n]))
        raise Wrong(f"differs by {error:.3g} in float32 and by {left:.3g} in float64 at {name!r}")


def made(model: onnx.ModelProto) -> set[str]:
    """Names of all floating values that nodes of the main graph make."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    floats = {
        v.name
        for v in (*inferred.value_info, *inferred.output)
        if v.type.tensor_type.elem_type in (TensorProto.FLOAT, TensorProto.DOUBLE)
    }
    return {name for node in model.graph.node for name in node.output if name in floats}


def largest_deviation(before: Feeds, after: Feeds) -> float:
    return max((deviation(wanted, after[name]) for name, wanted in before.items()), default=0.0)


def deviation(wanted: np.ndarray, got: np.ndarray) -> float:
    """Largest difference over the range of ``wanted``; over its magnitude where it is all but constant."""
    if wanted.shape != got.shape or wanted.dtype != got.dtype:
        return float("inf")
    exact, found = wanted.astype(np.float64), got.astype(np.float64)
    if not np.isfinite(found).all():
        return float("inf")
    magnitude = float(np.abs(exact).max(initial=0.0))
    span = float(np.ptp(exact)) if exact.size else 0.0
    return float(np.abs(exact - found).max(initial=0.0)) / max(span, 1e-2 * magnitude, 1e-6)


def run(model: onnx.ModelProto, feeds: Feeds, extra: list[str]) -> dict[str, np.ndarray]:
    """Outputs and ``extra`` values from ONNX Runtime without optimisations, one thread."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    watched = _watched(model, extra)
    session = ort.InferenceSession(watched.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in watched.graph.output]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def _watched(model: onnx.ModelProto, extra: list[str]) -> onnx.ModelProto:
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    there = {value.name for value in model.graph.output}
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in extra if name not in there)
    return watched


def _reference(model: onnx.ModelProto, feeds: Feeds, extra: list[str]) -> dict[str, np.ndarray]:
    names = [*dict.fromkeys([*(value.name for value in model.graph.output), *extra])]
    held = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    given = {v.name: held[v.name] for v in model.graph.input if v.name in held}
    values = ReferenceEvaluator(_watched(model, extra), new_ops=[BatchNormalization]).run(names, {**given, **feeds})
    return dict(zip(names, map(np.asarray, values), strict=True))


def in_double(model: onnx.ModelProto) -> onnx.ModelProto:
    """``model`` with every floating number in float64."""
    out = onnx.ModelProto()
    out.CopyFrom(model)
    del out.graph.value_info[:]
    _graph_in_double(out.graph, set())
    return out


def _graph_in_double(graph: onnx.GraphProto, outside: set[str]) -> None:
    single = {
        node.input[k] for node in graph.node for k in SINGLE_INPUTS.get(node.op_type, ()) if k < len(node.input)
    } | outside
    for tensor in graph.initializer:
        if tensor.name not in single:
            _tensor_in_double(tensor)
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT and value.name not in single:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR and node.output[0] not in single:
                _tensor_in_double(attribute.t)
            if attribute.type == onnx.AttributeProto.GRAPH:
                _graph_in_double(attribute.g, single)


def _tensor_in_double(tensor: TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))
