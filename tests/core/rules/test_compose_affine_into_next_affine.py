"""``affine -> affine`` becomes one, at the second of the two or after it."""

from __future__ import annotations

import numpy as np

from folding import Example, array, model, norm, only_fold, proven_fold, statistics

IMAGE = "float[1, 4, 5, 5] x"


def test_before_and_after() -> None:
    """The first is read by two norms, so only forwards is there a way."""
    body = ["[first] n = BatchNormalization(x, s, b, m, v)", norm("n", "y", "p"), norm("n", "z", "q")]
    held = {**statistics(4), **statistics(4, "p", seed=20), **statistics(4, "q", seed=40)}
    folded = proven_fold(model(IMAGE, body, held, outputs="float[] y, float[] z"))
    assert folded.operators == ["BatchNormalization", "BatchNormalization"]
    assert folded.decisions["first"].rules == ("compose_affine_into_next_affine",)
    assert folded.decisions["first"].into == ("y_norm", "z_norm")


def test_both_travel_on_to_a_linear_operation() -> None:
    body = ["[first] n = BatchNormalization(x, s, b, m, v)", "[scale] t = Neg(n)", "[linear] y = Conv(t, w)"]
    folded = proven_fold(model(IMAGE, body, {"w": array(3, 4, 1, 1), **statistics(4)}))
    assert folded.operators == ["Conv"]


def case(number: float, dtype: type = np.float32) -> tuple[list[str], dict[str, np.ndarray]]:
    """A scale whose producer has another reader, so that forwards is its only way."""
    body = [
        "[linear] h = Conv(x, w)",
        "u = Sigmoid(h)",
        "[first] n = Mul(h, k)",
        norm("n", "y", "p"),
        norm("n", "z", "q"),
    ]
    held = {"k": np.full((4, 1, 1), number, dtype), "w": array(4, 4, 1, 1, dtype=dtype)}
    return body, held | statistics(4, "p", dtype, seed=20) | statistics(4, "q", dtype, seed=40)


def test_refused_because_not_finite() -> None:
    body, held = case(np.inf)
    folded = only_fold(model(IMAGE, body, held, outputs="float[] y, float[] z, float[] u"))
    premises = {r.premise for r in folded.decisions["first"].refused_by}
    assert "finite" in premises
    assert "representable" not in premises


def test_refused_because_not_representable() -> None:
    body, held = case(60000, np.float16)
    held["ps"][:], held["pv"][:] = 60000, 1
    source = model("float16[1, 4, 5, 5] x", body, held, outputs="float16[] y, float16[] z, float16[] u")
    folded = only_fold(source)
    assert "representable" in {r.premise for r in folded.decisions["first"].refused_by}
    assert "Mul" in folded.operators


EXAMPLES = (
    Example(
        model(
            "float[1, 4, 6, 6] x",
            ["r = Relu(x)", norm("r", "n"), norm("n", "y", "q")],
            {**statistics(4), **statistics(4, "q", seed=20)},
        )
    ),
)
