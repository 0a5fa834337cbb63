"""What the driver decides about all norms together: selection, several ways to one operation, no half plans."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from folding import array, model, norm, only_fold, proven_fold, statistics
from normfold.backends.onnx import OnnxGraph
from normfold.core import driver as engine
from normfold.core.premises import VERIFICATION_FAILED
from normfold.records import Refusal
from normfold.runtime import CHECKER

IMAGE = "float[1, 4, 5, 5] x"
CONV = "[linear] h = Conv(x, w)"


def two_norms() -> object:
    body = [CONV, "[first] t = BatchNormalization(h, ps, pb, pm, pv)", "[second] y = BatchNormalization(t, s, b, m, v)"]
    return model(IMAGE, body, {"w": array(3, 4, 1, 1), **statistics(3), **statistics(3, "p", seed=20)})


def test_skip_keeps_a_norm() -> None:
    folded = proven_fold(two_norms(), skip=["sec*"])
    assert folded.operators == ["Conv", "BatchNormalization"]
    assert folded.decisions["first"].outcome == "folded"
    assert [r.premise for r in folded.decisions["second"].refused_by] == ["selected"]
    assert "--skip 'sec*'" in folded.decisions["second"].refused_by[0].because


def test_a_norm_that_is_left_out_is_not_folded_by_another() -> None:
    """The second norm could only go through the first, which has to stay; it may become part of it."""
    folded = proven_fold(two_norms(), skip=["first"])
    assert "BatchNormalization" in folded.operators
    assert folded.decisions["first"].outcome == "kept"
    assert [r.premise for r in folded.decisions["first"].refused_by] == ["selected"]


def test_a_scale_that_is_left_out_is_not_folded_by_another() -> None:
    body = [CONV, "[scale] t = Mul(h, k)", norm("t", "y")]
    source = model(IMAGE, body, {"w": array(3, 4, 1, 1), "k": array(3, 1, 1), **statistics(3)})
    folded = proven_fold(source, skip=["scale"])
    assert "Mul" in folded.operators
    assert folded.decisions["scale"].outcome == "kept"


def test_a_norm_that_is_left_out_is_not_folded_forwards_by_another() -> None:
    body = [
        "r = Sigmoid(x)",
        "[scale] t = Mul(r, k)",
        "[norm] n = BatchNormalization(t, s, b, m, v)",
        "[linear] y = Conv(n, w)",
    ]
    source = model(IMAGE, body, {"w": array(3, 4, 1, 1), "k": array(4, 1, 1), **statistics(4)})
    folded = proven_fold(source, skip=["norm"])
    assert "BatchNormalization" in folded.operators
    assert folded.decisions["norm"].outcome == "kept"


def test_only_folds_what_it_names() -> None:
    folded = proven_fold(two_norms(), only=["first"])
    assert folded.operators == ["Conv", "BatchNormalization"]
    assert "no --only pattern matches" in folded.decisions["second"].refused_by[0].because


def test_an_excluded_site_gives_its_reason() -> None:
    graph = OnnxGraph(ir.from_proto(two_norms()), CHECKER.infer)
    reason = Refusal(VERIFICATION_FAILED, "With it folded, the model differs from its source.")
    folding = engine.fold(graph, exclude={"second": reason})
    assert [d.refused_by for d in folding.decisions if d.site == "second"] == [(reason,)]


def test_nothing_left_out_means_everything_goes() -> None:
    assert proven_fold(two_norms()).operators == ["Conv"]


@pytest.mark.parametrize("join", ["Concat <axis = 1> (a, c)", "Add(a, c)"])
def test_two_ways_to_one_scale(join: str) -> None:
    """The norm arrives twice at the Mul, which must count once."""
    channels = 8 if "Concat" in join else 4
    body = [
        "r = Sigmoid(x)",
        norm("r", "n"),
        "a = MaxPool <kernel_shape = [1, 1]> (n)",
        "c = Identity(n)",
        f"j = {join}",
        "[scale] t = Mul(j, k)",
        "[linear] y = Conv(t, w)",
    ]
    held = statistics(4) | {"w": array(3, channels, 1, 1), "k": array(channels, 1, 1, seed=3)}
    held["s"] = np.abs(held["s"]) if "Concat" in join else np.sqrt(held["v"] + np.float32(0.001))
    folded = proven_fold(model(IMAGE, body, held))
    assert folded.decisions["scale"].outcome == "folded"


def test_a_shift_arrives_twice_at_a_scale() -> None:
    body = [
        "r = Sigmoid(x)",
        "[scale] s0 = Mul(r, one)",
        "n = Add(s0, d)",
        "a = Identity(n)",
        "c = Dropout(n)",
        "j = Add(a, c)",
        "t = Mul(j, k)",
        "[linear] y = Conv(t, w)",
    ]
    held = {"d": array(4, 1, 1), "k": array(4, 1, 1, seed=3), "w": array(3, 4, 1, 1), "one": np.float32(1)}
    proven_fold(model(IMAGE, body, held))


def test_a_shift_arrives_twice_at_a_convolution() -> None:
    body = [
        "[first] h = MatMul(x, u)",
        "[scale] s0 = Mul(h, k)",
        "z = Sigmoid(s0)",
        "n = Add(z, d)",
        "a = Identity(n)",
        "c = Dropout(n)",
        "j = Add(a, c)",
        "[linear] y = MatMul(j, w)",
    ]
    held = {"d": array(3), "k": array(3, seed=3), "u": array(5, 3), "w": array(3, 4)}
    proven_fold(model("float[2, 5] x", body, held))


def test_consumers_that_share_a_weight_get_one_each() -> None:
    body = ["r = Sigmoid(x)", norm("r", "n"), "[one] y = Conv(n, w)", "[two] q = Conv(r, w)", "[three] z = Conv(n, w)"]
    source = model(IMAGE, body, {"w": array(3, 4, 1, 1), **statistics(4)}, outputs="float[] y, float[] z, float[] q")
    folded = proven_fold(source)
    assert folded.operators == ["Sigmoid", "Conv", "Conv", "Conv"]
    assert folded.decision.into == ("one", "three")
    assert len({node.input[1] for node in folded.result.graph.node[1:]}) == 3


def test_half_a_way_is_no_way() -> None:
    """One consumer takes the norm, the other does not: nothing changes."""
    body = ["r = Sigmoid(x)", norm("r", "n"), "[one] y = Conv(n, w)", "[other] z = Sigmoid(n)"]
    held = {"w": array(3, 4, 1, 1), **statistics(4)}
    source = model(IMAGE, body, held, outputs="float[] y, float[] z")
    folded = proven_fold(source)
    assert folded.operators == ["Sigmoid", "BatchNormalization", "Conv", "Sigmoid"]
    assert np.array_equal(folded.constant("w"), held["w"])
    assert "Sigmoid 'other'" in folded.because("linear-consumer")


def test_a_convolution_between_two_norms() -> None:
    body = [norm("x", "n", "p"), "[linear] h = Conv(n, w)", norm("h", "y")]
    held = {"w": array(3, 4, 1, 1), **statistics(3), **statistics(4, "p", seed=20)}
    folded = proven_fold(model(IMAGE, body, held))
    assert folded.operators == ["Conv"]


def test_a_sum_of_many_terms_ends() -> None:
    """Neither Python's stack nor its patience is the limit."""
    count = 1200
    body = [
        "a0 = Sigmoid(x)",
        *(f"b{k} = Tanh(x)\na{k + 1} = Add(a{k}, b{k})" for k in range(count)),
        norm(f"a{count}", "y"),
    ]
    folded = only_fold(model("float[1, 3, 5, 5] x", body, statistics(3)))
    assert folded.decision.outcome == "kept"


def test_deciding_twice_gives_the_same() -> None:
    first, second = only_fold(two_norms()), only_fold(two_norms())
    assert first.result.SerializeToString(deterministic=True) == second.result.SerializeToString(deterministic=True)


def test_folding_a_result_changes_nothing() -> None:
    once = only_fold(two_norms()).result
    again = only_fold(once)
    assert again.decisions == {}
    assert again.operators == ["Conv"]
