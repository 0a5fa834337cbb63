"""``norm -> pooling`` becomes ``pooling -> norm``, for norms that stay."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from folding import Example, Folded, array, model, norm, only_fold, proven_fold, refused_by, statistics
from normfold.core.costs import CostTable, cost_table
from normfold.core.rules.move_norm_past_pool import RULE

IMAGE = "float[1, 4, 6, 6] x"
CHEAP = CostTable("test", {"pool/Behind": 0.5})
POOLS = {
    "maximum": "MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (n)",
    "maximum-padded": "MaxPool <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]> (n)",
    "average": "AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (n)",
    "global": "GlobalAveragePool(n)",
    "mean": "ReduceMean <axes = [2, 3], keepdims = 1> (n)",
}


def positive() -> dict[str, np.ndarray]:
    held = statistics(4)
    held["s"] = np.abs(held["s"])
    return held


def net(pool: str, *more: str, held: dict[str, np.ndarray] | None = None, outputs: str = "y") -> onnx.ModelProto:
    body = ["r = Sigmoid(x)", norm("r", "n"), f"[pool] p = {pool}", "y = Sigmoid(p)", *more]
    named = ", ".join(f"float[] {name}" for name in outputs.split())
    return model(IMAGE, body, positive() if held is None else held, outputs=named)


def stays(source: onnx.ModelProto, costs: CostTable = CHEAP) -> Folded:
    result = proven_fold(source, costs=costs)
    assert result.decision.outcome == "kept"
    assert result.operators == [node.op_type for node in source.graph.node]
    return result


@pytest.mark.parametrize("costs", [CHEAP, cost_table()], ids=["test", "cpu"])
@pytest.mark.parametrize("case", POOLS)
def test_moved(case: str, costs: CostTable) -> None:
    result = proven_fold(net(POOLS[case]), costs=costs)
    operator = POOLS[case].split()[0].partition("(")[0]
    assert result.operators == ["Sigmoid", operator, "BatchNormalization", "Sigmoid"]
    assert result.decision.outcome == "lowered"
    assert result.decision.into == ("pool",)
    assert result.decision.rules == ("move_norm_past_pool",)
    assert result.refused == {"linear-producer", "linear-consumer"}


def test_the_pooled_value_keeps_its_name() -> None:
    result = proven_fold(net(POOLS["maximum"], outputs="y p"), costs=CHEAP).result
    (last,) = (node for node in result.graph.node if node.op_type == "BatchNormalization")
    assert last.output[0] == "p"
    assert "n" not in {name for node in result.graph.node for name in node.output}


def test_readers_of_the_shape_find_it() -> None:
    """The shape before the pooling is read from what the norm read."""
    asked = ["before = Shape(n)", "z = Cast <to = 1> (before)", "after = Shape(p)", "q = Cast <to = 1> (after)"]
    result = proven_fold(net(POOLS["maximum"], *asked, outputs="y z q"), costs=CHEAP)
    assert result.decision.outcome == "lowered"


def test_a_chain_of_constants_moves_whole() -> None:
    """The convolution's output has another reader, so that the chain behind it stays."""
    chain = ["[scale] m = Mul(h, k)", "n = Add(d, m)"]
    body = ["h = Conv(x, w)", "z = Sigmoid(h)", *chain, f"[pool] p = {POOLS['average']}"]
    held = {"w": array(4, 4, 1, 1), "k": array(4, 1, 1), "d": array(1, 4, 1, 1)}
    source = model(IMAGE, [*body, "y = Sigmoid(p)"], held, outputs="float[] y, float[] z")
    moved = proven_fold(source, costs=CHEAP)
    assert moved.operators == ["Conv", "Sigmoid", "AveragePool", "Mul", "Add", "Sigmoid"]
    assert moved.decision.outcome == "lowered"


def test_past_two_poolings() -> None:
    body = ["r = Sigmoid(x)", norm("r", "n"), f"[one] p = {POOLS['maximum']}", "[two] q = GlobalAveragePool(p)"]
    result = proven_fold(model(IMAGE, [*body, "y = Sigmoid(q)"], positive()), costs=CHEAP)
    assert result.operators == ["Sigmoid", "MaxPool", "GlobalAveragePool", "BatchNormalization", "Sigmoid"]
    assert result.decision.into == ("one", "two")


