"""An ONNX graph read as a network of integer steps: views say what operations are, what has none stays floating."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import onnx_ir as ir

from normfold.backends.onnx.graph import OnnxGraph
from normfold.core import views
from normfold.core.algebra import Permute, Window
from normfold.core.algebra.affine import Array
from normfold.core.integers import steps
from normfold.core.integers.steps import Floating, Network, Step

NO_FORM: Final = "no integer form is known of {}"
MOVES: Final = frozenset({"Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Slice", "Dropout"})
"""Operators that move elements of any type, and have one output that matters."""


def read_network(graph: OnnxGraph) -> Network:
    """The main graph of ``graph``; operations of subgraphs belong to the nodes that hold them."""
    model = graph.model
    read = [step for place, node in enumerate(model.graph) for step in _read(graph, node, place)]
    values = [*model.graph.inputs, *(value for node in model.graph for value in node.outputs)]
    shapes = {_name(value): graph.shape(value) for value in values}
    nodes = tuple(model.graph)
    # What a node makes on the way to its output has the shape of that.
    added = {one.output: graph.shape(nodes[one.nodes[0]].outputs[0]) for one in read if one.output not in shapes}
    return Network(
        tuple(read),
        tuple(_name(value) for value in model.graph.inputs if not value.is_initializer()),
        tuple(_name(value) for value in model.graph.outputs),
        shapes | added,
        frozenset(_name(value) for value in values if graph.dtype(value) == ir.DataType.FLOAT),
        frozenset(added),
    )


def _read(graph: OnnxGraph, node: ir.Node, place: int) -> list[Step]:
    made = _lifted(graph, node) if node.outputs else []
    found = [replace(_floating(node, made), moments=_moments(graph, node))] if isinstance(made, str) else made
    return [replace(step, nodes=(place,), beside=_beside(node, step)) for step in found]


def _moments(graph: OnnxGraph, node: ir.Node) -> tuple[Array, Array] | None:
    """What a norm by live statistics makes of anything: its bias as mean, its scale as deviation."""
    view = graph.view(node) if node.outputs else None
    if not isinstance(view, views.Norm) or view.tail is None:
        return None
    shift, scale = (one.reshape(-1) for one in np.broadcast_arrays(view.tail.shift, view.tail.scale))
    return shift, np.abs(scale)


def _beside(node: ir.Node, step: Step) -> tuple[str, ...]:
    """What ``node`` reads besides, computed by other operations."""
    others = [_name(value) for value in node.inputs if value is not None and value.producer() is not None]
    return tuple(name for name in others if name not in step.inputs)


def _lifted(graph: OnnxGraph, node: ir.Node) -> list[Step] | str:
    """The steps that ``node`` comes to, or why it stays in floating point."""
    view = graph.view(node)
    unknown = NO_FORM.format(node.op_type)
    if view.refusals or any(graph.dtype(one) != ir.DataType.FLOAT for one in (node.outputs[0], *_values(view.inputs))):
        return unknown
    if any(value.is_initializer() and not value.is_graph_input() for value in _values(view.inputs)):
        return "it reads a constant"
    if any(inner.graph is not node.graph for out in node.outputs for inner, _ in out.uses()):
        return "it is read inside a subgraph"
    native = NATIVE.get(node.op_type) if node.domain in ("", "ai.onnx") else None
    if native is not None:
        return native(graph, node, view) or unknown
    if any(out.uses() or out.is_graph_output() for out in node.outputs[1:]):
        return "it has more than one output"
    for kind, function in READERS:
        made = function(graph, node, view) if isinstance(view, kind) else None
        if made is not None:
            return [made]
    return unknown


def _values(inputs: Sequence[views.Value]) -> list[ir.Value]:
    return [value for value in inputs if isinstance(value, ir.Value)]


def _name(value: views.Value) -> str:
    return value.name or "" if isinstance(value, ir.Value) else ""


def _floating(node: ir.Node, because: str) -> Floating:
    # What a body reads of the graph around it counts as read by the node that holds the body.
    inner = [value for body in _bodies(node) for one in body.all_nodes() for value in one.inputs if value is not None]
    outer = [value for value in inner if value.graph is node.graph]
    names = [_name(value) for value in (*node.inputs, *outer) if value is not None]
    return Floating(
        name=node.name or _name(node.outputs[0]),
        operator=node.op_type,
        inputs=tuple(dict.fromkeys(name for name in names if name)),
        output=_name(node.outputs[0]),
        more=tuple(_name(value) for value in node.outputs[1:]),
        because=because,
    )


def _bodies(node: ir.Node) -> list[ir.Graph]:
    found = []
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH and not attribute.is_ref():
            found.append(attribute.as_graph())
        elif attribute.type == ir.AttributeType.GRAPHS and not attribute.is_ref():
            found.extend(attribute.as_graphs())
    return found


def _basics(node: ir.Node, view: views.View) -> dict[str, Any]:
    return {
        "name": node.name or _name(node.outputs[0]),
        "operator": node.op_type,
        "inputs": tuple(map(_name, view.inputs)),
        "output": _name(node.outputs[0]),
    }


def _linear(_: OnnxGraph, node: ir.Node, view: views.Linear) -> Step | None:
    weight = view.weight.canonical()
    groups, rows = weight.shape[:2]
    whole = weight.reshape(groups * rows, *weight.shape[2:])
    bias = _vector(view.bias, len(whole))
    if bias is None or not (np.isfinite(whole).all() and np.isfinite(bias).all()):
        return None
    if node.op_type == "ConvTranspose":
        return _transposed(node, view, whole, bias)
    if node.op_type == "Conv":
        if view.window is None:
            return None
        return steps.Linear(**_basics(node, view), weight=whole, bias=bias, groups=groups, window=view.window)
    if view.in_axes != (-1,) or view.out_axes != (-1,):
        return None
    return steps.Linear(**_basics(node, view), weight=whole, bias=bias)


def _vector(bias: Array | None, size: int) -> Array | None:
    """A bias by output channel; None where it is something else."""
    flat = np.zeros(1) if bias is None else bias.reshape(-1)
    if bias is not None and bias.size > 1 and (bias.size != size or max(bias.shape) != size):
        return None
    return np.broadcast_to(flat, (size,)).astype(np.float64)


def _transposed(node: ir.Node, view: views.Linear, weight: Array, bias: Array) -> Step | None:
    attributes, rank = node.attributes, len(view.weight.taps)
    if attributes.get_string("auto_pad", "NOTSET") != "NOTSET" or "output_shape" in attributes:
        return None
    ones, zeros = [1] * rank, [0] * rank
    pads = attributes.get_ints("pads", zeros * 2)
    window = Window(
        view.weight.taps,
        tuple(attributes.get_ints("strides", ones)),
        tuple(attributes.get_ints("dilations", ones)),
        tuple(pads[:rank]),
        tuple(pads[rank:]),
    )
    surplus = tuple(attributes.get_ints("output_padding", zeros))
    groups = view.weight.groups
    return steps.Transposed(
        **_basics(node, view), weight=weight, bias=bias, groups=groups, window=window, surplus=surplus
    )


def _affine(_: OnnxGraph, node: ir.Node, view: views.AffineOp) -> Step | None:
    scale, shift = view.affine.scale, view.affine.shift
    shape = np.broadcast_shapes(scale.shape, shift.shape)
    if not view.affine.finite or sum(size > 1 for size in shape) > 1:
        return None
    axis = -len(shape) if shape else None
    spread = [
        np.broadcast_to(one.reshape(-1) if one.size > 1 else one.reshape(()), shape[:1]) for one in (scale, shift)
    ]
    return steps.Affine(**_basics(node, view), scale=spread[0], shift=spread[1], axis=axis)


def _homogeneous(_: OnnxGraph, node: ir.Node, view: views.PositiveHomogeneous) -> Step | None:
    if node.op_type in ("Relu", "Max"):
        return _clamp(node, view, 0.0, math.inf)
    if node.op_type == "LeakyRelu":
        return steps.Leaky(**_basics(node, view), slope=node.attributes.get_float("alpha", 0.01))
    return None


def _clip(_: OnnxGraph, node: ir.Node, view: views.Clip) -> Step | None:
    if view.low.size > 1 or view.high.size > 1:
        return None
    return _clamp(node, view, float(view.low.reshape(())), float(view.high.reshape(())))


def _clamp(node: ir.Node, view: views.View, low: float, high: float) -> Step:
    one, zero = np.ones(()), np.zeros(())
    return steps.Affine(**_basics(node, view), scale=one, shift=zero, axis=None, low=low, high=high)


def _pool(graph: OnnxGraph, node: ir.Node, view: views.Pool) -> Step | None:
    rank = len(graph.shape(node.inputs[0]) or ()) if node.inputs[0] is not None else 0
    spatial = tuple(range(2 - rank, 0))
    if view.maximum:
        return _max_pool(node, view, rank)
    if node.op_type == "AveragePool":
        window = view.window
        if window is None or any((*window.begins, *window.ends)):
            return None
        return steps.AveragePool(**_basics(node, view), window=window)
    if rank < 3 or view.axes != spatial:
        return None
    keeps = node.op_type == "GlobalAveragePool" or bool(node.attributes.get_int("keepdims", 1))
    return steps.GlobalMean(**_basics(node, view), keeps=keeps)


def _max_pool(node: ir.Node, view: views.Pool, rank: int) -> Step | None:
    if node.op_type != "MaxPool" or node.attributes.get_string("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return None
    ones, zeros = [1] * (rank - 2), [0] * (rank - 2)
    attributes = node.attributes
    pads = attributes.get_ints("pads", zeros * 2)
    window = Window(
        tuple(attributes.get_ints("kernel_shape", ones)),
        tuple(attributes.get_ints("strides", ones)),
        tuple(attributes.get_ints("dilations", ones)),
        tuple(pads[: rank - 2]),
        tuple(pads[rank - 2 :]),
    )
    return steps.MaxPool(**_basics(node, view), window=window, ceil=bool(attributes.get_int("ceil_mode", 0)))


def _sum(_: OnnxGraph, node: ir.Node, view: views.Sum) -> Step | None:
    same = view.shapes[0] is not None and all(shape == view.shapes[0] for shape in view.shapes)
    if view.signs != (1, 1) or not same or len(set(view.inputs)) < 2:
        return None
    return steps.Sum(**_basics(node, view))


def _product(_: OnnxGraph, node: ir.Node, view: views.Product) -> Step | None:
    ranks = {None if shape is None else len(shape) for shape in view.shapes}
    if None in ranks or len(ranks) > 1:
        return None
    return steps.Product(**_basics(node, view))


def _concat(_: OnnxGraph, node: ir.Node, view: views.Concat) -> Step | None:
    return steps.Concat(**_basics(node, view), axis=view.axis)


def _moving(_: OnnxGraph, node: ir.Node, view: views.Moving) -> Step | None:
    if node.op_type not in MOVES or len(view.moves) != 1:
        return None
    move = view.moves[0]
    order = tuple(move.order) if node.op_type == "Transpose" and isinstance(move, Permute) and move.order else None
    return steps.Moving(**_basics(node, view), permutation=order)


def _resample(graph: OnnxGraph, node: ir.Node, view: views.Resample) -> Step | None:
    before, after = graph.shape(node.inputs[0]) if node.inputs[0] else None, graph.shape(node.outputs[0])
    nearest = node.attributes.get_string("mode", "nearest") == "nearest"
    if before is None or after is None or len(before) != len(after) or len(after) < 3 or not nearest:
        return None
    pairs = list(zip(before[2:], after[2:], strict=True))
    factors = [b // a if isinstance(a, int) and isinstance(b, int) and b % a == 0 else 0 for a, b in pairs]
    way = node.attributes.get_string("coordinate_transformation_mode", "half_pixel")
    rounding = node.attributes.get_string("nearest_mode", "round_prefer_floor")
    # Whole factors copy each element, but for ways of rounding that begin in the middle of one.
    copies = (way, rounding) in COPYING or way.endswith("half_pixel")
    if not all(factors) or not copies or before[:2] != after[:2]:
        return None
    return steps.Enlarge(**_basics(node, view), factors=tuple(factors))


def _split(graph: OnnxGraph, node: ir.Node, view: views.View) -> list[Step]:
    shapes = [graph.shape(value) for value in node.outputs]
    rank = len(shapes[0] or ())
    axis = node.attributes.get_int("axis", 0)
    axis = axis - rank if axis >= 0 else axis
    sizes = [None if shape is None or not -rank <= axis < 0 else shape[axis] for shape in shapes]
    made: list[Step] = []
    start = 0
    for value, size in zip(node.outputs, sizes, strict=True):
        if not isinstance(size, int):
            return []
        basics = _basics(node, view) | {"inputs": (_name(node.inputs[0]),), "output": _name(value)}
        made.append(steps.Slice(**basics, axis=axis, start=start, stop=start + size))
        start += size
    return made


def _sigmoid(_: OnnxGraph, node: ir.Node, view: views.View) -> list[Step]:
    return [steps.Sigmoid(**_basics(node, view))]


def _hard_sigmoid(_: OnnxGraph, node: ir.Node, view: views.View) -> list[Step]:
    alpha, beta = node.attributes.get_float("alpha", 0.2), node.attributes.get_float("beta", 0.5)
    return [_ramp(_basics(node, view), alpha, beta)]


def _ramp(basics: dict[str, Any], alpha: float, beta: float) -> Step:
    return steps.Affine(**basics, scale=np.asarray(alpha), shift=np.asarray(beta), axis=None, low=0.0, high=1.0)


def _hard_swish(_: OnnxGraph, node: ir.Node, view: views.View) -> list[Step]:
    basics = _basics(node, view)
    gate = f"{basics['output']}/gate"
    ramp = _ramp(basics | {"output": gate}, 1.0 / 6.0, 0.5)
    return [ramp, steps.Product(**basics | {"inputs": (*basics["inputs"], gate)})]


def _gelu(_: OnnxGraph, node: ir.Node, view: views.View) -> list[Step]:
    basics = _basics(node, view)
    gate = f"{basics['output']}/gate"
    sigmoid = steps.Sigmoid(**basics | {"output": gate}, factor=steps.GELU)
    return [sigmoid, steps.Product(**basics | {"inputs": (*basics["inputs"], gate)})]


COPYING: Final = frozenset({("asymmetric", "floor")})
"""Coordinates and rounding with which whole factors copy each element."""
NATIVE: Final[dict[str, Callable[[OnnxGraph, ir.Node, views.View], list[Step]]]] = {
    "Sigmoid": _sigmoid,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "Gelu": _gelu,
    "Split": _split,
}
"""Operators that are read by their name."""
READERS: Final[Sequence[tuple[type[views.View], Callable[[OnnxGraph, ir.Node, Any], Step | None]]]] = (
    (views.Linear, _linear),
    (views.AffineOp, _affine),
    (views.PositiveHomogeneous, _homogeneous),
    (views.Clip, _clip),
    (views.Pool, _pool),
    (views.Sum, _sum),
    (views.Product, _product),
    (views.Concat, _concat),
    (views.Resample, _resample),
    (views.Moving, _moving),
)
"""Views to steps; what a reader answers with None stays in floating point."""
