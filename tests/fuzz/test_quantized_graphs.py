"""Random networks quantised: ONNX Runtime computes what a simulation of the same codes computes in float64."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

from fuzz.builder import NotPossibleError
from fuzz.graphs import FREE_BATCH, random_model
from normfold.backends.onnx import OnnxGraph
from normfold.backends.onnx.integers.contrib import ContribEmitter
from normfold.backends.onnx.integers.qdq import QdqEmitter
from normfold.backends.onnx.integers.read import read_network
from normfold.backends.onnx.integers.simulated import emit_simulated
from normfold.core.integers.form import integer_form
from normfold.core.integers.plan import Plan, made_plan
from normfold.core.integers.ranges import min_max
from normfold.models.dataset import read_dataset
from normfold.passes.quantize.recipe import Work
from normfold.passes.quantize.statistics import gathered
from normfold.proof.probes import input_specs
from normfold.runtime import CHECKER, Evaluator

NETWORKS = 50
OPSET = 13
"""From which on there are scales by channel."""


@pytest.fixture(scope="module")
def evaluator() -> Iterator[Evaluator]:
    with Evaluator(threads=1) as one:
        yield one


def in_doubles(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same network in float64."""
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    tensors = [*proto.graph.initializer]
    tensors += [a.t for node in proto.graph.node for a in node.attribute if a.type == onnx.AttributeProto.TENSOR]
    for tensor in tensors:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))
    return proto


def feeds_of(proto: onnx.ModelProto, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    found = {}
    for value in proto.graph.input:
        kind = value.type.tensor_type
        shape = [dim.dim_value or FREE_BATCH for dim in kind.shape.dim]
        found[value.name] = rng.standard_normal(shape).astype(np.float32) if kind.elem_type == 1 else np.array(True)
    return found


def quantised(evaluator: Evaluator, proto: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> tuple[ir.Model, Plan]:
    graph = OnnxGraph(ir.from_proto(proto), CHECKER.infer)
    network = integer_form(read_network(graph))
    data = read_dataset(lambda: [feeds], input_specs(graph.model))
    work = Work(graph.model.clone, "int8", ("qdq",), evaluator)
    return graph.model, made_plan(network, gathered(work, graph.model.clone(), network, data).seen, min_max)


def candidates() -> list[int]:
    found = []
    for seed in range(400):
        try:
            proto = random_model(seed)
        except NotPossibleError:
            continue
        opset = next(entry.version for entry in proto.opset_import if not entry.domain)
        bodies = any(a.type == onnx.AttributeProto.GRAPH for node in proto.graph.node for a in node.attribute)
        if opset >= OPSET and not bodies and not proto.functions:
            found.append(seed)
    return found


def nudged(proto: onnx.ModelProto, by: float) -> onnx.ModelProto:
    """``proto`` with values that much larger where they are rounded, so that ties fall to the other side."""
    held = {tensor.name: tensor for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type == "Div" and node.input[1] in held:
            moved = numpy_helper.to_array(held[node.input[1]]) * (1 - by)
            name = f"{node.output[0]} nudged"
            proto.graph.initializer.append(numpy_helper.from_array(moved, name))
            node.input[1] = name
    return proto


def simulated(model: ir.Model, plan: Plan, feeds: dict[str, np.ndarray], by: float = 0.0) -> list[np.ndarray]:
    proto = nudged(in_doubles(ir.to_proto(emit_simulated(model.clone(), plan))), by)
    doubles = {name: x.astype(np.float64) if x.dtype == np.float32 else x for name, x in feeds.items()}
    return ReferenceEvaluator(proto).run(None, doubles)


def ran(made: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    try:
        return onnxruntime.InferenceSession(made.SerializeToString()).run(None, feeds)
    except onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument:
        # Its transpose optimiser makes a Gather beyond the end of a few of them; without it they run.
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        return onnxruntime.InferenceSession(made.SerializeToString(), options).run(None, feeds)


def is_evaluated(proto: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> bool:
    """Whether onnx's evaluator computes of ``proto`` itself what ONNX Runtime does: of some operators it does not."""
    try:
        theirs = ReferenceEvaluator(proto).run(None, feeds)
    except (RuntimeError, TypeError, ValueError):
        return False
    ours = onnxruntime.InferenceSession(proto.SerializeToString()).run(None, feeds)
    return all(np.allclose(a, b, rtol=0, atol=1e-4 * (np.ptp(b) or 1)) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.slow
def test_fifty_networks_compute_what_their_simulations_compute(evaluator: Evaluator) -> None:
    """Within two steps of the output, or what a nudge by a millionth of a step does to the simulation itself."""
    coded, checked, wrong = 0, 0, []
    for seed in candidates():
        proto = random_model(seed)
        feeds = feeds_of(proto, seed)
        if checked == NETWORKS:
            break
        model, plan = quantised(evaluator, proto, feeds)
        if not is_evaluated(ir.to_proto(emit_simulated(model.clone(), plan)), feeds):
            continue
        checked += 1
        coded += bool(plan.weights)
        truth, *moved = (simulated(model, plan, feeds, by) for by in (0.0, 1e-6, -1e-6))
        for emit in (QdqEmitter, ContribEmitter):
            found = ran(ir.to_proto(emit(model.clone(), plan).write()), feeds)
            for k, (ours, theirs) in enumerate(zip(found, truth, strict=True)):
                if theirs.dtype != np.float64 or not theirs.size:
                    continue
                noise = max(np.abs(one[k] - theirs).max() for one in moved)
                off, step = np.abs(ours - theirs).max(), np.ptp(theirs) / 255
                if off > max(2 * step, 2 * noise) + 1e-5:
                    wrong.append(f"seed {seed}, {emit.__name__}: off by {off / (step or 1):.1f} steps")
    assert checked == NETWORKS
    assert coded >= NETWORKS - 5
    assert not wrong, "\n".join(wrong)
