"""What random networks have found, each cut down to its cause."""

from __future__ import annotations

import numpy as np

from folding import array, model, norm, proven_fold, statistics
from fuzz.checking import check_seed


def test_a_value_added_twice_is_merged_once() -> None:
    """``Sum(conv(x), x, x)`` became a convolution with one identity."""
    body = ["[linear] c = Conv(x, w)", "[sum] y = Sum(c, x, x)"]
    folded = proven_fold(model("float[1, 3, 4, 4] x", body, {"w": array(3, 3, 1, 1)}))
    assert folded.operators == ["Conv", "Sum"]


def test_a_value_added_twice_in_a_row_is_merged_twice() -> None:
    body = ["[linear] c = Conv(x, w)", "s = Add(c, x)", "y = Add(x, s)"]
    folded = proven_fold(model("float[1, 3, 4, 4] x", body, {"w": array(3, 3, 1, 1)}))
    assert folded.operators == ["Conv"]


def test_a_negation_holds_no_constant() -> None:
    """Two negations that the operation before them cannot take: the second had no place for what is left."""
    held = {"w": array(3, 3, 1, 1), "k": array(3, 1, 1)}
    body = ["[linear] c = Conv(x, w)", "[scale] d = Div(c, k)", "n = Neg(d)", "y = Neg(n)", "z = Relu(c)"]
    folded = proven_fold(model("float[1, 3, 4, 4] x", body, held, outputs="float[] y, float[] z"))
    assert folded.decision.outcome != "folded"


def test_a_map_along_a_pooled_axis_that_goes() -> None:
    held = {"g": array(3), "b": array(3, seed=1), "w": array(4, 5)}
    body = [
        "[norm] i = InstanceNormalization(x, g, b)",
        "[mean] r = ReduceMean <axes = [1, 2], keepdims = 0> (i)",
        "[linear] y = MatMul(r, w)",
    ]
    folded = proven_fold(model("float[2, 3, 4, 4] x", body, held))
    assert "not-pooled-axis" in folded.refused


def test_a_scale_behind_merged_branches() -> None:
    """A number behind a sum of convolutions is no norm, until the sum has become one convolution."""
    held = {"w1": array(3, 3, 3, 3), "w2": array(3, 3, 1, 1, seed=1), "k": array(1)}
    body = ["a = Conv <pads = [1, 1, 1, 1]> (x, w1)", "b = Conv(x, w2)", "s = Add(a, b)", "[scale] y = Mul(s, k)"]
    folded = proven_fold(model("float[1, 3, 4, 4] x", body, held))
    assert folded.operators == ["Conv"]
    assert folded.decision.outcome == "folded"


def test_a_dropout_between_the_parts_of_a_norm_is_no_rest_of_it() -> None:
    held = {"w": array(3, 3, 1, 1), "k": array(3, 1, 1)}
    body = ["[linear] c = Conv(x, w)", "[scale] m = Mul(c, k)", "d = Dropout(m)", "y = Neg(d)"]
    folded = proven_fold(model("float[1, 3, 4, 4] x", body, held))
    assert folded.operators == ["Conv"]
    assert folded.decision.outcome == "folded"


def test_an_addition_between_two_norms_belongs_to_the_second() -> None:
    """The bias of the product is behind the first norm already."""
    held = {"w": array(3, 4), "k": array(4, seed=1), "d": np.float32(3), **statistics(4)}
    body = [
        "[linear] h = MatMul(x, w)",
        norm("h", "t"),
        "a = Add(t, k)",
        "[scale] y = Div(a, d)",
    ]
    folded = proven_fold(model("float[2, 3] x", body, held))
    assert folded.operators == ["Gemm"]
    assert all(decision.outcome == "folded" for decision in folded.decisions.values())


def test_a_transposed_convolution_does_not_pad() -> None:
    held = {"w": array(3, 3, 3, 3), **statistics(3)}
    body = ["r = Relu(x)", norm("r", "t"), "[linear] y = ConvTranspose(t, w)"]
    folded = proven_fold(model("float[1, 3, 4, 4] x", body, held))
    assert "sums every tap" in folded.because("every-tap")


def test_a_value_that_is_read_twice_by_one_operation() -> None:
    body = ["r = Relu(x)", norm("r", "t"), "[both] y = Concat <axis = 1> (t, t)"]
    folded = proven_fold(model("float[1, 3, 4, 4] x", body, statistics(3)))
    assert folded.because("linear-consumer") == "Concat 'both' reads it more than once"


def test_a_negation_next_to_the_rest_of_a_norm_goes_with_it() -> None:
    """It stood behind another norm, which went."""
    held = {"w": array(3, 3, 1, 1), "k": array(4), "k2": array(4), "w2": array(3, 3, 1, 1, seed=1)}
    held |= statistics(3, "n_")
    body = [
        "[linear] c = Conv(x, w)",
        "[scale] m = Mul(c, k)",
        "[shift] a = Sub(m, k2)",
        norm("a", "t", "n_"),
        "[minus] n = Neg(t)",
        "[next] y = Conv <pads = [1, 1, 1, 1]> (n, w2)",
    ]
    folded = proven_fold(model("float[1, 3, 4, 4] x", body, held))
    assert "Neg" not in folded.operators


