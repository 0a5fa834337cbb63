"""Random small valid networks: norms, activations, routes, branches and linear operations in any order.

The same seed gives the same network. Channels are often as many as rows or columns, so that a fold along the wrong
axis fits and is wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np
import onnx
from onnx import TensorProto, helper

from fuzz.builder import Builder, NotPossibleError, Val
from fuzz.operations import OPERATIONS, Operation, activation, affine_chain, batch_norm, conv, linear

OPSETS = (9, 11, 12, 13, 15, 17, 18, 21, 23)
IR_VERSION = {9: 4, 11: 6, 12: 7, 13: 7, 15: 8, 17: 8, 18: 8, 21: 10, 23: 11}
FREE_BATCH = 2
"""What a free batch is when the network is run."""
WEIGHTS = np.array([weight for _, weight in OPERATIONS])


def random_model(seed: int) -> onnx.ModelProto:
    """The network of ``seed``; a few of them are not valid, which the caller finds out."""
    rng = np.random.default_rng([20, seed])
    opset = int(rng.choice(OPSETS))
    b = Builder(rng, opset)
    b.plain, b.straight = b.chance(0.4), b.chance(0.5)
    dynamic = b.chance(0.2)
    batch = FREE_BATCH if dynamic else b.integer(1, 2)
    inputs = [Val(f"x{k}", (batch, *_input_shape(b))) for k in range(1 if b.chance(0.8) else 2)]
    b.pool += inputs
    for _ in range(b.integer(4, 16)):
        grow(b)
    flags = [_branching(b) for _ in range(1) if b.chance(0.12)]
    repeated = b.chance(0.12)
    if repeated:
        _repeating(b)
    for _ in range(b.integer(0, 4) if flags or repeated else 0):
        grow(b)
    infos = [_info(v, dynamic=dynamic) for v in inputs]
    infos += [helper.make_tensor_value_info(flag, TensorProto.BOOL, []) for flag in flags]
    return _finish(b, infos)


def _input_shape(b: Builder) -> tuple[int, ...]:
    channels = b.pick([2, 3, 4, 6, 8])
    rank = b.pick([2, 3, 4, 4, 4, 4, 5])
    spatial = tuple(channels if b.chance(0.4) else b.integer(2, 8) for _ in range(rank - 2))
    if rank == 5:
        spatial = tuple(min(size, 4) for size in spatial)
    return (channels, *spatial)


def grow(b: Builder) -> None:
    """Add one operation to the body, if one that was drawn applies."""
    for _ in range(6):
        operation: Operation = OPERATIONS[int(b.rng.choice(len(OPERATIONS), p=WEIGHTS / WEIGHTS.sum()))][0]
        x = _newest(b) if b.chance(0.97 if b.straight else 0.75) else b.pick(b.pool)
        try:
            with b.attempt():
                b.pool += operation(b, x)
        except NotPossibleError:
            continue
        return


def _newest(b: Builder) -> Val:
    """One of the newest values; in a straight network the newest."""
    back = 0 if b.straight else int(b.rng.geometric(0.6)) - 1
    return b.pool[-1 - min(back, len(b.pool) - 1)]


def _branching(b: Builder) -> str:
    """An If whose bodies fold norms, too; gives the name of its condition."""
    x = b.pick(b.pool)
    bodies = [_body(b, x), _body(b, x)]
    flag = b.fresh("flag")
    y = b.fresh("if")
    b.nodes.append(
        helper.make_node("If", [flag], [y], name=b.fresh("branch"), then_branch=bodies[0], else_branch=bodies[1])
    )
    b.pool.append(Val(y, x.shape))
    return flag


def _repeating(b: Builder) -> None:
    """A Loop over a state, or a Scan over the first axis; the sizes of the state, or of a row, may not be stated."""
    x, y = b.pick(b.pool), b.fresh("repeated")
    inner, loop = b.child(), x.rank < 2 or b.chance(0.5)
    state = Val(b.fresh("state"), x.shape if loop else x.shape[1:])
    result = _body_of(inner, state)
    shape = state.shape if b.chance(0.6) else None
    ports = [helper.make_tensor_value_info(v.name, TensorProto.FLOAT, shape) for v in (state, result)]
    held = [inner.data[name] for name in inner.initializers]
    if loop:
        names = [b.fresh(stem) for stem in ("step", "go", "next")]
        scalars = [
            helper.make_tensor_value_info(name, kind, [])
            for name, kind in zip(names, (TensorProto.INT64, TensorProto.BOOL, TensorProto.BOOL), strict=True)
        ]
        inner.nodes.append(helper.make_node("Identity", [names[1]], [names[2]]))
        body = helper.make_graph(inner.nodes, b.fresh("body"), [*scalars[:2], ports[0]], [scalars[2], ports[1]], held)
        inputs = [b.stored(np.asarray(2, np.int64), "times"), "", x.name]
        node = helper.make_node("Loop", inputs, [y], name=b.fresh("loop"), body=body)
    else:
        body = helper.make_graph(inner.nodes, b.fresh("body"), ports[:1], ports[1:], held)
        node = helper.make_node("Scan", [x.name], [y], name=b.fresh("scan"), body=body, num_scan_inputs=1)
    b.nodes.append(node)
    b.pool.append(Val(y, x.shape))


def _body(b: Builder, x: Val) -> onnx.GraphProto:
    """A body of operations that end in the shape of ``x``."""
    inner = b.child()
    result = _body_of(inner, x)
    held = [inner.data[name] for name in inner.initializers]
    info = helper.make_tensor_value_info(result.name, TensorProto.FLOAT, result.shape)
    return helper.make_graph(inner.nodes, b.fresh("body"), [], [info], held)


def _body_of(b: Builder, x: Val) -> Val:
    """Operations in a body of which the last one's value has the shape of ``x``."""
    y = x
    for operation in (
        b.pick([conv, linear, batch_norm]),
        batch_norm,
        b.pick([activation, affine_chain]),
        linear,
        batch_norm,
    ):
        try:
            with b.attempt():
                (made,) = operation(b, y)
                b.need(made.shape == x.shape)
            y = made
        except NotPossibleError:
            continue
    return b.one("Relu", [y])


