"""A permutation of channels goes into the weights that sum over them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from folding import Arrays, Example, Folded, array, model, proven_fold
from routes import sent, shuffle

ORDER = np.array([2, 0, 1])
SWAP = "[swap] g = Gather <axis = 1> (x, p)"
IMAGE = "float[2, 3, 5, 5] x"


def folded(body: Sequence[str], constants: Arrays, *, order: Sequence[int] = ORDER, **options: object) -> Folded:
    source = model(str(options.pop("inputs", IMAGE)), body, {"p": np.asarray(order), **constants}, **options)
    return proven_fold(source)


@pytest.mark.parametrize(
    ("inputs", "body", "constants", "left"),
    [
        (IMAGE, ["y = Conv <pads = [1, 1, 1, 1]> (g, w)"], {"w": array(4, 3, 3, 3)}, ["Conv"]),
        (IMAGE, ["y = ConvTranspose (g, w)"], {"w": array(3, 4, 2, 2)}, ["ConvTranspose"]),
        ("float[2, 3] x", ["y = Gemm <transB = 1> (g, w, c)"], {"w": array(4, 3), "c": array(4)}, ["Gemm"]),
        ("float[2, 3] x", ["y = MatMul (g, w)"], {"w": array(3, 4)}, ["MatMul"]),
        ("float[2, 3, 4] x", ["y = MatMul (w, g)"], {"w": array(4, 3)}, ["MatMul"]),
    ],
)
def test_into_each_linear_operation(inputs: str, body: list[str], constants: Arrays, left: list[str]) -> None:
    assert folded([SWAP, *body], constants, inputs=inputs).operators == left


def test_negative_indices() -> None:
    assert folded([SWAP, "y = Conv (g, w)"], {"w": array(4, 3, 1, 1)}, order=[-1, 0, -2]).operators == ["Conv"]


def test_inside_groups() -> None:
    body = [SWAP, "y = Conv <group = 2> (g, w)"]
    inputs = "float[1, 4, 5, 5] x"
    assert folded(body, {"w": array(6, 2, 3, 3)}, order=[1, 0, 3, 2], inputs=inputs).operators == ["Conv"]


def test_into_every_reader_on_top_of_pending_scales() -> None:
    """Both readers have columns scaled before their order changes."""
    body = [
        "r = Mul (x, k)",
        "[swap] g = Gather <axis = 1> (r, p)",
        "a = Conv (g, w)",
        "b = Conv (g, u)",
        "y = Add (a, b)",
    ]
    constants = {"k": array(3, 1, 1), "w": array(4, 3, 3, 3), "u": array(4, 3, 3, 3, seed=1)}
    assert "Gather" not in folded(body, constants).operators


@pytest.mark.parametrize(
    ("inputs", "body", "constants", "order"),
    [
        pytest.param(IMAGE, ["y = Conv <group = 3> (g, w)"], {"w": array(3, 1, 3, 3)}, ORDER, id="same-group"),
        pytest.param(IMAGE, ["y = Sigmoid (g)"], {}, ORDER, id="linear-consumer"),
        pytest.param(IMAGE, ["h = Conv (g, w)", "y = Sigmoid (g)"], {"w": array(4, 3, 1, 1)}, ORDER, id="one-of-two"),
        pytest.param(IMAGE, ["y = Conv (g, w)"], {"w": array(4, 3, 1, 1)}, [2, 0, 0], id="no-permutation"),
        pytest.param("float[2, 3, 3] x", ["y = MatMul (g, w)"], {"w": array(3, 4)}, ORDER, id="per-input-channel"),
        pytest.param(
            IMAGE,
            ["q = Div (k, g)", "y = Conv (q, w)"],
            {"k": array(3, 1, 1), "w": array(4, 3, 1, 1)},
            ORDER,
            id="not-affine",
        ),
    ],
)
def test_stays(inputs: str, body: list[str], constants: Arrays, order: Sequence[int]) -> None:
    assert "Gather" in folded([SWAP, *body], constants, inputs=inputs, order=order).operators


def test_stays_where_it_is_an_output() -> None:
    source = ["[swap] g = Gather <axis = 1> (x, p)", "y = Conv (g, w)"]
    found = folded(source, {"w": array(4, 3, 1, 1)}, outputs="float[] y, float[] g")
    assert found.operators == ["Gather", "Conv"]


def test_what_only_the_shape_is_read_of_stays() -> None:
    """Nothing reads the elements, so there is nothing to fold them into."""
    assert folded([SWAP, "y = Shape (g)"], {}, outputs="int64[4] y").operators == ["Gather", "Shape"]


def test_refused_because_one_matrix_serves_the_whole_batch() -> None:
    body = ["[swap] g = Gather <axis = 0> (x, p)", "y = MatMul (g, w)"]
    source = model("float[2, 4, 1, 3] x", body, {"p": np.array([1, 0]), "w": array(1, 4, 3, 5)})
    assert proven_fold(source).operators == ["Gather", "MatMul"]


BOTH = "y = Concat <axis = 1> (g, g)"
GROUPS = "y = Conv <group = 3> (g, w)"
REFUSED = {
    "not-output": [
        model(IMAGE, [SWAP, "y = Conv(g, w)"], {"p": ORDER, "w": array(4, 3, 1, 1)}, outputs="float[] y, float[] g")
    ],
    "linear-consumer": [
        model(IMAGE, [SWAP, "y = Sigmoid(g)"], {"p": ORDER}),
        model(IMAGE, [SWAP, "y = MatMul(g, g)"], {"p": ORDER}),
    ],
    "per-input-channel": [model("float[2, 3, 5] x", [SWAP, "y = MatMul(g, w)"], {"p": ORDER, "w": array(5, 4)})],
    "same-group": [model(IMAGE, [SWAP, GROUPS], {"p": ORDER, "w": array(3, 1, 1, 1)})],
}


@pytest.mark.parametrize("premise", REFUSED)
def test_refused_because_not(premise: str) -> None:
    """Each of these breaks one premise and no other."""
    for source in REFUSED[premise]:
        _, plan, failed = sent(source, "swap", shuffle)
        assert plan is None
        assert failed == {premise}


EXAMPLES = (Example(model(IMAGE, [SWAP, "y = Conv(g, w)"], {"p": np.array([2, 1, 0]), "w": array(4, 3, 1, 1)})),)
