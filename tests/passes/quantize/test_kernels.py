"""The table of integer kernels: what a placement reads from it."""

from __future__ import annotations

import math

import pytest

from normfold.errors import UsageError
from normfold.passes.quantize.kernels import FLOAT, ISLAND, QDQ, Kernel, KernelTable, kernel_table, providers

TABLE = KernelTable(
    "made-up",
    (
        Kernel("Max", "", FLOAT, 1.0, ("Max",), ""),
        Kernel("Max", "", QDQ, 1.9, ("DequantizeLinear", "Max", "QuantizeLinear"), ""),
        Kernel("Max", "", ISLAND, 2.0, ("DequantizeLinear", "Max", "QuantizeLinear"), ""),
        Kernel("Max", "", "codes", 0.8, ("Max",), ""),
        Kernel("Softmax", "", QDQ, 7.0, ("QLinearSoftmax",), ""),
        Kernel("Softmax", "", ISLAND, 1.5, ("DequantizeLinear", "Softmax", "QuantizeLinear"), ""),
        Kernel("ReduceMean", "", ISLAND, 2.0, ("DequantizeLinear", "ReduceMean", "QuantizeLinear"), ""),
        Kernel("ReduceMean", "", "codes", None, (), "NOT_IMPLEMENTED"),
        Kernel("Conv", "3x3", "codes", 0.3, ("QLinearConv",), ""),
        Kernel("Conv", "grouped", "codes", 1.2, ("QLinearConv",), ""),
        Kernel("Conv", "grouped", ISLAND, 1.1, ("DequantizeLinear", "Conv", "QuantizeLinear"), ""),
        Kernel("MatMul", "", "to float", 0.2, ("MatMulIntegerToFloat",), ""),
        Kernel("MatMul", "", ISLAND, 1.1, ("DequantizeLinear", "MatMul", "QuantizeLinear"), ""),
    ),
)


@pytest.mark.parametrize(
    ("operator", "about", "best"),
    [
        ("Max", "", "codes"),  # what is between quantisers is not fused, and only its own form is one on codes
        ("Softmax", "", ISLAND),  # there is an integer kernel, and it is slower
        ("ReduceMean", "", ISLAND),  # there is none
        ("Conv", "grouped", ISLAND),
        ("Conv", "3x3", "codes"),
        ("MatMul", "", ISLAND),  # what ends in floating point is no form between codes
        ("Unheard", "", ISLAND),
    ],
)
def test_best_is_the_cheapest_form_between_codes(operator, about, best):
    assert TABLE.best(operator, about) == best


def test_cost_of_what_does_not_run_is_infinite():
    assert TABLE.cost("ReduceMean", "codes") == math.inf
    assert TABLE.cost("Unheard") == math.inf


def test_cost_without_a_case_is_the_median_of_the_cases():
    assert TABLE.cost("Conv", "codes") == 0.75
    assert TABLE.cost("Conv", "codes", "3x3") == 0.3


def test_on_codes_needs_every_case():
    assert not TABLE.on_codes("Max")
    assert TABLE.on_codes("Max", "codes")
    assert not TABLE.on_codes("Unheard")


def test_the_table_of_the_cpu_has_every_form_of_every_operation():
    table = kernel_table("cpu")
    for operator in {one.operator for one in table.kernels}:
        forms = {one.form for one in table.kernels if one.operator == operator}
        assert FLOAT in forms
        assert (QDQ in forms) == (ISLAND in forms)
    assert all((one.cost is None) == bool(one.because) for one in table.kernels)


def test_the_table_of_the_cpu_says_what_keeps_codes():
    # A per-channel maximum runs on codes only outside of quantisers; a maximum pool only with its channels last.
    table = kernel_table("cpu")
    assert not table.on_codes("Max", QDQ)
    assert table.on_codes("Max", "codes")
    assert table.cost("MaxPool", "channels-last") < 1 < table.cost("MaxPool", "codes")
    assert table.cost("Conv", "signed activations", "3x3") > 1


def test_a_provider_without_a_table():
    assert providers() == ["cpu"]
    with pytest.raises(UsageError) as caught:
        kernel_table("cuda")
    assert caught.value.code == "no-cost-table"