def _finish(b: Builder, inputs: list[onnx.ValueInfoProto]) -> onnx.ModelProto:
    read = Counter(name for node in b.nodes for name in _reads(node))
    names = {name for node in b.nodes for name in node.output}
    made = [v for v in b.pool if v.name in names]
    ends = [v for v in made if not read[v.name]]
    outputs = [v for v in ends if b.chance(0.9)] or ends[-1:]
    outputs += [v for v in made if read[v.name] and b.chance(0.01 if b.straight else 0.04)]
    if not outputs:
        raise NotPossibleError
    held = [b.data[name] for name in b.initializers]
    ir_version = IR_VERSION[b.opset]
    if b.opset == 9 and not any(node.op_type == "If" for node in b.nodes) and b.chance(0.5):
        ir_version = 3
        inputs += [_listed(tensor) for tensor in held]
    elif b.chance(0.05) and held:
        inputs.append(_listed(b.pick(held)))
    graph = helper.make_graph(b.nodes, "net", inputs, [_info(v, dynamic=True) for v in outputs], held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", b.opset)], ir_version=ir_version)
    inferred = onnx.shape_inference.infer_shapes(model)
    for output, known in zip(model.graph.output, inferred.graph.output, strict=True):
        output.CopyFrom(known)
    if b.chance(0.3):
        model.graph.value_info.extend(inferred.graph.value_info)
    return model


def _listed(tensor: TensorProto) -> onnx.ValueInfoProto:
    """An initializer as an input: a default that a caller may override, from IR version 4 on."""
    return helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)


def _info(value: Val, *, dynamic: bool) -> onnx.ValueInfoProto:
    """A value as input (its batch free where ``dynamic``); shape inference fills outputs in."""
    shape = ("N", *value.shape[1:]) if dynamic else value.shape
    return helper.make_tensor_value_info(value.name, TensorProto.FLOAT, shape)


def _reads(node: onnx.NodeProto) -> Iterable[str]:
    yield from node.input
    for attribute in node.attribute:
        for inner in attribute.g.node:
            yield from _reads(inner)


def random_feeds(model: onnx.ModelProto, seed: int) -> dict[str, np.ndarray]:
    """Numbers for every input; a free batch is 2. Inputs that have an initializer keep it."""
    rng = np.random.default_rng([21, seed])
    held = {tensor.name for tensor in model.graph.initializer}
    feeds = {}
    for value in model.graph.input:
        kind = value.type.tensor_type
        shape = [d.dim_value or FREE_BATCH for d in kind.shape.dim]
        if value.name in held:
            continue
        if kind.elem_type == TensorProto.BOOL:
            feeds[value.name] = np.asarray(rng.random() < 0.5)
        else:
            feeds[value.name] = (rng.standard_normal(shape) * 1.5 + 0.3).astype(np.float32)
    return feeds
