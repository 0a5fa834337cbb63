"""The sigmoid that stands for GELU, fitted to a histogram."""

import math

import numpy as np

from normfold.core.integers.gelu import with_fitted_gelu
from normfold.core.integers.ranges import Seen
from normfold.core.integers.steps import GELU, Network, Sigmoid


def factor(counts, operator="Gelu"):
    step = Sigmoid(name="s", operator=operator, inputs=("x",), output="y", factor=GELU)
    seen = {} if counts is None else {"x": Seen(-8.0, 8.0, counts, 8.0)}
    return with_fitted_gelu(Network((step,), ("x",), ("y",), {}), seen).steps[0].factor


def near(middle, width=64):
    counts = np.zeros(8192, np.int64)
    place = round((middle + 8) / 16 * 8192)
    counts[place - width : place + width] = 1
    return counts


def test_values_near_zero_have_the_slope_at_zero():
    assert abs(factor(near(0.0)) - math.sqrt(8 / math.pi)) < 0.01


def test_values_further_out_have_a_steeper_one():
    wanted = -math.log(1 / (0.5 * (1 + math.erf(2 / math.sqrt(2)))) - 1) / 2
    assert abs(factor(near(-2.0, 8)) - wanted) < 0.01


def test_what_nothing_is_known_of_stays():
    assert factor(None) == GELU
    assert factor(np.zeros(0, np.int64)) == GELU
    assert factor(near(0.0), "Sigmoid") == GELU
