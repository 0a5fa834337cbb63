"""``affine -> affine`` becomes one, at the first of the two or before it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from folding import Example, array, model, norm, only_fold, proven_fold, statistics
from normfold.backends.onnx import OnnxGraph
from normfold.core.algebra import Affine
from normfold.core.rules.shared import constants_fit
from normfold.core.views import AffineOp
from normfold.runtime import CHECKER

IMAGE = "float[1, 4, 5, 5] x"
START = ["r = Sigmoid(x)", "[first] n = BatchNormalization <epsilon = 0.001> (r, s, b, m, v)"]
SCALE = {"k": array(4, 1, 1), "d": array(4, 1, 1, seed=2)}


def test_before_and_after() -> None:
    body = [*START, "t = Mul(n, k)", "u = Sub(d, t)", norm("u", "y", "q")]
    folded = proven_fold(model(IMAGE, body, SCALE | statistics(4) | statistics(4, "q", seed=20)), skip=["first"])
    assert folded.operators == ["Sigmoid", "BatchNormalization"]
    assert folded.decisions["y_norm"].rules == ("compose_affine_into_affine",)
    assert folded.decisions["y_norm"].into == ("first",)


def test_the_shift_stays_where_there_is_room_for_it() -> None:
    body = ["[linear] h = MatMul(x, w)", "[bias] t = Add(h, c)", norm("t", "y")]
    folded = proven_fold(model("float[N, 4] x", body, {"w": array(4, 3), "c": array(3, seed=2), **statistics(3)}))
    assert folded.operators == ["MatMul", "Add"]
    assert "compose_affine_into_affine" in folded.decision.rules


def test_the_first_goes_where_it_has_no_room() -> None:
    body = ["[linear] h = Conv(x, w)", "t = Neg(h)", norm("t", "y")]
    folded = proven_fold(model(IMAGE, body, {"w": array(3, 4, 1, 1), **statistics(3)}))
    assert folded.operators == ["Conv"]


def test_a_norm_has_room_along_its_channels_only() -> None:
    body = [*START, "t = Mul(n, k)", norm("t", "y", "q")]
    folded = proven_fold(model(IMAGE, body, {"k": array(5), **statistics(4), **statistics(4, "q", seed=20)}))
    assert folded.operators == ["Sigmoid", "BatchNormalization", "Mul", "BatchNormalization"]


def test_refused_because_not_finite() -> None:
    held = {"k": np.array([1, np.nan, 1, 1], np.float32).reshape(4, 1, 1), "w": array(3, 4, 1, 1), **statistics(4)}
    folded = only_fold(model(IMAGE, [*START, "[bad] t = Mul(n, k)", "[linear] y = Conv(t, w)"], held))
    assert {r.premise for r in folded.decisions["bad"].refused_by} == {"finite"}
    assert "Mul" in folded.operators


def test_refused_because_not_representable() -> None:
    held = {
        "k": np.full((4, 1, 1), 60000, np.float16),
        **statistics(4, dtype=np.float16),
        **statistics(4, "q", np.float16),
    }
    held["qs"][:] = 60000
    body = ["r = Sigmoid(x)", "n = Mul(r, k)", norm("n", "u", "q"), "y = Relu(u)"]
    folded = only_fold(model("float16[1, 4, 5, 5] x", body, held, outputs="float16[] y"))
    assert folded.operators == ["Sigmoid", "Mul", "BatchNormalization", "Relu"]
    assert "representable" in {r.premise for d in folded.decisions.values() for r in d.refused_by}


def test_two_that_cancel_go() -> None:
    body = ["h = Sigmoid(x)", "[one] a = Neg(h)", "b = Neg(a)", "c = Mul(b, k)", "y = Conv(c, w)"]
    source = model("float[1, 3, 4, 4] x", body, {"k": array(1, 4, 1), "w": array(2, 3, 1, 1)})
    folded = proven_fold(source)
    assert folded.operators == ["Sigmoid", "Mul", "Conv"]
    assert folded.decision.into


def test_refused_because_a_float16_scale_vanishes() -> None:
    held = {"k": np.full((4, 1, 1), 1e-4, np.float16), "q": np.full((4, 1, 1), 2e-4, np.float16)}
    body = ["r = Sigmoid(x)", "[first] n = Mul(r, k)", "[second] u = Mul(n, q)", "y = Relu(u)"]
    graph = OnnxGraph(ir.from_proto(model("float16[1, 4, 5, 5] x", body, held, outputs="float16[] y")), CHECKER.infer)
    views = [view for node in graph.nodes() if isinstance(view := graph.view(node), AffineOp)]
    because = constants_fit(views[0], Affine.of(np.full((4, 1, 1), 2e-8)), "Mul 'first'")
    assert because is not None
    assert "lose" in because
    assert constants_fit(views[0], Affine.of(np.array([1, 2e-8, 1, 0]).reshape(4, 1, 1)), "Mul 'first'") is None


EXAMPLES = (
    Example(
        model(
            "float[1, 4, 6, 6] x",
            [norm("x", "n"), "t = Mul(n, k)", "y = Add(t, d)"],
            {"k": array(4, 1, 1), "d": array(4, 1, 1, seed=1), **statistics(4)},
        )
    ),
    Example(
        model(
            "float[5, 4] x",
            ["h = MatMul(x, w)", "a = Add(h, d)", norm("a", "y")],
            {"w": array(4, 3), "d": array(3), **statistics(3)},
        )
    ),
)
