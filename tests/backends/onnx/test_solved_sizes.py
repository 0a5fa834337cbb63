"""Sizes that a Reshape settles though onnx gives them a name."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from folding import array, model
from normfold.backends.onnx import OnnxGraph
from normfold.backends.onnx.reading.solved import solve
from normfold.runtime import CHECKER


def node() -> tuple[ir.Node, ir.Value, ir.Value]:
    before = ir.Value(name="a")
    made = ir.Node("", "Reshape", [before, ir.Value(name="s")])
    return made, before, made.outputs[0]


@pytest.mark.parametrize(
    ("before", "after", "solved"),
    [
        (("N", 128, 8, 8), ("N", 128, "u"), {"u": 64}),
        (("N", "M", 6), ("M", "u", "N"), {"u": 6}),
        ((4, 6), ("u", 3), {"u": 8}),
        (("N", 128, 8, 8), ("u", 128, "v"), {}),
        (("N", 128, 8, 8), (2, 128, "u"), {}),
        (("N", None, 8), ("N", "u", 8), {}),
        (("N", 7), ("N", 2, "u"), {}),
        (("N", 0), ("N", 0, "u"), {}),
    ],
)
def test_names(before, after, solved) -> None:
    made, source, result = node()
    assert solve([made], {source: before, result: after}) == solved


def test_tokens_of_patches_are_counted() -> None:
    """A positional table fits, though the batch has a name only."""
    body = [
        "c = Conv <strides = [4, 4]> (x, w)",
        "s = Shape(c)",
        "h = Slice(s, zero, two)",
        "d = Concat <axis = 0> (h, rest)",
    ]
    body += ["r = Reshape(c, d)", "t = Transpose <perm = [0, 2, 1]> (r)", "y = Add(t, p)"]
    held = {
        "w": array(8, 3, 4, 4),
        "p": array(1, 64, 8),
        "zero": np.array([0]),
        "two": np.array([2]),
        "rest": np.array([-1]),
    }
    graph = OnnxGraph(ir.from_proto(model("float[N,3,32,32] x", body, held)), CHECKER.infer)
    add = next(one for one in graph.nodes() if one.op_type == "Add")
    assert graph.shape(add.inputs[0]) == ("N", 64, 8)
