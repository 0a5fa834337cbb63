"""``Conv -> Add`` becomes ``Conv``; no norm is involved, so no decision speaks of it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from folding import Example, array, model, only_fold, proven_fold, refused_by
from normfold.core.rules.fold_shift_into_producer import RULE

IMAGE = "float[1, 4, 7, 6] x"
LINEAR = {
    "conv": ("Conv <pads = [1, 1, 1, 1]> (x, w)", (6, 4, 3, 3), IMAGE, (6, 1, 1)),
    "conv-bias": ("Conv(x, w, c)", (6, 4, 3, 3), IMAGE, (1, 6, 1, 1)),
    "conv-groups": ("Conv <group = 2> (x, w, c)", (6, 2, 3, 3), IMAGE, (6, 1, 1)),
    "conv-transposed": ("ConvTranspose <strides = [2, 2]> (x, w)", (4, 6, 3, 3), IMAGE, (6, 1, 1)),
    "conv-a-number": ("Conv(x, w, c)", (6, 4, 3, 3), IMAGE, ()),
    "gemm": ("Gemm <transB = 1> (x, w)", (6, 4), "float[5, 4] x", (6,)),
    "gemm-beta": ("Gemm <beta = 0.5> (x, w, c)", (4, 6), "float[5, 4] x", (6,)),
}


@pytest.mark.parametrize("add", ["Add(h, d)", "Add(d, h)", "Sub(h, d)"])
@pytest.mark.parametrize("case", LINEAR)
def test_before_and_after(case: str, add: str) -> None:
    call, weight, inputs, shape = LINEAR[case]
    held = {"w": array(*weight), "d": array(*shape, seed=2)} | ({"c": array(6, seed=3)} if ", c)" in call else {})
    folded = proven_fold(model(inputs, [f"h = {call}", f"y = {add}"], held))
    assert folded.operators == [call.split("(")[0].split()[0]]
    assert not folded.decisions


@pytest.mark.parametrize(
    ("body", "shape"),
    [
        (["h = Conv(x, w)", "y = Add(h, d)"], (1,)),
        (["h = Conv(x, w)", "t = Add(h, d)", "y = Mul(t, h)"], (6, 1, 1)),
        (["h = Conv(x, w)", "y = Sub(d, h)"], (6, 1, 1)),
    ],
)
def test_what_is_left_alone_or_not(body: list[str], shape: tuple[int, ...]) -> None:
    """One number goes into every channel's bias; a value that is read twice, and a turned sign, stay as they are."""
    folded = proven_fold(model(IMAGE, body, {"w": array(6, 4, 3, 3), "d": array(*shape)}))
    assert (folded.operators == ["Conv"]) == (shape == (1,))


@pytest.mark.parametrize("shape", [(5, 1), (4,), (6, 5, 4)])
def test_along_another_axis(shape: tuple[int, ...]) -> None:
    folded = proven_fold(
        model(IMAGE, ["h = Conv(x, w)", "y = Add(h, d)"], {"w": array(6, 4, 3, 3), "d": array(*shape)})
    )
    assert folded.operators == ["Conv", "Add"]


def test_an_output() -> None:
    body = ["h = Conv(x, w)", "y = Add(h, d)"]
    held = {"w": array(6, 4, 3, 3), "d": array(6, 1, 1)}
    folded = proven_fold(model(IMAGE, body, held, outputs="float[] y, float[] h"))
    assert folded.operators == ["Conv", "Add"]


def test_a_constant_that_is_not_a_number() -> None:
    held = {"w": array(6, 4, 3, 3), "d": np.full((6, 1, 1), np.nan, np.float32)}
    assert only_fold(model(IMAGE, ["h = Conv(x, w)", "y = Add(h, d)"], held)).operators == ["Conv", "Add"]


def test_a_bias_that_half_precision_cannot_hold() -> None:
    held = {"w": array(6, 4, 3, 3, dtype=np.float16), "c": np.full(6, 6e4, np.float16)}
    held["d"] = held["c"].reshape(6, 1, 1)
    source = model("float16[1, 4, 7, 6] x", ["h = Conv(x, w, c)", "y = Add(h, d)"], held, outputs="float16[] y")
    assert only_fold(source).operators == ["Conv", "Add"]


def test_the_bias_of_a_matrix_product_stays_an_addition() -> None:
    body = ["h = MatMul(x, w)", "y = Add(h, d)"]
    folded = proven_fold(model("float[5, 4] x", body, {"w": array(4, 6), "d": array(6)}))
    assert folded.operators == ["MatMul", "Add"]


LATER = "then_branch = t () => (float[] o) { o = Add(h, d) }, else_branch = e () => (float[] i) { i = Relu(x) }"


def refusing(
    body: list[str], *, inputs: str = IMAGE, outputs: str = "float[] y", dtype: object = np.float32, **held: np.ndarray
) -> onnx.ModelProto:
    constants = {"w": array(6, 4, 3, 3, dtype=dtype), "d": array(6, 1, 1), **held}
    return model(inputs, body, constants, outputs=outputs)


SUM = ["h = Conv(x, w)", "y = Add(h, d)"]
REFUSED = {
    "single-use": [refusing([*SUM[:1], "t = Add(h, d)", "y = Mul(t, h)"])],
    "same-scope": [refusing([*SUM[:1], f"y = If (flag) <{LATER}>"], inputs=f"{IMAGE}, bool flag")],
    "not-output": [refusing(SUM, outputs="float[] y, float[] h")],
    "finite": [refusing(SUM, d=np.full((6, 1, 1), np.inf, np.float32))],
    "per-output-channel": [refusing(SUM, d=array(5, 1)), refusing(SUM, d=array(6, 5, 4))],
    "representable": [
        refusing(
            ["h = Conv(x, w, c)", "y = Add(h, d)"],
            inputs="float16[1, 4, 7, 6] x",
            outputs="float16[] y",
            dtype=np.float16,
            c=np.full(6, 6e4, np.float16),
            d=np.full((6, 1, 1), 6e4, np.float16),
        )
    ],
}


@pytest.mark.parametrize("premise", REFUSED)
def test_refused_because_not(premise: str) -> None:
    """Each of these breaks one premise and no other."""
    for source in REFUSED[premise]:
        assert refused_by(RULE, source) == {premise}


EXAMPLES = (Example(model(IMAGE, ["h = Conv(x, w)", "y = Add(h, d)"], {"w": array(6, 4, 3, 3), "d": array(6, 1, 1)})),)
