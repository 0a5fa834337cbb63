"""A bias that the mean takes away again goes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from folding import Example, Folded, array, model, proven_fold, refused_by
from normfold.core.rules.drop_bias_before_norm import RULE

IMAGE = "float[2, 3, 6, 6] x"
HELD = {
    "w": array(4, 3, 3, 3), "c": array(4), "uneven": array(4), "even": np.array([1, 1, 3, 3], "f"),
    "s4": array(4), "b4": array(4, seed=1), "s2": array(2), "b2": array(2, seed=1), "groups": np.array([0, 2, -1]),
    "back": np.array([2, 4, 6, 6]), "wt": array(3, 4, 3, 3),
}  # fmt: skip
CONV = "[conv] h = Conv <pads = [1, 1, 1, 1]> (x, w, c)"


def folded_with(lines: list[str], *, opset: int = 21, outputs: str = "float[] y", **held: np.ndarray) -> Folded:
    words = " ".join(lines).replace("(", " ").replace(")", " ").replace(",", " ").split()
    constants = {name: values for name, values in {**HELD, **held}.items() if name in words}
    return proven_fold(model(IMAGE, lines, constants, opset=opset, ir_version=10, outputs=outputs))


def has_bias(folded: Folded) -> bool:
    return len(next(node for node in folded.result.graph.node if "Conv" in node.op_type).input) > 2


@pytest.mark.parametrize("conv", [CONV, "h = ConvTranspose <pads = [1, 1, 1, 1]> (x, wt, c)"])
def test_before_an_instance_norm(conv: str) -> None:
    folded = folded_with([conv, "y = InstanceNormalization(h, s4, b4)"])
    assert not has_bias(folded)
    assert len(folded.result.graph.initializer) == 3
    assert folded.decision.outcome == "kept"


def test_past_what_moves_elements() -> None:
    assert not has_bias(folded_with([CONV, "i = Identity(h)", "y = InstanceNormalization(i, s4, b4)"]))


GROUPED = {
    "operator": ["y = GroupNormalization <num_groups = 2> (h, s4, b4)"],
    "reshaped": ["r = Reshape(h, groups)", "i = InstanceNormalization(r, s2, b2)", "y = Reshape(i, back)"],
}


@pytest.mark.parametrize("form", GROUPED)
def test_constant_in_each_group(form: str) -> None:
    assert not has_bias(folded_with([CONV, *GROUPED[form]], c=HELD["even"]))


@pytest.mark.parametrize("form", GROUPED)
def test_a_bias_that_differs_inside_a_group_stays(form: str) -> None:
    assert has_bias(folded_with([CONV, *GROUPED[form]], c=HELD["uneven"]))


STAYS = {
    "another-reader": ([CONV, "y = InstanceNormalization(h, s4, b4)", "z = Relu(h)"], "float[] y, float[] z"),
    "an-output": ([CONV, "y = InstanceNormalization(h, s4, b4)"], "float[] y, float[2, 4, 6, 6] h"),
    "an-activation-between": ([CONV, "a = Relu(h)", "y = InstanceNormalization(a, s4, b4)"], "float[] y"),
    "no-mean": ([CONV, "r = Reshape(h, rows)", "y = LayerNormalization(r, s6)"], "float[] y"),
}


@pytest.mark.parametrize("case", STAYS)
def test_a_bias_that_shows_elsewhere_stays(case: str) -> None:
    lines, outputs = STAYS[case]
    assert has_bias(folded_with(lines, outputs=outputs, rows=np.array([2, 4, 6, 6]), s6=array(6)))


@pytest.mark.parametrize("opset", [9, 11])
def test_a_product_past_a_reshape(opset: int) -> None:
    """Before opset 11 a Gemm must have a bias, which then holds zeros."""
    body = ["h = Gemm(x, w, c)", "r = Reshape(h, split)", "y = InstanceNormalization(r, s4, b4)"]
    held = {"w": array(3, 8), "c": np.repeat(array(4), 2), "split": np.array([0, 4, 2]), "s4": array(4), "b4": array(4)}
    folded = proven_fold(model("float[2, 3] x", body, held, opset=opset))
    gemm = folded.result.graph.node[0]
    assert len(gemm.input) == (3 if opset == 9 else 2)
    assert opset > 9 or not folded.constant(gemm.input[2]).any()


INSIDE = "o = InstanceNormalization(h, s4, b4)"
BRANCHES = f"""then_branch = t () => (float[2, 4, 6, 6] o) {{ {INSIDE} }},
    else_branch = e () => (float[2, 4, 6, 6] i) {{ i = Relu(p) }}"""


def refusing(body: list[str], inputs: str = IMAGE, outputs: str = "float[] y", **held: np.ndarray) -> onnx.ModelProto:
    text = " ".join(body).replace("(", " ").replace(")", " ").replace(",", " ").split()
    constants = {name: values for name, values in {**HELD, **held}.items() if name in text}
    return model(inputs, body, constants, opset=21, ir_version=10, outputs=outputs)


REFUSED = {
    "single-use": [refusing(*STAYS["another-reader"][:1], outputs=STAYS["another-reader"][1])],
    "not-output": [refusing(STAYS["an-output"][0], outputs=STAYS["an-output"][1])],
    "same-scope": [refusing([CONV, f"y = If (flag) <{BRANCHES}>"], f"{IMAGE}, float[2, 4, 6, 6] p, bool flag")],
    "static-reshape": [
        refusing(
            [CONV, "r = Reshape(h, two)", "y = InstanceNormalization(r, s2, b2)"],
            "float[2, 3, H, W] x",
            two=np.array([2, 2, -1]),
        )
    ],
    "same-in-group": [refusing([CONV, *lines]) for lines in GROUPED.values()],
}


@pytest.mark.parametrize("premise", REFUSED)
def test_refused_because_not(premise: str) -> None:
    """Each of these breaks one premise and no other."""
    for source in REFUSED[premise]:
        assert refused_by(RULE, source) == {premise}


WRITTEN_OUT = [
    "mu = ReduceMean <axes = [2, 3]> (h)",
    "d = Sub(h, mu)",
    "sq = Mul(d, d)",
    "v0 = ReduceMean <axes = [2, 3]> (sq)",
    "v1 = Add(v0, eps)",
    "sd = Sqrt(v1)",
    "n = Div(d, sd)",
    "m = Mul(n, g)",
    "y = Add(m, g)",
]


@pytest.mark.parametrize(
    ("after", "held"),
    [
        (["y = LayerNormalization(h, s6)"], {"s6": array(6)}),
        (WRITTEN_OUT, {"eps": np.float32(1e-5), "g": array(4, 1, 1)}),
    ],
    ids=["no-groups", "written-out"],
)
def test_a_norm_that_it_is_not_about(after: list[str], held: dict[str, np.ndarray]) -> None:
    """One without groups of channels, and one that is yet to be written as one operation, hear nothing of it."""
    constants = {"w": HELD["w"], "c": HELD["c"], **held}
    with pytest.raises(AssertionError, match="does not find its structure"):
        refused_by(RULE, model(IMAGE, [CONV, *after], constants, opset=17))


EXAMPLES = (
    Example(
        model(
            IMAGE, [CONV, "y = InstanceNormalization(h, s4, b4)"], {name: HELD[name] for name in ("w", "c", "s4", "b4")}
        )
    ),
)
