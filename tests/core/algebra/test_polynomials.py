"""Polynomials that read what a norm computes: what cannot be computed makes none."""

from __future__ import annotations

import numpy as np

from normfold.core.algebra.polynomials import Polynomial


def test_coefficients_that_do_not_broadcast_make_no_polynomial() -> None:
    three, two, one = (Polynomial.constant(np.arange(1.0, count + 1)) for count in (3, 2, 1))
    assert three.times(two) is None
    assert three.plus(two) is None
    assert three.times(one) is not None
