"""Small valid models made invalid, odd or merely unusual: one mutation is one thing that real or hostile files have.

`mutate` changes a model in place, `mutate_bytes` a serialised one. Equal random states give equal results.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, defs, helper, numpy_helper

Random = random.Random
Mutation = Callable[[onnx.ModelProto, Random], None]

INTEGERS = (-(2**63), -(2**31), -1000, -17, -2, -1, 0, 1, 2, 3, 5, 7, 33, 1000, 2**31, 2**40, 2**63 - 1)
FLOATS = (0.0, -0.0, 1.0, -1.0, 5e-324, 1e-40, 1e-7, 1e30, 3.5e38, float("inf"), float("-inf"), float("nan"))
NAMES = ("", "a\nb", "ü\u202e", "x" * 300, "x", "y", "..", "a/b", "%s{0}", "\x1b[31mred", "\0")
TYPES = tuple(TensorProto.DataType.values())
SCHEMAS = tuple(sorted({(schema.domain, schema.name) for schema in defs.get_all_schemas()}))
CONTRIB = (
    "BiasGelu", "EmbedLayerNormalization", "FusedConv", "FusedMatMul", "GroupNorm", "LayerNormalization", "MatMulNBits",
    "QAttention", "QLinearAdd", "QuickGelu", "SkipLayerNormalization", "SkipSimplifiedLayerNormalization",
)  # fmt: skip
"""Operators of com.microsoft."""


MOST = 1 << 20
"""Elements of a tensor that a mutation makes."""


class NothingToMutateError(Exception):
    """The model has no place for this mutation."""


def mutate(model: onnx.ModelProto, rng: Random, times: int) -> list[str]:
    """Apply ``times`` mutations and return their names; those that do not apply are drawn again."""
    done: list[str] = []
    for _ in range(20 * times):
        if len(done) == times:
            break
        name = rng.choice(list(MUTATIONS))
        try:
            MUTATIONS[name](model, rng)
        except (NothingToMutateError, ValueError, OverflowError, onnx.checker.ValidationError):
            continue
        done.append(name)
    return done


def mutate_bytes(data: bytes, rng: Random) -> bytes:
    """Flip, insert, delete, repeat or cut bytes at a few places."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        if not out:
            break
        at, length = rng.randrange(len(out)), rng.choice((1, 1, 2, 8, 64))
        match rng.randrange(6):
            case 0:
                out[at] ^= 1 << rng.randrange(8)
            case 1:
                out[at : at + length] = rng.randbytes(length)
            case 2:
                out[at:at] = rng.randbytes(length)
            case 3:
                del out[at : at + length]
            case 4:
                out[at:at] = out[at : at + length]
            case _:
                out[at] = rng.choice((0, 1, 127, 128, 255))
    return bytes(out[: rng.randrange(len(out) + 1)] if rng.random() < 0.05 else out)


# ---------------------------------------------------------------------------------------------- where things are


