"""``LayerNormalization -> affine`` becomes ``LayerNormalization``."""

from __future__ import annotations

import numpy as np
import pytest

from folding import Example, array, model, norm, only_fold, proven_fold, statistics

TOKENS = "float[2, 5, 4] x"
LAYER = "[layer] n = LayerNormalization(x, g, e)"
HELD = {"g": array(4), "e": array(4, seed=2), "w": array(4, 3), "k": array(4, seed=3)}


def test_before_and_after() -> None:
    body = [LAYER, "t = Mul(n, k)", "[next] y = MatMul(t, w)", "z = Sigmoid(t)"]
    folded = proven_fold(model(TOKENS, body, HELD, outputs="float[] y, float[] z"))
    assert folded.operators == ["LayerNormalization", "MatMul", "Sigmoid"]
    assert "compose_affine_into_tail" in folded.decisions["t"].rules


@pytest.mark.parametrize("bias", ["", ", e"])
def test_an_instance_norm_takes_a_batch_norm(bias: str) -> None:
    body = ["[inner] n = InstanceNormalization(x, g, e)", norm("n", "y")]
    folded = proven_fold(model("float[2, 4, 5, 5] x", body, {"g": HELD["g"], "e": HELD["e"], **statistics(4)}))
    assert folded.operators == ["InstanceNormalization"]


def test_refused_because_there_is_no_room_along_another_axis() -> None:
    body = [LAYER, norm("n", "y")]
    folded = proven_fold(model("float[2, 4, 4] x", body, {"g": HELD["g"], "e": HELD["e"], **statistics(4)}))
    assert folded.operators == ["LayerNormalization", "BatchNormalization"]
    assert {r.premise for r in folded.decisions["y_norm"].refused_by} == {"room", "not-output"}


def test_refused_because_there_is_no_room_for_a_shift() -> None:
    body = [
        "[layer] n = LayerNormalization(x, g)",
        "t = Mul(n, k)",
        "u = Add(t, e)",
        "[next] y = MatMul(u, w)",
        "z = Sigmoid(u)",
    ]
    folded = proven_fold(model(TOKENS, body, HELD, outputs="float[] y, float[] z"))
    assert "Add" in folded.operators
    assert "room" in {r.premise for d in folded.decisions.values() for r in d.refused_by}


def finite_case(number: float, dtype: type) -> object:
    held = {name: values.astype(dtype) for name, values in HELD.items()} | {"k": np.array([1, number, 1, 1], dtype)}
    kind = "float16" if dtype is np.float16 else "float"
    body = [LAYER, "t = Mul(n, k)", "[next] y = MatMul(t, w)", "z = Sigmoid(t)"]
    return model(f"{kind}[2, 5, 4] x", body, held, outputs=f"{kind}[] y, {kind}[] z")


def test_refused_because_not_finite() -> None:
    folded = only_fold(finite_case(np.nan, np.float32))
    assert folded.operators == ["LayerNormalization", "Mul", "MatMul", "Sigmoid"]
    assert {r.premise for r in folded.decisions["t"].refused_by} == {"finite"}


def test_refused_because_not_representable() -> None:
    source = finite_case(65000, np.float16)
    for t in source.graph.initializer:
        if t.name == "g":
            t.raw_data = np.full(4, 2, np.float16).tobytes()
    folded = only_fold(source)
    assert folded.operators == ["LayerNormalization", "Mul", "MatMul", "Sigmoid"]
    assert "representable" in {r.premise for r in folded.decisions["t"].refused_by}


EXAMPLES = (
    Example(
        model(
            "float[2, 5, 8] x",
            ["n = LayerNormalization(x, g, c)", "m = Mul(n, k)", "y = Add(m, d)"],
            {name: array(8, seed=seed) for seed, name in enumerate("gckd")},
        )
    ),
)