def test_a_free_batch_size_does_no_harm() -> None:
    body = ["r = Sigmoid(x)", norm("r", "n"), f"[pool] p = {POOLS['maximum']}", "y = Sigmoid(p)"]
    assert proven_fold(model("float[N, 4, 6, 6] x", body, positive()), costs=CHEAP).decision.outcome == "lowered"


def test_stays_before_a_maximum_with_a_negative_scale() -> None:
    held = positive()
    held["s"][2] *= -1
    assert "non-negative-scale" in stays(net(POOLS["maximum"], held=held)).refused


def test_stays_before_an_average_that_counts_its_padding() -> None:
    pool = "AveragePool <kernel_shape = [2, 2], strides = [2, 2], pads = [1, 1, 1, 1], count_include_pad = 1> (n)"
    assert "every-tap" in stays(net(pool)).refused


def test_stays_where_another_operation_reads_it() -> None:
    stays(net(POOLS["maximum"], "z = Sigmoid(n)", outputs="y z"))


def test_stays_where_it_is_an_output() -> None:
    stays(net(POOLS["maximum"], outputs="y n"))


def test_stays_where_the_pooling_keeps_the_size() -> None:
    stays(net("MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (n)"))


def test_stays_where_the_sizes_are_not_known() -> None:
    body = ["r = Sigmoid(x)", norm("r", "n"), f"[pool] p = {POOLS['maximum']}", "y = Sigmoid(p)"]
    assert only_fold(model("float[1, 4, H, W] x", body, positive()), costs=CHEAP).decision.outcome == "kept"


def test_stays_where_axes_go() -> None:
    stays(net("ReduceMean <axes = [2, 3], keepdims = 0> (n)"))


def test_stays_where_the_table_does_not_back_it() -> None:
    stays(net(POOLS["maximum"]), CostTable("test", {"pool/Behind": 1.0}))
    stays(net(POOLS["maximum"]), CostTable("test", {}))


def test_stays_where_it_is_left_out() -> None:
    assert only_fold(net(POOLS["maximum"]), skip=["n_norm"], costs=CHEAP).decision.outcome == "kept"


def test_a_norm_that_can_be_folded_is() -> None:
    body = [norm("x", "n"), f"p = {POOLS['maximum']}", "[linear] y = Conv(p, w)"]
    result = proven_fold(model(IMAGE, body, {"w": array(3, 4, 1, 1), **positive()}), costs=CHEAP)
    assert result.operators == ["MaxPool", "Conv"]


PADDED = "AveragePool <kernel_shape = [2, 2], strides = [2, 2], pads = [1, 1, 1, 1], count_include_pad = 1> (n)"
NEGATIVE = positive() | {"s": -positive()["s"]}
ALONG = ["r = Sigmoid(x)", "n = Mul(r, k)", f"y = {POOLS['average']}"]
REFUSED = {
    "single-use": [net(POOLS["maximum"], "z = Sigmoid(n)", outputs="y z")],
    "not-output": [net(POOLS["maximum"], outputs="y n")],
    "static-reshape": [net("ReduceMean <axes = [2, 3], keepdims = 0> (n)")],
    "not-pooled-axis": [model(IMAGE, ALONG, {"k": array(6, 1)})],
    "non-negative-scale": [net(POOLS["maximum"], held=NEGATIVE)],
    "every-tap": [net(PADDED)],
    "does-not-pay": [net("MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (n)")],
}


@pytest.mark.parametrize("premise", REFUSED)
def test_refused_because_not(premise: str) -> None:
    """Each of these breaks one premise and no other."""
    for source in REFUSED[premise]:
        assert refused_by(RULE, source) == {premise}


EXAMPLES = (
    Example(
        model(
            IMAGE,
            ["r = Relu(x)", norm("r", "n"), "y = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (n)"],
            positive(),
        ),
        costs=CHEAP,
    ),
)