def test_an_inserted_addition_has_the_dimensions_of_what_it_adds_to() -> None:
    """The next norm stayed because the rank of its input was not known."""
    held = {"k": array(3), "d": array(3, seed=1), "w": array(3, 4), **statistics(5)}
    body = ["r = Relu(x)", "[scale] t = Mul(r, k)", "[shift] a = Add(t, d)", "[linear] h = MatMul(a, w)"]
    body += ["[relu] z = Relu(h)", norm("h", "y")]
    folded = proven_fold(model("float[2, 5, 6, 3] x", body, held, outputs="float[] y, float[] z"))
    assert "known-rank" not in {r.premise for d in folded.decisions.values() for r in d.refused_by}


def test_a_flattened_product_has_the_dimensions_of_the_matrix() -> None:
    """After its bias has made it a Gemm, the next norm still took its output for what it was before."""
    held = {"w": array(3, 4), "to": np.array([10, 4], np.int64), "w2": array(4, 2)}
    held |= {**statistics(4), **statistics(4, "n_", seed=3)}
    body = ["[linear] h = MatMul(x, w)", "r = Reshape(h, to)", norm("r", "t"), "z = Relu(t)"]
    body += [norm("t", "u", "n_"), "[next] y = Gemm(u, w2)"]
    folded = proven_fold(model("float[2, 5, 3] x", body, held, outputs="float[] y, float[] z"))
    assert [decision.outcome for decision in folded.decisions.values()] == ["folded", "folded"]


def test_a_padding_number_where_no_type_is_stated() -> None:
    held = {"p": np.array([0, 0, 1, 0, 0, 1], np.int64), "w": array(2, 3, 1)}
    held |= {name: np.full(3, number, np.float32) for name, number in zip("sbmv", (2, 1, 0, 1), strict=True)}
    body = ["r = Relu(x)", norm("r", "t"), "d = Dropout(t)", "[pad] q = Pad(d, p)", "[linear] y = Conv(q, w)"]
    folded = proven_fold(model("float[1, 3, 4] x", body, held))
    assert folded.operators == ["Relu", "Pad", "Conv"]


def test_a_maximum_over_padding_alone_stays_where_it_is() -> None:
    held = {"w": array(3, 3, 1, 1), **{name: np.abs(part) for name, part in statistics(3).items()}}
    body = [
        "[linear] c = Conv(x, w)",
        "[pool] p = MaxPool <kernel_shape = [2, 2], dilations = [2, 2], pads = [1, 1, 1, 1]> (c)",
    ]
    folded = proven_fold(model("float[1, 3, 1, 4] x", [*body, norm("p", "t"), "y = Relu(t)"], held), tolerance=1)
    assert folded.refused >= {"every-tap"}


def test_a_product_that_a_map_reaches_on_two_ways_gets_one_addition() -> None:
    """The norm's scale went into the product whose input it also undid, but not into the addition behind it."""
    held = {"g": array(6), "i": array(6, seed=1), "w": array(6, 1, 4, seed=2), **statistics(6)}
    body = [
        "[live] n = InstanceNormalization(x, g, i)",
        "[minus] k = Neg(n)",
        "[linear] h = MatMul(k, w)",
        "[sum] t = Add(n, h)",
        norm("t", "y"),
    ]
    folded = proven_fold(model("float[2, 6, 4, 1] x", body, held))
    assert folded.decisions["y_norm"].outcome == "kept" or folded.operators.count("Add") <= 2


def test_an_inserted_node_does_not_take_a_name_that_is_taken() -> None:
    held = {"w": array(3, 4), "d": array(3), "k": array(3, seed=1)}
    body = ["r = Relu(x)", "[scale] t = Mul(r, k)", "[shift] a = Add(t, d)", "[linear] h = MatMul(a, w)"]
    body += ["[linear_add] y = Relu(h)"]
    folded = proven_fold(model("float[2, 5, 6, 3] x", body, held))
    assert folded.operators == ["Relu", "MatMul", "Add", "Relu"]
    assert len({node.name for node in folded.result.graph.node if node.name}) == 3


def test_what_a_fold_tells_of_sizes_is_known_at_once() -> None:
    """Channels of unknown number, which only the constant of a Mul counts: the norm behind went at a second fold."""
    held = {
        "k": np.asarray(2.0, np.float32),
        "q": array(2, 1, 7),
        **statistics(2),
        "b": np.zeros(2, np.float32),
        "m": np.zeros(2, np.float32),
    }
    body = [norm("x", "h1"), "h2 = Mul(h1, k)", "[mul] h3 = Mul(h2, q)", norm("h3", "h4"), "y = Relu(h4)"]
    source = model("float[1, N, 6, 7] x", body, held)
    first = proven_fold(source)
    assert first.operators == ["Mul", "Mul", "Relu"]
    assert check_seed(9034).status == "right"
