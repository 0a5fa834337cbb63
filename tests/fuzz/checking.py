"""What must hold of every fold of a random network, checked against ONNX Runtime and, in doubt, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

from folding import assert_speaks, is_valid
from fuzz.builder import NotPossibleError
from fuzz.evaluation import OPERATORS
from fuzz.graphs import random_feeds, random_model
from normfold.backends.onnx import OnnxGraph
from normfold.core.driver import fold
from normfold.records import Decision
from normfold.runtime import CHECKER

Feeds = Mapping[str, np.ndarray]
Status = Literal["right", "rounding", "skipped", "wrong"]
CLOSE = 1e-5
"""Deviation in float32, of a value's range, that needs no second look."""
NOISE = 30
"""How much more than one nudge of every constant and input the roundings of a whole network may amount to."""
EXACT = 1e-9
"""Deviation in float64 that an exact fold stays below; before opset 11, bounds and paddings are float32 even there."""
SMALL = 0.1
"""What a value may have cancelled down from: a deviation is not judged by a smaller range."""
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


class WrongError(Exception):
    """A property that every fold has does not hold."""


def check_seed(seed: int) -> Outcome:
    """Make the network of ``seed``, fold it, and say whether that was right."""
    try:
        model = random_model(seed)
    except NotPossibleError:
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
    outcome = check_model(model, feeds, seed)
    if outcome.status == "wrong" and not has_inferred_shapes(model, feeds):
        return Outcome(seed, "skipped", "ONNX Runtime makes other shapes than inference says")
    return outcome


