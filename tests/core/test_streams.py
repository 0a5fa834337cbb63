"""Residual streams, found by dataflow in transformers of either order and in residual networks."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from folding import array, model
from normfold.backends.onnx import OnnxGraph
from normfold.core.streams import Stream, streams
from normfold.runtime import CHECKER

WIDTH = 4
TOKENS = "float[2, 3, 4] x"


def graph(body: list[str], inputs: str = TOKENS, outputs: str = "float[] y", **held: np.ndarray) -> OnnxGraph:
    square = {name: array(WIDTH, WIDTH, seed=k) for k, name in enumerate("uvwz")}
    gains = {name: array(WIDTH, seed=k) for k, name in enumerate("gb")}
    return OnnxGraph(ir.from_proto(model(inputs, body, square | gains | held, outputs=outputs)), CHECKER.infer)


def names(found: OnnxGraph, stream: Stream) -> tuple[list[str], list[str], list[str]]:
    """Its writers, additions and readers; an input or an output by the value's name."""
    writers, readers = (
        [found.value_name(p.value) if p.node is None else found.name(p.node) for p in ports]
        for ports in (stream.writers, stream.readers)
    )
    return writers, [found.name(node) for node in stream.additions], readers


PRE_NORM = [
    "[embed] e = MatMul(x, u)",
    "[position] s0 = Add(e, p)",
    "[norm1] n1 = LayerNormalization(s0, g, b)",
    "[mix] a = MatMul(n1, v)",
    "[add1] s1 = Add(s0, a)",
    "[norm2] n2 = LayerNormalization(s1, g, b)",
    "[up] f1 = MatMul(n2, w)",
    "r = Relu(f1)",
    "[down] f2 = MatMul(r, z)",
    "[add2] s2 = Add(s1, f2)",
    "[last] y = LayerNormalization(s2, g, b)",
]


def test_a_stream_between_norms_that_come_first() -> None:
    found = graph(PRE_NORM, p=array(3, 4))
    (stream,) = streams(found)
    assert names(found, stream) == (
        ["embed", "position", "mix", "down"],
        ["add1", "add2"],
        ["norm1", "norm2", "last"],
    )
    assert stream.width == WIDTH
    assert set(stream.values.values()) == {-1}
    assert not stream.stops


def test_where_norms_come_last_each_starts_a_stream() -> None:
    body = [
        "[embed] s0 = MatMul(x, u)",
        "[mix] a = MatMul(s0, v)",
        "[add1] t1 = Add(s0, a)",
        "[norm1] s1 = LayerNormalization(t1, g, b)",
        "[up] f1 = MatMul(s1, w)",
        "r = Relu(f1)",
        "[down] f2 = MatMul(r, z)",
        "[add2] t2 = Add(s1, f2)",
        "[norm2] y = LayerNormalization(t2, g, b)",
    ]
    found = graph(body)
    assert [names(found, stream) for stream in streams(found)] == [
        (["embed", "mix"], ["add1"], ["mix", "norm1"]),
        (["norm1", "down"], ["add2"], ["up", "norm2"]),
    ]


def test_a_stream_goes_past_moves_and_beside_other_tokens() -> None:
    """The axis of the channels is followed through a Transpose, a Concat of tokens and a Slice of one of them."""
    body = [
        "[patches] e = Conv(x, k)",
        "t = Transpose <perm = [0, 2, 1]> (e)",
        "c = Concat <axis = 1> (token, t)",
        "[norm] n = LayerNormalization(c, g, b)",
        "[mix] a = MatMul(n, v)",
        "[add] s = Add(c, a)",
        "o = Slice(s, zero, one, one)",
        "[last] y = LayerNormalization(o, g, b)",
    ]
    held = {"k": array(4, 5, 1), "token": array(2, 1, 4), "zero": np.array([0]), "one": np.array([1])}
    found = graph(body, "float[2, 5, 3] x", **held)
    (stream,) = streams(found)
    assert names(found, stream) == (["token", "patches", "mix"], ["add"], ["norm", "last"])
    assert {found.value_name(value): axis for value, axis in stream.values.items()} == {
        **dict.fromkeys(("t", "c", "token", "a", "s", "o"), -1),
        "e": -2,
    }


def test_channels_of_a_residual_network() -> None:
    body = [
        "[stem] e = Conv(x, k)",
        "[act1] r = Relu(e)",
        "[conv] h = Conv(r, k)",
        "[add] s = Add(h, e)",
        "[act2] y = Relu(s)",
    ]
    found = graph(body, "float[1, 4, 5, 5] x", k=array(4, 4, 1, 1))
    (stream,) = streams(found)
    assert names(found, stream) == (["stem", "conv"], ["add"], ["act1", "act2"])
    assert set(stream.values.values()) == {-3}


def test_a_stop_says_why() -> None:
    body = [
        "[embed] e = MatMul(x, u)",
        "[what] q = Softmax(x)",
        "[add] s = Add(e, q)",
        "[odd] k = CumSum(s, one)",
        "[mix] y = MatMul(s, v)",
    ]
    found = graph(body, outputs="float[] y, float[] s, float[] k", one=np.array(1))
    (stream,) = streams(found)
    assert names(found, stream) == (["embed", "what"], ["add"], ["s", "odd", "mix"])
    assert [(stop.premise, stop.because) for stop in stream.stops] == [
        ("linear-producer", "Softmax 'what' writes into the stream, and no view describes it"),
        ("not-output", "'s' is an output of its graph"),
        ("linear-consumer", "CumSum 'odd' reads the stream, and no view describes it"),
    ]


def test_an_input_may_write_and_a_value_nobody_adds_to_is_no_stream() -> None:
    found = graph(["[mix] a = MatMul(x, u)", "[add] s = Add(a, x)", "[last] y = Relu(s)"])
    (stream,) = streams(found)
    assert names(found, stream) == (["x", "mix"], ["add"], ["mix", "last"])
    assert not streams(graph(["a = MatMul(x, u)", "b0 = Add(a, b)", "y = Relu(b0)"]))


def test_split_channels_are_no_stream() -> None:
    """Where a Split cuts the channels, what comes out is something else."""
    body = ["[mix] a = MatMul(x, u)", "[cut] c, d = Split <axis = 2> (a)", "s = Add(c, d)", "y = Relu(s)"]
    assert not streams(graph(body))
