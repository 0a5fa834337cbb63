"""A pointwise convolution goes into its neighbour."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from folding import Example, array, model, norm, proven_fold, refused_by, statistics
from normfold.core.rules.merge_linear_sequence import RULE

IMAGE = "float[2, 4, 7, 7] x"
WIDE, NARROW = "[one] h = Conv(x, u, f)", "[one] y = Conv(h, u, f)"


@pytest.mark.parametrize("attributes", ["", "strides = [2, 2]", "dilations = [2, 2]", "group = 2"])
def test_a_pointwise_one_before(attributes: str) -> None:
    groups = 2 if "group" in attributes else 1
    first = WIDE.replace("(x", f" <group = {groups}> (x")
    held = {"u": array(6, 4 // groups, 1, 1), "f": array(6), "w": array(4, 6 // groups, 3, 3), "c": array(4, seed=5)}
    folded = proven_fold(model(IMAGE, [first, f"[three] y = Conv <{attributes}> (h, w, c)"], held))
    assert folded.operators == ["Conv"]


@pytest.mark.parametrize("attributes", ["", "strides = [2, 2]", "pads = [1, 1, 1, 1]", "group = 2"])
@pytest.mark.parametrize("outputs", [4, 6])
def test_a_pointwise_one_behind(attributes: str, outputs: int) -> None:
    groups = 2 if "group" in attributes else 1
    last = NARROW.replace("(h", f" <group = {groups}> (h")
    held = {"u": array(outputs, 6 // groups, 1, 1), "f": array(outputs), "w": array(6, 4 // groups, 3, 3)}
    body = [f"[three] h = Conv <{attributes}> (x, w)", last]
    assert proven_fold(model(IMAGE, body, held)).operators == ["Conv"]


def test_what_follows_sees_the_new_channels() -> None:
    """Four convolutions and three norms, one after the other, are one convolution."""
    held = {"u": array(6, 4, 1, 1), "w": array(6, 6, 3, 3), "v1": array(5, 6, 1, 1), "k": array(3, 5, 1, 1)}
    held |= statistics(6, "p") | statistics(6, "q", seed=9) | statistics(5, "o", seed=17)
    body = ["h = Conv(x, u)", norm("h", "hn", "p"), "t = Conv(hn, w)", norm("t", "tn", "q"), "r = Conv(tn, v1)"]
    folded = proven_fold(model(IMAGE, [*body, norm("r", "rn", "o"), "y = Conv(rn, k)"], held))
    assert folded.operators == ["Conv"]
    assert {decision.outcome for decision in folded.decisions.values()} == {"folded"}


def test_padding_without_a_shift() -> None:
    body = ["h = Conv(x, u)", "y = Conv <pads = [1, 1, 1, 1]> (h, w)"]
    folded = proven_fold(model(IMAGE, body, {"u": array(6, 4, 1, 1), "w": array(4, 6, 3, 3)}))
    assert folded.operators == ["Conv"]


APART = {
    "a shift before padding": [WIDE, "y = Conv <pads = [1, 1, 1, 1]> (h, w)"],
    "a bottleneck": ["h = Conv(x, b)", "y = Conv(h, w2)"],
    "an expansion": ["h = Conv(x, w2t)", "y = Conv(h, bt)"],
    "other groups": ["h = Conv(x, u)", "y = Conv <group = 2> (h, w3)"],
    "a transposed convolution": ["h = ConvTranspose(x, t4)", "y = Conv(h, p4)"],
    "an activation": ["h = Conv(x, u)", "r = Sigmoid(h)", "y = Conv(r, w)"],
    "another reader": [
        "h = Conv(x, u)",
        "r = Conv(h, w)",
        "p = GlobalAveragePool(h)",
        "q = Conv(p, n)",
        "y = Add(r, q)",
    ],
    "two kernels": ["h = Conv(x, w4)", "y = Conv(h, w5)"],
    "a stride between": ["h = Conv <strides = [2, 2]> (x, u)", "y = Conv(h, w)"],
}
HELD = {
    "u": array(6, 4, 1, 1),
    "f": array(6),
    "w": array(4, 6, 3, 3),
    "b": array(2, 4, 1, 1),
    "w2": array(4, 2, 3, 3),
    "w2t": array(2, 4, 3, 3),
    "bt": array(6, 2, 1, 1),
    "w3": array(4, 3, 3, 3),
    "w4": array(4, 4, 3, 3),
    "w5": array(4, 4, 2, 2),
    "n": array(4, 6, 1, 1),
    "t4": array(4, 4, 3, 3),
    "p4": array(4, 4, 1, 1),
}


@pytest.mark.parametrize("case", APART)
def test_what_stays_apart(case: str) -> None:
    text = " ".join(APART[case])
    held = {name: values for name, values in HELD.items() if f", {name})" in text or f", {name}," in text}
    operators = proven_fold(model(IMAGE, APART[case], held)).operators
    assert sum(operator.startswith("Conv") for operator in operators) == text.count("Conv")


def test_a_value_that_is_an_output_stays() -> None:
    """not-output: the value between the two is asked for."""
    body = ["h = Conv(x, u)", "y = Conv(h, w)"]
    held = {name: HELD[name] for name in ("u", "w")}
    folded = proven_fold(model(IMAGE, body, held, outputs="float[] h, float[] y"))
    assert folded.operators == ["Conv", "Conv"]


PAIR = ["h = Conv(x, w)", "y = Conv(h, u)"]
LATER = "then_branch = t () => (float[] o) { o = Conv(h, u) }, else_branch = e () => (float[] i) { i = Relu(x) }"


def refusing(
    body: list[str],
    inputs: str = "float[1, 4, 5, 5] x",
    outputs: str = "float[] y",
    dtype: object = np.float32,
    **held: np.ndarray,
) -> onnx.ModelProto:
    weights = {"w": array(8, 4, 1, 1, dtype=dtype), "u": array(3, 8, 3, 3, dtype=dtype)}
    return model(inputs, body, {**weights, **held}, outputs=outputs)


REFUSED = {
    "single-use": [refusing([*PAIR, "z = Relu(h)"], outputs="float[] y, float[] z")],
    "same-scope": [refusing([PAIR[0], f"y = If (flag) <{LATER}>"], "float[1, 4, 5, 5] x, bool flag")],
    "not-output": [refusing(PAIR, outputs="float[] y, float[] h")],
    "every-tap": [refusing(["h = Conv(x, w, c)", "y = Conv <pads = [1, 1, 1, 1]> (h, u)"], c=array(8))],
    "representable": [
        refusing(
            PAIR,
            "float16[1, 4, 5, 5] x",
            "float16[] y",
            np.float16,
            w=np.full((8, 4, 1, 1), 200, np.float16),
            u=np.full((3, 8, 3, 3), 200, np.float16),
        ),
        refusing(
            ["h = Conv(x, w, c)", "y = Conv(h, u)"],
            "float16[1, 4, 5, 5] x",
            "float16[] y",
            np.float16,
            c=np.full(8, 6e4, np.float16),
            u=np.full((3, 8, 3, 3), 2, np.float16),
        ),
    ],
}


@pytest.mark.parametrize("premise", REFUSED)
def test_refused_because_not(premise: str) -> None:
    """Each of these breaks one premise and no other."""
    for source in REFUSED[premise]:
        assert refused_by(RULE, source) == {premise}


EXAMPLES = (
    Example(
        model(
            "float[1, 16, 5, 5] x",
            ["h = Conv(x, w)", "y = Conv(h, u)"],
            {"w": array(64, 16, 1, 1), "u": array(32, 64, 3, 3)},
        )
    ),
)
