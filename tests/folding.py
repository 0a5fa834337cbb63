"""Folds a model written as text, and proves the result against its source."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
from onnx import numpy_helper, parser
from onnx.reference import ReferenceEvaluator

from descent import Descending
from normfold.backends.onnx import OnnxGraph
from normfold.core.costs import CostTable
from normfold.core.driver import fold
from normfold.core.origins import Origin
from normfold.core.premises import PREMISES
from normfold.core.rules import Rewrite
from normfold.core.views import View
from normfold.records import Decision, Refusal
from normfold.runtime import CHECKER

Arrays = Mapping[str, np.ndarray]
FREE_SIZE = 2
"""What an input's free dimension is when the model is run."""
TOLERANCE = {"bool": 0, "int64": 0, "float16": 1e-2, "bfloat16": 6e-2, "float32": 2e-5, "float64": 1e-12}
"""Largest deviation allowed, of the output's range."""


@dataclass(frozen=True)
class Example:
    """What the docstring of a rule shows; ``costs`` where it happens only if it pays.

    ``sends`` names an operation and what starts the map there, where no fold does.
    """

    source: onnx.ModelProto
    costs: CostTable | None = None
    sends: tuple[str, Callable[[View], Iterable[Origin]]] | None = None


@dataclass(frozen=True)
class Folded:
    """A model before and after, and what was decided, by site."""

    source: onnx.ModelProto
    result: onnx.ModelProto
    decisions: Mapping[str, Decision]

    @property
    def decision(self) -> Decision:
        """The only one."""
        (decision,) = self.decisions.values()
        return decision

    @property
    def refused(self) -> set[str]:
        """Premises that the only norm failed."""
        return {refusal.premise for refusal in self.decision.refused_by}

    def because(self, premise: str) -> str:
        """The sentences with which the only norm failed ``premise``."""
        assert premise in self.refused
        return "; ".join(refusal.because for refusal in self.decision.refused_by if refusal.premise == premise)

    @property
    def operators(self) -> list[str]:
        """Operators of the result's main graph, in order."""
        return [node.op_type for node in self.result.graph.node]

    def constant(self, name: str) -> np.ndarray:
        """An initializer of the result's main graph."""
        return next(numpy_helper.to_array(t) for t in self.result.graph.initializer if t.name == name)


def array(*shape: int, seed: int = 0, dtype: object = np.float32, low: float = 0.25, high: float = 2.0) -> np.ndarray:
    """Numbers of either sign whose magnitude is neither tiny nor large."""
    rng = np.random.default_rng([seed, *shape])
    return (rng.uniform(low, high, shape) * rng.choice([-1, 1], shape)).astype(dtype)


def statistics(channels: int, prefix: str = "", dtype: object = np.float32, seed: int = 7) -> dict[str, np.ndarray]:
    """Constants ``s``, ``b``, ``m``, ``v`` of a BatchNormalization: some scales negative, no variance near zero."""
    parts = {name: array(channels, seed=seed + k, dtype=dtype) for k, name in enumerate("sbm")}
    variance = np.abs(array(channels, seed=seed + 3)).astype(dtype)
    return {f"{prefix}{name}": values for name, values in {**parts, "v": variance}.items()}


def doubling(channels: int) -> dict[str, np.ndarray]:
    """`statistics` with which the norm of `norm` multiplies every channel by two."""
    parts = dict(zip("sbmv", ([2], [0], [0], [1 - 0.001]), strict=True))
    return {name: np.full(channels, number, np.float32) for name, (number,) in parts.items()}


def norm(before: str, after: str, prefix: str = "", attributes: str = "") -> str:
    """A BatchNormalization that reads the constants of `statistics`."""
    operands = ", ".join(f"{prefix}{name}" for name in "sbmv")
    return f"[{after}_norm] {after} = BatchNormalization <epsilon = 0.001{attributes}> ({before}, {operands})"


def model(
    inputs: str,
    body: str | Sequence[str],
    constants: Arrays | None = None,
    *,
    outputs: str = "float[] y",
    opset: int = 17,
    ir_version: int = 8,
    functions: str = "",
    imports: str = "",
) -> onnx.ModelProto:
    """A model from ONNX text; ``constants`` become initializers."""
    lines = (body if isinstance(body, str) else "\n".join(body)).replace(" <>", "")
    extra = f", {imports}" if imports else ""
    proto = parser.parse_model(
        f'<ir_version: {ir_version}, opset_import: ["" : {opset}{extra}]>\n'
        f"net ({inputs}) => ({outputs}) {{\n{lines}\n}}\n{functions}"
    )
    proto.graph.initializer.extend(tensor(name, np.asarray(values)) for name, values in (constants or {}).items())
    inferred = onnx.shape_inference.infer_shapes(proto)
    for output, known in zip(proto.graph.output, inferred.graph.output, strict=True):
        output.CopyFrom(known)
    return proto


def tensor(name: str, values: np.ndarray) -> onnx.TensorProto:
    """``values`` as an ONNX tensor, of bfloat16, too."""
    return ir.to_proto(ir.tensor(values, name=name))


