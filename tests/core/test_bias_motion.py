"""A bias of a matrix product goes where what reads it adds constants anyway."""

from __future__ import annotations

import numpy as np
import pytest

from folding import Folded, array, model, proven_fold
from normfold.core.costs import CostTable

ROWS = "float[5, 4] x"
HELD = {"w": array(4, 4), "c": array(4), "u": array(4, 3, seed=2), "e": array(3, seed=3)}
FIRST, LAST = "[first] h = Gemm(x, w, c)", "[last] y = Gemm(t, u, e)"


def folded(body: list[str], **options: object) -> Folded:
    text = " ".join(body)
    held = {name: values for name, values in HELD.items() if f", {name}," in text or f", {name})" in text}
    outputs = str(options.pop("outputs", "float[] y"))
    return proven_fold(model(str(options.pop("inputs", ROWS)), body, held, outputs=outputs), **options)  # type: ignore[arg-type]


def inputs(result: Folded) -> list[int]:
    return [len([name for name in node.input if name]) for node in result.result.graph.node if node.op_type == "Gemm"]


def test_along_a_residual_stream() -> None:
    body = [FIRST, "t = Add(h, x)", "[next] g = Gemm(t, w, c)", "r = Relu(g)", "k = Gemm(r, w, c)", "s = Add(k, t)"]
    result = folded([*body, "y = Gemm(s, u, e)"])
    assert inputs(result) == [2, 3, 2, 3]
    assert not result.decisions


def test_an_addition_goes() -> None:
    body = ["h = MatMul(x, w)", "a = Add(h, c)", "t = Add(a, x)", LAST]
    assert folded(body).operators == ["MatMul", "Add", "Gemm"]


def test_past_a_reshape() -> None:
    body = [FIRST, "s = Unsqueeze(h, zero)", "q = Add(s, z)", "t = Squeeze(q, zero)", LAST]
    source = model(f"{ROWS}, float[1, 5, 4] z", body, HELD | {"zero": np.array([0])})
    assert inputs(proven_fold(source)) == [2, 3]


STAYING = {
    "an activation": [FIRST, "t = Relu(h)", LAST],
    "a reader without a bias": [FIRST, "t = Add(h, x)", "y = Gemm(t, u)"],
    "one of two readers": [FIRST, "t = Add(h, x)", LAST, "z = Relu(t)"],
    "no reader": ["h = Relu(x)", "[first] y = Gemm(h, w, c)"],
}


@pytest.mark.parametrize("case", STAYING)
def test_what_keeps_its_bias(case: str) -> None:
    outputs = "float[] y, float[] z" if "z =" in str(STAYING[case]) else "float[] y"
    assert inputs(folded(STAYING[case], outputs=outputs))[0] == 3


def test_where_a_bias_costs_nothing_it_stays() -> None:
    free = CostTable("test", {"matmul/Add": 0.0})
    assert inputs(folded([FIRST, "t = Add(h, x)", LAST], costs=free)) == [3, 3]


def test_a_convolution_keeps_its_bias() -> None:
    """It costs nothing there."""
    body = ["h = Conv(x, w, c)", "t = Add(h, z)", "y = Conv(t, w, c)"]
    source = model("float[1, 4, 5, 5] x, float[1, 4, 5, 5] z", body, {"w": array(4, 4, 1, 1), "c": array(4)})
    assert [len(node.input) for node in proven_fold(source).result.graph.node] == [3, 2, 3]
