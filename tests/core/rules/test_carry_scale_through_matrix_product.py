"""A scale passes a matrix product of two values: the scores of an attention."""

from __future__ import annotations

import numpy as np
import pytest

from folding import Example, Folded, array, model, norm, only_fold, proven_fold, statistics

TOKENS = "float[2, 5, 8] x"
HEADS = [
    "[query] q0 = MatMul(x, wq)",
    "q1 = Add(q0, bq)",
    "q2 = Reshape(q1, heads)",
    "q = Transpose<perm = [0, 2, 1, 3]>(q2)",
    "[key] k0 = MatMul(x, wk)",
    "k2 = Reshape(k0, heads)",
    "k = Transpose<perm = [0, 2, 3, 1]>(k2)",
]
HELD = {
    "wq": array(8, 8),
    "wk": array(8, 8, seed=2),
    "bq": array(8, seed=3),
    "heads": np.array([2, 5, 2, 4]),
    "root": np.float32(2),
}


def attention(*lines: str, **held: np.ndarray) -> Folded:
    body = [*HEADS, *lines, "y = Softmax<axis = -1>(s)"]
    names = " ".join(body).replace(")", " ").replace(",", " ").replace("(", " ").split()
    return proven_fold(model(TOKENS, body, {k: v for k, v in (HELD | held).items() if k in names}))


@pytest.mark.parametrize(
    "lines",
    [
        ("t = MatMul(q, k)", "[scale] s = Div(t, root)"),
        ("[scale] t = Mul(q, root)", "s = MatMul(t, k)"),
        ("[scale] t = Mul(k, root)", "s = MatMul(q, t)"),
        ("m = Sigmoid(q)", "t = MatMul(m, k)", "[scale] s = Mul(root, t)"),
    ],
)
def test_the_scale_of_the_scores(lines: tuple[str, ...]) -> None:
    folded = attention(*lines)
    assert (folded.decision.site, folded.decision.outcome) == ("scale", "folded")
    assert not {"Mul", "Div"} & set(folded.operators)


def test_a_scale_of_each_query_and_one_of_each_key() -> None:
    """One along the rows is the left factor's, one along the columns the right one's: both follow the tokens here."""
    query = ["a = Conv(x, w)", "b = Sigmoid(x)", "t = MatMul(a, b)", "[scale] s = Mul(t, k)", "y = Softmax(s)"]
    key = [line.replace("MatMul(a, b)", "MatMul(b, a)") for line in query]
    for body, shape in ((query, (4, 1)), (key, (4,))):
        image = "float[1, 4, 4] x"
        folded = proven_fold(model(image, body, {"w": array(4, 4, 1), "k": array(*shape)}))
        kept = shape == (4,)
        assert ("Mul" in folded.operators) == kept  # the columns of a convolution are positions, not channels
    key[0] = "a = MatMul(x, w)"
    folded = proven_fold(model("float[1, 4, 4] x", key, {"w": array(4, 4), "k": array(4)}))
    assert folded.decision.outcome == "folded"


def test_towards_the_consumer() -> None:
    """That of the values of an attention goes into what mixes its heads."""
    body = ["p = Softmax(x)", "v = Sinh(x)", "[scale] n = Mul(v, k)", "z = MatMul(n, w)", "t = MatMul(p, n)"]
    held = {"w": array(4, 4), "k": array(4)}
    folded = proven_fold(model("float[2, 4, 4] x", [*body, "y = MatMul(t, w)"], held, outputs="float[] y, float[] z"))
    assert folded.decision.outcome == "folded"
    assert "Mul" not in folded.operators


def test_refused_because_of_a_shift() -> None:
    body = ["h = Conv(x, w)", "g = Sigmoid(x)", "[product] t = MatMul(h, g)", norm("t", "n"), "y = Softmax(n)"]
    folded = proven_fold(model("float[1, 3, 4, 4] x", body, {"w": array(3, 3, 1, 1), **statistics(3)}))
    assert "no-shift" in folded.refused
    assert "MatMul 'product'" in folded.because("no-shift")


def test_refused_because_the_scale_varies_along_what_is_summed_over() -> None:
    body = ["r = Sinh(x)", "[scale] n = Mul(r, k)", "z = Conv(n, w)", "t = MatMul(n, r)", "y = Conv(t, w)"]
    held = {"w": array(4, 4, 1), "k": array(4, 1)}
    outputs = "float[] y, float[] z"
    assert proven_fold(model("float[1, 4, 4] x", body, held, outputs=outputs)).decision.outcome == "folded"
    body[3] = "t = MatMul(r, n)"
    folded = proven_fold(model("float[1, 4, 4] x", body, held, outputs=outputs))
    assert "not-summed-axis" in folded.refused
    assert "sums over" in folded.because("not-summed-axis")


def test_refused_because_the_scale_varies_along_rows_and_columns() -> None:
    body = ["h = MatMul(x, w)", "g = Sigmoid(x)", "t = MatMul(h, g)", "[scale] n = Mul(t, k)", "y = MatMul(n, w)"]
    folded = proven_fold(model("float[1, 4, 4] x", body, {"w": array(4, 4), "k": array(4, 4)}))
    assert "not-summed-axis" in folded.refused
    assert "rows and the columns" in folded.because("not-summed-axis")


def test_refused_because_the_factor_is_broadcast() -> None:
    """Every image has its own scale, but one factor and the other are the same for all."""
    body = ["h = Conv(x, w)", "g = Sinh(x)", "t = MatMul(h, g)", "[scale] n = Mul(t, k)", "y = Softmax(n)"]
    held = {"w": array(4, 4, 1), "k": array(3, 1, 1)}
    grown = ["h0 = Conv(x, w)", "h = Reshape(h0, to)", *body[1:]]
    source = model("float[1, 4, 4] x", grown, held | {"to": np.array([1, 4, 4]), "k": array(1, 4, 1)})
    assert proven_fold(source).decision.outcome == "folded"
    broadcast = ["h = Conv(x, w)", "g = Reshape(z, to)", *body[2:]]
    source = model("float[1, 4, 4] x, float[3, 16] z", broadcast, held | {"to": np.array([3, 4, 4])})
    assert only_fold(source).decisions == {}
    body = [*broadcast[:-1], "z1 = MatMul(n, v)", "y = Softmax(z1)"]
    held = {"w": array(4, 4, 1), "to": np.array([3, 4, 4]), "k": array(3, 4, 1), "v": array(4, 4)}
    source = model("float[1, 4, 4] x, float[3, 16] z", body, held)
    assert "same-shape" in proven_fold(source).refused


@pytest.mark.parametrize("shape", ["float[4] x", "float[N, 4, 4] x"])
def test_what_is_no_product_of_two_matrices(shape: str) -> None:
    """A vector has no rows, and the value with itself is read twice."""
    folded = proven_fold(model(shape, ["s = Sinh(x)", "[scale] n = Mul(s, k)", "y = MatMul(n, n)"], {"k": array(4)}))
    assert "scale" not in folded.decisions


EXAMPLES = (
    Example(
        model(
            "float[1, 4, 6, 6] x",
            ["a = Conv(x, w)", "g = Sigmoid(x)", "j = MatMul(a, g)", "d = Div(j, k)", "y = Softmax(d)"],
            {"w": array(4, 4, 1, 1), "k": np.float32(8)},
        )
    ),
)
