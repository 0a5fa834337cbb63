"""Which operations are norms: operators, decompositions, and constant scales next to linear operations."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from folding import array, model, norm, only_fold, proven_fold, statistics
from normfold.backends.onnx import OnnxGraph
from normfold.core.driver import inspect
from normfold.records import counts
from normfold.runtime import CHECKER

TOKENS = "float[2, 5, 4] x"
EPS = {"eps": np.float32(1e-5), "two": np.float32(2), "half": np.float32(0.5)}
MEAN = "ReduceMean <axes = [-1], keepdims = 1>"
DEVIATION = ["v1 = Add(v0, eps)", "sd = Sqrt(v1)"]
CENTRED = [f"mu = {MEAN} (x)", "c = Sub(x, mu)"]
LAYER_NORMS = {
    "pow-div": [*CENTRED, "sq = Pow(c, two)", f"v0 = {MEAN} (sq)", *DEVIATION, "[core] n = Div(c, sd)"],
    "mul": [*CENTRED, "sq = Mul(c, c)", f"v0 = {MEAN} (sq)", *DEVIATION, "[core] n = Div(c, sd)"],
    "pow-half": [
        *CENTRED,
        "sq = Pow(c, two)",
        f"v0 = {MEAN} (sq)",
        "v1 = Add(eps, v0)",
        "sd = Pow(v1, half)",
        "[core] n = Div(c, sd)",
    ],
    "reciprocal": [
        *CENTRED,
        "sq = Pow(c, two)",
        f"v0 = {MEAN} (sq)",
        *DEVIATION,
        "rs = Reciprocal(sd)",
        "[core] n = Mul(c, rs)",
    ],
}
RMS_NORMS = {
    "div": ["sq = Pow(x, two)", f"v0 = {MEAN} (sq)", *DEVIATION, "[core] n = Div(x, sd)"],
    "reciprocal": ["sq = Mul(x, x)", f"v0 = {MEAN} (sq)", *DEVIATION, "rs = Reciprocal(sd)", "[core] n = Mul(rs, x)"],
}


def sites(source: object, role: str = "norm") -> dict[str, str]:
    return {
        site.name: site.norm for site in OnnxGraph(ir.from_proto(source), CHECKER.infer).sites() if site.role == role
    }


def used(lines: list[str], held: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    words = " ".join(lines).replace("(", " ").replace(")", " ").replace(",", " ").split()
    return {name: values for name, values in held.items() if name in words}


@pytest.mark.parametrize("tail", ["none", "scale", "scale-shift", "scale-first"])
@pytest.mark.parametrize("case", LAYER_NORMS)
def test_layer_norm(case: str, tail: str) -> None:
    last = {
        "none": [],
        "scale": ["s1 = Mul(n, g)"],
        "scale-shift": ["s1 = Mul(n, g)", "s2 = Add(s1, b)"],
        "scale-first": ["s1 = Mul(g, n)", "s2 = Add(b, s1)"],
    }
    lines = [*LAYER_NORMS[case], *last[tail]]
    end = lines[-1].split(" = ")[0].split()[-1]
    lines.append(f"y = Relu({end})")
    source = model(TOKENS, lines, used(lines, EPS | {"g": array(4), "b": array(4, seed=2)}))
    assert sites(source) == {"core": "LayerNormalization (decomposed)"}
    folded = proven_fold(source)
    assert folded.operators == ["LayerNormalization", "Relu"]
    assert folded.decision.outcome == "lowered"
    assert "fixed-statistics" in folded.refused


@pytest.mark.parametrize("case", RMS_NORMS)
def test_rms_norm(case: str) -> None:
    lines = [*RMS_NORMS[case], "s1 = Mul(g, n)", "y = Relu(s1)"]
    source = model(TOKENS, lines, used(lines, EPS | {"g": array(4)}))
    assert sites(source) == {"core": "RMSNormalization (decomposed)"}
    assert "fixed-statistics" in proven_fold(source).refused


def test_rms_norm_with_a_quotient_of_one() -> None:
    lines = [
        "sq = Pow(x, two)",
        f"v0 = {MEAN} (sq)",
        *DEVIATION,
        "[core] rs = Div(one, sd)",
        "n = Mul(x, rs)",
        "y = Relu(n)",
    ]
    assert list(sites(model(TOKENS, lines, used(lines, EPS | {"one": np.float32(1)}))).values()) == [
        "RMSNormalization (decomposed)"
    ]


def test_layer_norm_whose_difference_is_made_twice() -> None:
    lines = [
        *CENTRED,
        "sq = Pow(c, two)",
        f"v0 = {MEAN} (sq)",
        *DEVIATION,
        "c2 = Sub(x, mu)",
        "[core] n = Div(c2, sd)",
        "y = Relu(n)",
    ]
    assert sites(model(TOKENS, lines, used(lines, EPS))) == {"core": "LayerNormalization (decomposed)"}


def test_group_norm() -> None:
    lines = [
        "r = Reshape(x, groups)",
        "[core] i = InstanceNormalization(r, one, zero)",
        "n = Reshape(i, back)",
        "s1 = Mul(n, g)",
        "s2 = Add(s1, b)",
        "y = Relu(s2)",
    ]
    held = {
        "groups": np.array([2, 2, -1]),
        "back": np.array([2, 4, 3, 3]),
        "one": np.ones(2, "f"),
        "zero": np.zeros(2, "f"),
        "g": array(4, 1, 1),
        "b": array(4, 1, 1, seed=2),
    }
    source = model("float[2, 4, 3, 3] x", lines, held)
    assert sites(source) == {"core": "GroupNormalization (decomposed)"}
    assert "fixed-statistics" in proven_fold(source).refused


NO_NORMS = {
    "another-numerator": ["q = Sigmoid(x)", "sq = Pow(x, two)", f"v0 = {MEAN} (sq)", *DEVIATION, "y = Div(q, sd)"],
    "a-cube": ["sq = Pow(x, three)", f"v0 = {MEAN} (sq)", *DEVIATION, "y = Div(x, sd)"],
    "a-product-of-two": ["q = Sigmoid(x)", "sq = Mul(x, q)", f"v0 = {MEAN} (sq)", *DEVIATION, "y = Div(x, sd)"],
    "a-deviation-alone": ["sq = Pow(x, two)", f"v0 = {MEAN} (sq)", "v1 = Add(v0, eps)", "y = Sqrt(v1)"],
    "without-a-mean": ["sq = Pow(x, two)", "v1 = Add(sq, eps)", "sd = Sqrt(v1)", "y = Div(x, sd)"],
    "gelu": [
        "[linear] h = MatMul(x, w)",
        "a = Div(h, root)",
        "e = Erf(a)",
        "p = Add(e, one)",
        "q = Mul(h, p)",
        "g1 = Mul(q, half)",
        "y = MatMul(g1, u)",
    ],
    "gelu-half-first": [
        "h = MatMul(x, w)",
        "a = Div(h, root)",
        "e = Erf(a)",
        "p = Add(e, one)",
        "f = Mul(h, half)",
        "q = Mul(f, p)",
        "y = MatMul(q, u)",
    ],
    "gelu-tanh": [
        "h = MatMul(x, w)",
        "c = Mul(h, h)",
        "d = Mul(c, h)",
        "e = Mul(d, root)",
        "f = Add(h, e)",
        "t0 = Mul(f, root)",
        "t = Tanh(t0)",
        "p = Add(t, one)",
        "q = Mul(h, p)",
        "g1 = Mul(half, q)",
        "y = MatMul(g1, u)",
    ],
    "quick-gelu": ["h = MatMul(x, w)", "a = Mul(h, root)", "s = Sigmoid(a)", "q = Mul(h, s)", "y = MatMul(q, u)"],
    "hard-swish": [
        "h = MatMul(x, w)",
        "a = Add(h, three)",
        "c = Clip(a, zero, six)",
        "d = Div(c, six)",
        "q = Mul(h, d)",
        "y = MatMul(q, u)",
    ],
    "attention-scale": [
        "q = MatMul(x, w)",
        "kt = Transpose <perm = [0, 2, 1]> (x)",
        "z = Sigmoid(q)",
        "s = MatMul(z, kt)",
        "a = Div(s, root)",
        "p = Softmax <axis = -1> (a)",
        "y = MatMul(p, x)",
    ],
    "a-shift": ["h = MatMul(x, w)", "y = Add(h, b)"],
    "far-from-any-linear-operation": ["r = Sigmoid(x)", "t = Mul(r, g)", "y = Relu(t)"],
}
CONSTANTS = EPS | {
    "three": np.float32(3),
    "root": np.float32(1.4142135),
    "one": np.float32(1),
    "zero": np.float32(0),
    "six": np.float32(6),
    "w": array(4, 4),
    "u": array(4, 4, seed=2),
    "b": array(4),
    "g": array(4),
}


@pytest.mark.parametrize("case", NO_NORMS)
def test_what_is_no_norm(case: str) -> None:
    source = model(TOKENS, NO_NORMS[case], used(NO_NORMS[case], CONSTANTS))
    assert sites(source) == {}
    assert {decision.role for decision in only_fold(source).decisions.values()} <= {"scale"}


@pytest.mark.parametrize("case", [case for case in NO_NORMS if "gelu" in case])
def test_the_constants_of_a_gelu_stay(case: str) -> None:
    """ONNX Runtime makes one operation of a GELU, but not of one that has lost a constant."""
    source = model(TOKENS, NO_NORMS[case], used(NO_NORMS[case], CONSTANTS))
    assert only_fold(source).decisions == {}


SCALES = {
    "behind-an-activation": (["h = MatMul(x, w)", "r = Relu(h)", "[s1] t = Mul(r, half)"], "s1"),
    "behind-a-clip": (["h = MatMul(x, w)", "r = Clip(h, zero, six)", "[s1] t = Mul(r, half)"], "s1"),
    "behind-a-pad": (["h = MatMul(x, w)", "r = Pad(h, ends)", "[s1] t = Mul(r, half)"], "s1"),
    "behind-a-pool": (["h = Conv(x, taps)", "r = MaxPool<kernel_shape = [2]>(h)", "[s1] t = Mul(r, half)"], "s1"),
    "before-another": (["r = Sinh(x)", "[s1] t0 = Mul(r, half)", "t = MatMul(t0, w)"], "s1"),
    "far-behind": (["h = MatMul(x, w)", "r = Relu(h)", "f = Flatten(r)", "[s1] t = Div(f, six)"], "s1"),
    "two-in-a-row": (["h = MatMul(x, w)", "r = Relu(h)", "[s1] u0 = Mul(r, half)", "[s2] t = Div(u0, six)"], "s1"),
    "of-a-hard-swish": (
        [*NO_NORMS["hard-swish"][:3], "[s1] d = Div(c, six)", "q = Mul(h, d)", "t = MatMul(q, u)"],
        "s1",
    ),
}
MORE = CONSTANTS | {"ends": np.array([0, 0, 0, 0, 1, 1]), "taps": array(3, 5, 2)}


@pytest.mark.parametrize("case", SCALES)
def test_a_scale_that_is_no_norm_folds_and_is_counted_apart(case: str) -> None:
    lines, name = SCALES[case]
    source = model(TOKENS, [*lines, "y = Softmax(t)"], used(lines, MORE))
    assert sites(source) == {}
    assert set(sites(source, "scale")) == {name}
    decision = proven_fold(source).decision
    assert (decision.site, decision.role, decision.outcome) == (name, "scale", "folded")
    tally = counts([decision])
    assert (tally.pop("scales"), set(tally.values())) == (1, {0})


def test_a_scale_that_stays_is_not_told_of() -> None:
    source = model(TOKENS, ["r = Sigmoid(x)", "[s1] t = Mul(r, half)", "y = Tanh(t)"], used(["half"], EPS))
    assert sites(source, "scale") == {"s1": "Mul"}
    assert only_fold(source).decisions == {}
    assert only_fold(source, skip=["s1"]).decisions == {}


def test_a_scale_that_is_left_out_stays() -> None:
    lines, name = SCALES["behind-an-activation"]
    source = model(TOKENS, [*lines, "y = Softmax(t)"], used(lines, MORE))
    folded = only_fold(source, skip=[name])
    assert folded.decisions == {}
    assert "Mul" in folded.operators


def test_a_scale_is_not_undone_for_other_readers() -> None:
    """For a norm, the other reader would get the inverse; what a scale costs is not worth it."""
    body = ["h = Conv(x, w)", "r = Relu(h)", "[s1] t = Mul(r, half)", "y = Tanh(t)", "z = Conv(r, w)"]
    held = {"w": array(4, 4, 1, 1), **used(["half"], EPS)}
    source = model("float[1, 4, 5, 5] x", body, held, outputs="float[] y, float[] z")
    assert only_fold(source).decisions == {}


@pytest.mark.parametrize(("size", "folds"), [(32, True), (33, False)])
def test_a_scale_copies_no_large_weight_that_others_read(size: int, folds: bool) -> None:
    """A copy for each scale made a model of 142 KiB one of 716 KiB, and its convolutions round anew."""
    body = ["h = MatMul(x, w)", "r = Relu(h)", "[s1] t = Mul(r, half)", "p = MatMul(t, w)", "y = Tanh(p)"]
    held = {"w": array(size, size), **used(["half"], EPS)}
    folded = proven_fold(model(f"float[2, 3, {size}] x", body, held))
    assert ("Mul" not in folded.operators) == folds


def test_a_scale_goes_into_a_large_weight_of_its_own() -> None:
    body = ["h = MatMul(x, w)", "r = Relu(h)", "[s1] t = Mul(r, half)", "p = MatMul(t, u)", "y = Tanh(p)"]
    held = {"w": array(64, 64), "u": array(64, 64, seed=2), **used(["half"], EPS)}
    assert "Mul" not in proven_fold(model("float[2, 3, 64] x", body, held)).operators


def test_a_norm_goes_into_a_weight_that_others_read() -> None:
    """A copy may be worth it for a norm."""
    body = ["h = MatMul(x, w)", "r = Relu(h)", "p = MatMul(r, w)", "[s1] t = Mul(p, g)", "y = Tanh(t)"]
    held = {"w": array(64, 64), "g": array(64, seed=3)}
    assert "Mul" not in proven_fold(model("float[2, 3, 64] x", body, held)).operators


def test_a_scale_stays_before_a_pool_that_it_does_not_pass() -> None:
    """Norms that stay go behind the pools that read them; others gain nothing."""
    body = ["r = Sigmoid(x)", "[s1] t = Mul(r, half)", "p = AveragePool<kernel_shape = [2, 2]>(t)", "y = Tanh(p)"]
    folded = only_fold(model("float[1, 4, 6, 6] x", body, used(["half"], EPS)))
    assert folded.operators == ["Sigmoid", "Mul", "AveragePool", "Tanh"]
    assert folded.decisions == {}


def test_what_is_inspected_are_norms() -> None:
    lines, _ = SCALES["behind-an-activation"]
    source = model(TOKENS, [*lines, "y = Softmax(t)"], used(lines, MORE))
    reports, _ = inspect(OnnxGraph(ir.from_proto(source), CHECKER.infer))
    assert reports == ()


CHAINS = {
    "scale-after": (["[linear] h = MatMul(x, w)", "[s1] y = Mul(h, g)"], {"s1": "Mul"}),
    "scale-before": (["r = Sigmoid(x)", "[s1] t = Mul(r, g)", "y = MatMul(t, w)"], {"s1": "Mul"}),
    "scale-and-shift": (
        ["r = Sigmoid(x)", "[s1] t = Mul(r, g)", "u0 = Add(t, b)", "y = MatMul(u0, w)"],
        {"s1": "Mul+Add"},
    ),
    "division": (["h = MatMul(x, w)", "[s1] y = Div(h, g)"], {"s1": "Div"}),
    "past-identities": (["h = MatMul(x, w)", "i = Identity(h)", "d = Dropout(i)", "[s1] y = Mul(d, g)"], {"s1": "Mul"}),
    "scalar-after": (["h = MatMul(x, w)", "[s1] y = Mul(h, half)"], {"s1": "Mul"}),
    "scalar-after-but-not-alone": (
        ["h = MatMul(x, w)", "[s1] t = Mul(h, half)", "r = Sigmoid(h)", "y = Add(t, r)"],
        {},
    ),
    "scalar-at-the-input": (["[s1] t = Mul(x, half)", "y = MatMul(t, w)"], {"s1": "Mul"}),
    "scalar-before": (["r = Sigmoid(x)", "[s1] t = Mul(r, half)", "y = MatMul(t, w)"], {}),
    "bias-first": (["h = MatMul(x, w)", "c = Add(h, b)", "[s1] y = Mul(c, g)"], {"s1": "Mul"}),
    "two-readers": (["h = MatMul(x, w)", "[s1] t = Mul(h, g)", "y = MatMul(t, u)", "z = Relu(h)"], {"s1": "Mul"}),
    "a-negation": (["h = MatMul(x, w)", "y = Neg(h)"], {}),
}


@pytest.mark.parametrize("case", CHAINS)
def test_chains(case: str) -> None:
    lines, expected = CHAINS[case]
    outputs = "float[] y, float[] z" if any(line.startswith("z") for line in lines) else "float[] y"
    source = model(TOKENS, lines, used(lines, CONSTANTS), outputs=outputs)
    assert sites(source) == expected
    proven_fold(source)


def test_each_norm_operator_is_a_site() -> None:
    lines = [
        "[a] n1 = LayerNormalization(x, g, b)",
        "[b] n2 = InstanceNormalization(n1, i5, i5)",
        "[c] n3 = LpNormalization(n2)",
        "[d] n4 = MeanVarianceNormalization <axes = [0, 2]> (n3)",
        "[e] y = LRN <size = 3> (n4)",
    ]
    source = model(TOKENS, lines, {"g": array(4), "b": array(4), "i5": array(5)})
    assert list(sites(source)) == ["a", "b", "c", "d", "e"]
    folded = only_fold(source)
    assert all({"fixed-statistics"} <= {r.premise for r in d.refused_by} for d in folded.decisions.values())
    assert all("statistics from each input" in d.refused_by[0].because for d in folded.decisions.values())


def test_sites_are_named_after_their_nodes() -> None:
    body = [
        "h = Conv(x, w)",
        "t = BatchNormalization(h, s, b, m, v)",
        "[same] u = BatchNormalization(t, s, b, m, v)",
        "[same] y = BatchNormalization(u, s, b, m, v)",
    ]
    source = model("float[1, 3, 5, 5] x", body, {"w": array(3, 3, 1, 1), **statistics(3)})
    assert list(sites(source)) == ["t", "same:u", "same:y"]


def test_sites_say_shape_and_health() -> None:
    held = {"w": array(4, 3, 1, 1), **statistics(4)}
    held["v"][0], held["s"][1], held["s"][2] = 0, 0, 1e-9
    source = model("float[N, 3, 5, 5] x", ["h = Conv(x, w)", norm("h", "y")], held)
    (site,) = OnnxGraph(ir.from_proto(source), CHECKER.infer).sites()
    assert site.shape == ("N", 4, 5, 5)
    assert site.output == "y"
    assert site.health == (
        "variance is below epsilon in 1 of 4 channels",
        "gamma is zero in 1 of 4 channels",
        "gamma is tiny in 1 of 4 channels",
    )


def test_health_of_statistics_that_were_never_updated() -> None:
    held = {"s": array(3), "b": array(3), "m": np.zeros(3, "f"), "v": np.ones(3, "f")}
    (site,) = OnnxGraph(ir.from_proto(model("float[1, 3, 5, 5] x", norm("x", "y"), held)), CHECKER.infer).sites()
    assert site.health == ("running statistics were never updated (mean 0, variance 1)",)


def test_a_constant_that_two_chains_share() -> None:
    body = ["h = Conv(x, w)", "[s1] t = Mul(h, k)", "z = Tanh(t)", "q = Conv(z, w2)", "[s2] y = Mul(q, k)"]
    held = {"w": array(3, 3, 1, 1), "w2": array(3, 3, 1, 1, seed=2), "k": array(3, 1, 1)}
    folded = proven_fold(model("float[1, 3, 5, 5] x", body, held))
    assert folded.operators == ["Conv", "Tanh", "Conv"]


def test_a_decomposed_norm_whose_constants_others_share() -> None:
    """An epsilon behind a convolution is no scale."""
    lines = ["h = Conv(x, w)", "[eps0] e = Add(h, eps)", "y = Relu(e)"]
    source = model("float[1, 3, 5, 5] x", lines, {"w": array(3, 3, 1, 1), "eps": EPS["eps"]})
    assert sites(source) == {}
    assert not only_fold(source).decisions


def test_a_whole_map_is_a_norm_wherever_it_stands() -> None:
    """A scale and a shift by channel are what a BatchNormalization is, however they are written."""
    lines = ["h = Sigmoid(x)", "[scale] t = Mul(h, k)", "n = Add(t, d)", "y = Tanh(n)"]
    held = {"k": array(3, 1, 1), "d": array(3, 1, 1, seed=2)}
    assert sites(model("float[1, 3, 5, 5] x", lines, held)) == {"scale": "Mul+Add"}
    assert sites(model("float[1, 3, 5, 5] x", lines, held | {"d": array(1)})) == {}
    assert sites(model("float[1, 3, 5, 5] x", lines, held | {"d": array(3, 5, 5)})) == {}
