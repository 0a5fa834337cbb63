"""Moments of values without data: what norms know, carried through the steps."""

import math
from dataclasses import replace

import numpy as np
import pytest

from normfold.core.integers.moments import LEAST_GELU, LIVE_SIGMAS, Normal, carried
from normfold.core.integers.ranges import SIGMAS
from normfold.core.integers.steps import Floating, Linear, Network, Product, Sigmoid, Sum

SCALE, SHIFT = np.array([0.5, 1.0, 2.0]), np.array([0.0, 1.0, -1.0])
WEIGHT = np.random.default_rng(0).standard_normal((4, 3))


def net(moments=(SHIFT, SCALE), operator="Gelu"):
    norm = Floating(name="n", operator="LayerNormalization", inputs=("x",), output="n", moments=moments)
    step = Linear(name="l", operator="MatMul", inputs=("n",), output="h", weight=WEIGHT, bias=np.ones(4))
    gate = Sigmoid(name="g", operator=operator, inputs=("h",), output="gate", factor=1.7)
    product = Product(name="g", operator=operator, inputs=("h", "gate"), output="y")
    return Network((norm, step, gate, product), ("x",), ("y",), {})


def test_a_norm_gives_its_scale_and_bias_to_anything():
    found = carried(net(), {})
    given = np.random.default_rng(1).standard_normal((100_000, 3)) * SCALE + SHIFT
    wanted = given @ WEIGHT.T + 1
    mean, deviation = found["h"].moments()
    assert np.allclose(mean, wanted.mean(0), atol=0.05)
    assert np.allclose(deviation, wanted.std(0), rtol=0.02)


def test_gelu_begins_at_its_least_value():
    found = carried(net(), {})["y"].seen()
    assert found.low == LEAST_GELU
    x = np.linspace(-5, 5, 10_001)
    gelu = x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
    assert LEAST_GELU - 0.01 < gelu.min() < LEAST_GELU + 0.001
    mean, deviation = carried(net(), {})["h"].moments()
    assert found.high == pytest.approx((mean + SIGMAS * deviation).max())


def test_what_nothing_is_known_of_has_no_moments():
    assert not carried(net(moments=None), {})
    assert "y" not in carried(net(operator="Sigmoid"), {})


def test_it_goes_no_further_than_one_product_behind_a_live_norm():
    """A residual stream has outliers: two such products of the garden's convnext are 3 times as wide as that says."""
    whole = net()
    down = Linear(name="d", operator="MatMul", inputs=("y",), output="d", weight=WEIGHT.T, bias=np.zeros(3))
    total = Sum(name="s", operator="Add", inputs=("n", "h"), output="s")
    found = carried(replace(whole, steps=(*whole.steps, down, total)), {})
    assert {"n", "h", "y"} == set(found)
    assert found["n"].seen().high == pytest.approx((SHIFT + LIVE_SIGMAS * SCALE).max())
    assert {"d"} <= set(carried(replace(whole, steps=(down,)), {"y": Normal(np.zeros(4), np.ones(4))}))
