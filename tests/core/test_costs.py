"""What the driver asks of a cost table, and what the shipped ones say."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.resources import files

import numpy as np
import onnx
import pytest

from folding import array, model, norm, proven_fold, statistics
from normfold.core.costs import CostTable, cost_table, providers
from normfold.errors import UsageError

TOKENS = "float[2, 3, 5] x"
MATRICES = {"u": array(5, 4), **statistics(4)}


@pytest.mark.parametrize("provider", providers())
def test_a_shipped_table_has_what_the_driver_asks_for(provider: str) -> None:
    document = json.loads((files("normfold.core.costs") / f"{provider}.json").read_text(encoding="utf-8"))
    assert document["provider"] == provider
    assert {"conv/Add", "conv/Map", "matmul/Add", "pool/Behind"} <= document["entries"].keys()
    for place in ("conv", "matmul"):
        assert {f"{place}/{name}" for name in ("BatchNormalization", "Mul", "Add")} <= document["entries"].keys()
        assert document["entries"][f"{place}/BatchNormalization"] == 1
    assert all(cost >= 0 for cost in document["entries"].values())
    assert {case["dtype"] for case in document["cases"]} == {"float32", "float16"}
    assert {"onnxruntime", "processor", "threads", "rounds"} <= document["environment"].keys()


def test_no_other_providers_are_made_up() -> None:
    assert "cpu" in providers()
    for name in ("", "../cpu", "CPU", "cuda:0"):
        with pytest.raises(UsageError, match="no cost table") as caught:
            cost_table(name)
        assert caught.value.code == "no-cost-table"


def tokens() -> onnx.ModelProto:
    body = ["[product] h = MatMul(x, u)", "t = Transpose <perm = [0, 2, 1]> (h)", norm("t", "y")]
    return model(TOKENS, body, MATRICES)


def test_a_norm_behind_a_matrix_product_becomes_an_addition_where_that_pays() -> None:
    entries = {"matmul/BatchNormalization": 1.0, "matmul/Add": 0.99}
    assert proven_fold(tokens(), costs=CostTable("test", entries)).operators == ["MatMul", "Add", "Transpose"]
    refused = proven_fold(tokens(), costs=CostTable("test", entries | {"matmul/Add": 1.0}))
    assert refused.operators == ["MatMul", "Transpose", "BatchNormalization"]
    assert refused.because("does-not-pay") == (
        "on test, an addition after MatMul 'product' costs 1x the BatchNormalization that goes "
        "(cost table test: matmul/Add)"
    )


def test_it_pays_on_the_default_table() -> None:
    assert proven_fold(tokens()).operators == ["MatMul", "Add", "Transpose"]


def test_what_was_not_measured_does_not_pay() -> None:
    assert proven_fold(tokens(), costs=CostTable("test", {})).refused == {"does-not-pay", "not-output"}
    assert proven_fold(tokens(), costs=CostTable("test", {}, allow_inserted=True)).operators == [
        "MatMul",
        "Add",
        "Transpose",
    ]


@pytest.mark.parametrize("allow_inserted", [False, True])
@pytest.mark.parametrize("other", ["Add(r, d)", "Sub(r, d)", "Sub(d, r)"])
def test_an_addition_for_an_addition_never_pays(other: str, allow_inserted: bool) -> None:
    body = ["r = Sigmoid(x)", f"m = {other}", "[product] h = MatMul(m, u)", "[scale] s = Mul(h, k)", "y = Sigmoid(s)"]
    held = {"u": array(5, 4), "d": array(5), "k": array(4)}
    result = proven_fold(model(TOKENS, body, held), costs=replace(cost_table(), allow_inserted=allow_inserted))
    assert [op for op in result.operators if op in ("Add", "Sub")] == [other[:3]]


@pytest.mark.parametrize("allow_inserted", [False, True])
def test_a_live_norm_does_not_push_its_bias_into_an_addition(allow_inserted: bool) -> None:
    body = ["n = LayerNormalization(x, g, b)", "[product] y = MatMul(n, u)"]
    source = model(TOKENS, body, {"g": array(5), "b": array(5, seed=2), "u": array(5, 4)})
    result = proven_fold(source, costs=replace(cost_table(), allow_inserted=allow_inserted))
    assert result.operators == ["LayerNormalization", "MatMul"]
    assert "comes, and nothing goes" in result.because("does-not-pay")


def test_a_shift_that_comes_to_nothing_is_judged_as_any_other() -> None:
    """A matrix product of zeros makes nothing of the shift before it."""
    body = ["r = Sigmoid(x)", "[scale] m = Mul(r, k)", "a = Add(m, d)", "[product] h = MatMul(a, u)", "y = Sigmoid(h)"]
    held = {"k": array(5), "d": array(5, seed=2), "u": np.zeros((5, 4), np.float32)}
    refused = proven_fold(model(TOKENS, body, held), costs=CostTable("test", {}))
    assert "an addition after MatMul 'product'" in refused.because("does-not-pay")