def only_fold(
    source: onnx.ModelProto, *, only: Sequence[str] = (), skip: Sequence[str] = (), costs: CostTable | None = None
) -> Folded:
    """Fold without comparing: for models that nothing can run."""
    graph = Descending(ir.from_proto(source))
    folding = fold(graph, only=only, skip=skip, costs=costs)
    decisions = {decision.site: decision for decision in folding.decisions}
    assert len(decisions) == len(folding.decisions), "two norms have one site name"
    result = Folded(source, ir.to_proto(graph.model), decisions)
    check_frame(result)
    return result


def refused_by(rule: Rewrite[Any, Any], source: onnx.ModelProto) -> set[str]:
    """The premises by which a rewrite refuses the places that it finds in a model."""
    graph = OnnxGraph(ir.from_proto(source), CHECKER.infer)
    views = [view for node in graph.nodes() if isinstance(view := graph.view(node), rule.view)]
    answers = [answer for view in views for _, answer in rule.answers(graph, view)]
    assert answers, "the rewrite does not find its structure"
    return {answer.premise if isinstance(answer, Refusal) else "none" for answer in answers}


def proven_fold(
    source: onnx.ModelProto,
    *,
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    reference: bool = False,
    feeds: Arrays | None = None,
    tolerance: float | None = None,
    costs: CostTable | None = None,
) -> Folded:
    """Fold, check the result's form, and compare it with the source."""
    result = only_fold(source, only=only, skip=skip, costs=costs)
    feeds = make_feeds(source) if feeds is None else feeds
    before = run(source, feeds, reference=reference)
    after = run(result.result, feeds, reference=reference)
    for name, wanted in before.items():
        compare(name, wanted, after[name], tolerance)
    return result


def compare(name: str, wanted: np.ndarray, got: np.ndarray, tolerance: float | None) -> None:
    assert wanted.shape == got.shape, name
    assert wanted.dtype == got.dtype, name
    limit = TOLERANCE[wanted.dtype.name] if tolerance is None else tolerance
    exact, found = wanted.astype(np.float64), got.astype(np.float64)
    assert np.isfinite(exact).all(), f"{name} of the source is not finite: the case proves nothing"
    if not exact.size:
        return
    span = float(np.ptp(exact)) or float(np.abs(exact).max(initial=0)) or 1.0
    worst = float(np.abs(exact - found).max(initial=0)) / span
    assert worst <= limit, f"{name} differs by {worst:.3g} of its range"


def check_frame(folded: Folded) -> None:
    """What every result keeps, and what every decision says."""
    source, result = folded.source, folded.result
    if is_valid(source):
        onnx.checker.check_model(result, full_check=True)
    assert [(o.domain, o.version) for o in result.opset_import if o.domain in ("", "ai.onnx")] == [
        (o.domain, o.version) for o in source.opset_import if o.domain in ("", "ai.onnx")
    ]
    assert result.ir_version == source.ir_version
    assert [value.name for value in result.graph.output] == [value.name for value in source.graph.output]
    held = {t.name for t in source.graph.initializer}
    assert [v for v in result.graph.input if v.name in {v.name for v in source.graph.input} - held] == [
        v for v in source.graph.input if v.name not in held
    ]
    for decision in folded.decisions.values():
        assert bool(decision.refused_by) == (decision.outcome != "folded"), decision
        assert bool(decision.into) == bool(decision.rules) == (decision.outcome != "kept"), decision
        for refusal in decision.refused_by:
            assert_speaks(refusal)


def is_valid(proto: onnx.ModelProto) -> bool:
    """Whether the checker accepts a model; some cases are about models that it rejects."""
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
        return False
    return True


def assert_speaks(refusal: Refusal) -> None:
    assert refusal.premise in PREMISES
    assert len(refusal.because.split()) >= 3, refusal
    assert "None" not in refusal.because, refusal


def make_feeds(proto: onnx.ModelProto, seed: int = 0) -> dict[str, np.ndarray]:
    """Random values for every input that has no initializer; free sizes are `FREE_SIZE`."""
    held = {t.name for t in proto.graph.initializer}
    rng = np.random.default_rng(seed)
    feeds = {}
    for value in proto.graph.input:
        if value.name in held:
            continue
        kind = value.type.tensor_type
        shape = [dim.dim_value if dim.HasField("dim_value") else FREE_SIZE for dim in kind.shape.dim]
        if kind.elem_type == onnx.TensorProto.BFLOAT16:
            dtype = np.dtype(ml_dtypes.bfloat16)
        else:
            dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
        normal = rng.standard_normal(shape) * 2 + 0.5
        feeds[value.name] = (normal > 0) if dtype == np.bool_ else normal.astype(dtype)
    return feeds


def run(proto: onnx.ModelProto, feeds: Arrays, *, reference: bool = False) -> dict[str, np.ndarray]:
    """Outputs by name, from ONNX Runtime without optimisations or from onnx's reference evaluator."""
    names = [value.name for value in proto.graph.output]
    if reference:
        return dict(zip(names, map(np.asarray, ReferenceEvaluator(proto).run(None, dict(feeds))), strict=True))
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def watched(source: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """``source`` with the values of these names as further outputs."""
    out = onnx.ModelProto.FromString(source.SerializeToString())
    stated = {value.name for value in (*out.graph.output, *out.graph.input)}
    out.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names if name not in stated)
    return out
