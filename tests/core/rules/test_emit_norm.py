"""A norm in elementary operations becomes one operation; every form and premise is in ``test_decompositions``."""

from __future__ import annotations

import numpy as np

from folding import Example, array, model, proven_fold

BODY = [
    "mu = ReduceMean <axes = [-1]> (x)",
    "c = Sub(x, mu)",
    "sq = Pow(c, two)",
    "v0 = ReduceMean <axes = [-1]> (sq)",
    "v1 = Add(v0, eps)",
    "sd = Sqrt(v1)",
    "[norm] n = Div(c, sd)",
    "s1 = Mul(n, g)",
    "[end] s2 = Add(s1, b)",
]
HELD = {"two": np.float32(2), "eps": np.float32(1e-5), "g": array(8), "b": array(8, seed=2)}


def test_before_and_after() -> None:
    folded = proven_fold(model("float[2, 5, 8] x", [*BODY, "y = Relu(s2)"], HELD))
    assert folded.operators == ["LayerNormalization", "Relu"]
    assert folded.decision.outcome == "lowered"
    assert folded.decision.into == ("end",)
    assert folded.decision.rules == ("emit_norm",)


def test_a_norm_that_is_an_output_keeps_its_name() -> None:
    folded = proven_fold(
        model("float[2, 5, 8] x", [*BODY, "y = Identity(s2)"], HELD, outputs="float[2, 5, 8] s2, float[] y")
    )
    assert [value.name for value in folded.result.graph.output] == ["s2", "y"]


def test_a_scale_after_it_is_composed() -> None:
    """A scale behind a norm goes into the norm's own, where not all its readers can take it."""
    body = [*BODY, "[scale] t = Mul(s2, k)", "y = Relu(t)", "z = MatMul(t, w)"]
    held = HELD | {"k": array(8, seed=5), "w": array(8, 3)}
    folded = proven_fold(model("float[2, 5, 8] x", body, held, outputs="float[] y, float[] z"))
    assert folded.operators == ["LayerNormalization", "Relu", "MatMul"]
    assert folded.decisions["scale"].rules == ("compose_affine_into_tail",)
    assert folded.decisions["norm"].outcome == "lowered"


def test_in_a_branch_of_an_if() -> None:
    inner = "\n".join(line.replace("[norm] ", "").replace("[end] ", "") for line in BODY)
    then = f"then_branch = t () => (float[2, 5, 8] s2) {{ {inner} }}"
    body = [f"y = If (flag) <{then}, else_branch = e () => (float[2, 5, 8] o) {{ o = Relu(x) }}>"]
    folded = proven_fold(model("float[2, 5, 8] x, bool[1] flag", body, HELD))
    assert folded.decision.outcome == "lowered"


def test_the_type_is_found_behind_a_constant_operand() -> None:
    """The type of ``x`` is that of the Constant node it is multiplied by: no value of the model states one."""
    made = ["k = Constant <value_floats = [1.0, 2.0, 0.5, 1.5, 1.0, 2.0, 3.0, 1.0]> ()", "x = Mul(k, r)", *BODY]
    source = model("float[2, 5, 8] r", [*made, "y = Relu(s2)"], HELD)
    assert "LayerNormalization" in proven_fold(source).operators


EXAMPLES = (Example(model("float[2, 5, 8] x", BODY, HELD, outputs="float[] s2")),)
