"""Small models that ask for much: time, memory, depth, or what crashes somebody's C++."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, parser

from folding import array, model, norm, statistics

HEAD: Final = '<ir_version: 10, opset_import: ["": 17, "ai.onnx.ml": 3, "unknown": 1]>\n'
TAIL: Final = "float[3] s = {1, 1, 1}, float[3] b = {1, 1, 1}, float[3, 3, 1, 1] w = {1, 0, 0, 0, 1, 0, 0, 0, 1}"
LINKS: Final = 34


def _text(body: str, inputs: str = "float[1, 3, 4, 4] x", held: str = "") -> onnx.ModelProto:
    """A convolution, its norm, and ``body``, which reads ``n`` and makes ``y``."""
    return parser.parse_model(
        f"{HEAD}m ({inputs}) => (float[] y) <{TAIL}{held}> {{\nc = Conv(x, w)\n"
        f"n = BatchNormalization(c, s, b, b, s)\n{body}\n}}"
    )


def _chain(line: str, links: int = LINKS, end: str = "r = ReduceSum({last})\ny = Mul(n, r)", start: str = "s") -> str:
    """``line`` again and again, each reading what the one before made."""
    made = [line.format(before=start if k == 0 else f"e{k - 1}", after=f"e{k}") for k in range(links)]
    return "\n".join([*made, end.format(last=f"e{links - 1}")])


def _free_inputs(count: int, rank: int) -> onnx.ModelProto:
    """Many inputs whose sizes are all unknown and all have to agree."""
    shape = ", ".join(f"D{k}" for k in range(rank))
    source = _text(
        "\n".join(
            ["a0 = Add(n, z0)", *(f"a{k} = Add(a{k - 1}, z{k})" for k in range(1, count)), f"y = Neg(a{count - 1})"]
        ),
        ", ".join([f"float[N, 3, {shape}] x", *(f"float[N, 3, {shape}] z{k}" for k in range(count))]),
    )
    source.graph.initializer[2].dims[:] = [3, 3, *[1] * rank]
    return source


def _nested(depth: int) -> onnx.ModelProto:
    """An If in an If in an If."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["n"], ["o"])], "inner", [], [helper.make_empty_tensor_value_info("o")]
    )
    for level in range(depth):
        name = f"o{level}"
        node = helper.make_node("If", ["on"], [name], then_branch=body, else_branch=body if level < 2 else _leaf())
        body = helper.make_graph([node], "outer", [], [helper.make_empty_tensor_value_info(name)])
    source = _text("y = Neg(n)")
    source.graph.initializer.append(numpy_helper.from_array(np.array(True), "on"))
    source.graph.node.append(helper.make_node("If", ["on"], ["z"], then_branch=body, else_branch=_leaf()))
    source.graph.output.append(helper.make_empty_tensor_value_info("z"))
    return source


def _leaf() -> onnx.GraphProto:
    node = helper.make_node("Identity", ["n"], ["leaf"])
    return helper.make_graph([node], "leaf", [], [helper.make_empty_tensor_value_info("leaf")])


def _calls(doubling: int) -> onnx.ModelProto:
    """Functions that each call the next one twice, down to a norm."""
    source = _text("y = own.F0(n)")
    source.opset_import.add(domain="own", version=1)
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    for level in range(doubling):
        inner = f"F{level + 1}"
        nodes = [
            helper.make_node(inner, ["v"], ["h"], domain="own"),
            helper.make_node(inner, ["h"], ["o"], domain="own"),
        ]
        source.functions.append(helper.make_function("own", f"F{level}", ["v"], ["o"], nodes, imports))
    last = [helper.make_node("InstanceNormalization", ["v", "v", "v"], ["o"])]
    source.functions.append(helper.make_function("own", f"F{doubling}", ["v"], ["o"], last, imports))
    return source


def _long(nodes: int) -> onnx.ModelProto:
    return _text(_chain("{after} = Relu({before})", nodes, "y = Neg({last})", "n"))


def _wide(name: str, **fields: object) -> onnx.ModelProto:
    """A node of many inputs, or of an odd attribute."""
    source = _text("y = Neg(n)")
    node = helper.make_node(name, ["n"] * 20_000 if name == "Sum" else ["n"], ["z"], **fields)
    source.graph.node.append(node)
    source.graph.output.append(helper.make_empty_tensor_value_info("z"))
    return source


def _declares(dims: tuple[int, ...], *, output: bool = False) -> onnx.ModelProto:
    source = _text("y = Neg(n)")
    value = source.graph.output[0] if output else source.graph.input[0]
    value.CopyFrom(helper.make_tensor_value_info(value.name, TensorProto.FLOAT, dims))
    return source


def _names(text: str) -> onnx.ModelProto:
    source = model("float[1, 3, 4, 4] x", ["c = Conv(x, w)", norm("c", "y")], {"w": array(3, 3, 1, 1), **statistics(3)})
    for node in source.graph.node:
        node.name = text
    return source