def graphs(model: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    """The main graph and those below it."""
    pending = [model.graph]
    while pending:
        graph = pending.pop()
        yield graph
        for node in graph.node:
            for attribute in node.attribute:
                pending += [attribute.g] if attribute.HasField("g") else []
                pending += list(attribute.graphs)


def _nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    found = [node for graph in graphs(model) for node in graph.node]
    return found + [node for function in model.functions for node in function.node]


def _values(model: onnx.ModelProto) -> list[str]:
    graph = model.graph
    named = [value.name for value in (*graph.input, *graph.initializer)]
    return named + [name for node in graph.node for name in node.output if name]


def _pick(rng: Random, options: Sequence[Any]) -> Any:
    if not options:
        raise NothingToMutateError
    return rng.choice(list(options))


def _node(model: onnx.ModelProto, rng: Random) -> onnx.NodeProto:
    return _pick(rng, _nodes(model))


def _tensor(model: onnx.ModelProto, rng: Random) -> TensorProto:
    found = [tensor for graph in graphs(model) for tensor in graph.initializer]
    found += [a.t for node in _nodes(model) for a in node.attribute if a.type == AttributeProto.TENSOR]
    return _pick(rng, found)


def _integers(rng: Random) -> int:
    return rng.choice(INTEGERS)


# ---------------------------------------------------------------------------------------------- attributes


def _attribute_value(rng: Random) -> Any:
    """A value of any type."""
    tensor = numpy_helper.from_array(np.array(rng.choice(([], [1.0], [0, -1], [[2.5]])), np.float32), "t")
    return rng.choice(
        (
            _integers(rng), rng.choice(FLOATS), rng.choice(("SAME_UPPER", "VALID", "", "linear", "\n", "NOTSET")),
            [_integers(rng) for _ in range(rng.choice((1, 2, 4, 5, 9)))], [rng.choice(FLOATS)] * 3, [b"a", b"\xff"],
            tensor, [tensor, tensor], helper.make_graph([], "", [], []),
        )
    )  # fmt: skip


def _set_attribute(node: onnx.NodeProto, name: str, value: Any) -> None:
    for position, attribute in enumerate(node.attribute):
        if attribute.name == name:
            del node.attribute[position]
            break
    node.attribute.append(helper.make_attribute(name, value))


def attribute_value(model: onnx.ModelProto, rng: Random) -> None:
    """An attribute keeps its type and gets another value."""
    attribute = _pick(rng, [a for node in _nodes(model) for a in node.attribute])
    match attribute.type:
        case AttributeProto.INT:
            attribute.i = _integers(rng)
        case AttributeProto.FLOAT:
            attribute.f = rng.choice([value for value in FLOATS if not 3.4e38 < abs(value) < math.inf])
        case AttributeProto.STRING:
            attribute.s = rng.choice((b"", b"SAME_LOWER", b"\xff\xfe", b"nearest", b"constant", b"edge", b"wrap"))
        case AttributeProto.INTS:
            _change_list(attribute.ints, _integers(rng), rng)
        case AttributeProto.FLOATS:
            _change_list(attribute.floats, rng.choice((0.0, -1.0, 1e-40, float("nan"))), rng)
        case _:
            raise NothingToMutateError


def _change_list(values: Any, value: Any, rng: Random) -> None:
    match rng.randrange(4):
        case 0 if len(values):
            values[rng.randrange(len(values))] = value
        case 1 if len(values):
            del values[rng.randrange(len(values))]
        case 2:
            values.append(value)
        case _:
            del values[:]


def attribute_type(model: onnx.ModelProto, rng: Random) -> None:
    """An attribute that the operator has gets a value of any type."""
    node = _node(model, rng)
    named = [attribute.name for attribute in node.attribute] + _formal(node)
    _set_attribute(node, _pick(rng, named), _attribute_value(rng))


def _formal(node: onnx.NodeProto) -> list[str]:
    return sorted(defs.get_schema(node.op_type, node.domain).attributes) if defs.has(node.op_type, node.domain) else []


def attribute_gone(model: onnx.ModelProto, rng: Random) -> None:
    """An attribute is left out."""
    node = _pick(rng, [node for node in _nodes(model) if node.attribute])
    del node.attribute[rng.randrange(len(node.attribute))]


def attribute_odd(model: onnx.ModelProto, rng: Random) -> None:
    """An attribute twice, without a type, empty, under another name, or that refers to a function's."""
    node = _pick(rng, [node for node in _nodes(model) if node.attribute])
    attribute = rng.choice(node.attribute)
    match rng.randrange(5):
        case 0:
            node.attribute.append(attribute)
        case 1:
            attribute.ClearField("type")
        case 2:
            attribute.ref_attr_name = "missing"
        case 3:
            attribute.name = rng.choice(NAMES)
        case _:
            name, kind = attribute.name, attribute.type
            attribute.Clear()
            attribute.name, attribute.type = name, kind


# ---------------------------------------------------------------------------------------------- nodes


def input_gone(model: onnx.ModelProto, rng: Random) -> None:
    """An input of a node is left out at the end, or blank."""
    node = _pick(rng, [node for node in _nodes(model) if node.input])
    position = rng.randrange(len(node.input))
    if rng.random() < 0.5:
        node.input[position] = ""
    else:
        del node.input[position:]


def input_other(model: onnx.ModelProto, rng: Random) -> None:
    """A node reads another value of the model, or one more."""
    node, name = _node(model, rng), _pick(rng, _values(model))
    if node.input and rng.random() < 0.8:
        node.input[rng.randrange(len(node.input))] = name
    else:
        node.input.append(name)


def input_constant(model: onnx.ModelProto, rng: Random) -> None:
    """A node reads a new constant of any small shape and type."""
    node = _pick(rng, [node for node in _nodes(model) if node.input])
    name = f"fuzz{len(model.graph.initializer)}"
    model.graph.initializer.append(_constant(name, rng))
    node.input[rng.randrange(len(node.input))] = name


def _constant(name: str, rng: Random) -> TensorProto:
    shape = rng.choice(((), (1,), (0,), (3,), (4,), (1, 1), (2, 3), (1, 3, 1, 1), (1, 0, 1), (1, 1, 1, 1, 1)))
    if rng.random() < 0.4:
        values = np.array([rng.choice(INTEGERS) for _ in range(int(np.prod(shape)))], np.int64).reshape(shape)
        return numpy_helper.from_array(values, name)
    values = np.array([rng.choice(FLOATS) for _ in range(int(np.prod(shape)))], np.float64).reshape(shape)
    with np.errstate(all="ignore"):
        kind = rng.choice((np.float32, np.float64, np.float16, ml_dtypes.bfloat16, np.int8, np.bool_))
        return numpy_helper.from_array(values.astype(kind), name)


def operator(model: onnx.ModelProto, rng: Random) -> None:
    """A node becomes another operator, of any domain."""
    node = _node(model, rng)
    if rng.random() < 0.15:
        node.domain, node.op_type = "com.microsoft", rng.choice(CONTRIB)
        if not any(opset.domain == node.domain for opset in model.opset_import):
            model.opset_import.append(helper.make_opsetid(node.domain, 1))
    else:
        node.domain, node.op_type = rng.choice(SCHEMAS)


def domain(model: onnx.ModelProto, rng: Random) -> None:
    """A node is of another domain, or calls an overload."""
    node = _node(model, rng)
    if rng.random() < 0.3:
        node.overload = rng.choice(("a", "\n"))
    else:
        node.domain = rng.choice(("ai.onnx", "ai.onnx.ml", "com.microsoft", "unknown", "\n", ""))


def outputs(model: onnx.ModelProto, rng: Random) -> None:
    """A node has an output more, less, without a name or under a name that is taken."""
    node = _node(model, rng)
    match rng.randrange(4):
        case 0:
            node.output.append(f"more{len(node.output)}")
        case 1 if node.output:
            del node.output[-1]
        case 2 if node.output:
            node.output[rng.randrange(len(node.output))] = ""
        case _:
            node.output.append(_pick(rng, _values(model)))


def order(model: onnx.ModelProto, rng: Random) -> None:
    """Nodes in another order."""
    nodes = list(model.graph.node)
    rng.shuffle(nodes)
    copies = [onnx.NodeProto() for _ in nodes]
    for copy, node in zip(copies, nodes, strict=True):
        copy.CopyFrom(node)
    del model.graph.node[:]
    model.graph.node.extend(copies)


def node_gone(model: onnx.ModelProto, rng: Random) -> None:
    """A node is missing, or there twice."""
    graph = rng.choice(list(graphs(model)))
    if not graph.node:
        raise NothingToMutateError
    if rng.random() < 0.7:
        del graph.node[rng.randrange(len(graph.node))]
    else:
        graph.node.append(rng.choice(graph.node))


def insert(model: onnx.ModelProto, rng: Random) -> None:
    """An operation in between, of any operator with one input."""
    node = _pick(rng, [node for node in model.graph.node if node.input])
    position = list(model.graph.node).index(node)
    slot, name = rng.randrange(len(node.input)), f"between{len(model.graph.node)}"
    space, kind = rng.choice(SCHEMAS)
    made = helper.make_node(kind, [node.input[slot]], [name], domain=space)
    node.input[slot] = name
    kept = [onnx.NodeProto.FromString(one.SerializeToString()) for one in model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend([*kept[:position], made, *kept[position:]])


# ---------------------------------------------------------------------------------------------- tensors


def values(model: onnx.ModelProto, rng: Random) -> None:
    """Some elements of a constant are extreme, or all of them are one value."""
    tensor = _tensor(model, rng)
    array = numpy_helper.to_array(tensor).copy()
    if array.dtype.kind not in "fiuV" or not array.size:
        raise NothingToMutateError
    with np.errstate(all="ignore"):
        if array.dtype.kind in "iu":
            value = np.array(_integers(rng)).astype(array.dtype)
        else:
            value = np.float64(rng.choice(FLOATS)).astype(array.dtype)
    flat = array.reshape(-1)
    flat[slice(None) if rng.random() < 0.5 else rng.randrange(array.size)] = value
    _put(tensor, array)


def _put(tensor: TensorProto, array: np.ndarray) -> None:
    name = tensor.name
    tensor.CopyFrom(numpy_helper.from_array(array, name))


def element_type(model: onnx.ModelProto, rng: Random) -> None:
    """A constant of another type with the same values."""
    tensor = _tensor(model, rng)
    array = numpy_helper.to_array(tensor)
    kinds = (
        np.float64, np.float16, np.int64, np.int32, np.uint8, np.int8, np.bool_, np.complex64, ml_dtypes.bfloat16,
        ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2, ml_dtypes.int4, ml_dtypes.float4_e2m1fn,
    )  # fmt: skip
    if array.dtype.kind not in "fiubV":
        raise NothingToMutateError
    with np.errstate(all="ignore"):
        _put(tensor, array.astype(rng.choice(kinds)))


def denormal_double(model: onnx.ModelProto, rng: Random) -> None:
    """A constant in double, so small that reciprocals overflow."""
    tensor = _tensor(model, rng)
    if math.prod(tensor.dims) > MOST or min(tensor.dims, default=0) < 0:
        raise NothingToMutateError  # an earlier mutation has changed its sizes
    _put(tensor, np.full(tuple(tensor.dims), rng.choice((5e-324, 1e-310, 2e-308))))


def size(model: onnx.ModelProto, rng: Random) -> None:
    """A constant of another shape, with as many elements as that takes."""
    tensor = _tensor(model, rng)
    array = numpy_helper.to_array(tensor)
    if array.dtype.kind not in "fiub":
        raise NothingToMutateError
    dims = list(array.shape)
    match rng.randrange(5):
        case 0 if dims:
            dims[rng.randrange(len(dims))] = rng.choice((0, 1, 2, 5, 16))
        case 1:
            dims.append(rng.choice((1, 2)))
        case 2:
            dims.insert(0, 1)
        case 3 if dims:
            dims.pop()
        case _:
            dims = []
    _put(tensor, np.resize(array, dims))


def damage(model: onnx.ModelProto, rng: Random) -> None:
    """A tensor whose dimensions, type and data do not fit together."""
    tensor = _tensor(model, rng)
    match rng.randrange(5):
        case 0:
            tensor.dims.append(_integers(rng))
        case 1:
            tensor.data_type = rng.choice((*TYPES, 99, -1))
        case 2:
            tensor.raw_data = tensor.raw_data[:-1]
        case 3:
            tensor.float_data.append(1.0)
        case _:
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in (("location", rng.choice(("w.data", "../w", "/etc/passwd", "", "."))), ("offset", "9")):
                tensor.external_data.add(key=key, value=value)


def sparse(model: onnx.ModelProto, rng: Random) -> None:
    """An initializer in sparse form, its indices good or bad."""
    graph = rng.choice(list(graphs(model)))
    if not graph.initializer:
        raise NothingToMutateError
    position = rng.randrange(len(graph.initializer))
    tensor = graph.initializer[position]
    array = np.arange(1, 3, dtype=np.float32)
    indices = np.array([0, rng.choice((1, -1, 2**40))], np.int64)
    dims = [int(dim) for dim in tensor.dims]
    made = helper.make_sparse_tensor(
        numpy_helper.from_array(array, tensor.name), numpy_helper.from_array(indices, "i"), dims
    )
    del graph.initializer[position]
    graph.sparse_initializer.append(made)


def as_input(model: onnx.ModelProto, rng: Random) -> None:
    """An initializer is an input, too, or an input instead."""
    tensor = _pick(rng, model.graph.initializer)
    model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    if rng.random() < 0.5:
        model.graph.initializer.remove(tensor)


def as_node(model: onnx.ModelProto, rng: Random) -> None:
    """An initializer is a Constant node, or has a new name."""
    tensor = _pick(rng, model.graph.initializer)
    if rng.random() < 0.3:
        tensor.name = rng.choice(NAMES)
        return
    node = helper.make_node("Constant", [], [tensor.name], value=tensor)
    model.graph.initializer.remove(tensor)
    kept = [onnx.NodeProto.FromString(one.SerializeToString()) for one in model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend([node, *kept])


# ---------------------------------------------------------------------------------------------- types and shapes


def _shape_of(value: onnx.ValueInfoProto, rng: Random) -> None:
    shape = value.type.tensor_type.shape
    match rng.randrange(8):
        case 0 if shape.dim:
            shape.dim[rng.randrange(len(shape.dim))].dim_value = _integers(rng)
        case 1 if shape.dim:
            for dim in shape.dim:
                dim.dim_value = -1
        case 2 if shape.dim:
            shape.dim[rng.randrange(len(shape.dim))].dim_param = rng.choice(("n", "", "a b", "2*n", "-1", "\n"))
        case 3:
            shape.dim.add(dim_value=rng.choice((0, 1, 7)))
        case 4 if shape.dim:
            del shape.dim[-1]
        case 5:
            value.type.tensor_type.ClearField("shape")
        case 6 if shape.dim:
            shape.dim[rng.randrange(len(shape.dim))].Clear()
        case _:
            del shape.dim[:]


def _type_of(value: onnx.ValueInfoProto, rng: Random) -> None:
    match rng.randrange(6):
        case 0:
            value.ClearField("type")
        case 1:
            value.type.tensor_type.elem_type = rng.choice((*TYPES, 99))
        case 2:
            value.type.sequence_type.elem_type.tensor_type.elem_type = 1
        case 3:
            value.type.optional_type.elem_type.tensor_type.elem_type = 1
        case 4:
            value.type.map_type.key_type = 7
            value.type.map_type.value_type.tensor_type.elem_type = 1
        case _:
            value.type.sparse_tensor_type.elem_type = 1


def input_shape(model: onnx.ModelProto, rng: Random) -> None:
    """An input of another shape: free, negative, huge, symbolic, of another rank."""
    _shape_of(_pick(rng, [value for graph in graphs(model) for value in graph.input]), rng)


def input_type(model: onnx.ModelProto, rng: Random) -> None:
    """An input of another type, or of none."""
    _type_of(_pick(rng, [value for graph in graphs(model) for value in graph.input]), rng)


def output_shape(model: onnx.ModelProto, rng: Random) -> None:
    """A declared output shape that is not so."""
    _shape_of(_pick(rng, [value for graph in graphs(model) for value in graph.output]), rng)


def output_type(model: onnx.ModelProto, rng: Random) -> None:
    """A declared output type that is not so."""
    _type_of(_pick(rng, [value for graph in graphs(model) for value in graph.output]), rng)


def value_info(model: onnx.ModelProto, rng: Random) -> None:
    """The model states a shape and a type of an inner value that contradict inference."""
    name = _pick(rng, [name for node in model.graph.node for name in node.output if name])
    known = [value for value in model.graph.value_info if value.name == name]
    value = known[0] if known else model.graph.value_info.add(name=name)
    if not known:
        value.type.tensor_type.elem_type = 1
        for _ in range(rng.randrange(5)):
            value.type.tensor_type.shape.dim.add(dim_value=rng.choice((1, 3, 4)))
    rng.choice((_shape_of, _type_of))(value, rng)


def ports(model: onnx.ModelProto, rng: Random) -> None:
    """The graph has an input or an output more, less, or twice."""
    entries = rng.choice((model.graph.input, model.graph.output))
    match rng.randrange(4):
        case 0 if entries:
            del entries[rng.randrange(len(entries))]
        case 1 if entries:
            entries.append(rng.choice(entries))
        case 2:
            model.graph.output.add(name=_pick(rng, _values(model)))
        case _:
            entries.add(name=rng.choice(NAMES))


# ---------------------------------------------------------------------------------------------- the model around it


def versions(model: onnx.ModelProto, rng: Random) -> None:
    """Another opset or IR version."""
    if rng.random() < 0.3:
        model.ir_version = rng.choice((0, 1, 3, 4, 8, 99, -1))
    else:
        opset = _pick(rng, model.opset_import)
        opset.version = rng.choice((*range(1, defs.onnx_opset_version() + 2), -1, 2**40))


def imports(model: onnx.ModelProto, rng: Random) -> None:
    """An operator set is missing, there twice, or unknown."""
    match rng.randrange(3):
        case 0 if model.opset_import:
            del model.opset_import[rng.randrange(len(model.opset_import))]
        case 1 if model.opset_import:
            model.opset_import.append(model.opset_import[0])
        case _:
            model.opset_import.append(helper.make_opsetid(rng.choice(("unknown", "\n", "ai.onnx.training")), 1))


def extras(model: onnx.ModelProto, rng: Random) -> None:
    """Parts that most models do not have."""
    match rng.randrange(5):
        case 0:
            model.training_info.add().algorithm.name = "training"
        case 1:
            model.metadata_props.add(key=rng.choice(NAMES), value="v" * rng.choice((0, 10, 100_000)))
        case 2:
            model.graph.quantization_annotation.add(tensor_name=_pick(rng, _values(model)))
        case 3:
            model.doc_string = rng.choice(NAMES)
        case _:
            model.graph.doc_string, model.graph.name = rng.choice(NAMES), rng.choice(NAMES)


def names(model: onnx.ModelProto, rng: Random) -> None:
    """A node, or a value everywhere, has an odd name."""
    if rng.random() < 0.4:
        _node(model, rng).name = rng.choice(NAMES)
        return
    old, new = _pick(rng, _values(model)), rng.choice(NAMES[1:])
    for graph in graphs(model):
        for value in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
            value.name = new if value.name == old else value.name
        for node in graph.node:
            for field in (node.input, node.output):
                field[:] = [new if name == old else name for name in field]


def into_function(model: onnx.ModelProto, rng: Random) -> None:
    """A node becomes a call of a local function that holds it, perhaps of another opset, perhaps of itself."""
    node = _pick(rng, [node for node in model.graph.node if not any(a.HasField("g") for a in node.attribute)])
    name = f"F{len(model.functions)}"
    inner = onnx.NodeProto.FromString(node.SerializeToString())
    opsets = [onnx.OperatorSetIdProto.FromString(opset.SerializeToString()) for opset in model.opset_import]
    if opsets and rng.random() < 0.2:
        opsets[0].version = rng.choice((1, 9, 13, 18))
    if rng.random() < 0.1:
        inner.op_type, inner.domain = name, "local"
    function = helper.make_function(
        "local", name, [x for x in dict.fromkeys(node.input) if x], list(node.output), [inner], opsets
    )
    model.functions.append(function)
    call = helper.make_node(name, list(function.input), list(node.output), domain="local", name=node.name)
    node.CopyFrom(call)
    if not any(opset.domain == "local" for opset in model.opset_import):
        model.opset_import.append(helper.make_opsetid("local", 1))


def into_branch(model: onnx.ModelProto, rng: Random) -> None:
    """A node moves into both branches of an If."""
    node = _pick(rng, [node for node in model.graph.node if len(node.output) == 1])
    inner = onnx.NodeProto.FromString(node.SerializeToString())
    inner.output[0] = f"{node.output[0]} inner"
    body = helper.make_graph([inner], "branch", [], [onnx.ValueInfoProto(name=inner.output[0])])
    if not any(tensor.name == "fuzz condition" for tensor in model.graph.initializer):
        model.graph.initializer.append(numpy_helper.from_array(np.array(rng.random() < 0.5), "fuzz condition"))
    made = helper.make_node("If", ["fuzz condition"], list(node.output), then_branch=body, else_branch=body)
    node.CopyFrom(made)


MUTATIONS: dict[str, Mutation] = {
    function.__name__: function
    for function in (
        attribute_value, attribute_type, attribute_gone, attribute_odd, input_gone, input_other, input_constant,
        operator, domain, outputs, order, node_gone, insert, values, element_type, denormal_double, size, damage,
        sparse, as_input, as_node, input_shape, input_type, output_shape, output_type, value_info, ports, versions,
        imports, extras, names, into_function, into_branch,
    )
}  # fmt: skip
"""By name."""
