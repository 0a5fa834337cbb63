"""``pointwise convolution -> average pooling`` becomes ``average pooling -> pointwise convolution``."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from folding import Example, array, model, norm, only_fold, proven_fold, refused_by, statistics
from normfold.core.costs import CostTable, cost_table
from normfold.core.rules.move_pool_before_convolution import RULE

IMAGE = "float[1, 4, 6, 6] x"
CHEAP = CostTable("test", {"pointwise/First": 0.5})
AVERAGE = "AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (h)"
PADDED = "AveragePool <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]{}> (h)"
CONV = "[conv] h = Conv(x, w, b)"
HELD = {"w": array(6, 4, 1, 1), "b": array(6, seed=2)}


def net(
    pool: str, *more: str, conv: str = CONV, inputs: str = IMAGE, outputs: str = "y", **held: np.ndarray
) -> onnx.ModelProto:
    body = [conv, f"[pool] p = {pool}", "y = Sigmoid(p)", *more]
    words = " ".join(body)
    constants = {name: values for name, values in {**HELD, **held}.items() if f", {name}" in words}
    return model(inputs, body, constants, outputs=", ".join(f"float[] {name}" for name in outputs.split()))


POOLS = {
    "average": (CONV, AVERAGE),
    "global": (CONV, "GlobalAveragePool(h)"),
    "mean": (CONV, "ReduceMean <axes = [-1, 2], keepdims = 1> (h)"),
    "padding-left-out": (CONV, PADDED.format("")),
    "padding-counted-without-a-bias": ("h = Conv(x, w)", PADDED.format(", count_include_pad = 1")),
    "partial-windows": (
        CONV, "AveragePool <kernel_shape = [4, 4], strides = [3, 3], ceil_mode = 1> (h)"
    ),
    "groups": ("h = Conv <group = 2> (x, w2, b)", AVERAGE),
}  # fmt: skip


@pytest.mark.parametrize("costs", [CHEAP, cost_table()], ids=["test", "cpu"])
@pytest.mark.parametrize("case", POOLS)
def test_moved(case: str, costs: CostTable) -> None:
    conv, pool = POOLS[case]
    folded = proven_fold(net(pool, conv=conv, w2=array(6, 2, 1, 1)), costs=costs)
    assert folded.operators == [pool.split()[0].partition("(")[0], "Conv", "Sigmoid"]
    assert not folded.decisions
    assert [node.output[0] for node in folded.result.graph.node][1:] == ["p", "y"]


def test_the_norm_between_goes_first() -> None:
    """A densenet's transition: the norm behind the convolution folds, and the pooling moves."""
    pool = AVERAGE.replace("(h)", "(k)")
    body = [norm("x", "n"), "r = Relu(n)", "h = Conv(r, w)", norm("h", "k", "k"), f"p = {pool}", "y = Sigmoid(p)"]
    held = {**statistics(4), **statistics(6, "k"), "w": HELD["w"]}
    folded = proven_fold(model(IMAGE, body, held))
    assert folded.operators == ["BatchNormalization", "Relu", "AveragePool", "Conv", "Sigmoid"]
    assert folded.decisions["k_norm"].outcome == "folded"


def test_two_poolings_move_one_after_the_other() -> None:
    body = [CONV, f"p = {AVERAGE}", "q = GlobalAveragePool(p)", "y = Sigmoid(q)"]
    assert proven_fold(model(IMAGE, body, HELD)).operators == ["AveragePool", "GlobalAveragePool", "Conv", "Sigmoid"]


def test_an_output_keeps_its_name_and_its_records_go() -> None:
    folded = proven_fold(net(AVERAGE, outputs="y p"))
    assert folded.operators == ["AveragePool", "Conv", "Sigmoid"]
    assert folded.result.graph.node[1].output[0] == "p"


def test_in_half_precision() -> None:
    lines = ["h = Conv(x, w, b)", f"y = {AVERAGE}"]
    held = {name: values.astype(np.float16) for name, values in HELD.items()}
    folded = proven_fold(model("float16[1, 4, 6, 6] x", lines, held, outputs="float16[1, 6, 3, 3] y"))
    assert folded.operators == ["AveragePool", "Conv"]


@pytest.mark.parametrize(
    "source",
    [
        net("MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (h)"),
        net(AVERAGE, conv="h = Conv(x, w3, b)", w3=array(6, 4, 3, 3)),
        net(AVERAGE, conv="h = Conv <strides = [2, 2]> (x, w, b)"),
        net(AVERAGE, conv="h = Conv <pads = [1, 1, 1, 1]> (x, w, b)"),
        net(AVERAGE, conv="h0 = Conv(x, w, b)\nh = Relu(h0)"),
    ],
    ids=["maximum", "kernel", "stride", "padding", "activation"],
)
def test_what_it_is_not_about(source: onnx.ModelProto) -> None:
    assert only_fold(source).operators == [node.op_type for node in source.graph.node]


def test_a_reader_of_the_shape_keeps_it_where_it_is() -> None:
    """There are as many channels before the convolution only where it does not change their number."""
    folded = proven_fold(net(AVERAGE, "s = Shape(h)", "z = Cast <to = 1> (s)", outputs="y z"))
    assert folded.operators[:2] == ["Conv", "AveragePool"]


def test_only_where_the_table_has_it() -> None:
    assert only_fold(net(AVERAGE), costs=CostTable("test", {})).operators == ["Conv", "AveragePool", "Sigmoid"]
    dear = CostTable("test", {"pointwise/First": 1.2})
    assert only_fold(net(AVERAGE), costs=dear).operators == ["Conv", "AveragePool", "Sigmoid"]


REFUSED = {
    "single-use": net(AVERAGE, "z = Sigmoid(h)", outputs="y z"),
    "not-output": net(AVERAGE, outputs="y h"),
    "not-pooled-axis": net("ReduceMean <axes = [1], keepdims = 1> (h)"),
    "static-reshape": net("ReduceMean <axes = [2, 3], keepdims = 0> (h)"),
    "every-tap": net(PADDED.format(", count_include_pad = 1")),
    "does-not-pay": net("AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (h)"),
}  # fmt: skip


@pytest.mark.parametrize("premise", REFUSED)
def test_refused_because_not(premise: str) -> None:
    """Each of these breaks one premise and no other."""
    source = REFUSED[premise]
    assert refused_by(RULE, source) == {premise}
    assert "AveragePool" not in only_fold(source).operators[:1]


def test_sizes_that_are_not_known() -> None:
    assert refused_by(RULE, net(AVERAGE, inputs="float[1, 4, H, W] x")) == {"does-not-pay"}


EXAMPLES = (Example(model(IMAGE, [CONV, f"y = {AVERAGE}"], HELD)),)
