"""Where the table of integer kernels decides what stays in floating point, and what it says of it."""

from __future__ import annotations

import numpy as np
import pytest

from normfold.core.algebra import Window
from normfold.core.integers.steps import Floating, Linear, Moving, Network, Sigmoid, Step
from normfold.passes.quantize import placement
from normfold.passes.quantize.kernels import FLOAT, ISLAND, QDQ, Kernel, KernelTable
from normfold.passes.quantize.placement import quicker_in_floats, reason

SEVEN = Window((7, 7), (1, 1), (1, 1), (3, 3), (3, 3))
ONE = Window((1, 1), (1, 1), (1, 1), (0, 0), (0, 0))


def alone(source: str, output: str) -> Linear:
    """A depthwise 7x7 convolution."""
    return linear(source, output, SEVEN, 1, 16)


def linear(source: str, output: str, window: Window, columns: int = 16, groups: int = 1) -> Linear:
    weight = np.ones((16, columns, *window.kernel))
    return Linear(
        name=output,
        operator="Conv",
        inputs=(source,),
        output=output,
        weight=weight,
        bias=np.zeros(16),
        groups=groups,
        window=window,
    )


def network(*steps: Step) -> Network:
    values = ["x", *(step.output for step in steps)]
    return Network(steps, ("x",), (values[-1],), dict.fromkeys(values, (1, 16, 8, 8)), frozenset(values))


def norm(source: str, output: str) -> Floating:
    return Floating(name=output, operator="LayerNormalization", inputs=(source,), output=output, because="no form")


@pytest.mark.parametrize("form", ["qdq", "contrib"])
def test_a_slow_kernel_between_floats_stays_in_floating_point_with_both_figures(form):
    moved = Moving(name="t", operator="Transpose", inputs=("a",), output="t", permutation=(0, 2, 3, 1))
    step = alone("x", "a")
    kept = quicker_in_floats(network(step, moved, norm("t", "y")), "cpu", form)
    assert list(kept) == [step]
    assert kept[step] == "on codes it takes 1.92 times its time in float32, where it stands in floating point 1"


def test_between_codes_it_stays_on_codes():
    steps = linear("x", "a", ONE), alone("a", "b"), linear("b", "y", ONE)
    assert quicker_in_floats(network(*steps), "cpu", "contrib") == {}


def test_a_provider_without_a_table_keeps_nothing():
    assert quicker_in_floats(network(alone("x", "a"), norm("a", "y")), "tensorrt", "qdq") == {}
    assert reason(norm("x", "y"), "tensorrt") == "no form"


def test_what_the_provider_has_no_kernel_of_stays(monkeypatch):
    rows = (Kernel("Sigmoid", "", FLOAT, 1.0, (), ""), Kernel("Sigmoid", "", ISLAND, 2.0, ("DequantizeLinear",), ""))
    fused = Kernel("Sigmoid", "", QDQ, 2.0, ("DequantizeLinear", "Sigmoid", "QuantizeLinear"), "")
    own = Kernel("Sigmoid", "", "codes", 1.0, ("QLinearSigmoid",), "")
    monkeypatch.setattr(placement, "table_of", lambda _: KernelTable("made-up", (*rows, fused, own)))
    gate = Sigmoid(name="g", operator="Sigmoid", inputs=("a",), output="g")
    steps = linear("x", "a", ONE), gate, linear("g", "y", ONE)
    assert quicker_in_floats(network(*steps), "made-up", "qdq") == {gate: "made-up has no integer kernel of Sigmoid"}
    assert quicker_in_floats(network(*steps), "made-up", "contrib") == {}


def test_reasons_have_the_figures_of_the_table():
    softmax = Floating(name="s", operator="Softmax", inputs=("x",), output="y", because="no form")
    assert reason(softmax, "cpu") == (
        "on codes it takes 8.21 times its time in float32, in floating point between codes 1.54"
    )
    assert reason(norm("x", "y"), "cpu") == "no form: cpu has no integer kernel of it"
    assert reason(Floating(name="e", operator="Erf", inputs=("x",), output="y", because="no form"), "cpu") == "no form"