def has_inferred_shapes(model: onnx.ModelProto, feeds: Feeds) -> bool:
    """Whether every value has the sizes that shape inference finds; ``ceil_mode`` is where the two disagree."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    known = {v.name: [dim.dim_value for dim in v.type.tensor_type.shape.dim] for v in inferred.value_info}
    actual = run(model, feeds, sorted(made(model)))
    pairs = (
        (size, found)
        for name in known.keys() & actual
        for size, found in zip(known[name], actual[name].shape, strict=False)
    )
    return all(size in (0, found) for size, found in pairs)


def check_model(model: onnx.ModelProto, feeds: Feeds, seed: int = -1) -> Outcome:
    """Fold ``model`` and say whether that was right."""
    decisions: tuple[Decision, ...] = ()
    try:
        result, decisions = folded(model)
        check_frame(model, result)
        check_decisions(decisions)
        check_again(result)
        deviations = compare(model, result, feeds)
        error = max(deviations.values(), default=0.0)
        status: Status = "right" if error <= CLOSE else "rounding"
        if error > CLOSE and not all(is_noise(model, feeds, deviations)):
            check_in_double(model, feeds, error)
        reason = ""
    except Exception as problem:  # noqa: BLE001 - a crash of any kind is a finding
        status, error, reason = "wrong", float("nan"), f"{type(problem).__name__}: {problem}"
    gone = sum(decision.outcome == "folded" for decision in decisions)
    return Outcome(seed, status, reason, len(decisions), gone, len(model.graph.node), error)


def folded(model: onnx.ModelProto) -> tuple[onnx.ModelProto, tuple[Decision, ...]]:
    """The folded model and its decisions; ``model`` stays as it is."""
    graph = OnnxGraph(ir.from_proto(model), CHECKER.infer)
    decisions = fold(graph).decisions
    return ir.to_proto(graph.model), decisions


def claim(condition: object, reason: str) -> None:
    if not condition:
        raise WrongError(reason)


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


def compare(source: onnx.ModelProto, result: onnx.ModelProto, feeds: Feeds) -> dict[str, float]:
    """The deviation of each output, and of each value whose name both models have."""
    shared = sorted(made(source) & made(result))
    before, after = run(source, feeds, shared), run(result, feeds, shared)
    return {name: deviation(wanted, after[name]) for name, wanted in before.items()}


def is_noise(model: onnx.ModelProto, feeds: Feeds, deviations: Mapping[str, float]) -> Iterator[bool]:
    """For each deviation, whether constants and inputs that differ by about one rounding explain it."""
    names = [name for name in deviations if name in made(model)]
    before = run(model, feeds, names)
    noise = dict.fromkeys(deviations, 0.0)
    for draw in range(3):
        rng = np.random.default_rng(draw)
        after = run(perturbed(model, rng), {k: _nudged(v, rng) for k, v in feeds.items()}, names)
        noise = {name: max(noise[name], deviation(before[name], after[name])) for name in noise}
    return (math.isfinite(e) and e <= max(CLOSE, NOISE * noise[name]) for name, e in deviations.items())


def perturbed(model: onnx.ModelProto, rng: np.random.Generator) -> onnx.ModelProto:
    """``model`` with every floating constant off by about one rounding."""

    def nudge(tensor: TensorProto) -> None:
        tensor.CopyFrom(numpy_helper.from_array(_nudged(numpy_helper.to_array(tensor), rng), tensor.name))

    return _with_floats(model, nudge, {**SINGLE_INPUTS, "Pow": (1,)})


def _nudged(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    if values.dtype != np.float32:
        return values
    return np.asarray(values * (1 + 1.2e-7 * rng.choice([-1, 1], values.shape)), np.float32)


def check_in_double(model: onnx.ModelProto, feeds: Feeds, error: float) -> None:
    """The same fold in float64: what is left there is no rounding."""
    source = in_double(model)
    result, _ = folded(source)
    shared = sorted(made(source) & made(result))
    doubles = {k: v.astype(np.float64) if v.dtype == np.float32 else v for k, v in feeds.items()}
    before, after = (_reference(m, doubles, shared) for m in (source, result))
    left = largest_deviation(before, after)
    if left > (EXACT if source.opset_import[0].version >= 11 else CLOSE):
        name = max(before, key=lambda n: deviation(before[n], after[n]))
        raise WrongError(f"differs by {error:.3g} in float32 and by {left:.3g} in float64 at {name!r}")


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
    """Largest difference over the range of ``wanted``, or over what it is made of where it is all but constant."""
    if wanted.shape != got.shape or wanted.dtype != got.dtype:
        return float("inf")
    exact, found = wanted.astype(np.float64), got.astype(np.float64)
    # A pool over padding alone makes numbers that overflow in what reads them, in both models alike.
    alike = np.isinf(exact) & (exact == found)
    exact, found = exact[~alike], found[~alike]
    if not np.isfinite(found).all():
        return float("inf")
    magnitude = float(np.abs(exact).max(initial=0.0))
    span = float(np.ptp(exact)) if exact.size else 0.0
    return float(np.abs(exact - found).max(initial=0.0)) / max(span, 1e-2 * magnitude, SMALL)


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
    values = ReferenceEvaluator(_watched(model, extra), new_ops=OPERATORS).run(names, {**given, **feeds})
    return dict(zip(names, map(np.asarray, values), strict=True))


def in_double(model: onnx.ModelProto) -> onnx.ModelProto:
    """``model`` with every floating number in float64."""

    def widen(tensor: TensorProto) -> None:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))

    out = _with_floats(model, widen, SINGLE_INPUTS)
    del out.graph.value_info[:]
    for graph in _bodies(out.graph):
        for value in (*graph.input, *graph.output):
            if value.type.tensor_type.elem_type == TensorProto.FLOAT:
                value.type.tensor_type.elem_type = TensorProto.DOUBLE
    return out


def _with_floats(
    model: onnx.ModelProto, change: Callable[[TensorProto], None], kept: Mapping[str, tuple[int, ...]]
) -> onnx.ModelProto:
    """A copy of ``model`` with ``change`` applied to its floating constants, but for inputs in ``kept``."""
    out = onnx.ModelProto()
    out.CopyFrom(model)
    nodes = [node for graph in _bodies(out.graph) for node in graph.node]
    names = {node.input[k] for node in nodes for k in kept.get(node.op_type, ()) if k < len(node.input)}
    tensors = [tensor for graph in _bodies(out.graph) for tensor in graph.initializer if tensor.name not in names]
    attributes = [attribute for node in nodes if node.output[0] not in names for attribute in node.attribute]
    tensors += [attribute.t for attribute in attributes if attribute.type == onnx.AttributeProto.TENSOR]
    for tensor in tensors:
        if tensor.data_type == TensorProto.FLOAT:
            change(tensor)
    return out


def _bodies(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _bodies(attribute.g)