def _claims(kind: int, dims: tuple[int, ...], data: bytes) -> onnx.ModelProto:
    source = _text("y = Neg(n)")
    source.graph.initializer.append(TensorProto(name="claims", data_type=kind, dims=dims, raw_data=data))
    return source


BOMBS: Final[dict[str, Callable[[], onnx.ModelProto]]] = {
    "doubled by Concat": lambda: _text(_chain("{after} = Concat<axis=0>({before}, {before})")),
    "doubled by Tile": lambda: _text(_chain("{after} = Tile({before}, two)"), held=", int64[1] two = {2}"),
    "doubled by Expand": lambda: _text(
        "e = Expand(s, big)\nr = ReduceSum(e)\ny = Mul(n, r)", held=", int64[2] big = {999999999, 3}"
    ),
    "a constant of a shape": lambda: _text(
        "e = ConstantOfShape(big)\nr = ReduceSum(e)\ny = Mul(n, r)", held=", int64[3] big = {99999, 99999, 9}"
    ),
    "a range": lambda: _text(
        "e = Range(zero, end, one)\nr = ReduceSum(e)\ny = Mul(n, r)",
        held=", float zero = {0}, float end = {1e15}, float one = {1}",
    ),
    "squared again and again": lambda: _text(_chain("{after} = Mul({before}, {before})", 400)),
    "sizes that double": lambda: _text(
        "h = Shape(n)\n" + _chain("{after} = Concat<axis=0>({before}, {before})", 30, "y = Reshape(n, {last})", "h")
    ),
    "padded by much": lambda: _text("y = Pad(n, p)", held=", int64[8] p = {0, 0, 99999, 99999, 0, 0, 99999, 99999}"),
    "resized by much": lambda: _text("y = Resize(n, , z)", held=", float[4] z = {1, 1, 100000, 100000}"),
    "a loop without end": lambda: _text(
        "y = Loop(k, on, n) <body = body (int64 i, bool go, float[1, 3, 4, 4] v) => (bool same, float[1, 3, 4, 4] next)"
        " { same = Identity(go)\n next = Sin(v) }>",
        held=", int64 k = {1000000000000}, bool on = {1}",
    ),
    "a loop that grows": lambda: _text(
        "y = Loop(k, on, n) <body = body (int64 i, bool go, float[A, B, C, D] v) => (bool same, float[E, F, G, H] next)"
        " { same = Identity(go)\n next = Concat<axis=0>(v, v) }>",
        held=", int64 k = {1000}, bool on = {1}",
    ),
    "forty inputs of unknown sizes": lambda: _free_inputs(40, 2),
    "six unknown sizes": lambda: _free_inputs(2, 4),
    "a huge input": lambda: _declares((1, 3, 1 << 20, 1 << 20)),
    "an input of 2^62": lambda: _declares((1 << 62, 3, 4, 4)),
    "a huge output": lambda: _declares((1, 3, 1 << 40, 1 << 40), output=True),
    "an empty input": lambda: _declares((0, 3, 4, 4)),
    "deeply nested": lambda: _nested(20),
    "functions that double": lambda: _calls(30),
    "many functions that double": lambda: _calls(200),
    "ten thousand nodes": lambda: _long(10_000),
    "twenty thousand inputs of a node": lambda: _wide("Sum"),
    "an axis of 2^62": lambda: _wide("Softmax", axis=1 << 62),
    "a perm of a million": lambda: _wide("Transpose", perm=list(range(1_000_000))),
    "a kernel of 2^40": lambda: _wide("MaxPool", kernel_shape=[1 << 40, 1 << 40]),
    "strides of zero": lambda: _wide("MaxPool", kernel_shape=[2, 2], strides=[0, 0]),
    "names with line breaks": lambda: _names("a\nb\x1b[31m\x07"),
    "a name of a megabyte": lambda: _names("n" * (1 << 20)),
    "a tensor that claims much": lambda: _claims(TensorProto.FLOAT, (1 << 40,), b"1234"),
    "a tensor of negative size": lambda: _claims(TensorProto.FLOAT, (-4, 3), b"1234"),
    "a tensor whose size overflows": lambda: _claims(TensorProto.INT8, (1 << 32, 1 << 32, 2), b""),
    "a tensor of no type": lambda: _claims(0, (1,), b"1"),
    "a tensor of an unknown type": lambda: _claims(200, (1,), b"1"),
    "untyped EyeLike": lambda: _text("u = unknown.Make(x)\ne = EyeLike<dtype = 1>(u)\ny = Neg(n)"),
    "untyped LabelEncoder": lambda: _text(
        "u = unknown.Make(x)\ne = ai.onnx.ml.LabelEncoder<keys_int64s = [1], values_int64s = [2]>(u)\ny = Neg(n)"
    ),
    "untyped DictVectorizer": lambda: _text(
        "u = unknown.Make(x)\ne = ai.onnx.ml.DictVectorizer<int64_vocabulary = [1]>(u)\ny = Neg(n)"
    ),
}
"""Models by name, each with what makes it."""
